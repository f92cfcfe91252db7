from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.surface_cases import (
    BACKENDS,
    CASES,
    PERCENTILES,
    TOLERANCES,
    blobs,
    box,
    close,
    label_maps,
    needs_cpp,
    oracle,
    surfel_oracle,
)
from torch import Tensor

from recycleseg.ops import SurfaceDistances, surface_distances

DTYPES = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def check(
    pred: np.ndarray,
    ref: np.ndarray,
    spacing: tuple[float, ...],
    backend: str,
    *,
    tolerances: tuple[float, ...] = TOLERANCES,
    percentiles: tuple[float, ...] = PERCENTILES,
    border_is_outside: bool = True,
) -> SurfaceDistances:
    """Compares label maps of one structure, label 1, with the oracle."""
    result = surface_distances(
        torch.from_numpy(pred[None]),
        torch.from_numpy(ref[None]),
        labels=[1],
        spacing=spacing,
        tolerances=tolerances,
        percentiles=percentiles,
        border_is_outside=border_is_outside,
        backend=backend,
    )
    directed, pooled = oracle(pred, ref, spacing, tolerances, percentiles, border_is_outside)
    close(result.directed[0, 0], directed)
    close(result.pooled[0, 0], pooled)
    return result


def check_surfels(
    pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...], backend: str
) -> None:
    """The same with DeepMind's definition."""
    directed, pooled = surface_distances(
        torch.from_numpy(pred[None]),
        torch.from_numpy(ref[None]),
        labels=[1],
        spacing=spacing,
        tolerances=TOLERANCES,
        percentiles=PERCENTILES,
        definition="surfel",
        backend=backend,
    )
    # Their areas are sums over triangles, of which the order may differ.
    np.testing.assert_allclose(directed[0, 0], surfel_oracle(pred, ref, spacing), rtol=1e-9)
    assert pooled.isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("border_is_outside", [True, False], ids=["outside", "inside"])
@pytest.mark.parametrize("case", CASES)
def test_matches_scipy(case: str, border_is_outside: bool, backend: str) -> None:
    check(*CASES[case], backend, border_is_outside=border_is_outside)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [c for c in CASES if "empty" not in c])
def test_surfels_match_those_of_deepmind(case: str, backend: str) -> None:
    check_surfels(*CASES[case], backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("definition", ["voxel", "surfel"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("as_masks", [False, True], ids=["labels", "masks"])
def test_one_slice_is_measured_as_an_image(
    as_masks: bool, axis: int, definition: str, backend: str
) -> None:
    shape = (3, 2, 21, 17) if as_masks else (3, 21, 17)
    pred, ref = (label_maps(shape, 3, torch.uint8, seed) for seed in (60, 61))
    across = pred.ndim - 2 + axis
    arguments: dict[str, Any] = {
        "labels": None if as_masks else [1, (1, 2)],
        "definition": definition,
        "tolerances": TOLERANCES,
        "backend": backend,
    }
    spacing = [0.7, 0.9]
    image = surface_distances(pred, ref, spacing=spacing, **arguments)
    spacing.insert(axis, 5.0)
    volume = surface_distances(
        pred.unsqueeze(across), ref.unsqueeze(across), spacing=spacing, **arguments
    )
    torch.testing.assert_close(volume, image, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_surfaces_by_their_definition(backend: str) -> None:
    nothing, blob = torch.zeros(1, 5, 6, 7, dtype=torch.bool), torch.ones(1, 5, 6, 7).bool()
    arguments: dict[str, Any] = {"labels": [1], "spacing": (1, 1, 1), "backend": backend}
    directed, pooled = surface_distances(nothing, blob, **arguments)
    size = 5 * 6 * 7 - 3 * 4 * 5
    nan, inf = math.nan, math.inf
    np.testing.assert_equal(
        directed[0, 0].tolist(), [[0, nan, nan, nan, 0], [size, inf, inf, inf, 0]]
    )
    assert pooled.tolist() == [[[inf]]]
    directed, pooled = surface_distances(nothing, nothing, **arguments)
    np.testing.assert_equal(directed[0, 0].tolist(), [[0, nan, nan, nan, 0]] * 2)
    np.testing.assert_equal(pooled.tolist(), [[[nan]]])
    # A full volume has no surface where its border is inside.
    directed, _ = surface_distances(blob, blob, border_is_outside=False, **arguments)
    np.testing.assert_equal(directed[0, 0].tolist(), [[0, nan, nan, nan, 0]] * 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 10, 11, 9), (3, 21, 17)], ids=["3D", "2D"])
def test_structures_are_labels_and_unions_of_labels(shape: tuple[int, ...], backend: str) -> None:
    pred, ref = (label_maps(shape, 5, torch.int64, seed) for seed in (20, 21))
    labels: list[int | tuple[int, ...]] = [1, (1, 2, 4), (4, 3), 3, (0,), 77, (2, 77), (2, 2)]
    spacing = (1.0, 0.7, 1.9)[: len(shape) - 1]
    result = surface_distances(
        pred,
        ref,
        labels=labels,
        spacing=spacing,
        tolerances=TOLERANCES,
        percentiles=PERCENTILES,
        backend=backend,
    )
    assert result.directed.shape == (shape[0], 8, 2, 3 + len(PERCENTILES) + len(TOLERANCES))
    assert result.pooled.shape == (shape[0], 8, len(PERCENTILES))
    for b in range(shape[0]):
        for c, entry in enumerate(labels):
            directed, pooled = oracle(
                np.isin(pred[b].numpy(), entry), np.isin(ref[b].numpy(), entry), spacing
            )
            close(result.directed[b, c], directed)
            close(result.pooled[b, c], pooled)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(2, 3, 10, 11, 9), (3, 2, 21, 17)], ids=["3D", "2D"])
