"""Files of every format through the commands: each prediction has the format of its image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tests.data.dicom_series import write_series
from tests.tiny_runs import write_tiny_run

from recycleseg.cli import ensemble, evaluate, predict
from recycleseg.data.volumes import read_label, read_volume, write_like, write_volume
from recycleseg.prediction.predictor import Predictor

SCAN = np.random.default_rng(0).integers(0, 400, (8, 9, 10)).astype(np.int16)


def ran(command: Callable[[list[str]], int], *arguments: object) -> int:
    return command(list(map(str, arguments)))


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".gipl", ".tif", ".NII.GZ"])
def test_format_of_the_image(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("SimpleITK")
    run = write_tiny_run(tmp_path / "run")
    (tmp_path / "scans").mkdir()
    scan, spacing = SCAN.astype(np.float32), (1.0, 1.0, 2.0)
    write_volume(tmp_path / f"scans/x_0000{ending}", scan, spacing=spacing)
    out = tmp_path / "out"
    options = ("--save-uncertainty", "--save-steps", "--save-probabilities")
    assert ran(predict.main, "-m", run, "-i", tmp_path / "scans", "-o", out, *options) == 0
    image, made = read_volume(tmp_path / f"scans/x_0000{ending}"), out / f"x{ending.lower()}"
    label = read_label(made)
    assert label.array.shape == scan.shape and label.array.max() <= 2
    assert label.spacing == pytest.approx(spacing)
    assert (label.affine is None) == (image.affine is None)
    if image.affine is not None:
        np.testing.assert_allclose(label.affine, image.affine, rtol=0, atol=1e-6)
    for name in ("entropy", "disagreement", "steps/step_1", "steps/step_2"):
        assert read_volume(out / name / made.name).array.shape == scan.shape
    assert ran(evaluate.main, "-p", out, "-r", out, "-o", tmp_path / "scores") == 0
    assert ran(ensemble.main, "-i", out, "-o", tmp_path / "both", "--overwrite") == 0
    np.testing.assert_array_equal(read_label(tmp_path / "both" / made.name).array, label.array)


def test_dicom_series_to_segmentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    run = write_tiny_run(tmp_path / "run")
    write_series(tmp_path / "scans/x", SCAN, step=(0, 0, -3))
    out = tmp_path / "out"
    command = ("-m", run, "-i", tmp_path / "scans", "-o", out, "--save-uncertainty", "--save-steps")
    assert ran(predict.main, *command) == 0
    written = pydicom.dcmread(out / "x.dcm")
    assert [segment.SegmentLabel for segment in written.SegmentSequence] == ["a", "b"]
    label = read_label(out / "x.dcm")
    assert read_volume(out / "entropy/x.nii.gz").array.shape == label.array.shape == (10, 9, 8)
    np.testing.assert_array_equal(read_label(out / "steps/step_2/x.dcm").array, label.array)
    assert ran(predict.main, *command) == 0
    assert "predicted 0, already there 1" in capsys.readouterr().out
    assert ran(predict.main, *command, "--overwrite") == 0
    (tmp_path / "labels").mkdir()
    write_like(tmp_path / "labels/x.nii.gz", label.array.astype(np.uint8), label)
    scores = ("-p", out, "-r", tmp_path / "labels", "-o", tmp_path / "scores")
    assert ran(evaluate.main, *scores) == 0
    case = json.loads((tmp_path / "scores/summary.json").read_text())["metric_per_case"][0]
    assert all(values["Dice"] in (1.0, None) for values in case["metrics"].values())
    assert "x not shown" not in (tmp_path / "scores/report.html").read_text(encoding="utf-8")
    assert ran(ensemble.main, "-i", out, "-o", tmp_path / "both") == 0
    np.testing.assert_array_equal(read_label(tmp_path / "both/x.nii.gz").array, label.array)
    Predictor.load(run)(tmp_path / "scans/x").save(tmp_path / "again.dcm")
    again = pydicom.dcmread(tmp_path / "again.dcm")
    assert [segment.SegmentLabel for segment in again.SegmentSequence] == ["a", "b"]


def test_a_series_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom")
    run, scans, out = write_tiny_run(tmp_path / "run"), tmp_path / "scans", tmp_path / "out"
    for folder in ("good", "nested/series", "cut"):
        write_series(scans / folder, SCAN)
    for slice in (scans / "cut").iterdir():
        slice.write_bytes(slice.read_bytes()[:100])
    (scans / "text").mkdir()
    (scans / "text/a.dcm").write_text("no image")
    shutil.copy(next((scans / "good").iterdir()), scans / "loose.dcm")
    (scans / "empty").mkdir()
    (scans / "README.txt").write_text("of these scans")
    assert ran(predict.main, "-m", run, "-i", scans, "-o", out) == 3
    assert sorted(path.name for path in out.glob("*.dcm")) == ["good.dcm", "loose.dcm"]
    told = capsys.readouterr().out
    for name in ("cut", "nested", "text"):
        expected = f"{scans / name}: expected the DICOM files of a series in the folder itself"
        assert expected in told


def test_one_file_with_all_channels(tmp_path: Path) -> None:
    """The result is that of one file per channel."""
    names = ("red", "green", "blue")
    colours = np.random.default_rng(0).integers(0, 255, (16, 24, 3)).astype(np.uint8)
    scans = np.stack([SCAN, SCAN // 2, SCAN[::-1]], axis=-1)
    for dims in (2, 3):
        run = write_tiny_run(tmp_path / f"run{dims}", spatial_dims=dims, channel_names=names)
        one, each = (tmp_path / f"{kind}{dims}" for kind in ("one", "each"))
        one.mkdir()
        each.mkdir()
        if dims == 2:
            Image.fromarray(colours).save(one / "x.png")
            for c in range(3):
                Image.fromarray(colours[..., c]).save(each / f"x_{c:04d}.png")
        else:
            nib.save(nib.Nifti1Image(scans, np.eye(4)), one / "x_0000.nii.gz")
            for c in range(3):
                image = nib.Nifti1Image(scans[..., c], np.eye(4))
                nib.save(image, each / f"x_{c:04d}.nii.gz")
        made = []
        for folder in (one, each):
            assert ran(predict.main, "-m", run, "-i", folder, "-o", f"{folder}-out") == 0
            (path,) = Path(f"{folder}-out").glob("x.*")
            made.append(read_label(path).array)
        np.testing.assert_array_equal(*made)


def test_too_few_channels_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_tiny_run(tmp_path / "run", channel_names=("T1", "T2"))
    (tmp_path / "scans").mkdir()
    write_volume(tmp_path / "scans/x_0000.nii", SCAN, spacing=(1.0, 1.0, 1.0))
    assert ran(predict.main, "-m", run, "-i", tmp_path / "scans", "-o", tmp_path / "out") == 3
    assert (
        f"{tmp_path}/scans/x_0000.nii: expected 2 channels, in one file for each (CASE_0000, "
        "CASE_0001, ...) or in one file together, got 1 in 1 file"
    ) in capsys.readouterr().err
