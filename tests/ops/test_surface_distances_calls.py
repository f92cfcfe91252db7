from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from tests.ops.surface_cases import BACKENDS, close, label_maps, needs_cpp, oracle
from torch import Tensor

from recycleseg.ops import SurfaceDistances, surface_distances
from recycleseg.ops.surface_distances import surface_distances_reference


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


def test_auto_equals_the_reference() -> None:
    pred, ref = (label_maps((2, 9, 10, 11), 3, torch.int16, seed) for seed in (58, 59))
    arguments: dict[str, Any] = {"labels": [1, 2], "spacing": (1.0, 0.5, 2.0)}
    expected = surface_distances_reference(pred, ref, **arguments)
    result = surface_distances(pred, ref, **arguments)
    close(result.directed, expected.directed.numpy())
    close(result.pooled, expected.pooled.numpy())


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
        (
            (LABEL, LABEL),
            {"spacing": (1, 0)},
            r"spacing: expected mm from 1e-09 .*got 0",
        ),
        ((LABEL, LABEL), {"spacing": (1, -2.5)}, r"spacing: expected mm from.*got -2\.5"),
        ((LABEL, LABEL), {"spacing": (math.nan, 1)}, r"spacing: expected mm from.*got nan"),
        ((LABEL, LABEL), {"spacing": (math.inf, 1)}, r"spacing: expected mm from.*got inf"),
        ((LABEL, LABEL), {"tolerances": (-1,)}, r"tolerances: expected finite mm.*got -1"),
        ((LABEL, LABEL), {"tolerances": (math.nan,)}, r"tolerances: expected finite mm.*got nan"),
        ((LABEL, LABEL), {"percentiles": (101,)}, r"percentiles: expected 0 to 100, got 101"),
        ((LABEL, LABEL), {"percentiles": (math.nan,)}, r"percentiles: expected 0 to 100, got nan"),
        (
            (LABEL, LABEL),
            {"definition": "mesh"},
            r"definition: expected one of \('voxel', .* got 'mesh'",
        ),
        (
            (LABEL, LABEL),
            {"definition": "surfel", "border_is_outside": False},
            r"border_is_outside: expected True for definition='surfel', got False",
        ),
        ((LABEL, LABEL), {"backend": "gpu"}, r"backend: expected one of \('auto', .*\), got 'gpu'"),
    ],
)
def test_bad_arguments_are_named(
    maps: tuple[Tensor, Tensor], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        surface_distances(*maps, **GOOD | change)
