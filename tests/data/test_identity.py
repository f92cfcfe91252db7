"""Hashes of contents: every change is seen, what is known is not read, processes do not clash."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recycleseg.data import identity
from recycleseg.data.identity import (
    MEMO,
    ContentMemo,
    case_contents,
    changed_contents,
    content_hash,
    joint_hash,
)
from recycleseg.data.layout import Case
from recycleseg.files import FileError


@pytest.fixture
def trusted_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old enough to be remembered at once; other stamps then need another time."""
    monkeypatch.setattr(identity, "_RACY_NS", 0)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def hash_of(path: Path, folder: Path) -> str | None:
    with ContentMemo(folder) as memo:
        return memo.hashes([path])[path]


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(identity, "_file_hash", refuse)


def entries(folder: Path) -> dict[str, list[object]]:
    return json.loads((folder / MEMO).read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 5])
def test_hash_of_a_file(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    path = write(tmp_path / "x.nii", content[:size])
    assert content_hash(path) == sha256(content[:size])


def test_hash_of_a_folder(tmp_path: Path) -> None:
    def series(name: str, **files: bytes) -> Path:
        for file, content in files.items():
            write(tmp_path / name / file.replace("__", "/"), content)
        return tmp_path / name

    first = content_hash(series("one", a=b"1", b=b"2", deep__c=b"3"))
    assert content_hash(series("two", deep__c=b"3", b=b"2", a=b"1")) == first
    write(tmp_path / "two/.DS_Store", b"hidden")
    assert content_hash(tmp_path / "two") == first
    others = [
        series("swapped", a=b"2", b=b"1", deep__c=b"3"),
        series("renamed", a=b"1", x=b"2", deep__c=b"3"),
        series("fewer", a=b"1", b=b"2"),
        series("flat", a=b"1", b=b"2", c=b"3"),
    ]
    assert len({first, *map(content_hash, others)}) == 5
    assert hash_of(tmp_path / "one", tmp_path / "cache") == first


def test_names_that_are_not_utf8(tmp_path: Path, trusted_clock: None) -> None:
    path = write(tmp_path / os.fsdecode(b"m\xfcller"), b"1")
    write(tmp_path / "series" / os.fsdecode(b"\xff.dcm"), b"2")
    for asked in (path, tmp_path / "series"):
        assert hash_of(asked, tmp_path / "cache") == content_hash(asked)
        assert hash_of(asked, tmp_path / "cache") == content_hash(asked)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "link.nii").symlink_to(tmp_path / "gone.nii")
    for name in ("pipe.nii", "link.nii", "nothing.nii"):
        path = tmp_path / name
        with pytest.raises(FileError, match=f"{path}: expected a file that can be read, got: "):
            content_hash(path)
        assert hash_of(path, tmp_path / "cache") is None


def test_unchanged_files_are_not_read_again(
    tmp_path: Path, trusted_clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / f"data/{k}.nii", b"%d" % k) for k in range(5)]
    paths += [write(tmp_path / "data/series/1.dcm", b"1").parent]
    steps: list[tuple[int, int]] = []
    with ContentMemo(tmp_path / "cache") as memo:
        first = memo.hashes(paths, progress=lambda *counts: steps.append(counts))
    assert steps == [(k, 6) for k in range(1, 7)]
    assert first == {path: content_hash(path) for path in paths}
    forbid_reading(monkeypatch)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for folder in (tmp_path / "data", tmp_path / "link", tmp_path / "link/../data"):
        again = [folder / path.relative_to(tmp_path / "data") for path in paths]
        with ContentMemo(tmp_path / "cache") as memo:
            found = memo.hashes(again, progress=lambda *counts: steps.append(counts))
        assert list(found.values()) == list(first.values())
    assert len(steps) == 6


def in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def by_another_file(path: Path, content: bytes) -> None:
    other = write(path.with_name("other"), content)
    other.replace(path)


def by_a_link(path: Path, content: bytes) -> None:
    path.unlink()
    path.symlink_to(write(path.parent / "elsewhere", content))


@pytest.mark.parametrize("change", [in_place, by_another_file, by_a_link])
def test_another_content_of_equal_size_and_time_is_seen(
    tmp_path: Path, trusted_clock: None, change: Callable[[Path, bytes], None]
) -> None:
    path = write(tmp_path / "label.nii", b"left")
    os.utime(path, (315532800, 315532800))
    assert hash_of(path, tmp_path / "cache") == sha256(b"left")
    time.sleep(0.05)  # many times the step of the clock that gives time stamps
    change(path, b"back")
    os.utime(path, (315532800, 315532800))
    assert path.stat().st_mtime == 315532800
    assert hash_of(path, tmp_path / "cache") == sha256(b"back")


def test_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "label.nii", b"left")
    os.utime(path, (315532800, 315532800))  # the time of the change itself is still the present
    assert hash_of(path, tmp_path / "cache") == sha256(b"left")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_ctime_ns + 2_000_000_001)
    hash_of(path, tmp_path / "cache")
    assert [entry[-1] for entry in entries(tmp_path / "cache").values()] == [sha256(b"left")]


def test_a_file_with_a_date_in_the_future_is_remembered(
    tmp_path: Path, trusted_clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "label.nii", b"left")
    os.utime(path, (4102444800, 4102444800))
    first = hash_of(path, tmp_path / "cache")
    forbid_reading(monkeypatch)
    assert hash_of(path, tmp_path / "cache") == first


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, trusted_clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "label.nii", b"left")
    read = identity._file_hash

    def read_and_change(path: Path) -> str:
        value = read(path)
        time.sleep(0.05)
        path.write_bytes(b"back")
        return value

    with monkeypatch.context() as patch:
        patch.setattr(identity, "_file_hash", read_and_change)
        assert hash_of(path, tmp_path / "cache") == sha256(b"left")
    assert hash_of(path, tmp_path / "cache") == sha256(b"back")