def test_masks_may_overlap(shape: tuple[int, ...], backend: str) -> None:
    spacing = (1.0, 0.7, 1.9)[: len(shape) - 2]
    pred, ref = (
        np.stack(
            [
                [blobs(shape[2:], seed + 10 * b + c) for c in range(shape[1])]
                for b in range(shape[0])
            ]
        )
        for seed in (30, 60)
    )
    directed, pooled = surface_distances(
        torch.from_numpy(pred).int() * -7,
        torch.from_numpy(ref),
        labels=None,
        spacing=spacing,
        tolerances=TOLERANCES,
        percentiles=PERCENTILES,
        backend=backend,
    )
    assert directed.shape[:3] == (*shape[:2], 2)
    for b, c in np.ndindex(*shape[:2]):
        expected = oracle(pred[b, c], ref[b, c], spacing)
        close(directed[b, c], expected[0])
        close(pooled[b, c], expected[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ref_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pred_dtype", DTYPES, ids=str)
def test_any_pair_of_dtypes(pred_dtype: torch.dtype, ref_dtype: torch.dtype, backend: str) -> None:
    pred = torch.from_numpy(blobs((9, 8, 10), 40)[None])
    ref = torch.from_numpy(blobs((9, 8, 10), 41)[None])
    for labels, maps in (([1], (pred, ref)), (None, (pred[None], ref[None]))):
        result = surface_distances(
            maps[0].to(pred_dtype),
            maps[1].to(ref_dtype),
            labels=labels,
            spacing=(1, 2, 3),
            tolerances=TOLERANCES,
            percentiles=PERCENTILES,
            backend=backend,
        )
        close(result.directed[0, 0], oracle(pred[0].numpy(), ref[0].numpy(), (1, 2, 3))[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.uint8, 255), (torch.int16, -3), (torch.int32, 2**31 - 1), (torch.int64, 2**62)],
    ids=str,
)
def test_labels_of_any_value(dtype: torch.dtype, value: int, backend: str) -> None:
    pred, ref = blobs((9, 8, 10), 42), blobs((9, 8, 10), 43)
    maps = [torch.where(torch.from_numpy(m[None]), value, 0).to(dtype) for m in (pred, ref)]
    # 2^40 + 1 is 1 in the lower bits, and no label of these maps.
    result = surface_distances(
        *maps, labels=[value, 2**40 + 1, -1], spacing=(1, 2, 3), percentiles=(), backend=backend
    )
    close(result.directed[0, 0], oracle(pred, ref, (1, 2, 3), (1.0,), ())[0])
    assert result.directed[0, 1:, :, 0].eq(0).all()
    assert result.pooled.shape == (1, 3, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tolerances_that_equal_distances_of_the_grid(backend: str) -> None:
    """Distances such as 3 x 0.1, which floating point sees a little above 0.3, are within 0.3."""
    spacing = (0.1, 0.7, 0.3)
    pred = box((30, 9, 9), (2, 5), (2, 7), (2, 7))
    grid = {
        math.sqrt(sum((n * s) ** 2 for n, s in zip(steps, spacing, strict=True)))
        for steps in np.ndindex(5, 3, 3)
    }
    exact = (0.1, 0.2, 0.3, 0.7, 1.4, 0.6, 0.9, *sorted(grid))
    for shift in (1, 3, 6):
        check(pred, np.roll(pred, shift, 0), spacing, backend, tolerances=exact)
    one = box((30, 9, 9), (2, 3), (2, 3), (2, 3))
    result = check(one, np.roll(one, 3, 0), spacing, backend, tolerances=(0.3, 0.2999985))
    assert result.directed[0, 0, :, -2:].tolist() == [[1, 0], [1, 0]]


WIDE = [(33, 128, 128), (20, 180, 150), (9, 128, 64), (64, 128), (800, 700)]
WIDE_SPACINGS = {"turned": (2.0, 0.6, 1.1), "straight": (2.0, 1.1, 0.6)}


@needs_cpp
@pytest.mark.parametrize("border_is_outside", [True, False], ids=["outside", "inside"])
@pytest.mark.parametrize("spacing", WIDE_SPACINGS.values(), ids=WIDE_SPACINGS)
@pytest.mark.parametrize("shape", WIDE, ids=str)
def test_rows_of_several_words(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    border_is_outside: bool,
    two_threads: None,
) -> None:
    """Bits lie along the finer of the last two axes, 64 to a word."""
    pred, ref = (blobs(shape, seed, 4) for seed in (60, 61))
    own = spacing[-len(shape) :]
    check(pred, ref, own, "cpp", border_is_outside=border_is_outside)


@needs_cpp
@pytest.mark.parametrize("spacing", WIDE_SPACINGS.values(), ids=WIDE_SPACINGS)
@pytest.mark.parametrize("shape", WIDE, ids=str)
def test_surface_elements_of_rows_of_several_words(
    shape: tuple[int, ...], spacing: tuple[float, ...], two_threads: None
) -> None:
    pred, ref = (blobs(shape, seed, 4) for seed in (62, 63))
    check_surfels(pred, ref, spacing[-len(shape) :], "cpp")


@needs_cpp
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1)], ids=["straight", "turned"])
@pytest.mark.parametrize("first_far", [41, 105])
def test_far_distances_from_the_middle_of_a_row(first_far: int, axes: tuple[int, ...]) -> None:
    """Short distances of a row are counted before its first far one, and only once."""
    shape = (3, 6, 240)
    pred = box(shape, (0, 3), (1, 5), (2, 238))
    ref = box(shape, (0, 3), (1, 5), (2, first_far - 21))
    spacing = (1.0, 1.0, 1.3) if axes == (0, 2, 1) else (1.0, 1.0, 1.0)
    check(pred.transpose(axes).copy(), ref.transpose(axes).copy(), spacing, "cpp")


