"""Several processes in one folder of predictions; the others are only their files here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.prediction.test_folder import (
    Stub,
    files_in,
    folder_of,
    record,
    replace_image,
    saved_record,
    write_images,
)

from recycleseg.data.identity import content_hash
from recycleseg.files import part_of_file
from recycleseg.locks import ALONE, AMONG, Holder
from recycleseg.prediction import folder as folder_module
from recycleseg.prediction import process as process_module
from recycleseg.prediction.case_records import folder_of_case, write_case
from recycleseg.prediction.folder import PredictionFolder
from recycleseg.prediction.process import Outcome, process_cases

OTHER = Holder(Path(), "", "gpu-07", "0badcafe", 42, "0123456789ab")


@pytest.fixture
def work(tmp_path: Path) -> tuple[Path, list[Any]]:
    """A folder in which another process works, and its cases."""
    cases = write_images(tmp_path / "images", *(f"{name}.nii" for name in "abcd"))
    out = tmp_path / "out"
    folder = folder_of(out, cases, record())
    folder.open(overwrite=False)
    folder.leave()
    OTHER.file(out, AMONG).touch()
    return out, cases


def claim(out: Path, case_id: str) -> None:
    folder_of_case(out, case_id).mkdir(parents=True, exist_ok=True)
    OTHER.file(folder_of_case(out, case_id), ALONE).touch()


def finish(out: Path, case_id: str, **said: Any) -> None:
    """What the other process does at the end of a case."""
    if "failed" not in said:
        (out / f"{case_id}.nii").write_text("made elsewhere")
    write_case(out, case_id, said)


def segment(stub: Stub, cases: list[Any]) -> Any:
    images = {case.case_id: case.image_paths for case in cases}
    return lambda case_id: stub(images[case_id], case_id=case_id)


def outcomes_of(
    folder: PredictionFolder, stub: Stub, cases: list[Any], waiting: Any = lambda names: None
) -> list[Outcome]:
    left = folder.open(overwrite=False)
    return list(process_cases(left, segment(stub, cases), folder, waiting))


def test_what_others_do_is_waited_for(
    work: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cases = work
    finish(out, "a", contents="x", images=["/a.nii"], seconds=2.5)
    finish(out, "b", failed="b.nii: expected this")
    claim(out, "c")
    told: list[Sequence[str]] = []

    def other_goes_on(_: float) -> None:
        finish(out, "c", contents="y", images=["/c.nii"], seconds=3.5)
        OTHER.file(folder_of_case(out, "c"), ALONE).unlink()

    monkeypatch.setattr(process_module.time, "sleep", other_goes_on)
    stub, folder = Stub(), folder_of(out, cases, record())
    folder.open = lambda overwrite: list("abcd")  # type: ignore[method-assign,assignment]
    folder._worker.begin()
    outcomes = outcomes_of(folder, stub, cases, told.append)
    assert stub.asked == ["d"] and told == [["c"]]
    assert outcomes[:2] == [
        Outcome("a", 2.5, elsewhere=True),
        Outcome("b", 0.0, "b.nii: expected this", elsewhere=True),
    ]
    assert [(o.case_id, o.elsewhere) for o in outcomes[2:]] == [("d", False), ("c", True)]
    # The other one still works, so it will write the record.
    begun = json.loads((out / "predict.json").read_text())
    assert begun["seconds"] == begun["images"] == {}
    assert [path.name for path in out.glob(".work-*")] == [OTHER.file(out, AMONG).name]
    said = saved_record(out)
    assert list(said["seconds"]) == ["a", "c", "d"]
    assert said["failed"] == {"b": "b.nii: expected this"}


def test_the_case_of_a_process_that_ended_is_done(
    work: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cases = work
    claim(out, "b")
    write_case(out, "b", {"contents": "x"})
    (out / "b.npz").write_text("whole, but of a killed process")
    part_of_file(out / "b.nii").write_text("half")

    def other_ends(_: float) -> None:
        os.utime(OTHER.file(out, AMONG), (time.time() - 1000,) * 2)

    monkeypatch.setattr(process_module.time, "sleep", other_ends)
    stub = Stub()
    outcomes = outcomes_of(folder_of(out, cases, record()), stub, cases)
    assert stub.asked == ["a", "c", "d", "b"]
    assert not any(outcome.elsewhere or outcome.failure for outcome in outcomes)
    assert files_in(out) == [*(f"{name}.nii" for name in "abcd"), "predict.json"]
    assert sorted(saved_record(out)["seconds"]) == list("abcd")


@pytest.mark.parametrize("same", [True, False], ids=["same scan", "scan replaced meanwhile"])
def test_a_segmentation_whose_process_was_killed_before_its_record(
    work: tuple[Path, list[Any]], same: bool
) -> None:
    out, cases = work
    folder = folder_of(out, cases, record())
    left = folder.open(overwrite=False)
    content = content_hash(cases[1].image_paths[0])
    write_case(out, "b", {"contents": content if same else "x"})
    (out / "b.nii").write_text("made elsewhere")
    OTHER.file(out, AMONG).unlink()
    stub = Stub()
    outcomes = list(process_cases(left, segment(stub, cases), folder))
    assert stub.asked == (["a", "c", "d"] if same else list("abcd"))
    assert [o.case_id for o in outcomes if o.elsewhere] == (["b"] if same else [])
    said = saved_record(out)
    assert said["contents"]["b"] == content and "b" in said["images"]


def test_a_scan_replaced_while_others_work_is_predicted_anew(
    work: tuple[Path, list[Any]],
) -> None:
    """Its old segmentation is there until then, and counts neither as done nor as unknown."""
    out, cases = work
    for name in "ab":
        finish(out, name, contents=content_hash(cases["ab".index(name)].image_paths[0]), seconds=2)
    replace_image(cases[1], 7)
    folder = folder_of(out, cases, record())
    assert folder.open(overwrite=False) == ["b", "c", "d"]
    assert (out / "b.nii").read_text() == "made elsewhere"
    folder.leave()  # as if it was killed here
    stub = Stub()
    outcomes_of(folder_of(out, cases, record()), stub, cases)
    assert stub.asked == ["b", "c", "d"]
    assert saved_record(out)["contents"]["b"] == content_hash(cases[1].image_paths[0])


def test_a_case_that_the_record_calls_done_and_is_not_there(
    work: tuple[Path, list[Any]],
) -> None:
    """Such as one that the user deleted to have it made again."""
    out, cases = work
    finish(out, "a", contents="x", images=["/a.nii"], seconds=2.5)
    (out / "a.nii").unlink()
    stub = Stub()
    outcomes_of(folder_of(out, cases, record()), stub, cases)
    assert stub.asked == list("abcd")


def test_files_of_a_case_that_begins_meanwhile_are_known(
    work: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks of this process, another one begins a case, and one fails."""
    out, cases = work
    (out / "a.npz").write_text("made elsewhere")
    write_case(out, "a", {"contents": "x"})
    read = folder_module.read_record

    def read_late(path: Path) -> dict[str, Any]:
        for name in "bc":
            write_case(out, name, {"contents": "x"})
            (out / f"{name}.npz").write_text("made elsewhere")
        (out / "a.npz").unlink()
        write_case(out, "a", {"failed": "a.nii: expected this"})
        return read(path)

    folder = folder_of(out, cases, record())
    monkeypatch.setattr(folder, "_read_inputs", lambda progress: None)
    monkeypatch.setattr(folder_module, "read_record", read_late)
    assert folder.open(overwrite=False) == list("abcd")
    folder.leave()