def test_memo_leaves_out_files_that_are_gone(tmp_path: Path, trusted_clock: None) -> None:
    cache = tmp_path / "cache"
    paths = [write(tmp_path / f"data/{k}.nii", b"%d" % k) for k in range(3)]
    series = write(tmp_path / "data/series/1.dcm", b"1").parent
    elsewhere = write(tmp_path / "elsewhere/x.nii", b"x")
    with ContentMemo(cache) as memo:
        memo.hashes([*paths, series, elsewhere])
    for gone in (paths[1], series / "1.dcm", elsewhere):
        gone.unlink()
    hash_of(write(tmp_path / "data/new.nii", b"new"), cache)
    # The other folder may be on a disk that is away for now.
    kept = ["elsewhere/x.nii", "data/0.nii", "data/2.nii", "data/new.nii"]
    assert sorted(entries(cache)) == sorted(str(tmp_path / name) for name in kept)


def test_memo_keeps_what_was_used_last(
    tmp_path: Path, trusted_clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "MAX_ENTRIES", 3)
    paths = [write(tmp_path / f"{k}.nii", b"%d" % k) for k in range(4)]
    for asked in ([0], [1], [2], [0, 3]):
        with ContentMemo(tmp_path / "cache") as memo:
            memo.hashes([paths[k] for k in asked])
    assert list(entries(tmp_path / "cache")) == [str(paths[k]) for k in (2, 0, 3)]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"%s": 1, "x": [1, 2], "y": [1, 2, 3, 4, 5]}'])
def test_damaged_memo_is_replaced(tmp_path: Path, trusted_clock: None, content: str) -> None:
    path = write(tmp_path / "x.nii", b"1")
    write(tmp_path / "cache" / MEMO, content.replace("%s", str(path)).encode())
    assert hash_of(path, tmp_path / "cache") == sha256(b"1")
    assert list(entries(tmp_path / "cache")) == [str(path)]


def test_memo_that_cannot_be_written_is_no_error(tmp_path: Path, trusted_clock: None) -> None:
    path = write(tmp_path / "x.nii", b"1")
    assert hash_of(path, write(tmp_path / "file", b"") / "cache") == sha256(b"1")
    with ContentMemo(None) as memo:
        assert memo.hashes([path]) == {path: sha256(b"1")}


WRITER = """
import sys
from pathlib import Path
from recycleseg.data import identity
identity._RACY_NS = 0
for path in map(Path, sys.argv[2:]):
    with identity.ContentMemo(Path(sys.argv[1])) as memo:
        print(memo.hashes([path])[path])
"""


def test_two_processes_write_the_memo(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"data/{k}.nii", b"%d" % k) for k in range(200)]
    expected = {str(path): content_hash(path) for path in paths}
    halves = (paths[:120], paths[80:])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "cache"), *map(str, half)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for half in halves
    ]
    for writer, half in zip(writers, halves, strict=True):
        said, _ = writer.communicate(timeout=120)
        assert (writer.returncode, said.split()) == (0, [expected[str(path)] for path in half])
    saved = entries(tmp_path / "cache")
    assert saved and saved.items() <= {n: [*_stamp(n), h] for n, h in expected.items()}.items()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [MEMO]


def _stamp(name: str) -> list[int]:
    status = os.stat(name)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def test_contents_of_cases(tmp_path: Path) -> None:
    names = ("c_0000", "c_0001", "c", "d_0000")
    c0, c1, label, d0 = (write(tmp_path / name, name.encode()) for name in names)
    cases = [
        Case("c", (c0, c1), label),
        Case("r", (c1, c0), None),
        Case("d", (d0, tmp_path / "d_0001"), label),
    ]
    contents = case_contents(cases, ContentMemo(None))
    assert contents == {
        "c": {"image": joint_hash(map(content_hash, (c0, c1))), "label": content_hash(label)},
        "r": {"image": joint_hash(map(content_hash, (c1, c0)))},
        "d": {"image": None, "label": content_hash(label)},
    }
    assert contents["c"]["image"] != contents["r"]["image"]
    assert joint_hash(["one"]) == "one" and joint_hash(["one", None]) is None


def test_changes_are_named() -> None:
    before = {"a": {"image": "1", "label": "2"}, "b": {"image": "3"}, "gone": {"image": "4"}}
    now = {"a": {"image": "1", "label": "9"}, "b": {"image": "0", "label": "5"}, "new": {}}
    assert changed_contents(before, now) == ["label of a", "image of b", "label of b"]


def test_files_that_an_image_needs_count_with_it(tmp_path: Path) -> None:
    header, voxels = tmp_path / "x.mhd", tmp_path / "x.raw"
    header.write_text("NDims = 3\nElementDataFile = x.raw\n")
    image, sizes = tmp_path / "y_0000.tif", tmp_path / "y.json"
    image.write_bytes(b"y")
    alone = [content_hash(path) for path in (header, image)]
    voxels.write_bytes(b"1")
    sizes.write_text("{}")
    before = [content_hash(path) for path in (header, image)]
    voxels.write_bytes(b"2")
    sizes.write_text("[]")
    after = [content_hash(path) for path in (header, image)]
    for hashes in zip(alone, before, after, strict=True):
        assert len(set(hashes)) == 3
    with ContentMemo(None) as memo:
        assert list(memo.hashes([header, image]).values()) == after
