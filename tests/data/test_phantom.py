"""The phantom: it is reproducible and sound, and intensity or place alone do not solve it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recycleseg.data.check import inspect_dataset
from recycleseg.data.layout import read_dataset
from recycleseg.data.phantom import make_scene, write_phantom
from recycleseg.data.volumes import read_volume

NUM_CLASSES = 4
NUM_SCENES = {2: 16, 3: 24}


@pytest.fixture(scope="module", params=[2, 3])
def scenes(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Normalised images and labels (N, *S)."""
    dims = request.param
    pairs = [make_scene(dims, seed=0, index=index) for index in range(NUM_SCENES[dims])]
    images = np.stack([(image - image.mean()) / image.std() for image, _ in pairs])
    return images, np.stack([label for _, label in pairs])


def dice(pred: np.ndarray, label: np.ndarray, value: int) -> float:
    """Dice of one class over all scenes together."""
    hits = ((pred == value) & (label == value)).sum()
    return float(2 * hits / ((pred == value).sum() + (label == value).sum()))


def mean_dice(pred: np.ndarray, label: np.ndarray) -> float:
    return float(np.mean([dice(pred, label, value) for value in range(1, NUM_CLASSES)]))


def test_scenes_are_reproducible_and_differ() -> None:
    image, label = make_scene(3, seed=1, index=2)
    again = make_scene(3, seed=1, index=2)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    assert (image.shape, image.dtype, label.dtype) == ((32, 40, 32), np.float32, np.uint8)
    for seed, index in ((1, 3), (2, 2)):
        assert not np.array_equal(label, make_scene(3, seed=seed, index=index)[1])


def test_every_scene_has_every_organ(scenes: tuple[np.ndarray, np.ndarray]) -> None:
    for label in scenes[1]:
        shares = np.bincount(label.ravel(), minlength=NUM_CLASSES) / label.size
        assert len(shares) == NUM_CLASSES
        assert shares.min() > 0.005


def test_organs_touch(scenes: tuple[np.ndarray, np.ndarray]) -> None:
    """In most scenes voxels of different organs are neighbours, so no gap shows the border."""
    touching = 0
    for label in scenes[1]:
        pairs = [
            (label.take(range(1, n), axis), label.take(range(n - 1), axis))
            for axis, n in enumerate(label.shape)
        ]
        touching += any(((a != b) & (a > 0) & (b > 0)).sum() > 10 for a, b in pairs)
    assert touching > 0.8 * len(scenes[1])


def test_no_interval_of_intensities_is_an_organ(scenes: tuple[np.ndarray, np.ndarray]) -> None:
    """Even the best two thresholds per class, chosen with the truth, score below 0.5."""
    images, label = scenes
    edges = np.quantile(images, np.linspace(0, 1, 101))[1:-1]
    bins = np.searchsorted(edges, images)
    total = np.concatenate([[0], np.bincount(bins.ravel(), minlength=100).cumsum()])
    best = []
    for value in range(1, NUM_CLASSES):
        inside = np.bincount(bins[label == value], minlength=100)
        hits = np.concatenate([[0], inside.cumsum()])
        low, high = np.triu_indices(101, k=1)
        scores = 2 * (hits[high] - hits[low]) / (total[high] - total[low] + inside.sum())
        best.append(scores.max())
    assert np.mean(best) < 0.5
    assert max(best) < 0.65


@pytest.mark.parametrize("knows_place", [False, True])
def test_process_classifiers_score_low(
    scenes: tuple[np.ndarray, np.ndarray], knows_place: bool
) -> None:
    """Classifiers fitted on half of the scenes, by intensity alone or by intensity and place."""
    images, labels = scenes
    half = len(images) // 2
    seen, seen_label, image, label = images[:half], labels[:half], images[half:], labels[half:]
    scores = []
    for value in range(NUM_CLASSES):
        values = seen[seen_label == value]
        prior = (seen_label == value).mean(axis=0 if knows_place else None)
        likelihood = -0.5 * ((image - values.mean()) / values.std()) ** 2 - np.log(values.std())
        # Without 0.02, a class would be impossible where no training scene has it.
        scores.append(likelihood + np.log(prior + 0.02))
    score = mean_dice(np.argmax(scores, axis=0), label)
    assert score < (0.85 if knows_place else 0.5)


def test_place_alone_scores_low(scenes: tuple[np.ndarray, np.ndarray]) -> None:
    labels = scenes[1]
    half = len(labels) // 2
    votes = np.stack([(labels[:half] == value).mean(axis=0) for value in range(NUM_CLASSES)])
    pred = np.broadcast_to(votes.argmax(axis=0), labels[half:].shape)
    assert mean_dice(pred, labels[half:]) < 0.8


@pytest.mark.parametrize(
    ("dims", "shape", "spacing"),
    [(3, (32, 40, 32), (1.0, 1.0, 1.5)), (2, (96, 128), (0.5, 0.5))],
)
def test_written_data_set_is_sound(
    tmp_path: Path, dims: int, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    root = write_phantom(tmp_path / "phantom", spatial_dims=dims, num_cases=(3, 1, 2), seed=5)
    dataset = read_dataset(root)
    inspect_dataset(dataset)
    assert dataset.classes.names == ("background", "lobe", "bean", "duct")
    assert [len(case_ids) for case_ids in dataset.split.values()] == [3, 1, 2]
    case = dataset.cases["phantom_004"]
    volume = read_volume(case.image_paths[0])
    assert (volume.array.shape, volume.spacing) == (shape, spacing)
    assert case.label_path is not None
    _, label = make_scene(dims, seed=5, index=4)
    np.testing.assert_array_equal(read_volume(case.label_path).array, label)


def test_scenes_do_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few = write_phantom(tmp_path / "few", spatial_dims=2, num_cases=(1, 1, 0))
    more = write_phantom(tmp_path / "more", spatial_dims=2, num_cases=(2, 1, 1))
    for name in ("imagesTr/phantom_001_0000.png", "labelsTr/phantom_001.png"):
        assert (few / name).read_bytes() == (more / name).read_bytes()


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="spatial_dims: expected 2 or 3, got 1"):
        write_phantom(tmp_path, spatial_dims=1)
    with pytest.raises(ValueError, match="num_cases: expected at least one training scene"):
        write_phantom(tmp_path, num_cases=(0, 1, 1))
