"""Which files in a folder of segmentations belong to which case."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from recycleseg.data.volumes import map_name
from recycleseg.files import finished_name
from recycleseg.folders import check_no_links
from recycleseg.names import folded
from recycleseg.prediction.case_records import RECORD


class CaseFiles:
    """The files of cases in a folder and its subfolders.

    Args:
        root: the folder.
        labels: case_id -> name of its label map.
    """

    def __init__(self, root: Path, labels: Mapping[str, str]) -> None:
        self._root = root
        self._labels = labels

    def names(self, case_ids: Iterable[str]) -> dict[str, None]:
        """Names that the files of cases have in the folders; those of label maps come first."""
        case_ids = [case_id for case_id in case_ids if case_id in self._labels]
        labels = [self._labels[case_id] for case_id in case_ids]
        maps = [name for label in labels for name in (label, map_name(label))]
        return dict.fromkeys([*maps, *(f"{case_id}.npz" for case_id in case_ids)])

    def there(self, case_ids: Collection[str]) -> list[Path]:
        """Existing files of cases, also those that the present options do not write."""
        # Label maps come first, so that a case whose deletion is interrupted is not done.
        names, folders = self.names(case_ids), self._folders()
        files = [folder / n for folder in folders for n in names if self._may_be(folder, n)]
        if len(case_ids) > 1:  # asking for each takes long on network disks, and few are there
            listed = {folder: _names_in(folder) for folder in folders}
            files = [file for file in files if folded(file.name) in listed[file.parent]]
        return [file for file in files if os.path.lexists(file)]

    def unfinished(self) -> list[Path]:
        """Files that a killed process left half-written."""
        names = {RECORD, *self.names(self._labels)}
        files = [file for folder in self._folders() if folder.is_dir() for file in folder.iterdir()]
        return [f for f in files if f.name != (name := finished_name(f.name)) and name in names]

    def check_no_links(self) -> None:
        """Check that files can be deleted; see `recycleseg.folders.check_no_links`."""
        check_no_links(self._root, self._subfolders())

    def _may_be(self, folder: Path, name: str) -> bool:
        return folder == self._root or not name.endswith(".npz")

    def _subfolders(self) -> list[str]:
        """Names of the subfolders with files of cases, whether they exist or not."""
        steps = sorted(f"steps/{path.name}" for path in self._root.glob("steps/step_*"))
        return ["entropy", "disagreement", "steps", *steps]

    def _folders(self) -> list[Path]:
        """The root and its subfolders with files of cases, without links to elsewhere."""
        linked = (self._root / "steps").is_symlink()
        names = [n for n in self._subfolders() if not (linked and n.startswith("steps"))]
        folders = [self._root / name for name in names]
        return [self._root, *(folder for folder in folders if not folder.is_symlink())]


def _names_in(folder: Path) -> set[str]:
    """Names in a folder as the file system may compare them; none if there is no folder."""
    return set(map(folded, os.listdir(folder))) if folder.is_dir() else set()
