from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from recycleseg import _ext
from recycleseg.ops import overlap_counts
from recycleseg.ops.overlap_counts import overlap_counts_reference

DTYPES = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
SHAPES = [(1,), (2, 1), (3, 5, 7), (1, 1, 1, 1), (2, 4, 3, 5), (0, 4), (2, 0, 3), (70000, 2)]

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


def random_labels(
    shape: tuple[int, ...], num_classes: int, dtype: torch.dtype, seed: int
) -> Tensor:
    """Labels in short runs, as in a label map, so that runs end inside and across rows."""
    generator = torch.Generator().manual_seed(seed)
    size = int(np.prod(shape))
    values = torch.randint(num_classes, (size,), generator=generator)
    return values.repeat_interleave(3)[:size].reshape(shape).to(dtype)


def bincount_oracle(pred: Tensor, ref: Tensor, num_classes: int) -> np.ndarray:
    """Counts (B, C, 3) from the confusion matrix that numpy.bincount makes of each row."""
    rows = []
    for p, r in zip(pred.numpy(), ref.numpy(), strict=True):
        joint = p.astype(np.int64).ravel() * num_classes + r.astype(np.int64).ravel()
        matrix = np.bincount(joint, minlength=num_classes**2).reshape(num_classes, num_classes)
        rows.append(np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)], axis=-1))
    return np.array(rows, dtype=np.int64).reshape(len(pred), num_classes, 3)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_bincount_in_any_shape(shape: tuple[int, ...], backend: str, device: str) -> None:
    pred = random_labels(shape, 4, torch.int64, seed=0)
    ref = random_labels(shape, 4, torch.uint8, seed=1)
    counts = overlap_counts(pred.to(device), ref.to(device), 4, backend=backend)
    assert counts.dtype == torch.int64
    assert counts.is_contiguous()
    np.testing.assert_array_equal(counts.cpu(), bincount_oracle(pred, ref, 4))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("ref_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pred_dtype", DTYPES, ids=str)
def test_matches_bincount_in_any_pair_of_dtypes(
    pred_dtype: torch.dtype, ref_dtype: torch.dtype, backend: str, device: str
) -> None:
    num_classes = 2 if torch.bool in (pred_dtype, ref_dtype) else 5
    pred = random_labels((2, 9, 11), num_classes, pred_dtype, seed=2)
    ref = random_labels((2, 9, 11), num_classes, ref_dtype, seed=3)
    counts = overlap_counts(pred.to(device), ref.to(device), num_classes, backend=backend)
    np.testing.assert_array_equal(counts.cpu(), bincount_oracle(pred, ref, num_classes))


def index_sums_oracle(pred: Tensor, ref: Tensor, num_classes: int) -> np.ndarray:
    """Sums (B, C, 2, D) of the indices that numpy.argwhere finds."""
    sums = np.zeros((len(pred), num_classes, 2, pred.ndim - 1), dtype=np.int64)
    for b, c in np.ndindex(*sums.shape[:2]):
        for which, labels in enumerate((pred, ref)):
            sums[b, c, which] = np.argwhere(labels[b].numpy() == c).sum(0)
    return sums


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (2, 35), (3, 5, 7), (2, 4, 3, 5), (1, 1, 1, 1), (2, 9, 50, 1), (0, 4, 3), (2, 0, 3)],
    ids=str,
)
def test_sums_of_indices_match_argwhere(shape: tuple[int, ...], backend: str, device: str) -> None:
    pred = random_labels(shape, 4, torch.int64, seed=20)
    ref = random_labels(shape, 4, torch.uint8, seed=21)
    counts, sums = overlap_counts(
        pred.to(device), ref.to(device), 4, coordinate_sums=True, backend=backend
    )
    assert sums.dtype == torch.int64
    assert counts.is_contiguous() and sums.is_contiguous()
    np.testing.assert_array_equal(counts.cpu(), bincount_oracle(pred, ref, 4))
    np.testing.assert_array_equal(sums.cpu(), index_sums_oracle(pred, ref, 4))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_sums_of_indices_of_many_chunks(backend: str, device: str) -> None:
    pred = random_labels((2, 60, 71, 83), 5, torch.uint8, seed=22)
    ref = pred.roll(9, dims=3)
    counts, sums = overlap_counts(
        pred.to(device), ref.to(device), 5, coordinate_sums=True, backend=backend
    )
    np.testing.assert_array_equal(counts.cpu(), bincount_oracle(pred, ref, 5))
    np.testing.assert_array_equal(sums.cpu(), index_sums_oracle(pred, ref, 5))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("num_classes", [1, 2, 64, 256, 300, 4096])
