"""Combining folders of predictions: ours, nnU-Net's and label maps, exclusive and overlapping."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.pixel_sizes import set_dpi

from recycleseg.data.probabilities import write_probabilities
from recycleseg.data.volumes import read_volume, write_volume
from recycleseg.files import FileError
from recycleseg.ops.ensemble_vote import ensemble_vote
from recycleseg.prediction.ensemble import Ensemble, EnsembleOptions
from recycleseg.prediction.members import (
    known_images,
    read_member,
    shared_cases,
    shared_classes,
)
from recycleseg.prediction.predictor import Prediction
from recycleseg.prediction.record import make_ensemble_record

SPACING = {3: (1.0, 1.5, 2.0), 2: (0.5, 0.25)}
SHAPES = {3: (5, 6, 7), 2: (8, 9)}
EXCLUSIVE = {"background": 0, "liver": 1, "cyst": 2}
REGIONS: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": [2]}


def random_probs(seed: int, dims: int, exclusive: bool = True) -> np.ndarray:
    channels = 3 if exclusive else 2
    logits = np.random.default_rng(seed).normal(0, 2, (channels, *SHAPES[dims]))
    probs = np.exp(logits) / np.exp(logits).sum(0) if exclusive else 1 / (1 + np.exp(-logits))
    return np.asarray(probs, dtype=np.float32)


def label_of(probs: np.ndarray) -> np.ndarray:
    """Random probabilities; the core of overlapping regions lies in the whole."""
    if len(probs) == 3:
        return probs.argmax(0).astype(np.uint8)
    return np.where(probs[1] > 0.5, 2, np.where(probs[0] > 0.5, 1, 0)).astype(np.uint8)


def write_maps(folder: Path, maps: dict[str, np.ndarray], labels: dict[str, Any] | None) -> Path:
    folder.mkdir(exist_ok=True)
    for case_id, label in maps.items():
        ending = ".nii.gz" if label.ndim == 3 else ".png"
        write_volume(folder / (case_id + ending), label, spacing=SPACING[label.ndim])
    if labels is not None:
        dataset = {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ending}
        (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def write_foreign(folder: Path, probs: dict[str, np.ndarray], labels: dict[str, Any]) -> Path:
    """A folder as nnU-Net's --save_probabilities writes it: axes reversed, an image as a slice."""
    write_maps(folder, {c: label_of(p) for c, p in probs.items()}, labels)
    for case_id, p in probs.items():
        stored = np.transpose(p, (0, *range(p.ndim - 1, 0, -1))) if p.ndim == 4 else p[:, None]
        np.savez_compressed(folder / f"{case_id}.npz", probabilities=stored)
    return folder


def write_ours(folder: Path, probs: dict[str, np.ndarray], labels: dict[str, Any]) -> Path:
    write_maps(folder, {c: label_of(p) for c, p in probs.items()}, None)
    for case_id, p in probs.items():
        write_probabilities(folder / f"{case_id}.npz", p)
    record = {"dataset": {"labels": labels}, "images": {c: [f"/scans/{c}"] for c in probs}}
    (folder / "predict.json").write_text(json.dumps(record))
    return folder


def ensemble_of(*folders: Path, labels: Path | None = None, **options: Any) -> Ensemble:
    members = tuple(read_member(folder) for folder in folders)
    return Ensemble(members, shared_classes(members, labels), EnsembleOptions(**options))


def voted(members: Sequence[np.ndarray], **options: Any) -> Any:
    """`ensemble_vote` of all members at once, without batch axis."""
    options = {"return_probs": True, "return_entropy": True, **options}
    tensors = [torch.from_numpy(np.ascontiguousarray(m))[None] for m in members]
    vote = ensemble_vote(tensors, return_mutual_information=True, **options)
    return vote._replace(**{k: v[0] for k, v in vote._asdict().items() if v is not None})


def assert_same(vote: Prediction, expected: Any) -> None:
    # The order of the sums differs if members are read one by one.
    close = {"rtol": 1e-5, "atol": 2e-6}
    torch.testing.assert_close(vote.label, expected.label)
    torch.testing.assert_close(vote.probs, expected.probs, **close)
    torch.testing.assert_close(vote.entropy, expected.entropy, **close)
    torch.testing.assert_close(vote.disagreement, expected.mutual_information, **close)


ALL = {"save_probabilities": True, "save_uncertainty": True}


