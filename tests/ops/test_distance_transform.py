from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops import distance_transform
from recycleseg.ops.distance_transform import distance_transform_reference

DTYPES = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
SPACING = (2.5, 0.9, 0.7)
# Three roundings of squares and sums, halved by the root, and the root's own: 2.5 x 2^-24 at most.
RTOL = 2e-7

needs_cpp = pytest.mark.skipif(not _ext.HAS_CPP, reason="the compiled extension is not built")
needs_gpu = pytest.mark.skipif(
    not (_ext.HAS_CUDA and torch.cuda.is_available()),
    reason="needs an NVIDIA GPU and an extension built for CUDA",
)
BACKENDS = [
    pytest.param("reference", "cpu"),
    pytest.param("cpp", "cpu", marks=needs_cpp),
    pytest.param("cuda", "cuda", marks=[pytest.mark.gpu, needs_gpu]),
]


def random_mask(shape: tuple[int, ...], inside: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) < inside


def by_scipy(mask: Tensor, spacing: Sequence[float]) -> np.ndarray:
    """SciPy's transform of each sample in float64, and infinity where it has nothing outside."""
    distances = np.zeros(mask.shape)
    for distance, sample in zip(distances, (mask != 0).cpu().numpy(), strict=True):
        if sample.size:
            outside = not sample.all()
            distance[:] = ndimage.distance_transform_edt(sample, spacing) if outside else np.inf
    return distances


def assert_matches_scipy(
    mask: Tensor, spacing: Sequence[float], backend: str, device: str = "cpu"
) -> None:
    distance = distance_transform(mask.to(device), spacing=spacing, backend=backend)
    assert distance.dtype == torch.float32
    assert distance.shape == mask.shape
    assert distance.is_contiguous()
    np.testing.assert_allclose(distance.cpu(), by_scipy(mask, spacing), rtol=RTOL, atol=0)