def test_matches_bincount_for_any_number_of_classes(
    num_classes: int, backend: str, device: str
) -> None:
    if num_classes == 4096 and backend == "reference":
        pytest.skip("the reference goes class by class")
    pred = random_labels((1, 50, 40), num_classes, torch.int16, seed=4)
    ref = pred.roll(7, dims=2)
    counts = overlap_counts(pred.to(device), ref.to(device), num_classes, backend=backend)
    np.testing.assert_array_equal(counts.cpu(), bincount_oracle(pred, ref, num_classes))


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_takes_strided_tensors(backend: str, device: str) -> None:
    pred = random_labels((3, 8, 6, 10), 3, torch.int32, seed=5).to(device)
    ref = random_labels((3, 8, 6, 10), 3, torch.uint8, seed=6).to(device)
    for view in (lambda t: t.permute(0, 3, 1, 2), lambda t: t[:, ::2, 1:], lambda t: t[:, :1].mT):
        counts = overlap_counts(view(pred), view(ref), 3, backend=backend)
        expected = bincount_oracle(view(pred).cpu(), view(ref).cpu(), 3)
        np.testing.assert_array_equal(counts.cpu(), expected)
    expanded = pred[:1].expand(3, -1, -1, -1)
    counts = overlap_counts(expanded, ref, 3, backend=backend)
    np.testing.assert_array_equal(counts.cpu(), bincount_oracle(expanded.cpu(), ref.cpu(), 3))


@needs_cpp
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_threads_of_the_extension_share_the_voxels(num_threads: int) -> None:
    # Over 4 x 2^18 voxels, so that five threads start, and their borders fall inside rows.
    pred = random_labels((3, 501, 799), 7, torch.uint8, seed=7)
    ref = random_labels((3, 501, 799), 7, torch.uint8, seed=8)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        counts = overlap_counts(pred, ref, 7, backend="cpp")
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(counts, bincount_oracle(pred, ref, 7))


@needs_cpp
def test_python_threads_may_call_at_once() -> None:
    pairs = [
        (
            random_labels((2, 300, 301), 5, torch.uint8, seed),
            random_labels((2, 300, 301), 5, torch.int64, seed + 100),
        )
        for seed in range(16)
    ]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda pair: overlap_counts(*pair, 5, backend="cpp"), pairs))
    for pair, counts in zip(pairs, results, strict=True):
        np.testing.assert_array_equal(counts, bincount_oracle(*pair, 5))


def test_arguments_are_not_written_to() -> None:
    pred = random_labels((2, 30), 3, torch.uint8, seed=9)
    ref = random_labels((2, 30), 3, torch.uint8, seed=10)
    copies = pred.clone(), ref.clone()
    overlap_counts(pred, ref, 3)
    assert torch.equal(pred, copies[0])
    assert torch.equal(ref, copies[1])


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_opcheck(backend: str, device: str) -> None:
    pred = random_labels((2, 5, 3), 3, torch.int64, seed=11).to(device)
    ref = random_labels((2, 5, 3), 3, torch.uint8, seed=12).to(device)
    for op in (
        torch.ops.recycleseg.overlap_counts.default,
        torch.ops.recycleseg.overlap_counts_and_sums.default,
    ):
        assert set(torch.library.opcheck(op, (pred, ref, 3, backend)).values()) == {"SUCCESS"}


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_compiled_without_graph_breaks_equals_eager(backend: str, device: str) -> None:
    def dice(pred: Tensor, ref: Tensor) -> Tensor:
        tp, n_pred, n_ref = overlap_counts(pred, ref, 3, backend=backend).double().unbind(-1)
        return 2 * tp / (n_pred + n_ref)

    pred = random_labels((2, 15, 13), 3, torch.int64, seed=13).to(device)
    ref = random_labels((2, 15, 13), 3, torch.uint8, seed=14).to(device)
    torch.testing.assert_close(
        torch.compile(dice, fullgraph=True)(pred, ref), dice(pred, ref), rtol=0, atol=0
    )


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("coordinate_sums", [False, True])
@pytest.mark.parametrize("value", [-1, 3, 30000])
@pytest.mark.parametrize("name", ["pred", "ref"])
def test_a_label_out_of_range_is_named(
    name: str, value: int, coordinate_sums: bool, backend: str, device: str
) -> None:
    labels = {"pred": torch.zeros(2, 40, dtype=torch.int16, device=device)}
    labels["ref"] = labels["pred"].clone()
    labels[name][1, 5:7] = value
    message = rf"{name}: .*labels in \[0, 3\), got {value} \(2 voxels are out of range\)"
    with pytest.raises(ValueError, match=message):
        overlap_counts(
            labels["pred"], labels["ref"], 3, coordinate_sums=coordinate_sums, backend=backend
        )