@pytest.mark.parametrize("dims", [3, 2])
@pytest.mark.parametrize("method", ["mean", "majority", "max"])
def test_ours_and_foreign_probabilities(tmp_path: Path, dims: int, method: str) -> None:
    probs = [random_probs(seed, dims) for seed in range(3)]
    folders = [
        write_foreign(tmp_path / "a", {"c": probs[0]}, EXCLUSIVE),
        write_ours(tmp_path / "b", {"c": probs[1]}, EXCLUSIVE),
        write_foreign(tmp_path / "c", {"c": probs[2]}, EXCLUSIVE),
    ]
    vote = ensemble_of(*folders, method=method, **ALL)("c")
    expected = voted(probs, method=method)
    assert_same(vote, expected)
    assert vote.volume.array.shape == SHAPES[dims] and vote.steps == ()


def test_version_1_of_nnunet_and_weights(tmp_path: Path) -> None:
    probs = [random_probs(seed, 3).astype(np.float16).astype(np.float32) for seed in range(2)]
    folders = [
        write_foreign(tmp_path / name, {"c": p}, EXCLUSIVE)
        for name, p in zip("ab", probs, strict=True)
    ]
    np.savez(folders[1] / "c.npz", softmax=probs[1].transpose(0, 3, 2, 1).astype(np.float16))
    vote = ensemble_of(*folders, weights=(1.0, 3.0), **ALL)("c")
    expected = voted(probs, weights=(1.0, 3.0))
    assert_same(vote, expected)


@pytest.mark.parametrize("dims", [3, 2])
def test_label_maps_vote(tmp_path: Path, dims: int) -> None:
    maps = [label_of(random_probs(seed, dims)) for seed in range(3)]
    folders = [
        write_maps(tmp_path / str(k), {"c": label}, EXCLUSIVE if k == 0 else None)
        for k, label in enumerate(maps)
    ]
    ensemble = ensemble_of(*folders)
    assert ensemble.method == "majority"
    counts = np.stack([sum(m == value for m in maps) for value in range(3)])
    np.testing.assert_array_equal(ensemble("c").label, counts.argmax(0))
    assert ensemble("c").probs is None and ensemble("c").entropy is None


def test_label_maps_beside_probabilities_are_one_hot(tmp_path: Path) -> None:
    probs, label = random_probs(0, 3), label_of(random_probs(1, 3))
    one_hot = (label == np.arange(3).reshape(3, 1, 1, 1)).astype(np.float32)
    folders = [
        write_maps(tmp_path / "a", {"c": label}, None),
        write_foreign(tmp_path / "b", {"c": probs}, EXCLUSIVE),
    ]
    vote = ensemble_of(*folders, weights=(0.4, 0.6), **ALL)("c")
    expected = voted([one_hot, probs], weights=(0.4, 0.6))
    assert_same(vote, expected)


@pytest.mark.parametrize("dims", [3, 2])
def test_overlapping_regions(tmp_path: Path, dims: int) -> None:
    probs = [random_probs(seed, dims, exclusive=False) for seed in range(2)]
    folders = [
        write_foreign(tmp_path / "a", {"c": probs[0]}, REGIONS),
        write_ours(tmp_path / "b", {"c": probs[1]}, REGIONS),
    ]
    vote = ensemble_of(*folders, thresholds=(0.3, 0.6), **ALL)("c")
    expected = voted(probs, exclusive=False, thresholds=(0.3, 0.6))
    whole, core = expected.label.numpy()
    np.testing.assert_array_equal(vote.label, np.where(core, 2, np.where(whole, 1, 0)))
    torch.testing.assert_close(vote.probs, expected.probs, rtol=1e-5, atol=2e-6)
    assert vote.entropy is not None and vote.entropy.shape == SHAPES[dims]
    torch.testing.assert_close(vote.entropy, expected.entropy.sum(0), rtol=1e-5, atol=4e-6)


def test_label_maps_of_overlapping_regions(tmp_path: Path) -> None:
    maps = [label_of(random_probs(seed, 2)) for seed in range(3)]
    folders = [write_maps(tmp_path / str(k), {"c": m}, REGIONS) for k, m in enumerate(maps)]
    whole = sum((m > 0).astype(int) for m in maps) >= 2
    core = sum((m == 2).astype(int) for m in maps) >= 2
    np.testing.assert_array_equal(
        ensemble_of(*folders)("c").label, np.where(core, 2, np.where(whole, 1, 0))
    )


def test_pixel_size_is_that_of_the_first_member_that_gives_it(tmp_path: Path) -> None:
    label = label_of(random_probs(0, 2))
    folders = [write_maps(tmp_path / name, {"c": label}, EXCLUSIVE) for name in "abc"]
    set_dpi(folders[0] / "c.png", None)
    vote = ensemble_of(*folders)("c")
    assert vote.volume.spacing == SPACING[2]  # exact for whole pixels per metre
    assert vote.volume.path == folders[0] / "c.png"
    set_dpi(folders[1] / "c.png", 300)
    with pytest.raises(FileError, match="c/c.png: expected pixel size"):
        ensemble_of(*folders)("c")
    for folder in folders:
        set_dpi(folder / "c.png", None)
    assert ensemble_of(*folders)("c").volume.spacing is None


