"""Segment many cases into a folder; after an interruption the work can continue."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from recycleseg.classes import max_entropy
from recycleseg.data.identity import ContentMemo, joint_hash
from recycleseg.data.probabilities import write_probabilities
from recycleseg.data.volumes import map_name, write_like
from recycleseg.errors import described, show_traceback
from recycleseg.files import FileError, finished_name, shortened
from recycleseg.folders import check_no_links, delete_files
from recycleseg.names import case_problem, folded
from recycleseg.prediction.case_log import BY_CASE, LOG, RECORD, log_case, write_whole_record
from recycleseg.prediction.predictor import Prediction
from recycleseg.prediction.record import command_of, differences, read_record
from recycleseg.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """How a case went.

    Attributes:
        case_id: the case.
        seconds: time that it took.
        failure: None, or the reason in one line why there is no segmentation.
    """

    case_id: str
    seconds: float
    failure: str | None = None


class PredictionFolder:
    """Where the files of each case go, and the record of how they were made.

    Args:
        root: the folder.
        record: what predict.json says about all cases; see `recycleseg.prediction.record`.
        endings: case_id -> ending of its file names, for every case.
        images: case_id -> the files of its channels, for the cases where they are known.
        sources: folders with the input; `root` must be another one.
        inputs: case_id -> the files that its segmentation is made from; None takes `images`.
        memo: gives the hashes of the inputs; None reads them again.

    Attributes:
        notes: what the user should know about the cases that `open` found, one line each.
    """

    def __init__(
        self,
        root: Path,
        record: Mapping[str, Any],
        *,
        endings: Mapping[str, str],
        images: Mapping[str, Sequence[str]],
        sources: Iterable[Path],
        inputs: Mapping[str, Sequence[Path]] | None = None,
        memo: ContentMemo | None = None,
    ) -> None:
        self.root = root
        self.notes: list[str] = []
        self.record: dict[str, Any] = {**record, **{key: {} for key in BY_CASE}}
        # case_id -> why the case may have no files here; the others have one name in all folders.
        self._refused = {c: problem for c in endings if (problem := case_problem(c))}
        self._names = {c: c + ending for c, ending in endings.items() if c not in self._refused}
        self._images = {case_id: list(paths) for case_id, paths in images.items()}
        self._sources = {source.resolve() for source in sources}
        files = images if inputs is None else inputs
        self._inputs = {c: tuple(map(Path, files[c])) for c in self._names if c in files}
        self._memo = memo or ContentMemo(None)
        self._contents: dict[str, str | None] = {}

    def label_path(self, case_id: str) -> Path:
        """The label map of a case; if it exists and its inputs are the same, the case is done."""
        return self.root / self._names[case_id]

    def open(self, *, overwrite: bool, progress: Progress | None = None) -> list[str]:
        """Create the folder, or check that the work in it can continue.

        A case whose inputs have changed needs a new segmentation. Its record keeps the content
        that the old one was made from, so that this is seen again if the work stops before.

        Args:
            overwrite: delete the files of these cases, so that they are segmented again; files
                that the record does not know are left alone.
            progress: called with the number of inputs read and to read, if their hashes are not
                known.

        Returns:
            The cases that still need a segmentation, with those that `begin` refuses.

        Raises:
            ValueError: the folder is one of the sources; or it holds other files of these names,
                a link where a subfolder is to be emptied, or segmentations by another command, by
                other models or members, with other options or of other images. Nothing is deleted
                then.
        """
        if self.root.resolve() in self._sources:
            sources = "members" if "members" in self.record else "images"
            raise ValueError(f"--out: expected another folder than the {sources}', got {self.root}")
        path = self.root / RECORD
        if overwrite:
            check_no_links(self.root, self._subfolders())
        there = self._files_there(self._names)
        changed: list[str] = []
        if path.is_file():
            old = read_record(path)
            self._check_made(old)
            changed = [] if overwrite else self._changed_cases(old, progress)
            self._check_record(old, overwrite)
            replaced = self._names if overwrite else ()
            for key in BY_CASE:
                self.record[key] = {c: v for c, v in old[key].items() if c not in replaced}
        elif there:
            raise ValueError(
                f"--out: expected a new folder or one with {RECORD}, got {self.root}, which "
                f"already has {there[0].relative_to(self.root)}"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        self._refuse_twins()
        delete_files([*self._unfinished(), *(there if overwrite else ())], self.root)
        left = []
        for case_id in self._names:
            if self.label_path(case_id).exists() and case_id not in changed:
                self._note_done(case_id)
            else:
                left.append(case_id)
        write_whole_record(self.root, self.record)
        return [*left, *self._refused]

    def _refuse_twins(self) -> None:
        """Refuse a case whose files would replace those of another one on this file system.

        Many file systems take small and capital letters, or two codes of a letter, as the same.
        """
        alike: dict[str, str] = {}
        for case_id in tuple(self._names):
            twin = alike.setdefault(folded(case_id), case_id)
            if twin == case_id:
                continue
            with TemporaryDirectory(prefix=".part-", dir=self.root) as folder:
                Path(folder, twin).touch()
                same = Path(folder, case_id).exists()
            if same:
                self._refused[case_id] = (
                    f"{case_id}: expected a name that the file system of {self.root} tells from "
                    f"that of case {twin}, got the same but for capital letters or accents"
                )
                del self._names[case_id]

    def begin(self, case_id: str) -> None:
        """Note what the inputs of a case contain, and delete what was made from others.

        This comes before they are read, so that the next `open` sees a change after it. The record
        names the case before its first file is written, so that it knows the files of a case at
        which the program was killed.

        Raises:
            FileError: the case may have no files here, because of its name.
        """
        if case_id in self._refused:
            raise FileError(self._refused[case_id])
        delete_files(self._files_there([case_id]), self.root)
        self._record_content(case_id)
        log_case(self.root, self.record, case_id)

    def _record_content(self, case_id: str) -> None:
        self._note_content(case_id)
        self.record["contents"][case_id] = self._contents[case_id]

    def _note_content(self, case_id: str) -> None:
        hashes = self._memo.hashes(self._inputs.get(case_id, ()))
        self._contents[case_id] = joint_hash(hashes.values()) if hashes else None

    def write(self, case_id: str, prediction: Prediction, seconds: float) -> None:
        """Write all files of a case, and what the record says of it.

        The label map comes last, because its presence tells that the case is done.
        """
        volume, name = prediction.volume, self._names[case_id]
        if case_id not in self.record["contents"]:  # there was no `begin`
            self._record_content(case_id)
        names = prediction.names
        if prediction.probs is not None:
            write_probabilities(self.root / f"{case_id}.npz", prediction.probs)
        for kind, values in (
            ("entropy", prediction.entropy),
            ("disagreement", prediction.disagreement),
        ):
            if values is not None:
                path = self._ready(self.root / kind / map_name(name))
                write_like(path, self._as_stored(values), volume)
        for step, label in enumerate(prediction.steps, 1):
            path = self._ready(self.root / f"steps/step_{step}" / name)
            write_like(path, np.asarray(label), volume, names)
        write_like(self.label_path(case_id), np.asarray(prediction.label), volume, names)
        self.record["seconds"][case_id] = round(seconds, 3)
        self._note_done(case_id)
        log_case(self.root, self.record, case_id)

    def fail(self, case_id: str, message: str) -> None:
        """Record why there is no segmentation of a case, and delete what was written of it.

        So a file that takes its place later, such as a segmentation by hand, is not taken for ours.
        """
        with suppress(OSError):  # the reason of the failure may be the disk
            delete_files(self._files_there([case_id]), self.root)
            self.record["contents"].pop(case_id, None)
        self.record["failed"][case_id] = message
        log_case(self.root, self.record, case_id)

    def close(self) -> None:
        """Write the record as one file, at the end of the work."""
        write_whole_record(self.root, self.record)

    def _note_done(self, case_id: str) -> None:
        if case_id in self._images:
            self.record["images"][case_id] = self._images[case_id]
        self.record["failed"].pop(case_id, None)

    def _files_there(self, case_ids: Collection[str]) -> list[Path]:
        """Existing files of cases, also those that the present options do not write."""
        case_ids = [case_id for case_id in case_ids if case_id in self._names]
        own = [self._names[case_id] for case_id in case_ids]
        names = dict.fromkeys(n for name in own for n in (name, map_name(name)))
        # Label maps come first, so that a case whose deletion is interrupted is not done.
        files = [folder / name for folder in self._folders() for name in names]
        files += [self.root / f"{case_id}.npz" for case_id in case_ids]
        return [file for file in files if os.path.lexists(file)]

    def _unfinished(self) -> list[Path]:
        """Files that a killed process left half-written."""
        names = {RECORD, LOG, *(n for name in self._names.values() for n in (name, map_name(name)))}
        names |= {f"{case_id}.npz" for case_id in self._names}
        files = [file for folder in self._folders() if folder.is_dir() for file in folder.iterdir()]
        return [f for f in files if f.name != (name := finished_name(f.name)) and name in names]

    def _subfolders(self) -> list[str]:
        """Names of the subfolders with files of cases, whether they exist or not."""
        steps = sorted(f"steps/{path.name}" for path in self.root.glob("steps/step_*"))
        return ["entropy", "disagreement", "steps", *steps]

    def _folders(self) -> list[Path]:
        """The root and its subfolders with files of cases, without links to elsewhere."""
        linked = (self.root / "steps").is_symlink()
        names = [n for n in self._subfolders() if not (linked and n.startswith("steps"))]
        folders = [self.root / name for name in names]
        return [self.root, *(folder for folder in folders if not folder.is_symlink())]

    def _check_made(self, old: dict[str, Any]) -> None:
        """Check that the files of all cases are those of the record."""
        known = {*old["images"], *old["seconds"], *old["contents"]}
        others = self._files_there([case_id for case_id in self._names if case_id not in known])
        if others:
            raise ValueError(
                f"--out: expected only files that {RECORD} knows under the names of these cases, "
                f"got {others[0]}; nothing is changed. Move it elsewhere, or choose another --out"
            )

    def _changed_cases(self, old: dict[str, Any], progress: Progress | None) -> list[str]:
        """The cases whose inputs are not those of their segmentations; adds to `notes`."""
        known = {c: old["contents"].get(c) for c in self._inputs if self.label_path(c).exists()}
        noted = [case_id for case_id, content in known.items() if content is not None]
        self._memo.hashes((p for c in noted for p in self._inputs[c]), progress=progress)
        for case_id in noted:
            self._note_content(case_id)
        # An input that cannot be read now says nothing about the segmentation.
        changed = [c for c in noted if self._contents[c] not in (known[c], None)]
        if changed:
            self.notes.append(
                f"done again, because the content of the input has changed: {shortened(changed)}"
            )
        if unknown := [case_id for case_id, content in known.items() if content is None]:
            self.notes.append(
                f"counted as done, although {RECORD} does not say from which content they were "
                f"made: {shortened(unknown)}; --overwrite makes them again"
            )
        return changed

    def _is_same(self, case_id: str, old: dict[str, Any]) -> bool:
        """Whether a segmentation is known to be made from the present content of the inputs."""
        content = self._contents.get(case_id)
        return content is not None and content == old["contents"].get(case_id)

    def _check_record(self, old: dict[str, Any], overwrite: bool) -> None:
        done = [case_id for case_id in self._names if self.label_path(case_id).exists()]
        if command_of(old) != command_of(self.record):
            raise ValueError(
                f"--out: expected a new folder or one of {command_of(self.record)}, got "
                f"{self.root} with {RECORD} of {command_of(old)}; nothing in it is changed"
            )
        same = bool(done) and all(self._is_same(case_id, old) for case_id in done)
        changed = differences(old, self.record, same_inputs=same)
        if changed and not overwrite:
            raise ValueError(
                f"--out: {self.root} holds predictions of another kind: {'; '.join(changed)}. "
                "Use --overwrite to make all of them again, or another --out"
            )
        others = [c for c in {**old["images"], **old["seconds"]} if c not in self._names]
        if changed and others:
            raise ValueError(
                f"--overwrite: expected a folder with these cases only, got {self.root} with "
                f"{len(others)} more, such as {others[0]}, predicted in another way; use another "
                "--out"
            )
        for case_id in done if not overwrite else ():
            paths = old["images"].get(case_id)
            now = self._images.get(case_id, paths)
            if paths is not None and now != paths and not self._is_same(case_id, old):
                raise ValueError(
                    f"--out: {self.root} holds case {case_id} predicted from {paths[0]}, not "
                    f"{now[0]}; use --overwrite to make all of them again, or "
                    "another --out"
                )

    def _as_stored(self, values: Any) -> np.ndarray[Any, Any]:
        """Nats as float32 in 3D; in 2D as uint16, where 65535 is the largest possible value."""
        array: np.ndarray[Any, Any] = np.asarray(values, dtype=np.float32)
        if array.ndim == 3:
            return array
        largest = max_entropy(self.record["dataset"]["labels"])
        grey: np.ndarray[Any, Any] = np.rint(np.clip(array / largest, 0, 1) * 65535)
        return grey.astype(np.uint16)

    def _ready(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def process_cases(
    case_ids: Iterable[str], segment: Callable[[str], Prediction], folder: PredictionFolder
) -> Iterator[Outcome]:
    """Segment and write one case after the other.

    Yields:
        How each case went. A failed case does not stop the others, whatever the error.
    """
    for case_id in case_ids:
        start = time.perf_counter()
        failure = None
        try:
            folder.begin(case_id)
            # The prediction gets no name, so that its memory is free before the next one.
            folder.write(case_id, segment(case_id), time.perf_counter() - start)
        except Exception as error:
            show_traceback(error)
            failure = _one_line(case_id, error)
        # Outside of the `except` block, because the error holds the tensors of the case.
        if failure is not None:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            folder.fail(case_id, failure)
        yield Outcome(case_id, time.perf_counter() - start, failure)
    folder.close()


def _one_line(case_id: str, error: Exception) -> str:
    """Why a case failed, in one line."""
    text = " ".join(described(error).split())
    return text if isinstance(error, FileError) else f"{case_id}: {text}"
