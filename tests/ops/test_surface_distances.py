from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops import SurfaceDistances, surface_distances
from recycleseg.ops.surface_distances import surface_distances_reference

needs_cpp = pytest.mark.skipif(
    not (_ext.HAS_CPP and hasattr(_ext.C, "surface_distances_cpu")),
    reason="the compiled extension is not built",
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
BACKENDS = ["reference", pytest.param("cpp", marks=needs_cpp)]
DTYPES = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
PERCENTILES = (0.0, 5.0, 50.0, 95.0, 99.5, 100.0)
TOLERANCES = (0.0, 0.7, 1.0, 2.5)


def blobs(
    shape: tuple[int, ...], seed: int, sigma: float = 1.5, threshold: float = 0.0
) -> np.ndarray:
    """Bool array (*S): smoothed noise above a threshold, in units of its standard deviation."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return noise > threshold * noise.std()


def oracle(
    pred: np.ndarray,
    ref: np.ndarray,
    spacing: tuple[float, ...],
    tolerances: tuple[float, ...] = TOLERANCES,
    percentiles: tuple[float, ...] = PERCENTILES,
    border_is_outside: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """(2, 3 + P + K) and (P,) of two bool arrays by SciPy's erosion and distance transform."""
    surfaces = [
        mask & ~ndimage.binary_erosion(mask, border_value=not border_is_outside)
        for mask in (pred, ref)
    ]
    rows, all_distances = [], []
    for own, other in (surfaces, surfaces[::-1]):
        if other.any():
            distances = ndimage.distance_transform_edt(~other, sampling=spacing)[own]
        else:
            distances = np.full(own.sum(), math.inf)
        within = [(distances <= t * (1 + 1e-9)).sum() for t in tolerances]
        all_distances.append(distances)
        if len(distances) == 0:
            statistics = [math.nan] * (2 + len(percentiles))
        elif not other.any():
            statistics = [math.inf] * (2 + len(percentiles))
        else:
            statistics = [
                distances.mean(),
                distances.max(),
                *np.percentile(distances, percentiles),
            ]
        rows.append([len(distances), *statistics, *within])
    both = np.concatenate(all_distances)
    if len(both) == 0:
        pooled = np.full(len(percentiles), math.nan)
    elif np.isinf(both).any():
        pooled = np.full(len(percentiles), math.inf)
    else:
        pooled = np.percentile(both, percentiles)
    return np.array(rows, dtype=np.float64), pooled


def surfel_oracle(pred: np.ndarray, ref: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """As `oracle`, with the tables of DeepMind's package and the steps of its functions."""
    tables = pytest.importorskip("surface_distance.lookup_tables")
    if len(spacing) == 3:
        kernel = tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
        areas = tables.create_table_neighbour_code_to_surface_area(spacing)
    else:
        kernel = tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL
        areas = tables.create_table_neighbour_code_to_contour_length(spacing)
    codes = [
        ndimage.correlate(np.pad(mask, 1).astype(np.uint8), kernel, mode="constant")
        for mask in (pred, ref)
    ]
    surfaces = [(code != 0) & (code != len(areas) - 1) for code in codes]
    rows = []
    for way in (0, 1):
        to_other = ndimage.distance_transform_edt(~surfaces[1 - way], sampling=spacing)
        distances = to_other[surfaces[way]]
        weights = areas[codes[way][surfaces[way]]]
        order = np.argsort(distances, kind="stable")
        reached = np.cumsum(weights[order]) / weights.sum()
        # A share that is reached exactly, as half of a symmetric surface, is reached.
        at = np.searchsorted(reached, np.array(PERCENTILES) / 100 * (1 - 1e-12))
        percentiles = distances[order][np.minimum(at, len(distances) - 1)]
        within = [weights[distances <= t * (1 + 1e-9)].sum() for t in TOLERANCES]
        mean = (distances * weights).sum() / weights.sum()
        rows.append([weights.sum(), mean, distances.max(), *percentiles, *within])
    return np.array(rows)


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


def close(actual: Tensor, expected: np.ndarray) -> None:
    # Both are float64; sums may be taken in another order.
    np.testing.assert_allclose(actual.cpu().numpy(), expected, rtol=1e-10, atol=1e-12)


def box(shape: tuple[int, ...], *bounds: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*bound) for bound in bounds)] = True
    return mask