def test_cases_and_labels_that_members_share(tmp_path: Path) -> None:
    label = label_of(random_probs(0, 2))
    a = write_maps(tmp_path / "a", {"c1": label, "c2": label}, EXCLUSIVE)
    b = write_maps(tmp_path / "b", {"c2": label, "c3": label}, None)
    members = [read_member(a), read_member(b)]
    with pytest.raises(FileError, match=f"{a} lacks c3; {b} lacks c1. --allow-missing"):
        shared_cases(members, allow_missing=False)
    assert shared_cases(members, allow_missing=True) == ("c2",)
    assert shared_classes(members, None).names == ("background", "liver", "cyst")
    with pytest.raises(FileError, match="--labels: expected the data set's dataset.json"):
        shared_classes(members[1:], None)
    assert shared_classes(members[1:], a / "dataset.json").values == range(3)
    other = write_maps(tmp_path / "o", {"c1": label}, {"background": 0, "lung": 1})
    with pytest.raises(FileError, match='o/dataset.json: expected labels .*liver.* as .*"lung"'):
        shared_classes([members[0], read_member(other)], None)


def test_ignore_label_and_painting_order_of_the_members(tmp_path: Path) -> None:
    probs = [random_probs(seed, 2, exclusive=False) for seed in range(2)]
    labels = {**REGIONS, "ignore": 3}
    folders = [
        write_ours(tmp_path / "a", {"c": probs[0]}, REGIONS),  # of a data set of that time
        write_foreign(tmp_path / "b", {"c": probs[1]}, labels),
    ]
    foreign = json.loads((folders[1] / "dataset.json").read_text())
    foreign["regions_class_order"] = [2, 1]
    (folders[1] / "dataset.json").write_text(json.dumps(foreign))
    painted = {"c": np.array([0, 2, 1], np.uint8)[label_of(probs[1])]}
    write_maps(folders[1], painted, None)
    ensemble = ensemble_of(*folders)
    made = make_ensemble_record(ensemble, environment={})
    assert made["dataset"]["labels"] == labels
    assert made["dataset"]["regions_class_order"] == [2, 1]
    whole, core = (sum(p / 2 for p in pair) >= 0.5 for pair in zip(*probs, strict=True))
    np.testing.assert_array_equal(ensemble("c").label, np.where(core, 1, np.where(whole, 2, 0)))
    known = json.loads((folders[0] / "predict.json").read_text())
    known["dataset"]["regions_class_order"] = [1, 2]
    (folders[0] / "predict.json").write_text(json.dumps(known))
    message = r"regions_class_order \[1, 2\] as .*regions_class_order \[2, 1\]"
    with pytest.raises(FileError, match=message):
        ensemble_of(*folders)
    alone = ensemble_of(folders[0], labels=folders[1] / "dataset.json")
    assert alone.classes.regions_class_order == (2, 1) and alone.classes.ignore_label == 3
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"labels": {"background": 0, "core": [2], "whole": [1, 2]}}))
    with pytest.raises(FileError, match=f"predict.json: expected whole, core as in {other}, "):
        ensemble_of(folders[0], labels=other)
    (folders[0] / "predict.json").write_text(json.dumps({"dataset": {"labels": {"1": "whole"}}}))
    assert ensemble_of(folders[0], labels=other).classes.names == ("core", "whole")


def test_record_and_images_that_members_know(tmp_path: Path) -> None:
    probs = random_probs(0, 2)
    folders = [
        write_maps(tmp_path / "a", {"c1": label_of(probs), "c2": label_of(probs)}, None),
        write_ours(tmp_path / "b", {"c1": probs, "c2": probs, "c3": probs}, EXCLUSIVE),
        write_ours(tmp_path / "c", {"c1": probs, "c2": probs}, EXCLUSIVE),
    ]
    known = json.loads((folders[1] / "predict.json").read_text())
    known["images"] = {"c1": ["/other/c1"], "c2": [], "c3": None}
    (folders[1] / "predict.json").write_text(json.dumps(known))
    ensemble = ensemble_of(*folders, weights=(1.0, 2.0, 1.0))
    images = known_images(ensemble.members, ("c1", "c2"))
    assert images == {"c1": ["/other/c1"], "c2": ["/scans/c2"]}
    made = make_ensemble_record(ensemble, environment={"python": "3"})
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made == {
        "members": [
            {"folder": str(folder), "probabilities": folder.name != "a"} for folder in folders
        ],
        "options": {
            "method": "mean",
            "weights": [1.0, 2.0, 1.0],
            "thresholds": None,
            "save_probabilities": False,
            "save_uncertainty": False,
        },
        "dataset": {"labels": EXCLUSIVE, "channel_names": None, "file_ending": ".png"},
        "environment": {"python": "3"},
    }