def shapes_of_masks(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Masks (1, *shape) that are easy, hard or degenerate for one way to search or another."""
    center = tuple(extent // 2 for extent in shape)
    axes = [np.linspace(-1, 1, extent) for extent in shape]
    radius = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 3)
    one = np.zeros(shape, dtype=bool)
    one[center] = True
    corner = np.ones(shape, dtype=bool)
    corner[(0,) * len(shape)] = False
    masks = {
        "empty": np.zeros(shape, dtype=bool),
        "full": np.ones(shape, dtype=bool),
        "one inside": one,
        "one outside": ~one,
        "corner outside": corner,
        "ball": radius < 0.98,
        "around a ball": radius > 0.1,
        "blobs": noise > np.quantile(noise, 0.8),
        "around blobs": noise < np.quantile(noise, 0.8),
        "few outside": np.random.default_rng(1).random(shape) > 1e-3,
        "noise": np.random.default_rng(2).random(shape) > 0.5,
    }
    for axis in range(len(shape)):
        plate = np.zeros(shape, dtype=bool)
        plate[(slice(None),) * axis + (center[axis],)] = True
        masks[f"plate {axis}"], masks[f"around plate {axis}"] = plate, ~plate
    return {name: torch.from_numpy(mask)[None] for name, mask in masks.items()}


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("shape", [(47, 33), (33, 20, 37), (1, 29, 70), (40, 1, 9), (9, 40, 1)])
def test_matches_scipy_on_easy_and_hard_masks(
    shape: tuple[int, ...], backend: str, device: str
) -> None:
    for mask in shapes_of_masks(shape).values():
        assert_matches_scipy(mask, SPACING[: len(shape)], backend, device)


@pytest.mark.parametrize(
    ("backend", "device"), [case for case in BACKENDS if case.values[0] != "reference"]
)
@pytest.mark.parametrize(
    ("shape", "spacing"), [((700, 90), (0.3, 1.1)), ((90, 700), (1, 1)), ((2, 3, 900), (4, 1, 0.1))]
)
def test_matches_scipy_where_distances_are_long(
    shape: tuple[int, ...], spacing: tuple[float, ...], backend: str, device: str
) -> None:
    for mask in shapes_of_masks(shape).values():
        assert_matches_scipy(mask, spacing, backend, device)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (2, 1, 5), (3, 5, 1), (1, 1, 1, 1), (2, 16, 17), (5, 2, 31, 3), (70000, 1, 2)]
    + [(0, 4, 3), (2, 0, 3), (2, 3, 0), (1, 2, 0, 3), (0, 0, 0, 0)],
    ids=str,
)
def test_matches_scipy_in_any_shape(shape: tuple[int, ...], backend: str, device: str) -> None:
    assert_matches_scipy(random_mask(shape, 0.8, 0), SPACING[: len(shape) - 1], backend, device)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nonzero_of_any_dtype_is_inside(dtype: torch.dtype, backend: str, device: str) -> None:
    inside = random_mask((2, 9, 21, 6), 0.9, 1)
    extremes = [1] if dtype == torch.bool else [torch.iinfo(dtype).min, torch.iinfo(dtype).max]
    for value in [value for value in extremes if value != 0] + [1]:
        mask = torch.where(inside, value, 0).to(dtype)
        assert_matches_scipy(mask, SPACING, backend, device)
    if dtype in (torch.int16, torch.int32, torch.int64):  # no bit of it in the lowest byte
        assert_matches_scipy(inside.to(dtype) * 256, SPACING, backend, device)


@settings(derandomize=True, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("backend", ["reference", pytest.param("cpp", marks=needs_cpp)])
def test_matches_scipy_on_any_mask(backend: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 24), min_size=2, max_size=3).map(tuple))
    spacing = data.draw(st.tuples(*[st.floats(0.05, 20)] * len(shape)))
    inside = data.draw(st.sampled_from([0.02, 0.5, 0.9, 0.99, 0.999]))
    mask = random_mask((2, *shape), inside, data.draw(st.integers(0, 2**31)))
    assert_matches_scipy(mask, spacing, backend)


@needs_cpp
def test_a_long_distance_is_exact_to_rounding() -> None:
    """Squares of 512^3 voxels' distances are integers below 2^24."""
    mask = torch.ones(1, 512, 40, 512, dtype=torch.uint8)
    mask[0, 0, 0, 0] = 0
    z, y, x = (torch.arange(n, dtype=torch.float64) ** 2 for n in mask.shape[1:])
    squared = z[:, None, None] + y[:, None] + x
    distance = distance_transform(mask, spacing=(1, 1, 1), backend="cpp")
    assert torch.equal(distance[0], squared.sqrt().float())


@needs_cpp
@pytest.mark.parametrize("spacing", [(1e-9, 1e-9, 1e-9), (1e9, 1e9, 1e9), (1e-9, 1, 1e9)])
def test_squares_neither_underflow_nor_overflow(spacing: tuple[float, ...]) -> None:
    assert_matches_scipy(random_mask((1, 20, 21, 22), 0.99, 2), spacing, "cpp")


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_takes_strided_tensors(backend: str, device: str) -> None:
    mask = random_mask((3, 8, 6, 10), 0.9, 3)
    views: list[Callable[[Tensor], Tensor]] = [
        lambda t: t.permute(0, 3, 1, 2),
        lambda t: t[:, ::2, 1:],
        lambda t: t[:1].expand(3, -1, -1, -1),
        lambda t: t[:, :, 0].mT,
    ]
    for view in views:
        strided = view(mask.to(device))
        assert_matches_scipy(strided, SPACING[: strided.ndim - 1], backend, device)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_samples_do_not_touch(backend: str, device: str) -> None:
    mask = torch.stack([torch.ones(6, 7), torch.zeros(6, 7), torch.ones(6, 7)]).int()
    distance = distance_transform(mask.to(device), spacing=(1, 1), backend=backend).cpu()
    assert distance[[0, 2]].isposinf().all()
    assert not distance[1].any()


@needs_cpp
@pytest.mark.parametrize("num_threads", [2, 5])
@pytest.mark.parametrize("shape", [(2, 40, 50, 61), (1, 301, 299)], ids=str)
def test_the_number_of_threads_changes_nothing(shape: tuple[int, ...], num_threads: int) -> None:
    mask = random_mask(shape, 0.999, 4)
    spacing = SPACING[: len(shape) - 1]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, num_threads):
            torch.set_num_threads(threads)
            results.append(distance_transform(mask, spacing=spacing, backend="cpp"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@needs_cpp
def test_python_threads_may_call_at_once() -> None:
    masks = [random_mask((1, 30, 41, 32), 0.99, seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda m: distance_transform(m, spacing=SPACING, backend="cpp"), masks)
        )
    for mask, distance in zip(masks, results, strict=True):
        np.testing.assert_allclose(distance, by_scipy(mask, SPACING), rtol=RTOL, atol=0)


def test_the_mask_is_not_written_to() -> None:
    mask = random_mask((2, 30, 31), 0.9, 5)
    copy = mask.clone()
    distance_transform(mask, spacing=(1, 1))
    assert torch.equal(mask, copy)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_opcheck(backend: str, device: str) -> None:
    mask = random_mask((2, 5, 3, 4), 0.9, 6).to(device)
    op = torch.ops.recycleseg.distance_transform.default
    results = torch.library.opcheck(op, (mask, [1.0, 2.0, 0.5], backend))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_compiled_without_graph_breaks_equals_eager(backend: str, device: str) -> None:
    def signed(mask: Tensor) -> Tensor:
        inside = distance_transform(mask, spacing=(1.5, 0.5), backend=backend)
        return inside - distance_transform(~mask, spacing=(1.5, 0.5), backend=backend)

    mask = random_mask((2, 15, 13), 0.5, 7).to(device)
    compiled = torch.compile(signed, fullgraph=True)(mask)
    assert torch.equal(compiled, signed(mask))


MASK = torch.zeros(2, 4, 5, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("mask", "spacing", "message"),
    [
        (MASK.float(), (1, 1), r"mask: expected dtype .*int64, got torch\.float32"),
        (MASK.to(torch.int8), (1, 1), r"mask: expected dtype .*, got torch\.int8"),
        (MASK[0], (1, 1), r"mask: expected shape \(B, \*S\) .*, got \(4, 5\)"),
        (MASK[None, None], (1, 1, 1, 1), r"mask: expected shape .*, got \(1, 1, 2, 4, 5\)"),
        (MASK, (1, 1, 1), r"spacing: expected 2 values, one for each axis of S, got 3"),
        (MASK, (1, 0), r"spacing: expected values from 1e-09 to .* mm, got \(1\.0, 0\.0\)"),
        (MASK, (1, -1), r"spacing: expected values .*, got \(1\.0, -1\.0\)"),
        (MASK, (float("nan"), 1), r"spacing: expected values .*, got \(nan, 1\.0\)"),
        (MASK, (1, float("inf")), r"spacing: expected values .*, got \(1\.0, inf\)"),
    ],
)
def test_bad_arguments_are_named(mask: Tensor, spacing: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distance_transform(mask, spacing=spacing)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backend: expected one of \('auto', .*\), got 'gpu'"):
        distance_transform(MASK, spacing=(1, 1), backend="gpu")


def test_cuda_is_refused_for_tensors_on_the_cpu() -> None:
    expected = ValueError if _ext.HAS_CUDA else RuntimeError
    with pytest.raises(expected, match="backend='cuda'"):
        distance_transform(MASK, spacing=(1, 1), backend="cuda")


def test_auto_equals_the_reference() -> None:
    mask = random_mask((3, 21, 22, 5), 0.97, 8)
    torch.testing.assert_close(
        distance_transform(mask, spacing=SPACING),
        distance_transform_reference(mask, SPACING),
        rtol=RTOL,
        atol=0,
    )


DISTANCE = torch.zeros(2, 4, 5)


@needs_cpp
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": MASK.mT}, "mask: expected a contiguous tensor"),
        ({"mask": DISTANCE}, "mask: expected dtype .* got DLPack code 2 with 32 bits"),
        ({"distance": DISTANCE[:1]}, "distance: expected float32 of the shape of mask"),
        ({"distance": DISTANCE.int()}, "distance: expected float32 of the shape of mask"),
        ({"distance": DISTANCE.mT}, "distance: expected a contiguous tensor"),
        ({"spacing": [1.0]}, "mask, spacing: expected"),
        ({"spacing": [1.0, 1.0, 1.0]}, "mask, spacing: expected"),
        ({"spacing": [1.0, 0.0]}, "spacing: expected positive and finite, got 0"),
        ({"spacing": [float("nan"), 1.0]}, "spacing: expected positive and finite, got nan"),
    ],
)
def test_the_extension_checks_what_it_writes_to(change: dict[str, object], message: str) -> None:
    arguments = {"mask": MASK, "distance": DISTANCE, "spacing": [1.0, 1.0]} | change
    for name in ("mask", "distance"):
        tensor = arguments[name]
        assert isinstance(tensor, Tensor)
        arguments[name] = _ext.capsule(tensor)
    with pytest.raises(ValueError, match=message):
        _ext.C.distance_transform_cpu(**arguments, num_threads=1)