def line(shape: tuple[int, ...], step: int) -> np.ndarray:
    """A line of single voxels along the diagonal, every `step`-th voxel of it."""
    mask = np.zeros(shape, dtype=bool)
    diagonal = range(0, min(shape), step)
    mask[tuple(diagonal for _ in shape)] = True
    return mask


CASES: dict[str, tuple[np.ndarray, np.ndarray, tuple[float, ...]]] = {
    "blobs": (blobs((14, 17, 15), 0), blobs((14, 17, 15), 1), (1.0, 1.0, 1.0)),
    "blobs, anisotropic": (blobs((12, 16, 13), 2), blobs((12, 16, 13), 3), (0.9, 0.7, 2.5)),
    "blobs, extreme spacing": (blobs((12, 11, 13), 2), blobs((12, 11, 13), 3), (0.01, 1.0, 37.0)),
    "blobs, 2D": (blobs((41, 37), 4, 3), blobs((41, 37), 5, 3), (0.7, 0.9)),
    "perturbed": (blobs((20, 18, 16), 6, 3), blobs((20, 18, 16), 6, 3, 0.3), (1.2, 1.2, 3.0)),
    "perturbed, 2D": (blobs((90, 70), 7, 9), blobs((90, 70), 7, 9, 0.2), (0.7, 0.9)),
    "equal": (blobs((11, 12, 13), 8), blobs((11, 12, 13), 8), (1.0, 2.0, 3.0)),
    "disjoint": (
        box((20, 9, 9), (1, 4), (1, 8), (1, 8)),
        box((20, 9, 9), (12, 19), (2, 7), (0, 9)),
        (1.0, 0.5, 0.8),
    ),
    "nested": (
        box((15, 15, 15), (1, 14), (1, 14), (1, 14)),
        box((15, 15, 15), (6, 8), (6, 8), (6, 8)),
        (1.0, 0.5, 0.8),
    ),
    "thin": (line((16, 16, 16), 1), line((16, 16, 16), 3), (1.0, 1.3, 0.6)),
    "sheets": (
        box((13, 14, 15), (4, 5), (0, 14), (0, 15)),
        box((13, 14, 15), (0, 13), (9, 10), (0, 15)),
        (1.0, 1.3, 0.6),
    ),
    "single voxels": (
        box((9, 10, 11), (1, 2), (2, 3), (3, 4)),
        box((9, 10, 11), (8, 9), (9, 10), (10, 11)),
        (0.3, 1.0, 2.0),
    ),
    "single voxels, 2D": (
        box((30, 21), (0, 1), (20, 21)),
        box((30, 21), (29, 30), (0, 1)),
        (0.3, 1.0),
    ),
    "border": (
        box((9, 10, 11), (0, 9), (0, 4), (0, 11)),
        box((9, 10, 11), (3, 9), (2, 10), (5, 11)),
        (1.0, 2.0, 0.5),
    ),
    "both empty": (np.zeros((5, 6, 7), bool), np.zeros((5, 6, 7), bool), (1.0, 1.0, 1.0)),
    "pred empty": (np.zeros((5, 6, 7), bool), blobs((5, 6, 7), 9), (1.0, 1.0, 1.0)),
    "ref empty": (blobs((15, 16), 9), np.zeros((15, 16), bool), (1.0, 1.0)),
    "both full": (np.ones((6, 5, 7), bool), np.ones((6, 5, 7), bool), (1.0, 2.0, 3.0)),
    "pred full": (np.ones((6, 5, 7), bool), blobs((6, 5, 7), 10), (1.0, 2.0, 3.0)),
    "full, 2D": (np.ones((16, 15), bool), box((16, 15), (8, 9), (7, 8)), (1.0, 2.0)),
    "size 1": (np.ones((1, 1, 1), bool), np.ones((1, 1, 1), bool), (1.0, 2.0, 3.0)),
    "one line": (line((1, 40), 1), box((1, 40), (0, 1), (30, 33)), (1.0, 0.4)),
    "flat axes": (blobs((1, 30, 1), 11), blobs((1, 30, 1), 12), (1.0, 0.4, 2.0)),
    "far island": (
        box((125, 9, 9), (2, 8), (2, 7), (2, 7)) | box((125, 9, 9), (110, 112), (4, 6), (4, 6)),
        box((125, 9, 9), (3, 9), (2, 7), (2, 7)),
        (1.0, 0.8, 1.5),
    ),
    "far apart, 2D": (
        box((140, 130), (1, 9), (2, 7)),
        box((140, 130), (120, 139), (100, 128)),
        (1.1, 0.8),
    ),
    "shifted": (
        np.roll(box((50, 16, 16), (2, 12), (2, 13), (3, 14)), 30, axis=0),
        box((50, 16, 16), (2, 12), (2, 13), (3, 14)),
        (0.9, 0.9, 2.5),
    ),
    "salt": (
        blobs((18, 17, 16), 13, 4) ^ (np.random.default_rng(14).random((18, 17, 16)) < 0.02),
        blobs((18, 17, 16), 13, 4),
        (0.9, 0.9, 2.5),
    ),
    "noise": (
        np.random.default_rng(15).random((11, 12, 13)) < 0.5,
        np.random.default_rng(16).random((11, 12, 13)) < 0.1,
        (1.0, 1.5, 0.5),
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("border_is_outside", [True, False], ids=["outside", "inside"])
@pytest.mark.parametrize("case", CASES)
def test_matches_scipy(case: str, border_is_outside: bool, backend: str) -> None:
    check(*CASES[case], backend, border_is_outside=border_is_outside)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [c for c in CASES if "empty" not in c])
def test_surfels_match_those_of_deepmind(case: str, backend: str) -> None:
    pytest.importorskip("recycleseg.ops.surfel_areas")
    pred, ref, spacing = CASES[case]
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


def label_maps(shape: tuple[int, ...], num_labels: int, dtype: torch.dtype, seed: int) -> Tensor:
    """(B, *S) labels of blobs that touch one another, noise at their borders."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(num_labels, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 0, *[1.5] * (len(shape) - 1)))
    return torch.from_numpy(smooth.argmax(0)).to(dtype)


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
def test_takes_strided_tensors(backend: str) -> None:
    pred, ref = (label_maps((2, 10, 12, 14), 3, torch.uint8, seed) for seed in (44, 45))
    views: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.permute(0, 3, 1, 2),
        lambda t: t[:, ::2, 1:, :-1],
        lambda t: t[:1].expand(2, -1, -1, -1),
        lambda t: t[:, 3],
    ]
    for view in views:
        arguments: dict[str, Any] = {
            "labels": [1, 2],
            "spacing": (1.0, 0.5, 2.0)[: view(pred).ndim - 1],
            "backend": backend,
        }
        result = surface_distances(view(pred), view(ref), **arguments)
        expected = surface_distances(view(pred).clone(), view(ref).clone(), **arguments)
        torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


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
    result = check(one, np.roll(one, 3, 0), spacing, backend, tolerances=(0.3, 0.29999999))
    assert result.directed[0, 0, :, -2:].tolist() == [[1, 0], [1, 0]]


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_tensors(backend: str) -> None:
    for shape in [(0, 4, 5), (2, 0, 5), (1, 4, 0, 3)]:
        maps = torch.zeros(shape, dtype=torch.uint8)
        result = surface_distances(
            maps, maps, labels=[1, 2], spacing=(1.0,) * (len(shape) - 1), backend=backend
        )
        assert result.directed.shape == (shape[0], 2, 2, 5)
        assert result.directed[..., [0, 4]].eq(0).all()
        assert result.directed[..., 1:4].isnan().all()
        assert result.pooled.isnan().all()
    masks = torch.zeros(2, 0, 4, 5).bool()
    result = surface_distances(masks, masks, labels=None, spacing=(1, 1), backend=backend)
    assert result.directed.shape == (2, 0, 2, 5)


def test_arguments_are_not_written_to() -> None:
    pred, ref = (label_maps((2, 10, 9), 3, torch.uint8, seed) for seed in (48, 49))
    copies = pred.clone(), ref.clone()
    surface_distances(pred, ref, labels=[1, 2], spacing=(1, 2))
    assert torch.equal(pred, copies[0])
    assert torch.equal(ref, copies[1])


@needs_cpp
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_any_number_of_threads_of_the_extension(num_threads: int) -> None:
    pred, ref = (label_maps((2, 40, 41, 42), 6, torch.uint8, seed) for seed in (50, 51))
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        directed, _ = surface_distances(
            pred, ref, labels=[1, 2, 3, 4, (1, 5)], spacing=(1, 1, 2), backend="cpp"
        )
    finally:
        torch.set_num_threads(before)
    for c, entry in enumerate([1, 2, 3, 4, (1, 5)]):
        masks = [np.isin(maps[1].numpy(), entry) for maps in (pred, ref)]
        close(directed[1, c], oracle(*masks, (1, 1, 2), (1.0,), (95.0,))[0])


@needs_cpp
def test_python_threads_may_call_at_once() -> None:
    pairs = [
        [label_maps((1, 20, 21, 22), 4, torch.uint8, seed + offset) for offset in (0, 100)]
        for seed in range(60, 68)
    ]

    def measure(pair: list[Tensor]) -> SurfaceDistances:
        return surface_distances(*pair, labels=[1, 2, 3], spacing=(1, 1, 2), backend="cpp")

    expected = [measure(pair) for pair in pairs]
    with ThreadPoolExecutor(8) as pool:
        for result, alone in zip(pool.map(measure, pairs), expected, strict=True):
            torch.testing.assert_close(result, alone, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend: str) -> None:
    pred, ref = (label_maps((2, 5, 6, 7), 3, torch.uint8, seed) for seed in (52, 53))
    op = torch.ops.recycleseg.surface_distances.default
    rest = ([1.0, 2.0, 0.5], [1.0, 2.0], [95.0], False, True, backend)
    for arguments in ((pred, ref, [1, 1, 2], [1, 2]), (pred[None], ref[None], None, None)):
        results = torch.library.opcheck(op, (*arguments, *rest))
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_without_graph_breaks_equals_eager(backend: str) -> None:
    def hausdorff(pred: Tensor, ref: Tensor) -> Tensor:
        distances = surface_distances(
            pred, ref, labels=[1, (1, 2)], spacing=(1.0, 0.5), backend=backend
        )
        return distances.directed[..., 2].amax(-1)

    pred, ref = (label_maps((2, 15, 16), 3, torch.uint8, seed) for seed in (54, 55))
    compiled = torch.compile(hausdorff, fullgraph=True)
    torch.testing.assert_close(compiled(pred, ref), hausdorff(pred, ref), rtol=0, atol=0)


@pytest.mark.gpu
@needs_gpu
def test_tensors_on_a_gpu() -> None:
    pred, ref = (label_maps((2, 15, 16, 9), 3, torch.uint8, seed) for seed in (56, 57))
    arguments: dict[str, Any] = {"labels": [1, (1, 2)], "spacing": (1.0, 0.5, 2.0)}
    result = surface_distances(pred.cuda(), ref.cuda(), **arguments)
    assert result.directed.device.type == result.pooled.device.type == "cuda"
    close(result.directed, surface_distances(pred, ref, **arguments).directed.numpy())


def test_auto_equals_the_reference() -> None:
    pred, ref = (label_maps((2, 9, 10, 11), 3, torch.int16, seed) for seed in (58, 59))
    arguments: dict[str, Any] = {"labels": [1, 2], "spacing": (1.0, 0.5, 2.0)}
    expected = surface_distances_reference(pred, ref, **arguments)
    result = surface_distances(pred, ref, **arguments)
    close(result.directed, expected.directed.numpy())
    close(result.pooled, expected.pooled.numpy())


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


LABEL = torch.zeros(2, 4, 5, dtype=torch.uint8)
GOOD: dict[str, Any] = {"labels": [1], "spacing": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("maps", "change", "message"),
    [
        ((LABEL.float(), LABEL), {}, r"pred: expected dtype .*int64, got torch\.float32"),
        ((LABEL, LABEL.to(torch.int8)), {}, r"ref: expected dtype .*, got torch\.int8"),
        ((LABEL[0], LABEL[0]), {}, r"pred: expected shape \(B, \*S\) .* 2 or 3 axes, got \(4, 5\)"),
        (
            (LABEL, LABEL),
            {"labels": None},
            r"pred: expected shape \(B, C, \*S\) .*, got \(2, 4, 5\)",
        ),
        ((LABEL, LABEL[:1]), {}, r"ref: expected the shape of pred, \(2, 4, 5\), got \(1, 4, 5\)"),
        ((LABEL, LABEL.to("meta")), {}, r"ref: expected the device of pred, cpu, got meta"),
        ((LABEL, LABEL), {"labels": []}, r"labels: expected at least one structure.*got \[\]"),
        ((LABEL, LABEL), {"labels": [1, ()]}, r"labels: .* at least one label, got \[1, \(\)\]"),
        ((LABEL, LABEL), {"labels": [(1, "a")]}, r"labels: expected integers of 64 bits, got 'a'"),
        ((LABEL, LABEL), {"labels": [2**63]}, r"labels: expected integers of 64 bits, got 9223"),
        ((LABEL, LABEL), {"spacing": (1, 1, 1)}, r"spacing: expected 2 numbers.*got 3"),
        ((LABEL, LABEL), {"spacing": (1, 0)}, r"spacing: expected positive, finite mm, got 0"),
        ((LABEL, LABEL), {"spacing": (1, -2.5)}, r"spacing: expected positive.*got -2\.5"),
        ((LABEL, LABEL), {"spacing": (math.nan, 1)}, r"spacing: expected positive.*got nan"),
        ((LABEL, LABEL), {"spacing": (math.inf, 1)}, r"spacing: expected positive.*got inf"),
        ((LABEL, LABEL), {"tolerances": (-1,)}, r"tolerances: expected finite mm.*got -1"),
        ((LABEL, LABEL), {"tolerances": (math.nan,)}, r"tolerances: expected finite mm.*got nan"),
        ((LABEL, LABEL), {"percentiles": (101,)}, r"percentiles: expected 0 to 100, got 101"),
        ((LABEL, LABEL), {"percentiles": (math.nan,)}, r"percentiles: expected 0 to 100, got nan"),
        ((LABEL, LABEL), {"definition": "mesh"}, r"definition: expected 'voxel' or .* got 'mesh'"),
        (
            (LABEL, LABEL),
            {"definition": "surfel", "border_is_outside": False},
            r"border_is_outside: expected True for definition='surfel', got False",
        ),
        ((LABEL, LABEL), {"backend": "gpu"}, r"backend: expected 'auto', .* got 'gpu'"),
    ],
)
def test_bad_arguments_are_named(
    maps: tuple[Tensor, Tensor], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        surface_distances(*maps, **GOOD | change)
