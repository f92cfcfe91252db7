"""The path of torch operations that backend="cuda" takes, on the CPU and on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.surface_cases import CASES, PERCENTILES, TOLERANCES, box, label_maps, oracle
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops import SurfaceDistances, surface_distances
from recycleseg.ops import _surfaces as surfaces
from recycleseg.ops.surface_distances import _measure_by_transforms, _resolve

needs_gpu = pytest.mark.skipif(
    not (_ext.HAS_CUDA and torch.cuda.is_available()),
    reason="needs an NVIDIA GPU and an extension built for CUDA",
)
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]
DEFINITIONS = ["voxel", "surfel"]


def by_transforms(
    device: str,
    pred: Tensor,
    ref: Tensor,
    labels: Sequence[tuple[int, ...]] | None,
    spacing: Sequence[float],
    definition: str = "voxel",
    border_is_outside: bool = True,
    tolerances: Sequence[float] = TOLERANCES,
) -> SurfaceDistances:
    query = surfaces.Query(
        labels, spacing, tolerances, PERCENTILES, definition == "surfel", border_is_outside
    )
    asked = surfaces.slice_as_image(pred.to(device), ref.to(device), query)
    return SurfaceDistances(*_measure_by_transforms(*asked))


def by_reference(
    pred: Tensor,
    ref: Tensor,
    labels: Sequence[tuple[int, ...]] | None,
    spacing: Sequence[float],
    definition: str = "voxel",
) -> SurfaceDistances:
    return surface_distances(
        pred,
        ref,
        labels=labels,
        spacing=spacing,
        tolerances=TOLERANCES,
        percentiles=PERCENTILES,
        definition=definition,
        backend="reference",
    )


def same(actual: SurfaceDistances, expected: Sequence[Any], device: str = "cpu") -> None:
    # Distances are rounded to float32, sums are not.
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float64
        assert ours.device.type == device
        np.testing.assert_allclose(ours.cpu(), theirs, rtol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("border_is_outside", [True, False], ids=["outside", "inside"])
@pytest.mark.parametrize("case", CASES)
def test_matches_scipy(case: str, border_is_outside: bool, device: str) -> None:
    pred, ref, spacing = CASES[case]
    maps = torch.from_numpy(pred[None]), torch.from_numpy(ref[None])
    result = by_transforms(device, *maps, [(1,)], spacing, border_is_outside=border_is_outside)
    directed, pooled = oracle(pred, ref, spacing, border_is_outside=border_is_outside)
    same(result, (directed[None, None], pooled[None, None]), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_surfels_match_the_reference(case: str, device: str) -> None:
    pred, ref, spacing = CASES[case]
    maps = torch.from_numpy(pred[None]), torch.from_numpy(ref[None])
    result = by_transforms(device, *maps, [(1,)], spacing, "surfel")
    same(result, by_reference(*maps, [(1,)], spacing, "surfel"), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_structures_of_label_maps(dtype: torch.dtype, definition: str, device: str) -> None:
    pred, ref = (label_maps((2, 10, 11, 9), 5, dtype, seed) for seed in (70, 71))
    pred, ref = pred.transpose(1, 3), ref.transpose(1, 3)
    labels = [(1,), (1, 2, 4), (0,), (77,), (-1, 255), (2**62, 3, 3)]
    spacing = (1.0, 0.7, 1.9)
    result = by_transforms(device, pred, ref, labels, spacing, definition)
    same(result, by_reference(pred, ref, labels, spacing, definition), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("definition", DEFINITIONS)
def test_masks_of_images(definition: str, device: str) -> None:
    pred, ref = (label_maps((3, 4, 21, 17), 3, torch.int32, seed) - 1 for seed in (72, 73))
    ref[1, 2] = 0
    pred[2, 0] = ref[2, 0] = 0
    result = by_transforms(device, pred, ref, None, (0.7, 1.9), definition)
    same(result, by_reference(pred, ref, None, (0.7, 1.9), definition), device)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.data())
def test_any_masks_match_the_reference(data: st.DataObject) -> None:
    num_axes = data.draw(st.sampled_from([2, 3]))
    shape = tuple(data.draw(st.integers(1, 9)) for _ in range(num_axes))
    spacing = tuple(data.draw(st.sampled_from([0.1, 0.5, 1.0, 1.7, 12.0])) for _ in range(num_axes))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    pred, ref = (
        torch.from_numpy(rng.random((1, *shape)) < data.draw(st.sampled_from([0.02, 0.3, 0.98])))
        for _ in range(2)
    )
    for definition in DEFINITIONS:
        result = by_transforms("cpu", pred, ref, [(1,)], spacing, definition)
        same(result, by_reference(pred, ref, [(1,)], spacing, definition))


@pytest.mark.parametrize("device", DEVICES)
def test_tolerances_that_equal_distances_of_the_grid(device: str) -> None:
    """Whichever way a distance is rounded to float32, it is within itself, and not far below."""
    spacing = (0.1, 0.7, 0.3)
    one = torch.from_numpy(box((9, 9, 9), (0, 1), (0, 1), (0, 1)))[None]
    for steps in np.ndindex(6, 5, 5):
        distance = math.sqrt(sum((n * s) ** 2 for n, s in zip(steps, spacing, strict=True)))
        tolerances = (distance, distance * (1 - 5e-6))
        other = one.roll(steps, (1, 2, 3))
        result = by_transforms(device, one, other, [(1,)], spacing, tolerances=tolerances)
        below = 1 if distance == 0 else 0
        assert result.directed[0, 0, :, -2:].tolist() == [[1, below]] * 2


def test_boxes_hold_both_masks_and_a_voxel_around_them() -> None:
    pred = box((20, 30), (3, 5), (7, 9)).astype(np.uint8)
    ref = box((20, 30), (4, 20), (1, 2)).astype(np.uint8)
    maps = [torch.from_numpy(m[None]) for m in (pred, ref)]
    query = surfaces.Query([(1,), (0,), (5,)], (1.0, 1.0), (), (), False, True)
    found, whole, nothing = surfaces.bounding_boxes(*maps, query)
    assert found == (slice(2, 21), slice(0, 10))
    assert maps[0][0][whole].shape == (20, 30)
    assert maps[0][0][nothing].numel() == 0


def test_percentiles_of_more_elements_than_quantile_takes() -> None:
    distances = torch.arange(2**24 + 2, dtype=torch.float64)
    shares = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    percentiles = surfaces._percentiles(distances, shares)
    assert percentiles.tolist() == [0, 2**23 + 0.5, 2**24 + 1]


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device: str) -> None:
    pred, ref = (label_maps((2, 5, 6, 7), 3, torch.uint8, seed).to(device) for seed in (74, 75))
    op = torch.ops.recycleseg.surface_distances.default
    rest = ([1.0, 2.0, 0.5], [1.0, 2.0], [95.0], False, True, "cuda")
    for arguments in ((pred, ref, [1, 1, 2], [1, 2]), (pred[None], ref[None], None, None)):
        results = torch.library.opcheck(op, (*arguments, *rest))
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_without_graph_breaks_equals_eager(device: str) -> None:
    def hausdorff(pred: Tensor, ref: Tensor) -> Tensor:
        directed, _ = torch.ops.recycleseg.surface_distances(
            pred, ref, [1, 1, 2], [1, 2], [1.0, 0.5], [1.0], [95.0], False, True, "cuda"
        )
        return directed[..., 2].amax(-1)

    pred, ref = (label_maps((2, 15, 16), 3, torch.uint8, seed).to(device) for seed in (76, 77))
    compiled = torch.compile(hausdorff, fullgraph=True)
    torch.testing.assert_close(compiled(pred, ref), hausdorff(pred, ref), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("has_cpp", "has_cuda", "expected"),
    [(True, True, "cuda"), (True, False, "cpp"), (False, False, "reference")],
)
def test_auto_on_a_gpu_is_the_best_that_was_built(
    monkeypatch: pytest.MonkeyPatch, has_cpp: bool, has_cuda: bool, expected: str
) -> None:
    monkeypatch.setattr(_ext, "HAS_CPP", has_cpp)
    monkeypatch.setattr(_ext, "HAS_CUDA", has_cuda)
    assert _resolve("auto", torch.device("cuda")) == expected


def test_cuda_is_refused_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ext, "HAS_CUDA", True)
    maps = torch.zeros(1, 4, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"backend='cuda': expected CUDA tensors, got cpu"):
        surface_distances(maps, maps, labels=[1], spacing=(1, 1), backend="cuda")


@pytest.mark.gpu
@needs_gpu
def test_tensors_on_a_gpu() -> None:
    pred, ref = (label_maps((2, 15, 16, 9), 3, torch.uint8, seed) for seed in (56, 57))
    arguments: dict[str, Any] = {"labels": [1, (1, 2)], "spacing": (1.0, 0.5, 2.0)}
    expected = surface_distances(pred, ref, **arguments)
    with torch.cuda.stream(torch.cuda.Stream()):
        for backend in ("auto", "cuda"):
            result = surface_distances(pred.cuda(), ref.cuda(), **arguments, backend=backend)
            same(result, expected, "cuda")


@pytest.mark.gpu
@needs_gpu
def test_memory_is_as_documented() -> None:
    size = 160
    axis = torch.arange(size, device="cuda") - (size - 1) / 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()[None]
    pred, ref = (radius < size / 2 - 2).byte(), (radius < size / 2 - 9).byte()
    for definition in DEFINITIONS:
        arguments: dict[str, Any] = {"labels": [1], "spacing": (1, 1, 1), "definition": definition}
        surface_distances(pred, ref, **arguments)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        surface_distances(pred, ref, **arguments)
        taken = torch.cuda.max_memory_allocated() - before
        num_points = 2 * 6 * size**2  # no ball's surface has more than its cube's
        assert taken < 12 * size**3 + 100 * num_points
