"""A folder of segmentations, in which several processes may work; later the work can continue."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from recycleseg.classes import max_entropy
from recycleseg.data.identity import ContentMemo, joint_hash
from recycleseg.data.probabilities import write_probabilities
from recycleseg.data.volumes import map_name, write_like
from recycleseg.files import FileError, shortened
from recycleseg.folders import delete_files
from recycleseg.locks import ALONE, held_by, locked
from recycleseg.names import case_problem, folded
from recycleseg.prediction.case_files import CaseFiles
from recycleseg.prediction.case_records import (
    BY_CASE,
    RECORD,
    folder_of_case,
    read_case,
    write_case,
    write_whole_record,
)
from recycleseg.prediction.predictor import Prediction
from recycleseg.prediction.record import command_of, differences, read_record
from recycleseg.progress import Progress
from recycleseg.workers import Worker

# Seconds to wait for processes that open or close the folder; each takes a moment.
_PATIENCE = 300.0


class PredictionFolder:
    """Where the files of each case go, and the record of how they were made.

    Args:
        root: the folder.
        record: what predict.json says about all cases; see `recycleseg.prediction.record`.
        endings: case_id -> ending of its file names, for every case.
        images: case_id -> the files of its channels, for the cases where they are known.
        sources: folders with the input; `root` must be another one.
        inputs: case_id -> the files that its segmentation is made from; None takes `images`.
        part: the cases to segment; None takes all.
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
        part: Collection[str] | None = None,
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
        self._part = dict.fromkeys(endings if part is None else part)
        self._inputs = {c: tuple(map(Path, files[c])) for c in self._part if c in files}
        self._memo = memo or ContentMemo(None)
        self._contents: dict[str, str | None] = {}
        self._files = CaseFiles(root, self._names)
        self._worker = Worker(root)

    def label_path(self, case_id: str) -> Path:
        """The label map of a case; if it exists and its inputs are the same, the case is done."""
        return self.root / self._names[case_id]

    def open(self, *, overwrite: bool, progress: Progress | None = None) -> list[str]:
        """Create the folder, or check that the work in it can continue.

        From now on other processes know that this one works here, until `leave` or `close`.

        Args:
            overwrite: delete the files of these cases, so that they are segmented again; files
                that the record does not know are left alone.
            progress: called with the number of inputs read and to read, if their hashes are not
                known.

        Returns:
            The cases of the part that still need a segmentation, with those that `begin` refuses.

        Raises:
            ValueError: the folder is one of the sources; or it holds other files of these names,
                a link where a subfolder is to be emptied, or segmentations by another command, by
                other models or members, with other options or of other images; or another process
                works where files are to be overwritten. Nothing is deleted then.
        """
        if self.root.resolve() in self._sources:
            sources = "members" if "members" in self.record else "images"
            raise ValueError(f"--out: expected another folder than the {sources}', got {self.root}")
        if not overwrite:
            self._read_inputs(progress)
        with locked(self.root, patience=_PATIENCE, kinds=(ALONE,)):
            self._worker.begin()
            try:
                return self._open(overwrite)
            except BaseException:
                self._worker.end()
                raise

    def _read_inputs(self, progress: Progress | None) -> None:
        """Read the inputs of segmentations that are there, before others wait for this process."""
        path = self.root / RECORD
        if not path.is_file():
            return
        noted = read_record(path)["contents"]
        there = [c for c in self._inputs if noted.get(c) is not None and self.is_done(c)]
        self._memo.hashes((p for c in there for p in self._inputs[c]), progress=progress)

    def _open(self, overwrite: bool) -> list[str]:
        path, others = self.root / RECORD, self._worker.others()
        if overwrite and others:
            raise ValueError(f"--overwrite: {held_by(others[0])}")
        if overwrite:
            self._files.check_no_links()
        # Before the record, because another process records a case before it writes the files.
        there = self._files.there(self._names)
        done = [case_id for case_id in self._part if self.is_done(case_id)]
        changed: list[str] = []
        if path.is_file():
            old = read_record(path)
            self._check_made(old, there)
            changed = [] if overwrite else self._changed_cases(old, done)
            self._check_record(old, done, overwrite)
            replaced = self._names if overwrite else ()
            for key in BY_CASE:
                self.record[key] = {c: v for c, v in old[key].items() if c not in replaced}
        elif there:
            raise ValueError(
                f"--out: expected a new folder or one with {RECORD}, got {self.root}, which "
                f"already has {there[0].relative_to(self.root)}"
            )
        self._refuse_twins()
        if overwrite:
            delete_files(there, self.root)
        left = []
        for case_id in self._part:
            if self.is_done(case_id) and case_id not in changed:
                self._note_done(case_id)
            else:
                left.append(case_id)
        if others:
            self._open_again(left, changed)
        else:
            delete_files(self._files.unfinished(), self.root)
            write_whole_record(self.root, self.record)
        return left

    def is_done(self, case_id: str) -> bool:
        """Whether the segmentation of a case is there."""
        return case_id in self._names and self.label_path(case_id).exists()

    def _note_done(self, case_id: str) -> None:
        if case_id in self._images:
            self.record["images"][case_id] = self._images[case_id]
        self.record["failed"].pop(case_id, None)

    def _open_again(self, case_ids: Iterable[str], changed: Collection[str]) -> None:
        """Tell other processes that segmentations they know of are gone, or of other inputs."""
        for case_id in case_ids:
            said = read_case(self.root, case_id)
            # A label map comes before its record, so it may be there only now.
            if "seconds" in said and (case_id in changed or not self.is_done(case_id)):
                # The files of a changed case stay until `begin`, so the record still names it.
                write_case(self.root, case_id, {"contents": said.get("contents")})

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

    @contextmanager
    def claimed(self, case_id: str) -> Iterator[bool]:
        """Try to be the only process that works on a case.

        Yields:
            Whether this process has it; if not, another one does.
        """
        with self._worker.claimed(folder_of_case(self.root, case_id)) as ours:
            yield ours

    def made_elsewhere(self, case_id: str) -> dict[str, Any] | None:
        """What other processes made of a case of `open`; see `BY_CASE`. None if it is not done."""
        said = read_case(self.root, case_id)
        return said if "seconds" in said or "failed" in said else None

    def adopt(self, case_id: str) -> bool:
        """Take over a segmentation whose process was killed before it could note that; if any."""
        said = read_case(self.root, case_id)
        if "contents" not in said or not self.is_done(case_id):
            return False
        self._note_content(case_id)
        if said["contents"] != self._contents[case_id]:
            return False
        write_case(self.root, case_id, {**said, **self._known_images(case_id)})
        return True

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
        delete_files(self._files.there([case_id]), self.root)
        self._note_content(case_id)
        write_case(self.root, case_id, {"contents": self._contents[case_id]})

    def _note_content(self, case_id: str) -> None:
        hashes = self._memo.hashes(self._inputs.get(case_id, ()))
        self._contents[case_id] = joint_hash(hashes.values()) if hashes else None

    def _known_images(self, case_id: str) -> dict[str, Any]:
        return {"images": self._images[case_id]} if case_id in self._images else {}

    def write(self, case_id: str, prediction: Prediction, seconds: float) -> None:
        """Write all files of a case after `begin`, and what the record says of it.

        The label map comes last, because its presence tells that the case is done.
        """
        volume, name = prediction.volume, self._names[case_id]
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
        if case_id not in self._contents:  # there was no `begin`
            self._note_content(case_id)
        said = {"contents": self._contents[case_id], "seconds": round(seconds, 3)}
        write_case(self.root, case_id, {**said, **self._known_images(case_id)})

    def fail(self, case_id: str, message: str) -> None:
        """Record why there is no segmentation of a case, and delete what was written of it.

        So a file that takes its place later, such as a segmentation by hand, is not taken for ours.
        """
        with suppress(OSError):  # the reason of the failure may be the disk
            delete_files(self._files.there([case_id]), self.root)
        write_case(self.root, case_id, {"failed": message})

    def close(self) -> None:
        """`leave`; the last process to do so writes the record as one file."""
        with locked(self.root, patience=_PATIENCE, kinds=(ALONE,)):
            if not self._worker.others():
                delete_files(self._files.unfinished(), self.root)
                write_whole_record(self.root, read_record(self.root / RECORD))
            self.leave()

    def leave(self) -> None:
        """Leave the folder to other processes, also if the work is not done."""
        self._worker.end()

    def _check_made(self, old: dict[str, Any], there: Iterable[Path]) -> None:
        """Check that the files of all cases are those of the record."""
        known = {*old["images"], *old["seconds"], *old["contents"]}
        names = self._files.names([case_id for case_id in self._names if case_id not in known])
        # Another process deletes the files of a case before it records that the case failed.
        others = [file for file in there if file.name in names and os.path.lexists(file)]
        if others:
            raise ValueError(
                f"--out: expected only files that {RECORD} knows under the names of these cases, "
                f"got {others[0]}; nothing is changed. Move it elsewhere, or choose another --out"
            )

    def _changed_cases(self, old: dict[str, Any], done: Iterable[str]) -> list[str]:
        """The cases whose inputs are not those of their segmentations; adds to `notes`."""
        known = {c: old["contents"].get(c) for c in done if c in self._inputs}
        noted = [case_id for case_id, content in known.items() if content is not None]
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

    def _check_record(self, old: dict[str, Any], done: Sequence[str], overwrite: bool) -> None:
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