def test_overwrite_beside_another_process_is_refused(work: tuple[Path, list[Any]]) -> None:
    out, cases = work
    finish(out, "a", contents="x", images=["/a.nii"], seconds=2.5)
    before = files_in(out)
    other = OTHER.file(out, AMONG)
    with pytest.raises(ValueError) as error:
        folder_of(out, cases, record()).open(overwrite=True)
    assert str(error.value) == (
        f"--overwrite: {out}: expected a folder in which nobody works, got one in which process 42 "
        f"of gpu-07 works; if it has ended there, delete {other} and run the command again"
    )
    assert files_in(out) == before
    other.unlink()
    assert folder_of(out, cases, record()).open(overwrite=True) == list("abcd")


def test_other_options_beside_another_process_are_refused(work: tuple[Path, list[Any]]) -> None:
    out, cases = work
    before = files_in(out)
    with pytest.raises(ValueError, match="num_steps was 5, is 4. Use --overwrite"):
        folder_of(out, cases, record(num_steps=4)).open(overwrite=False)
    assert files_in(out) == before
    folder = folder_of(out, cases, record(device="cuda", threads=3))
    assert folder.open(overwrite=False) == list("abcd")
    folder.leave()
    assert saved_record(out)["options"]["device"] == "cpu"


def test_half_written_files_of_others_stay(work: tuple[Path, list[Any]]) -> None:
    out, cases = work
    half = part_of_file(out / "a.nii")
    half.write_text("half")
    folder = folder_of(out, cases, record())
    folder.open(overwrite=False)
    folder.close()
    assert half.exists()
    OTHER.file(out, AMONG).unlink()
    folder.open(overwrite=False)
    assert not half.exists()
    folder.leave()


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """How many entries of folders are looked at, and how many letters are written."""
    seen = {"entries": 0, "written": 0}
    listdir, scandir, write = os.listdir, os.scandir, Path.write_text

    def listed(path: Any = ".") -> list[str]:
        found = listdir(path)
        seen["entries"] += len(found)
        return found

    def scanned(path: Any = ".") -> Any:
        seen["entries"] += len(listdir(path))
        return scandir(path)

    def written(self: Path, text: str, *given: Any, **named: Any) -> int:
        seen["written"] += len(text)
        return write(self, text, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", listed)
        patch.setattr(os, "scandir", scanned)
        patch.setattr(Path, "write_text", written)
        yield seen


def test_the_work_for_a_case_does_not_grow_with_their_number(tmp_path: Path) -> None:
    counts = []
    for number in (10, 100):
        names = [f"c{k:03}.nii" for k in range(number)]
        cases = write_images(tmp_path / f"images{number}", *names)
        folder = folder_of(tmp_path / f"out{number}", cases, record())
        work = process_cases(folder.open(overwrite=False), segment(Stub(), cases), folder)
        for _ in range(number - 2):
            next(work)
        with counted() as seen:
            next(work)
        counts.append(seen)
        list(work)
    assert counts[0]["entries"] == counts[1]["entries"] <= 4
    # The path of the images has a digit more.
    assert 0 < counts[0]["written"] <= counts[1]["written"] <= counts[0]["written"] + 4
