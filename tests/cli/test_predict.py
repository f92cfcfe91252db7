"""`recycle-predict` as a user runs it, with runs of random weights."""

from __future__ import annotations

import io
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from rich.console import Console
from tests.pixel_sizes import write_png
from tests.tiny_runs import write_tiny_run
from torch import Tensor

from recycleseg.cli import _common
from recycleseg.cli._progress import CaseProgress
from recycleseg.cli.evaluate import main as evaluate
from recycleseg.cli.predict import main, parse_command
from recycleseg.data import identity
from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.models.unet import UNet
from recycleseg.prediction.postprocess import postprocess
from recycleseg.prediction.predictor import Predictor
from recycleseg.run.options import PostprocessConfig
from recycleseg.sampling import memory

SHAPE = (9, 11, 10)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_run(tmp_path / "tiny")


def scan(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_scans(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for seed, name in enumerate(names):
        write_volume(folder / name, scan(seed=seed), spacing=(1.0, 1.0, 1.0))
    return folder


def predict(*arguments: Any) -> int:
    return main([*map(str, arguments), "--device", "cpu"])


def label_of(path: Path) -> np.ndarray:
    return read_volume(path).array


def tilted(codes: tuple[int, int], unit: str) -> nib.Nifti1Header:
    """Axes (posterior, left, superior) tilted by 20 degrees, with unequal voxel sizes."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [
        [0, -1.5, 0],
        [-1, 0, 0],
        [0, 0, 2],
    ]
    affine[:3, 3] = (30, -20, 5)
    affine[:3] *= {"mm": 1, "micron": 1000, "meter": 0.001, "unknown": 1}[unit]
    header = nib.Nifti1Header()
    header.set_qform(affine, code=codes[0])
    header.set_sform(affine if codes[1] else None, code=codes[1])
    header.set_xyzt_units(unit)
    return header


@pytest.mark.parametrize("spacing", [None, (1.2, 0.8, 1.0)], ids=["native", "resampled"])
@pytest.mark.parametrize(
    ("ending", "codes", "unit", "order"),
    [
        (".nii.gz", (1, 1), "mm", "<"),
        (".nii", (1, 4), "mm", ">"),
        (".nii.gz", (2, 0), "unknown", "<"),
        (".nii", (0, 3), "micron", "<"),
        (".nii.gz", (3, 2), "meter", "<"),
        (".nii", (0, 0), "mm", "<"),
    ],
)
def test_result_has_the_grid_of_its_file(
    tmp_path: Path,
    spacing: tuple[float, ...] | None,
    ending: str,
    codes: tuple[int, int],
    unit: str,
    order: str,
) -> None:
    run = write_tiny_run(tmp_path / "run", spacing=spacing)
    header = tilted(codes, unit).as_byteswapped(order)
    header["descrip"], header["cal_max"], header["intent_code"] = b"a scan", 99, 1005
    image = nib.Nifti1Image(scan(), header.get_best_affine(), header)
    path = tmp_path / f"scan{ending}"
    nib.save(image, path)
    given = nib.load(path)
    out = tmp_path / "out"
    assert predict("-m", run, "-i", path, "-o", out, "--save-uncertainty", "--save-steps") == 0
    for name, dtype in {"": "u1", "entropy": "<f4", "steps/step_1": "u1"}.items():
        made = nib.load(out / name / f"scan{ending}")
        assert made.shape == SHAPE and made.get_data_dtype() == np.dtype(dtype)
        np.testing.assert_array_equal(made.affine, given.affine)
        assert made.header.get_zooms() == given.header.get_zooms()
        assert made.header.get_xyzt_units() == given.header.get_xyzt_units()
        for which in ("get_qform", "get_sform"):
            ours, theirs = (getattr(i.header, which)(coded=True) for i in (made, given))
            assert ours[1] == theirs[1]
            assert (ours[0] is None) == (theirs[0] is None)
            if theirs[0] is not None:
                np.testing.assert_array_equal(ours[0], theirs[0])
        assert made.header["descrip"].item() == b"" and made.header["cal_max"] == 0
        assert made.header["intent_code"] == 0


def test_turned_copy_gives_the_turned_label(tmp_path: Path, tiny: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    array = scan()
    write_volume(images / "x.nii", array, spacing=None, affine=affine)
    assert predict("-m", tiny, "-i", images, "-o", tmp_path / "out") == 0
    expected = label_of(tmp_path / "out/x.nii")
    assert len(np.unique(expected)) > 1
    # Left, superior, posterior: all axes change, and two of them are reversed.
    target = nib.orientations.axcodes2ornt("LSP")
    turned = nib.as_closest_canonical(nib.Nifti1Image(array, affine)).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), target)
    )
    nib.save(turned, images / "x.nii")
    assert predict("-m", tiny, "-i", images, "-o", tmp_path / "out", "--overwrite") == 0
    made = nib.load(tmp_path / "out/x.nii")
    assert nib.aff2axcodes(made.affine) == ("L", "S", "P")
    back = nib.as_closest_canonical(made)
    np.testing.assert_array_equal(back.affine, affine)
    np.testing.assert_array_equal(np.asarray(back.dataobj), expected)


def test_nifti2_stays_nifti2(tmp_path: Path, tiny: Path) -> None:
    nib.save(nib.Nifti2Image(scan(), np.diag([2.0, 2, 3, 1])), tmp_path / "x.nii")
    assert predict("-m", tiny, "-i", tmp_path / "x.nii", "-o", tmp_path / "out") == 0
    made = nib.load(tmp_path / "out/x.nii")
    assert isinstance(made, nib.Nifti2Image)
    np.testing.assert_array_equal(made.affine, np.diag([2.0, 2, 3, 1]))


@pytest.mark.parametrize("spacing", [(0.25, 0.1), None])
def test_image_keeps_its_pixel_size(tmp_path: Path, spacing: tuple[float, float] | None) -> None:
    run = write_tiny_run(tmp_path / "run", spatial_dims=2)
    grey = np.random.default_rng(0).integers(0, 65536, (12, 17)).astype(np.uint16)
    write_volume(tmp_path / "x_0000.png", grey, spacing=spacing)
    out = tmp_path / "out"
    options = ("--save-uncertainty", "--save-probabilities", "--samples", "2")
    assert predict("-m", run, "-i", tmp_path / "x_0000.png", "-o", out, *options) == 0
    for name in ("", "entropy", "disagreement"):
        made = read_volume(out / name / "x.png")
        assert made.array.shape == (12, 17)
        assert made.spacing == spacing  # exact for whole pixels per metre
    assert label_of(out / "x.png").dtype == np.uint8
    with np.load(out / "x.npz") as saved:
        probs = saved["probabilities"]
    assert probs.shape == (3, 1, 12, 17)
    np.testing.assert_array_equal(probs[:, 0].argmax(0), label_of(out / "x.png"))


def test_a_model_of_pixels_says_which_sizes_it_does_not_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_tiny_run(tmp_path / "run", spatial_dims=2, pixel_size="ignore")
    grey = np.random.default_rng(0).integers(0, 256, (12, 17)).astype(np.uint8)
    for name, dpi in (("a", None), ("b", 72), ("c", 300), ("d", None)):
        write_png(tmp_path / f"scans/{name}.png", grey, dpi)
    assert predict("-m", run, "-i", tmp_path / "scans", "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out.splitlines()
    assert (
        said.count(
            "2 of 4 images give the size of their pixels (1 of them 72 or 96 dots per inch, the "
            "resolution of a screen); it is not used, because the model was trained in pixels"
        )
        == 1
    )
    made = [read_volume(tmp_path / f"out/{name}.png") for name in "abcd"]
    assert [volume.spacing is None for volume in made] == [True, True, False, True]
    assert made[1].screen_spacing is not None
    one = ("-i", tmp_path / "scans/a.png", "-o", tmp_path / "one")
    assert predict("-m", run, *one) == 0
    assert "size of their pixels" not in capsys.readouterr().out


def test_a_model_of_mm_refuses_images_without_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_tiny_run(tmp_path / "run", spatial_dims=2, spacing=(0.1, 0.1))
    grey = np.random.default_rng(0).integers(0, 256, (12, 17)).astype(np.uint8)
    for name, dpi in (("a", None), ("b", 72), ("c", 300)):
        write_png(tmp_path / f"scans/{name}.png", grey, dpi)
    assert predict("-m", run, "-i", tmp_path / "scans", "-o", tmp_path / "out") == 3
    first, *reasons = capsys.readouterr().err.splitlines()
    assert first == "recycle-predict: 2 failed"
    for reason, name in zip(reasons, "ab", strict=True):
        assert f"{name}.png: expected the size of its pixels, because the model was tr" in reason
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["c.png", "predict.json"]


def test_postprocessing_is_the_runs_own_unless_told_otherwise(tmp_path: Path) -> None:
    own = PostprocessConfig(keep_largest="b")
    run = write_tiny_run(tmp_path / "run", postprocess=own)
    image = tmp_path / "x.nii"
    write_volume(image, scan((12, 12, 12)), spacing=(1.0, 2.0, 1.0))

    def made(*options: str) -> Any:
        out = tmp_path / f"out{'-'.join(options)}"
        assert predict("-m", run, "-i", image, "-o", out, *options) == 0
        record = json.loads((out / "predict.json").read_text())
        return label_of(out / "x.nii"), record["options"]["postprocess"]

    raw, rules = made("--no-postprocess")
    assert not PostprocessConfig(**rules).has_rules
    values = {"a": 1, "b": 2}
    asked = PostprocessConfig(keep_largest=("a",), fill_holes=("a",))
    for options, config in (((), own), (("--keep-largest", "a", "--fill-holes", "a"), asked)):
        label, rules = made(*options)
        expected = postprocess(raw, config, values)
        assert (expected != raw).any()
        np.testing.assert_array_equal(label, expected)
        assert rules == json.loads(json.dumps(asdict(config)))


def test_options_reach_the_sampler_and_the_record(tmp_path: Path, tiny: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_volume(images / "x.nii.gz", scan((8, 8, 8)), spacing=(1.0, 1.0, 1.0))
    out = tmp_path / "out"
    options = "--sampler ddpm --steps 3 --eta 0.5 --samples 2 --seed 7 --mirror --fusion step"
    saved = "--window-batch 3 --save-steps --save-probabilities --threads 1"
    given = [*options.split(), *saved.split()]
    assert predict("-m", tiny, "-i", images, "-o", out, *given) == 0
    record = json.loads((out / "predict.json").read_text())
    assert record["options"] == {
        "sampler": "ddpm",
        "num_steps": 3,
        "eta": 0.5,
        "samples": 2,
        "mirror": True,
        "fusion": "step",
        "window_batch": 3,
        "seed": 7,
        "overlap": 0.5,
        "postprocess": {**asdict(PostprocessConfig()), "keep_largest": [], "fill_holes": []},
        "device": "cpu",
        "threads": 1,
        "save_probabilities": True,
        "save_uncertainty": False,
        "save_steps": True,
    }
    assert record["dataset"]["labels"] == {"background": 0, "a": 1, "b": 2}
    assert record["images"] == {"x": [str(images / "x.nii.gz")]}
    assert record["environment"]["device"] == "cpu"
    assert len(list((out / "steps").iterdir())) == 3
    last = label_of(out / "steps/step_3/x.nii.gz")
    np.testing.assert_array_equal(last, label_of(out / "x.nii.gz"))
    fields = {"sampler": "ddpm", "num_steps": 3, "eta": 0.5, "samples": 2, "mirror": True}
    predictor = Predictor.load(tiny, device="cpu", seed=7, fusion="step", **fields)
    alone = predictor(images / "x.nii.gz", case_id="x")
    np.testing.assert_array_equal(alone.label.numpy(), last)
    other = tmp_path / "other"
    assert predict("-m", tiny, "-i", images, "-o", other, *options.split()) == 0
    np.testing.assert_array_equal(label_of(other / "x.nii.gz"), last)


def test_a_large_state_is_told(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = write_scans(tmp_path / "scans", "a.nii.gz")
    assert predict("-m", tiny, "-i", scans, "-o", tmp_path / "float32") == 0
    assert "state" not in capsys.readouterr().out.replace(str(tmp_path), "")
    monkeypatch.setattr(memory, "LARGEST_STATE", 0)
    assert predict("-m", tiny, "-i", scans, "-o", tmp_path / "float16") == 0
    told = "a: sampled with a state in float16, because in float32 it takes more than 2 GiB\n"
    assert told in capsys.readouterr().out
    one, other = (label_of(tmp_path / kind / "a.nii.gz") for kind in ("float32", "float16"))
    assert (one != other).mean() < 0.01  # of probabilities that are nearly equal everywhere


def test_goes_on_where_it_stopped(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_scans(tmp_path / "images", "a.nii", "b.nii", "c.nii")
    asked: list[str] = []
    call = Predictor.__call__

    def interrupted(self: Predictor, *args: Any, case_id: str, **options: Any) -> Any:
        asked.append(case_id)
        if asked == ["a", "b"]:
            raise KeyboardInterrupt
        if case_id == "c":
            raise RuntimeError("out of memory")
        return call(self, *args, case_id=case_id, **options)

    monkeypatch.setattr(Predictor, "__call__", interrupted)
    arguments = ("-m", tiny, "-i", images, "-o", tmp_path / "out")
    assert predict(*arguments) == 130
    assert capsys.readouterr().err == (
        "recycle-predict: interrupted; run the same command again to continue\n"
    )
    assert predict(*arguments) == 3
    said = capsys.readouterr()
    assert "[1/2] b: " in said.out
    assert f"predicted 1, already there 1, failed 1: {tmp_path / 'out'}" in said.out
    failure = (
        "c: expected more free memory, got none left (out of memory); close other programs, or "
        "choose fewer workers or a smaller batch"
    )
    assert f"failed: {failure}\n" in said.out
    assert said.err == f"recycle-predict: 1 failed\n  - {failure}\n"
    monkeypatch.undo()
    assert predict(*arguments) == 0
    assert predict(*arguments) == 0
    assert "predicted 0, already there 3, failed 0" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/predict.json").read_text())["failed"] == {}


def test_replaced_and_moved_scans(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = write_scans(tmp_path / "images", "a.nii", "b.nii"), tmp_path / "out"
    monkeypatch.setattr(identity, "_RACY_NS", 0)
    assert predict("-m", tiny, "-i", images, "-o", out) == 0
    assert (tmp_path / "user_cache" / identity.MEMO).is_file()
    time.sleep(0.05)  # so that the clock gives the new file another time
    write_volume(images / "b.nii", scan((6, 6, 6), seed=5), spacing=(2.0, 2.0, 2.0))
    moved, run = images.rename(tmp_path / "moved"), tiny.rename(tmp_path / "renamed")
    capsys.readouterr()
    assert predict("-m", run, "-i", moved, "-o", out) == 2  # it could be another patient
    assert f"holds case b predicted from {images}/b.nii, not" in capsys.readouterr().err
    moved.rename(images)
    assert predict("-m", run, "-i", images, "-o", out) == 0
    said = capsys.readouterr().out
    assert said.startswith("done again, because the content of the input has changed: b\n")
    assert "predicted 1, already there 1, failed 0" in said
    assert label_of(out / "b.nii").shape == (6, 6, 6)
    images.rename(moved)
    assert predict("-m", run, "-i", moved, "-o", out) == 0
    assert "predicted 0, already there 2, failed 0" in capsys.readouterr().out


def test_a_user_without_home_predicts(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(_common, "cache_root", refuse)
    images = write_scans(tmp_path / "images", "a.nii")
    assert predict("-m", tiny, "-i", images, "-o", tmp_path / "out") == 0


def test_several_runs(tmp_path: Path, tiny: Path) -> None:
    images = write_scans(tmp_path / "images", "x.nii")
    other = write_tiny_run(tmp_path / "other", seed=1)
    out = tmp_path / "out"
    save = ("--save-probabilities", "--save-uncertainty")
    assert predict("-m", tiny, other, "-i", images, "-o", out, *save) == 0
    assert predict("-m", tiny, "-i", images, "-o", tmp_path / "first", *save) == 0
    assert predict("-m", other, "-i", images, "-o", tmp_path / "second", *save) == 0
    both, first, second = (
        np.load(folder / "x.npz")["probabilities"]
        for folder in (out, tmp_path / "first", tmp_path / "second")
    )
    # Sums of two float32 values.
    np.testing.assert_allclose(both, (first + second) / 2, atol=1e-6)
    assert len(json.loads((out / "predict.json").read_text())["models"]) == 2


def test_split_of_a_data_set(tmp_path: Path, tiny: Path, data: Path) -> None:
    out = tmp_path / "out"
    assert predict("-m", tiny, "-i", data, "--split", "test", "-o", out) == 0
    assert sorted(p.name for p in out.iterdir()) == ["c8.nii.gz", "predict.json"]


def test_all_missing_channels_are_told_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_tiny_run(tmp_path / "run", channel_names=("T1", "T2"))
    images = write_scans(tmp_path / "images", "a_0000.nii", "b_0001.nii", "c_0000.nii")
    assert predict("-m", run, "-i", images, "-o", tmp_path / "out") == 2
    first, *problems = capsys.readouterr().err.splitlines()
    assert first == "recycle-predict: error: input: 3 problems"
    assert [line.split("images/")[1].split(":")[0] for line in problems] == [
        "a_0001.nii",
        "b_0000.nii",
        "c_0001.nii",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--steps", "0"], "--steps: expected 1 to "),
        (["--steps", "many"], "--steps: expected a whole number, got 'many'"),
        (["--eta", "2"], "--eta: expected 0 to 1, got 2.0"),
        (["--samples", "0"], "--samples: expected at least 1, got 0"),
        (["--sampler", "euler"], "--sampler: expected ddim or ddpm, got 'euler'"),
        (["--window-batch", "0"], "--window-batch: expected auto or a number from 1 on, got '0'"),
        (
            ["--keep-largest", "liver"],
            "--keep-largest: expected some of all, foreground, a, b",
        ),
        (["--muscle-ultrasound"], "--muscle-ultrasound: expected 2D images"),
        (["--muscle-ultrasound", "--fill-holes", "a"], "--muscle-ultrasound: expected no keep"),
        (["--no-postprocess", "--fill-holes", "a"], "--no-postprocess: expected no other rule"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--device", "tpu"], "--device: expected auto, cpu"),
        (["--stesp", "3"], "unknown option --stesp; did you mean --steps?"),
        (["--save-probs"], "unknown option --save-probs; did you mean --save-probabilities?"),
        (["-m", "nowhere"], "nowhere"),
        (["-i", "nowhere"], "--input: expected images, got nowhere, which does not exist"),
        (["-i", "nowhere.nii"], "--input: expected images, got nowhere.nii, which does"),
        (["-i", "."], "expected images ending in .nii.gz, .nii, "),
        (["-i", "a", "b", "--split", "test"], "--split: expected one data set as --input, got 2"),
        (["-i", ".", "--split", "test"], "expected a data set in the nnU-Net raw layout"),
        (["-m", "a", "b", "--save-steps"], "--save-steps: expected one run as --models, got 2"),
        (["-m", "a", "./a"], "--models: expected each run once, got a ./a"),
    ],
)
def test_wrong_options_end_with_one_clear_line(
    tmp_path: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = write_scans(tmp_path / "images", "x.nii")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    arguments = {"-m": str(tiny), "-i": str(images), "-o": "out", "--device": "cpu"}
    kept = [word for option in arguments.items() if option[0] not in changed for word in option]
    assert main([*kept, *changed]) == 2
    error = capsys.readouterr().err
    assert error.startswith("recycle-predict: error: ") and message in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_missing_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--models, --input, --out: expected a value, got none" in capsys.readouterr().err


def test_options_that_are_not_given_are_the_runs_own() -> None:
    command = parse_command(["-m", "run", "-i", "x.nii", "-o", "out"])
    assert command.sampling == {}
    assert (command.device, command.split, command.overwrite) == ("auto", None, False)
    command = parse_command(["-m", "run", "-i", "x.nii", "-o", "out", "--seed", "0", "--eta", "0"])
    assert command.sampling == {"seed": 0, "eta": 0.0}


def test_progress_on_a_terminal() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    with CaseProgress(console, "predicting", 2) as progress:
        progress.within_case(1, 2)
        progress.case_done("a[b]", 1.25)
        progress.case_done("c", 0.5, "c: expected [x], got [y]")
    said = written.getvalue()
    assert "predicting" in said and "2/2" in said
    assert "failed: c: expected [x], got [y]" in said
    assert "[1/2]" not in said


@pytest.fixture
def folds(data: Path, tmp_path: Path) -> list[Path]:
    """Runs of the five folds that the seed draws from the training and validation cases."""
    runs = [write_tiny_run(tmp_path / f"fold{fold}") for fold in range(5)]
    for fold, run in enumerate(runs):
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({**config, "fold": fold}))
    return runs


def test_predictions_of_all_folds_evaluate_as_one(
    data: Path, folds: list[Path], tmp_path: Path
) -> None:
    preds = [tmp_path / f"val{fold}" for fold in range(5)]
    for run, pred in zip(folds, preds, strict=True):
        assert predict("-m", run, "-i", data, "--split", "val", "-o", pred) == 0
    found = [sorted(path.name for path in pred.glob("*.nii.gz")) for pred in preds]
    assert sorted(sum(found, [])) == [f"c{case}.nii.gz" for case in range(8)]
    assert min(map(len, found)) == 1
    out = tmp_path / "evaluation"
    arguments = ["-p", *preds, "-r", data / "labelsTr", "-o", out, "--no-report"]
    assert evaluate(list(map(str, arguments))) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 8


def test_a_fold_of_one_run_is_training_data_of_another(
    data: Path, folds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", *folds[:2], "-i", data, "-o", tmp_path / "out", "--split"]
    assert predict(*arguments, "val") == 2
    error = capsys.readouterr().err
    assert f"--split val: expected runs with the same cases in this part, got {folds[0]}" in error
    assert not (tmp_path / "out").exists()
    assert predict(*arguments, "test") == 0
    assert (tmp_path / "out/c8.nii.gz").is_file()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_gives_nan_fails_the_case_and_others_go_on(
    tmp_path: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    """Here for scans that are constant, which become zeros."""
    scans = write_scans(tmp_path / "scans", "a.nii.gz", "c.nii.gz")
    write_volume(scans / "b.nii.gz", np.ones(SHAPE, np.float32), spacing=(1.0, 1.0, 1.0))
    forward = UNet.forward

    def spoilt(self: UNet, image: Tensor, *inputs: Any, **named: Any) -> Tensor:
        out = forward(self, image, *inputs, **named)
        if not image[:, 0].any():
            out[0, 1, 0, 0, 0] = value
        return out

    monkeypatch.setattr(UNet, "forward", spoilt)
    other = write_tiny_run(tmp_path / "other", seed=1)
    for runs in ([tiny], [tiny, other]):
        out = tmp_path / f"out{len(runs)}"
        assert predict("-m", *runs, "-i", scans, "-o", out, "--save-probabilities") == 3
        assert sorted(path.name for path in out.glob("[a-c].*")) == [
            *("a.nii.gz", "a.npz", "c.nii.gz", "c.npz"),
        ]
        message = (
            "b: expected finite outputs of the network up to 1e+06, got NaN or Inf, with the "
            f"weights {tiny / 'checkpoints/best.safetensors'}"
        )
        assert capsys.readouterr().err == f"recycle-predict: 1 failed\n  - {message}\n"
        assert json.loads((out / "predict.json").read_text())["failed"] == {"b": message}


def test_scans_with_nan_are_named_with_their_number(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = write_scans(tmp_path / "scans", "a.nii.gz")
    bad = scan()
    bad[:2, 3, 4], bad[5, 5, 5] = np.nan, -np.inf
    write_volume(scans / "b.nii.gz", bad, spacing=(1.0, 1.0, 1.0))
    assert predict("-m", tiny, "-i", scans, "-o", tmp_path / "out") == 3
    said = capsys.readouterr().err
    assert f"{scans / 'b.nii.gz'}: expected finite values, got 2 NaN and 1 Inf; replace" in said
    assert (tmp_path / "out/a.nii.gz").exists() and not (tmp_path / "out/b.nii.gz").exists()
