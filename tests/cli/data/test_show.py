"""`recycle-data show`: a picture, and a table of classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from recycleseg.cli.data import main


def test_picture_and_numbers(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    assert main(["show", str(data), "-o", str(out), "--cases", "4"]) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
    *_, head, row, last = capsys.readouterr().out.splitlines()
    assert (
        head.split() == "class cases voxels ml per case: median (range) MRI: median (IQR)".split()
    )
    # Nine cases of 3 x 3 x 2 voxels of 1 mm; their intensities are 100 with a deviation of 10.
    assert row.split()[:6] == ["box", "9", "162", "0.018", "(0.018", "to"]
    assert 95 < float(row.split()[7]) < 105
    assert last == f"{out}: 4 of 9 cases"


def test_only_pictures_of_its_own_are_replaced(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    Image.new("L", (4, 4)).save(out)
    before = out.read_bytes()
    command = ["show", str(data), "-o", str(out), "--cases", "1"]
    assert main(command) == 2
    assert f"--out: expected a new file, got {out}, which exists" in capsys.readouterr().err
    assert out.read_bytes() == before
    out.unlink()
    assert main(command) == main(command) == 0


def test_more_cases_than_there_are(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(data.parent)
    assert main(["show", data.name, "--cases", "99"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{data.name}.png: 9 of 9 cases"
    assert Path(f"{data.name}.png").is_file()


def test_bad_cases_are_left_out_and_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "labelsTr/c3.nii.gz").unlink()
    assert main(["show", str(data), "-o", str(tmp_path / "sheet.png")]) == 3
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].endswith("8 of 9 cases")
    assert "recycle-data: 1 problem(s); recycle-data check lists all" in said.err
    assert f"{data / 'labelsTr/c3.nii.gz'}: expected a file, got" in said.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cases", "0"], "--cases: expected at least 1, got 0"),
        (["-o", "sheet.jpg"], "--out: expected a .png file in a folder that exists, got sheet.jpg"),
        (["-o", "missing/sheet.png"], "got missing/sheet.png"),
    ],
)
def test_wrong_options(
    data: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(data), *options]) == 2
    assert message in capsys.readouterr().err