@needs_cpp
def test_more_maps_than_are_at_work_at_once(two_threads: None) -> None:
    shape, num_maps, spacing = (90, 70), 100, (0.9, 0.7)
    pred, ref = (np.stack([blobs(shape, seed + 2 * b) for b in range(num_maps)]) for seed in (0, 1))
    pred[3], ref[50] = False, False
    directed, pooled = surface_distances(
        torch.from_numpy(pred), torch.from_numpy(ref), labels=[1], spacing=spacing, backend="cpp"
    )
    for b in range(num_maps):
        expected = oracle(pred[b], ref[b], spacing, (1.0,), (95.0,))
        close(directed[b, 0], expected[0])
        close(pooled[b, 0], expected[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_swapping_the_maps_swaps_the_directions(backend: str) -> None:
    pred, ref = (label_maps((2, 10, 9, 11), 4, torch.uint8, seed) for seed in (46, 47))
    arguments: dict[str, Any] = {"labels": [1, 2, (1, 3)], "spacing": (1, 2, 0.5)}
    there = surface_distances(pred, ref, backend=backend, **arguments)
    back = surface_distances(ref, pred, backend=backend, **arguments)
    close(there.directed, back.directed.flip(2).numpy())
    close(there.pooled, back.pooled.numpy())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_any_masks_match_scipy(data: st.DataObject) -> None:
    num_axes = data.draw(st.sampled_from([2, 3]))
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(num_axes))
    spacing = tuple(data.draw(st.sampled_from([0.1, 0.5, 1.0, 1.7, 12.0])) for _ in range(num_axes))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    masks = [
        rng.random(shape) < data.draw(st.sampled_from([0.0, 0.02, 0.3, 0.7, 0.98, 1.0]))
        for _ in range(2)
    ]
    border_is_outside = data.draw(st.booleans())
    for backend in ("reference", "auto"):
        check(masks[0], masks[1], spacing, backend, border_is_outside=border_is_outside)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["blobs, anisotropic", "perturbed", "border", "salt", "blobs, 2D"])
