"""Facts about the cases of a data set; files are opened only for what the cache does not know."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from threading import Lock
from typing import Any

from recycleseg.data.cache_files import CacheFiles, key_of, read_facts, write_facts
from recycleseg.data.check import check_dataset, read_case
from recycleseg.data.facts import CaseFacts, facts_of
from recycleseg.data.findings import Finding
from recycleseg.data.identity import ContentMemo, Contents, case_contents, changed_contents
from recycleseg.data.layout import Case, Dataset
from recycleseg.data.volumes import PixelSize
from recycleseg.files import as_json
from recycleseg.limits import cores, free_main_memory
from recycleseg.progress import Progress

# Raise it with every change of the code that gives other facts for the same files.
_VERSION = 1
# Bytes of main memory for each byte of an image file while a case is open: files are packed about
# twice, and a few float32 copies of the image are needed.
_MEMORY_PER_BYTE = 20


class ChangeWatch:
    """Notices files that change after their hashes were taken.

    Args:
        contents: the hashes.
        memo: knows the files that have not changed since.

    Attributes:
        changed: what has changed, such as "label of case_3".
    """

    def __init__(self, contents: Contents, memo: ContentMemo) -> None:
        self.contents = contents
        self.changed: list[str] = []
        self._memo = memo
        self._lock = Lock()

    def is_unchanged(self, case: Case) -> bool:
        """Whether the files of a case still have the hashes."""
        with self._lock:  # it is quick: only files that were changed just now are read again
            now = case_contents([case], self._memo, workers=1)
            changed = changed_contents(self.contents, now)
            self.changed += [part for part in changed if part not in self.changed]
        return not changed


def check_with_cache(
    dataset: Dataset,
    files: CacheFiles,
    watch: ChangeWatch,
    *,
    pixel_size: PixelSize,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, CaseFacts], list[Finding]]:
    """`check_dataset`, which leaves the facts of sound cases in the cache.

    Args:
        dataset: the data set.
        files: of the cache.
        watch: with the hashes of all cases.
        pixel_size: see `check_dataset`.
        workers: how many cases to open at the same time; None as `workers_for`.
        progress: see `check_dataset`.
    """
    settings = [*settings_of(dataset), pixel_size, _VERSION]

    def inspect(case: Case) -> CaseFacts | list[Finding]:
        path = files.facts(key_of([watch.contents[case.case_id], settings]))
        facts = read_facts(path)
        if facts is not None:
            return facts
        found = read_case(case, dataset, pixel_size)
        if isinstance(found, list):
            return found
        facts = facts_of(*found, dataset.classes)
        if watch.is_unchanged(case):
            with suppress(OSError):  # they only save time
                write_facts(path, facts)
        return facts

    workers = workers or workers_for(dataset)
    return check_dataset(
        dataset, pixel_size=pixel_size, workers=workers, progress=progress, inspect=inspect
    )


def settings_of(dataset: Dataset) -> list[Any]:
    """What facts and arrays depend on besides the files of a case, from dataset.json."""
    return [dataset.file_ending, list(dataset.channel_names), as_json(asdict(dataset.classes))]


def workers_for(dataset: Dataset) -> int:
    """As many cases at the same time as there are cores, and as fit into the memory."""
    sizes = [
        sum(path.stat().st_size for path in case.image_paths if path.is_file())
        for case in dataset.cases.values()
    ]
    most = free_main_memory() // max(1, _MEMORY_PER_BYTE * max(sizes, default=0))
    return max(1, min(cores(), most))