def test_folders_that_hold_no_predictions(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere: expected a folder of predictions"):
        read_member(tmp_path / "nowhere")
    with pytest.raises(FileError, match=r"expected label maps \(.nii.gz, "):
        read_member(tmp_path)
    write_probabilities(tmp_path / "c.npz", random_probs(0, 2))
    with pytest.raises(FileError, match="c.npz: expected a label map beside it"):
        read_member(tmp_path)
    write_maps(tmp_path, {"c": label_of(random_probs(0, 2))}, None)
    (tmp_path / "dataset.json").write_text("[1]")
    with pytest.raises(FileError, match="dataset.json: expected a JSON object, got list"):
        read_member(tmp_path)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    probs = random_probs(0, 3)
    a = write_foreign(tmp_path / "a", {"c": probs}, EXCLUSIVE)
    b = write_foreign(tmp_path / "b", {"c": probs}, EXCLUSIVE)
    ensemble = ensemble_of(a, b)
    label = read_volume(b / "c.nii.gz")

    def wrong(message: str) -> None:
        with pytest.raises(FileError, match=message):
            ensemble("c")

    write_probabilities(b / "c.npz", probs[:2])
    wrong(f"{b}/c.npz: expected 3 channels, one each for background, liver, cyst, got 2")
    write_probabilities(b / "c.npz", probs.swapaxes(1, 3))
    wrong(f"{b}/c.npz: expected floating point numbers of shape")
    write_volume(b / "c.nii.gz", label.array, spacing=(1.0, 1.0, 1.0))
    wrong(f"{b}/c.nii.gz: expected affine .* as {a}/c.nii.gz, got")
    write_volume(b / "c.nii.gz", label.array[1:], spacing=label.spacing)
    wrong(f"{b}/c.nii.gz: expected shape .* as {a}/c.nii.gz, got")

    maps = replace(ensemble.members[1], has_probs=False)
    ensemble = replace(ensemble, members=(ensemble.members[0], maps))
    for bad, said in (
        (label.array + 1, "from 0 to 2"),
        (label.array.astype(np.float32) / 2, "that are whole numbers"),
    ):
        write_volume(b / "c.nii.gz", bad, spacing=label.spacing)
        wrong(f"{b}/c.nii.gz: expected labels {said}, got ")


@pytest.mark.parametrize(
    ("regions", "options", "message"),
    [
        (False, {"weights": (1.0,)}, "--weights: expected 2, one per member, got 1"),
        (False, {"weights": (0.0, 0.0)}, "--weights: expected at least 0 and not all 0"),
        (False, {"weights": (1.0, float("nan"))}, "--weights: expected at least 0"),
        (False, {"method": "max"}, "--method: expected mean or majority .* label maps in .*b"),
        (False, {"thresholds": (0.5,)}, "--thresholds: expected none"),
        (True, {"thresholds": (0.5,) * 3}, "--thresholds: .* one for each of whole, core, got 3"),
        (True, {"thresholds": (0.5, 1.5)}, "--thresholds: expected above 0 and at most 1"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, regions: bool, options: dict[str, Any], message: str
) -> None:
    probs = random_probs(0, 2, exclusive=not regions)
    a = write_foreign(tmp_path / "a", {"c": probs}, REGIONS if regions else EXCLUSIVE)
    b = write_maps(tmp_path / "b", {"c": label_of(probs)}, None)
    with pytest.raises(ValueError, match=message):
        ensemble_of(a, b, **options)
    with pytest.raises(ValueError, match="--weights: expected none with --method max"):
        ensemble_of(a, a, method="max", weights=(1.0, 1.0))


def test_endings_in_upper_case(tmp_path: Path) -> None:
    probs = random_probs(0, 3)
    folder = write_foreign(tmp_path / "a", {"c": probs}, EXCLUSIVE)
    (folder / "c.nii.gz").rename(folder / "c.NII.GZ")
    (folder / "c.npz").rename(folder / "c.NPZ")
    member = read_member(folder)
    assert member.has_probs and list(member.maps) == ["c"]
    label = member.read_label("c", range(3))
    classes = shared_classes([member], None)
    assert member.read_probs("c", label, classes).shape == (3, *label.array.shape)
