"""Dropout: how much it drops, and that the same seed drops the same elements."""

from __future__ import annotations

import pytest
import torch

from recycleseg import _ext
from recycleseg.ops.dropout import dropout, dropout_mask

needs_extension = pytest.mark.skipif(not _ext.HAS_CPP, reason="the extension was not built")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_dropout_drops_its_rate_and_keeps_the_mean(dtype: torch.dtype, layout: str) -> None:
    x = torch.ones(2, 7, 101, 99, dtype=dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.ones(2, 14, 101, 99, dtype=dtype)[:, ::2]
    x.requires_grad_()
    torch.manual_seed(0)
    y = dropout(x, 0.1)
    y.sum().backward()
    kept = y.detach() != 0
    # 140 000 draws: five standard deviations of the share are 0.004
    assert abs(float(kept.double().mean()) - 0.9) < 0.004
    torch.testing.assert_close(y.detach()[kept], torch.full_like(y.detach()[kept], 1 / 0.9))
    assert x.grad is not None and torch.equal(x.grad, y.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(x, 0.1), y)
    assert not torch.equal(dropout(x, 0.1), y)


def test_dropout_of_neighbours_is_independent() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.5) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8, 16, 31, 32, 33, 512):
        # the mean of n products of +-1/2 has a standard deviation of 1/4 / sqrt(n) = 0.0004
        assert abs(float((kept[lag:] * kept[:-lag]).mean())) < 0.002


def test_dropout_out_of_training_changes_nothing() -> None:
    x = torch.randn(3, 5)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0) is x


def test_seeds_and_halves_of_a_word_are_independent() -> None:
    torch.manual_seed(0)
    kept = torch.stack([dropout(torch.ones(20_000), 0.5) != 0 for _ in range(40)]).double() - 0.5
    correlation = torch.corrcoef(kept) - torch.eye(40)
    # 780 pairs of standard deviation 0.007: the largest is about 3.5 of them
    assert float(correlation.abs().max()) < 0.035
    along = torch.corrcoef(kept[:, :640].T) - torch.eye(640)
    # 200 000 pairs of standard deviation 0.16
    assert float(along.abs().max()) < 0.9
    assert float(along.square().mean()) == pytest.approx(1 / 39, rel=0.05)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 1, 15, 31, 33, 65_535, 65_537, 200_003])
def test_every_element_is_written_and_none_depends_on_the_threads(
    dtype: torch.dtype, size: int
) -> None:
    x = torch.randn(size, dtype=dtype)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        results.append(dropout(x, 0.25))
    torch.set_num_threads(1)
    assert torch.equal(*results)
    scaled = (x.float() * (1 / 0.75)).to(dtype)
    assert bool(((results[0] == scaled) | (results[0] == 0)).all())


@needs_extension
def test_the_gradient_drops_the_same_elements_whatever_its_layout() -> None:
    x = torch.randn(2, 5, 7, 9).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = dropout(x, 0.5)
    assert y.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, 5, 7, 9)
    y.backward(grad)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, grad * 2 * (y != 0), rtol=0, atol=0)


@needs_extension
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_processes_that_share_a_batch_drop_what_one_drops(layout: torch.memory_format) -> None:
    x = torch.randn(5, 3, 70, 33).contiguous(memory_format=layout).requires_grad_()
    torch.manual_seed(2)
    whole = dropout(x, 0.5, first_row=0)
    whole.sum().backward()
    assert x.grad is not None
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        part = x.detach()[rows].clone(memory_format=layout).requires_grad_()
        torch.manual_seed(2)
        y = dropout(part, 0.5, first_row=rows.start)
        y.sum().backward()
        assert torch.equal(y, whole[rows])
        assert part.grad is not None and torch.equal(part.grad, x.grad[rows])
    kept = (whole != 0).flatten(1).double() - 0.5
    # 10 pairs of rows of 6930 elements, standard deviation 0.012
    assert float((torch.corrcoef(kept) - torch.eye(5)).abs().max()) < 0.05


@needs_extension
def test_rows_that_are_not_one_after_the_other_are_refused() -> None:
    x = torch.randn(4, 6, 5).transpose(0, 1)
    with pytest.raises(ValueError, match="x: expected rows one after the other in memory, got"):
        dropout(x, 0.5, first_row=0)


@needs_extension
@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_plain_torch_drops_what_the_extension_drops(
    rate: float, layout: torch.memory_format
) -> None:
    x = torch.ones(3, 40, 50, 40).contiguous(memory_format=layout)
    torch.manual_seed(4)
    kept = dropout(x, rate, first_row=6) != 0
    torch.manual_seed(4)
    seed = torch.empty((), dtype=torch.int64).random_(-(2**63), None)
    assert torch.equal(dropout_mask(x, rate, seed, 3, 6), kept)


def test_other_dtypes_are_dropped_in_the_same_way() -> None:
    x = torch.randn(4, 3, 50, 2, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    torch.manual_seed(5)
    y = dropout(x, 0.25, first_row=0)
    assert y.stride() == x.stride()
    y.sum().backward()
    kept = y != 0
    torch.testing.assert_close(y, x * kept / 0.75, rtol=1e-15, atol=0)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, kept / torch.tensor(0.75).double(), rtol=1e-15, atol=0)
    torch.manual_seed(5)
    assert torch.equal(dropout(x[2:], 0.25, first_row=2), y[2:])


@needs_extension
def test_operator_is_registered_as_it_behaves() -> None:
    x = torch.randn(3, 4, 5, requires_grad=True)
    # without the comparison of two runs, for each draws its own seed
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.recycleseg.dropout, (x, 0.1, 3, 2), test_utils=tests)
    seed = torch.tensor(-5)
    torch.library.opcheck(
        torch.ops.recycleseg.dropout_backward, (x.detach(), seed, 0.1, 3, 2, [20, 1, 4])
    )


@needs_extension
def test_compiled_drops_what_eager_drops() -> None:
    x = torch.randn(2, 3, 40)
    compiled = torch.compile(
        lambda x: dropout(x, 0.5) + dropout(x, 0.5), fullgraph=True, backend="aot_eager"
    )
    torch.manual_seed(3)
    expected = dropout(x, 0.5) + dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(compiled(x), expected)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_bad_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="rate: expected 0 to below 1, got"):
        dropout(torch.ones(3), rate)
