"""Folders that the program made: what in them is its own, and where nothing may be deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from recycleseg.files import part_of_file
from recycleseg.folders import MARKER, OwnFolder, check_apart, delete_files

MADE = {"weights": ("last.bin",), ".": ("config.yaml", "picture-*.png")}


def own(root: Path) -> OwnFolder:
    return OwnFolder(root, "a run", MADE)


def filled(root: Path) -> OwnFolder:
    """A folder with files of its own and of others."""
    (root / "weights").mkdir(parents=True)
    (root / "scans").mkdir()
    for name in ("config.yaml", "picture-1.png", "weights/last.bin"):
        (root / name).write_text("ours")
    for name in ("thesis.txt", "weights/best.bin", "scans/config.yaml"):
        (root / name).write_text("precious")
    part_of_file(root / "weights/last.bin").write_text("half")
    (root / "weights/.part-123-last.bin").write_text("half, of an earlier version")
    folder = own(root)
    folder.mark()
    return folder


def names(root: Path) -> set[str]:
    paths = (path for path in root.rglob("*") if path.is_symlink() or not path.is_dir())
    return {str(path.relative_to(root)) for path in paths}


def test_own_files_alone_are_deleted(tmp_path: Path) -> None:
    folder = filled(tmp_path / "run")
    folder.check_overwrite({})
    assert folder.foreign_note() == [
        f"kept in {folder.root}, because recycleseg did not make it: scans, thesis.txt, "
        "weights/best.bin"
    ]
    folder.delete(folder.files())
    left = {MARKER, "thesis.txt", "weights/best.bin", "scans/config.yaml"}
    assert names(folder.root) == left
    assert folder.files() == []


def test_subfolders_that_become_empty_are_deleted(tmp_path: Path) -> None:
    folder = filled(tmp_path / "run")
    (folder.root / "weights/best.bin").unlink()
    folder.delete(folder.files())
    assert not (folder.root / "weights").exists() and (folder.root / "scans").exists()


@pytest.mark.parametrize("content", [None, "", "recycleseg", "link", "other kind"])
def test_only_its_own_marker_counts(tmp_path: Path, content: str | None) -> None:
    folder = filled(tmp_path / "run")
    marker = folder.root / MARKER
    if content == "other kind":
        marker.unlink()
        OwnFolder(folder.root, "an evaluation", {}).mark()
    elif content == "link":
        marker.rename(tmp_path / "genuine")
        marker.symlink_to(tmp_path / "genuine")
    elif content is None:
        marker.unlink()
    else:
        marker.write_text(content)
    before = names(folder.root)
    with pytest.raises(ValueError, match=f"^--overwrite: expected the folder of a run, .*{MARKER}"):
        folder.check_overwrite({})
    if content is not None:
        with pytest.raises(ValueError, match=f"^--out: expected a folder for a run, .*{MARKER}"):
            folder.mark()
    assert names(folder.root) == before


def test_links_do_not_lead_elsewhere(tmp_path: Path) -> None:
    folder = filled(tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    (folder.root / "weights").rename(elsewhere)
    (folder.root / "weights").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="^--overwrite: expected a folder, got the symbolic link"):
        folder.check_overwrite({})
    target = tmp_path / "own.yaml"
    target.write_text("precious")
    (folder.root / "config.yaml").unlink()
    (folder.root / "config.yaml").symlink_to(target)
    (folder.root / "picture-2.png").symlink_to(elsewhere)
    folder.delete(folder.files())
    assert names(folder.root) == {MARKER, "thesis.txt", "scans/config.yaml", "weights"}
    assert target.read_text() == "precious" and (elsewhere / "last.bin").exists()


def test_a_folder_where_a_file_goes_is_refused(tmp_path: Path) -> None:
    folder = own(tmp_path)
    folder.mark()
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ValueError, match="expected a file or nothing at .*config.yaml, got a fol"):
        folder.check_overwrite({})


def test_a_missing_or_empty_folder_may_be_overwritten(tmp_path: Path) -> None:
    own(tmp_path / "missing").check_overwrite({})
    (tmp_path / "weights").mkdir()
    own(tmp_path).check_overwrite({})


PLACES = {"is": "data", "contains": "."}


@pytest.mark.parametrize("how", PLACES)
@pytest.mark.parametrize("linked", ["", "root", "input"])
def test_inputs_are_kept(tmp_path: Path, how: str, linked: str) -> None:
    data, root = tmp_path / "data", tmp_path / PLACES[how]
    data.mkdir()
    link = tmp_path.with_name(f"{tmp_path.name}-link")
    if linked:
        link.symlink_to(root if linked == "root" else data)
    given = {"--data": link if linked == "input" else data}
    with pytest.raises(ValueError) as error:
        check_apart(link if linked == "root" else root, given)
    expected = "--overwrite: expected a folder apart from --data, got "
    assert str(error.value).startswith(expected)
    assert f", which {how} it; nothing is changed" in str(error.value)
    check_apart(tmp_path / "other", given)
    check_apart(data / "labelsTr/run", given)  # what the program did not make there stays


def test_the_working_and_the_home_folder_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home/work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home/work")
    for root, message in (
        (tmp_path / "home/work", "the working folder .*, which is it"),
        (Path("."), "the working folder .*, which is it"),
        (Path(".."), "the working folder .*, which contains it"),
        (tmp_path / "home", "which contains it"),
    ):
        with pytest.raises(ValueError, match=message):
            check_apart(root, {})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the home folder .*, which is it"):
        check_apart(tmp_path / "home", {})
    check_apart(tmp_path / "home/work/runs", {})


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    check_apart(tmp_path / "run", {"--data": tmp_path / "a"})


def test_files_that_are_gone_are_no_error(tmp_path: Path) -> None:
    delete_files([tmp_path / "gone"], tmp_path)