LABEL = torch.zeros(2, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LABEL.float(), LABEL, 2), r"pred: expected dtype .*int64, got torch\.float32"),
        ((LABEL, LABEL.to(torch.int8), 2), r"ref: expected dtype .*, got torch\.int8"),
        ((LABEL[0, 0], LABEL[0, 0], 2), r"pred: expected shape \(B, \*S\), got a scalar"),
        ((LABEL, LABEL[:1], 2), r"ref: expected the shape of pred, \(2, 4\), got \(1, 4\)"),
        ((LABEL, LABEL.to("meta"), 2), r"ref: expected the device of pred, cpu, got meta"),
        ((LABEL, LABEL, 0), r"num_classes: expected 1 to 4096, got 0"),
        ((LABEL, LABEL, 4097), r"num_classes: expected 1 to 4096, got 4097"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[Tensor, Tensor, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlap_counts(*arguments)


@pytest.mark.parametrize("shape", [(3,), (1, 2, 2, 2, 2)], ids=str)
def test_sums_of_indices_need_one_to_three_axes(shape: tuple[int, ...]) -> None:
    label = torch.zeros(shape, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"pred: expected .* 1 to 3 axes in S .* got \("):
        overlap_counts(label, label, 2, coordinate_sums=True)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backend: expected one of \('auto', .*\), got 'gpu'"):
        overlap_counts(LABEL, LABEL, 2, backend="gpu")


def test_cuda_is_refused_for_tensors_on_the_cpu() -> None:
    if _ext.HAS_CUDA:
        with pytest.raises(ValueError, match="backend='cuda': expected CUDA tensors, got cpu"):
            overlap_counts(LABEL, LABEL, 2, backend="cuda")
    else:
        with pytest.raises(RuntimeError, match="built for the CPU alone.*nvcc|cannot be imported"):
            overlap_counts(LABEL, LABEL, 2, backend="cuda")


def test_auto_equals_the_reference() -> None:
    pred = random_labels((3, 21, 22), 6, torch.int64, seed=15)
    ref = random_labels((3, 21, 22), 6, torch.uint8, seed=16)
    assert torch.equal(overlap_counts(pred, ref, 6), overlap_counts_reference(pred, ref, 6))


@needs_cpp
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": LABEL.T}, "pred: expected a contiguous tensor"),
        ({"ref": LABEL[:1]}, "pred, ref: expected one shape"),
        ({"pred": LABEL.float()}, "pred: expected dtype .* got DLPack code 2 with 32 bits"),
        ({"counts": torch.zeros(2, 2, 3, dtype=torch.int32)}, "counts: expected int64 of shape"),
        ({"invalid": torch.zeros(3, dtype=torch.int64)}, "invalid: expected int64 of shape"),
        ({"sums": torch.zeros(2, 2, 2, 2, dtype=torch.int64)}, "sums: expected int64 of shape"),
        ({"sums": torch.zeros(2, 2, 2, 1, dtype=torch.int32)}, "sums: expected int64 of shape"),
    ],
)
def test_the_extension_checks_what_it_writes_to(change: dict[str, Tensor], message: str) -> None:
    tensors = {
        "pred": LABEL,
        "ref": LABEL,
        "counts": torch.zeros(2, 2, 3, dtype=torch.int64),
        "invalid": torch.zeros(2, 2, dtype=torch.int64),
    }
    capsules = {name: _ext.capsule(t) for name, t in (tensors | change).items()}
    with pytest.raises(ValueError, match=message):
        _ext.C.overlap_counts_cpu(**capsules, num_threads=1)


@needs_cpp
def test_the_extension_takes_a_capsule_once() -> None:
    capsule = _ext.capsule(LABEL)
    with pytest.raises(ValueError, match="ref: expected an unused DLPack capsule"):
        _ext.C.overlap_counts_cpu(capsule, capsule, capsule, capsule, 1)


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_bytes_have_room_for_256_classes(backend: str, device: str) -> None:
    label = torch.tensor([[0, 1, 255]], dtype=torch.uint8, device=device)
    counts = overlap_counts(label, label, 256, backend=backend)
    assert counts[0, [0, 1, 255]].tolist() == [[1, 1, 1]] * 3
    assert counts.sum() == 9