def test_matches_monai(case: str, backend: str) -> None:
    """MONAI counts the border as outside too; its percentiles are linear, its sums float32."""
    metrics = pytest.importorskip("monai.metrics")
    pred, ref, spacing = CASES[case]
    masks = [torch.from_numpy(mask[None, None]) for mask in (pred, ref)]
    directed, _ = surface_distances(
        *masks,
        labels=None,
        spacing=spacing,
        tolerances=(1.3,),
        percentiles=(95.0, 50.0),
        backend=backend,
    )
    size, mean, maximum, p95, p50, within = directed[0, 0].unbind(-1)
    arguments: dict[str, Any] = {"include_background": True, "spacing": spacing}
    theirs = metrics.compute_hausdorff_distance

    def same(ours: Tensor, monai: Tensor) -> None:
        assert float(ours) == pytest.approx(float(monai), rel=2e-6)

    same(maximum.max(), theirs(*masks, **arguments))
    same(p95.max(), theirs(*masks, percentile=95, **arguments))
    same(p50[0], theirs(*masks, percentile=50, directed=True, **arguments))
    average = metrics.compute_average_surface_distance
    same(mean[0], average(*masks, **arguments))
    same((mean * size).sum() / size.sum(), average(*masks, symmetric=True, **arguments))
    same(
        within.sum() / size.sum(),
        metrics.compute_surface_dice(*masks, class_thresholds=[1.3], **arguments),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spacing_name", ["none", "iso", "aniso"])
@pytest.mark.parametrize("dim", ["2d", "3d"])
def test_matches_imgx(
    reference: Callable[[str], dict[str, np.ndarray]], dim: str, spacing_name: str, backend: str
) -> None:
    """ImgX: the larger of both directions for "sym", from pred for "asym"; NaN if one is empty."""
    arrays = reference("f_metrics")
    pred, ref = (torch.from_numpy(arrays[f"{dim}/in/label_{name}"]) for name in ("pred", "true"))
    if spacing_name == "none":
        spacing = (1.0,) * (pred.ndim - 1)
    else:
        spacing = tuple(float(s) for s in arrays[f"{dim}/in/spacing_{spacing_name}"])
    num_classes = arrays[f"{dim}/dice_score"].shape[1]
    directed, _ = surface_distances(
        pred,
        ref,
        labels=range(num_classes),
        spacing=spacing,
        tolerances=(0.5, 1.0, 2.0),
        percentiles=(50.0, 95.0, 100.0),
        backend=backend,
    )
    size, mean, _, p50, p95, p100, *within = directed.unbind(-1)
    either_empty = (size == 0).any(-1)

    def same(ours: Tensor, key: str) -> None:
        theirs = arrays[f"{dim}/{key}"]
        expected = torch.where(either_empty, math.nan, ours).numpy()
        np.testing.assert_allclose(theirs, expected, rtol=1e-6, atol=1e-7)

    for name, statistic in {
        "average_surface_distance": mean,
        "hausdorff_distance_50": p50,
        "hausdorff_distance_95": p95,
        "hausdorff_distance_100": p100,
    }.items():
        same(statistic.amax(-1), f"{name}/{spacing_name}/sym")
        same(statistic[..., 0], f"{name}/{spacing_name}/asym")
    for tolerance, part in zip(("0.5", "1.0", "2.0"), within, strict=True):
        nsd = part.sum(-1) / size.sum(-1)
        same(nsd, f"normalized_surface_dice_tol{tolerance}/{spacing_name}")
