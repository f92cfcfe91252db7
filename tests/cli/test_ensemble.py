"""`recycle-ensemble`: what it writes, how it continues, bad cases and bad options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from recycleseg.cli.ensemble import main
from recycleseg.data.probabilities import read_probabilities
from recycleseg.data.volumes import read_volume, write_volume

CASES = ("c1", "c2", "c3")
LABELS = {"background": 0, "liver": 1, "cyst": 2}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three oblique cases in two folders as nnU-Net writes them, and in one of label maps alone."""
    rng = np.random.default_rng(0)
    affine = np.array([[0, -2, 0.1, 5], [1, 0, 0, -7], [0, 0.05, 3, 0], [0, 0, 0, 1]])
    made = [tmp_path / name for name in ("a", "b", "maps")]
    for folder in made:
        folder.mkdir()
        for case_id in CASES:
            probs = rng.dirichlet((1, 1, 1), (4, 5, 6)).astype(np.float32)
            image = nib.Nifti1Image(probs.argmax(-1).astype(np.uint8), affine)
            image.set_qform(affine, 1, strip_shears=True)
            image.set_sform(affine, 4)
            nib.save(image, folder / f"{case_id}.nii.gz")
            if folder.name != "maps":
                np.savez(folder / f"{case_id}.npz", probabilities=probs.transpose(3, 2, 1, 0))
        if folder.name != "maps":
            (folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return made


def arguments(folders: list[Path], out: Path, *options: str) -> list[str]:
    return ["-i", *map(str, folders), "-o", str(out), *options]


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_files_and_record(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ("--weights", "1", "3", "--save-probabilities", "--save-uncertainty")
    assert main(arguments(folders[:2], out, *options)) == 0
    said = capsys.readouterr().out
    assert f"mean of 2 members; probabilities in {folders[0]}, {folders[1]}; 3 cases\n" in said
    endings = [f"{c}{end}" for c in CASES for end in (".nii.gz", ".npz")]
    maps = [f"{kind}/{c}.nii.gz" for kind in ("entropy", "disagreement") for c in CASES]
    assert sorted(files_of(out)) == sorted([*endings, *maps, "predict.json"])

    of_a, of_b = (read_probabilities(f / "c1.npz", (4, 5, 6)) for f in folders[:2])
    mean = (of_a + 3 * of_b) / 4
    # float32 sums in another order.
    np.testing.assert_allclose(read_probabilities(out / "c1.npz", (4, 5, 6)), mean, atol=1e-6)
    entropy = nib.load(out / "entropy/c1.nii.gz")
    assert entropy.get_data_dtype() == np.float32
    expected = -(mean * np.log(mean)).sum(0)
    np.testing.assert_allclose(entropy.get_fdata(), expected, atol=2e-6)

    label, member = nib.load(out / "c1.nii.gz"), nib.load(folders[0] / "c1.nii.gz")
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(label.dataobj), mean.argmax(0))
    np.testing.assert_array_equal(label.affine, member.affine)
    for form in ("get_qform", "get_sform"):
        (ours, code), (theirs, same) = (getattr(i, form)(coded=True) for i in (label, member))
        np.testing.assert_array_equal(ours, theirs)
        assert code == same

    record = json.loads((out / "predict.json").read_text())
    assert [m["folder"] for m in record["members"]] == [str(f) for f in folders[:2]]
    assert record["options"]["weights"] == [1.0, 3.0] and record["options"]["method"] == "mean"
    assert record["dataset"]["labels"] == LABELS
    assert record["dataset"]["file_ending"] == ".nii.gz"
    assert set(record["seconds"]) == set(CASES) and record["failed"] == {}
    assert record["environment"]["torch"]


def test_png(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probs = [rng.dirichlet((1, 1, 1), (7, 9)).transpose(2, 0, 1) for _ in range(2)]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, p in zip(folders, probs, strict=True):
        folder.mkdir()
        write_volume(folder / "c.png", p.argmax(0).astype(np.uint8), spacing=(0.5, 0.25))
        np.savez(folder / "c.npz", probabilities=p[:, None].astype(np.float32))
        (folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    out = tmp_path / "out"
    assert main(arguments(folders, out, "--save-probabilities", "--save-uncertainty")) == 0
    mean = (probs[0] + probs[1]) / 2
    label = read_volume(out / "c.png")
    np.testing.assert_array_equal(label.array, mean.argmax(0))
    assert label.spacing == pytest.approx((0.5, 0.25), rel=1e-3)  # whole pixels per metre
    with np.load(out / "c.npz") as stored:
        assert stored["probabilities"].shape == (3, 1, 7, 9)
    entropy = read_volume(out / "entropy/c.png").array
    assert entropy.dtype == np.uint16
    expected = -(mean * np.log(mean)).sum(0) / np.log(3) * 65535
    np.testing.assert_allclose(entropy, expected, atol=0.6)  # half a grey level and float32


def test_it_goes_on_where_it_stopped(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", folders[1] / "c2.npz"
    content = whole.read_bytes()
    whole.write_bytes(content[:100])
    assert main(arguments(folders, out)) == 3
    captured = capsys.readouterr()
    first, problem = captured.err.splitlines()
    assert first == "recycle-ensemble: 1 cases could not be combined"
    assert problem.startswith(f"  - {whole}: expected a whole .npz file, got: ")
    assert f"label maps, as probabilities 0 and 1, in {folders[2]}" in captured.out
    assert "[1/3] c1: " in captured.out and "[3/3] c3: " in captured.out
    assert f"failed: {whole}: expected a whole .npz file" in captured.out
    assert f"2 cases are in {out}\n" in captured.out
    record = json.loads((out / "predict.json").read_text())
    assert list(record["failed"]) == ["c2"] and set(record["seconds"]) == {"c1", "c3"}
    assert not (out / "c2.nii.gz").exists()

    whole.write_bytes(content)
    before = (out / "c1.nii.gz").stat().st_mtime_ns
    assert main(arguments(folders, out)) == 0
    assert "3 cases, 2 of them already done" in capsys.readouterr().out
    assert (out / "c1.nii.gz").stat().st_mtime_ns == before
    record = json.loads((out / "predict.json").read_text())
    assert record["failed"] == {} and set(record["seconds"]) == set(CASES)

    done = files_of(out)
    assert main(arguments(folders, out, "--method", "majority")) == 2
    error = capsys.readouterr().err
    assert f"--out: {out} holds predictions of another kind: method was 'mean', is " in error
    assert "--overwrite" in error
    assert files_of(out) == done
    assert main(arguments(folders, out, "--method", "majority", "--overwrite")) == 0
    record = json.loads((out / "predict.json").read_text())
    assert record["options"]["method"] == "majority"


def test_label_maps_alone(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in folders[:2]:
        for path in (*folder.glob("*.npz"), folder / "dataset.json"):
            path.unlink()
    labels = tmp_path / "dataset.json"
    labels.write_text(json.dumps({"labels": LABELS}))
    assert main(arguments(folders, tmp_path / "out")) == 2
    assert "--labels: expected the data set's dataset.json" in capsys.readouterr().err
    assert main(arguments(folders, tmp_path / "out", "--labels", str(labels))) == 0
    assert f"majority of 3 members; label maps in {folders[0]}" in capsys.readouterr().out
    maps = np.stack([read_volume(f / "c3.nii.gz").array for f in folders])
    counts = np.stack([(maps == value).sum(0) for value in range(3)])
    voted = read_volume(tmp_path / "out/c3.nii.gz").array
    np.testing.assert_array_equal(voted, counts.argmax(0))


def test_changed_and_moved_members(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(folders[:2], out)) == 0
    before = files_of(out)
    for ending in (".nii.gz", ".npz"):
        (folders[1] / f"c2{ending}").write_bytes((folders[1] / f"c3{ending}").read_bytes())
    capsys.readouterr()
    assert main(arguments(folders[:2], out)) == 0
    said = capsys.readouterr().out
    assert said.startswith("done again, because the content of the input has changed: c2\n")
    assert "3 cases, 2 of them already done" in said
    changed = [file for file, content in files_of(out).items() if before[file] != content]
    assert changed == ["c2.nii.gz", "predict.json"]

    moved = [folder.rename(tmp_path / f"moved_{folder.name}") for folder in folders[:2]]
    assert main(arguments(moved, out)) == 0
    assert "3 cases, 3 of them already done" in capsys.readouterr().out
    assert main(arguments([moved[0], folders[2]], out)) == 2
    assert f"members were {list(map(str, moved))}, are " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["c2.nii.gz", "c2.npz"])
def test_label_map_and_probabilities_of_two_cases(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (folders[1] / name).write_bytes((folders[1] / name.replace("c2", "c3")).read_bytes())
    assert main(arguments(folders[:2], tmp_path / "out")) == 3
    error = capsys.readouterr().err
    beside = f"{folders[1] / 'c2.npz'}: expected the probabilities of {folders[1] / 'c2.nii.gz'}"
    assert f"  - {beside}, got another class in " in error
    assert not (tmp_path / "out/c2.nii.gz").exists() and (tmp_path / "out/c3.nii.gz").exists()


def test_cases_that_a_member_lacks(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders[2] / "c1.nii.gz").unlink()
    assert main(arguments(folders, tmp_path / "out")) == 2
    assert f"{folders[2]} lacks c1. --allow-missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(arguments(folders, tmp_path / "out", "--allow-missing")) == 0
    assert not (tmp_path / "out/c1.nii.gz").exists()


def options_and_messages() -> list[tuple[list[str], str]]:
    return [
        (["--weights", "1"], "--weights: expected 2, one per member, got 1"),
        (["--method", "median"], "--method: expected mean, majority or max, got 'median'"),
        (["--thresholds", "0.5"], "--thresholds: expected none"),
        (["--wieghts", "1"], "unknown option --wieghts; did you mean --weights?"),
        (
            ["--labels", "missing.json"],
            "--labels: expected a dataset.json, got missing.json",
        ),
    ]


@pytest.mark.parametrize(("options", "message"), options_and_messages())
def test_wrong_options_end_with_one_clear_line(
    folders: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert main(arguments(folders[:2], tmp_path / "out", *options)) == 2
    error = capsys.readouterr().err
    assert error.startswith("recycle-ensemble: error: ") and message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_folders_that_must_not_be_written_to(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before: dict[str, Any] = {str(f): files_of(f) for f in folders}
    assert main(arguments(folders[:2], folders[0])) == 2
    assert "--out: expected another folder than the members'" in capsys.readouterr().err
    assert main(arguments(folders[:2], folders[0], "--overwrite")) == 2
    assert "--overwrite: expected a folder apart from --input" in capsys.readouterr().err
    for option in ([], ["--overwrite"]):
        assert main(arguments(folders[:2], folders[2], *option)) == 2
        error = capsys.readouterr().err
        assert "--out: expected a new folder or one with predict.json" in error
        assert "which already has c1.nii.gz" in error
    assert main(arguments([folders[0], folders[0]], tmp_path / "out")) == 2
    assert "--input: expected every folder once" in capsys.readouterr().err
    assert {str(f): files_of(f) for f in folders} == before
