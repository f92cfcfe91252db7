"""The reference of dice_loss against its formulas in float64, its contract, and its messages."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg.ops.dice_loss import (
    TERMS,
    LossTerms,
    dice_loss,
)

GAMMAS = [0.0, 1.0, 2.0, 2.5]
TARGETS = ["label", "soft", "overlapping"]


def random_case(
    shape: tuple[int, ...], target: str, seed: int = 0
) -> tuple[Tensor, Tensor, dict[str, bool]]:
    """Logits in float64, a label or mask of which sample 0 has no foreground, and `exclusive`."""
    generator = torch.Generator().manual_seed(seed)
    batch, classes, *spatial = shape
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if target == "label":
        label = torch.randint(0, classes, (batch, *spatial), generator=generator)
        label[0] = 0
    elif target == "soft":
        label = torch.randn(shape, generator=generator, dtype=torch.float64).softmax(1)
        label[0] = 0
        label[0, 0] = 1
    else:
        label = torch.randint(0, 2, shape, generator=generator, dtype=torch.uint8)
        label[0] = 0
    return logits, label, {"exclusive": target != "overlapping"}


def by_definition(logits: Tensor, label: Tensor, exclusive: bool, gamma: float) -> LossTerms:
    """The formulas of the docstring, written out."""
    classes = logits.shape[1]
    y = label if label.ndim == logits.ndim else F.one_hot(label, classes).movedim(-1, 1)
    y = y.double().flatten(2)
    p = logits.flatten(2).softmax(1) if exclusive else logits.flatten(2).sigmoid()
    focal, entropy = (1 - p) ** gamma * y * p.log(), y * p.log()
    if not exclusive:
        focal = focal + p**gamma * (1 - y) * (1 - p).log()
        entropy = entropy + (1 - y) * (1 - p).log()
    dice = 1 - 2 * (p * y).sum(2) / (p.sum(2) + y.sum(2))
    dice = torch.where(y.sum(2) > 0, dice, 1.0)
    return LossTerms(dice, y.sum(2), -focal.sum(1).mean(1), -entropy.sum(1).mean(1))


def total(terms: LossTerms) -> Tensor:
    """A scalar in which every differentiable term has a weight of its own."""
    weights = torch.linspace(0.5, 1.5, terms.dice.numel(), dtype=terms.dice.dtype)
    weighted = (terms.dice * weights.view_as(terms.dice)).sum()
    return weighted + (20 * terms.focal + 3 * terms.cross_entropy).sum()


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(2, 3, 7), (3, 1, 4, 5), (2, 5, 3, 4, 2)], ids=str)
def test_equals_its_definition(shape: tuple[int, ...], target: str, gamma: float) -> None:
    logits, label, kind = random_case(shape, target)
    ours = dice_loss(logits, label, gamma=gamma, **kind)
    # sums of float64 over 24 voxels; log(1 - p) as written loses some digits
    torch.testing.assert_close(
        ours, by_definition(logits, label, gamma=gamma, **kind), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", TARGETS)
def test_gradients(target: str, gamma: float) -> None:
    logits, label, kind = random_case((2, 3, 2, 3), target)
    assert torch.autograd.gradcheck(
        lambda z: total(dice_loss(z, label, gamma=gamma, **kind)), logits.requires_grad_()
    )


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", TARGETS)
def test_saturated_logits_and_no_foreground_stay_finite(target: str, gamma: float) -> None:
    logits, label, kind = random_case((2, 3, 4, 5), target)
    leaf = (1e4 * logits.sign()).float().requires_grad_()
    terms = dice_loss(leaf, label, gamma=gamma, **kind)
    assert all(term.isfinite().all() for term in terms)
    (grad,) = torch.autograd.grad(total(terms), leaf)
    assert grad.isfinite().all()
    absent = slice(1, None) if kind["exclusive"] else slice(None)
    assert terms.counts[0, absent].eq(0).all()
    assert terms.dice[0, absent].eq(1).all()


@pytest.mark.parametrize("target", TARGETS)
def test_terms_that_are_not_needed_are_nan(target: str) -> None:
    logits, label, kind = random_case((2, 3, 4, 5), target)
    everything = dice_loss(logits, label, **kind)._asdict()
    for size in range(len(TERMS) + 1):
        for needed in itertools.combinations(TERMS, size):
            found = dice_loss(logits, label, terms=needed, **kind)._asdict()
            for name, value in found.items():
                assert value.shape == everything[name].shape
                if ("dice" if name == "counts" else name) in needed:
                    assert value.equal(everything[name])
                else:
                    assert value.isnan().all()


def test_a_soft_mask_gets_a_gradient() -> None:
    logits, _, _ = random_case((2, 3, 2, 2), "soft")
    mask = logits.flip(0).softmax(1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z, y: total(dice_loss(z, y)), (logits.requires_grad_(), mask)
    )


@pytest.mark.parametrize("target", TARGETS)
def test_keeps_the_dtype_of_its_arithmetic(target: str) -> None:
    logits, label, kind = random_case((2, 3, 4, 5), target)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        terms = dice_loss(logits.to(dtype), label, **kind)
        wide = torch.promote_types(dtype, torch.float32)
        assert {term.dtype for term in terms} == {wide}
        expected = dice_loss(logits.to(dtype).to(wide), label, **kind)
        assert all(a.equal(b) for a, b in zip(terms, expected, strict=True))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_compiled_full_graph_equals_eager(target: str, sparse: bool) -> None:
    logits, label, kind = random_case((2, 3, 4, 5), target)
    known = label.reshape(2, -1, 4, 5)[:, 0] > 0 if sparse else None
    loss = lambda z: total(dice_loss(z, label, known=known, **kind))  # noqa: E731
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    for run, leaf in zip((compiled, loss), leaves, strict=True):
        run(leaf).backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_on_a_cpu_triton_is_not_imported() -> None:
    code = (
        "import sys, torch; from recycleseg.losses import SegmentationLoss;"
        "z = torch.zeros(1, 2, 3, requires_grad=True);"
        "SegmentationLoss()(z, torch.zeros(1, 3, dtype=torch.uint8)).sum().backward();"
        "assert 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


LOGITS = torch.zeros(2, 3, 4, 5)
LABEL = torch.zeros(2, 4, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dice_loss(LOGITS[0, 0], LABEL), r"logits must be .* \(B, C, \*S\), got .*\(4, 5"),
        (lambda: dice_loss(LOGITS.long(), LABEL), "logits must be floating .*got torch.int64"),
        (
            lambda: dice_loss(LOGITS, LABEL.mT),
            r"label must have shape \(2, 4, 5\) or \(2, 3, 4, 5\).* got \(2, 5, 4\)",
        ),
        (
            lambda: dice_loss(LOGITS, LABEL, exclusive=False),
            r"label must have shape \(2, 3, 4, 5\) for overlapping classes, got \(2, 4, 5\)",
        ),
        (lambda: dice_loss(LOGITS, LABEL.float()), r"label \(2, 4, 5\) must be integer, got .*32"),
        (lambda: dice_loss(LOGITS, LABEL.bool()), "must be integer, got torch.bool"),
        (lambda: dice_loss(LOGITS, LABEL.to("meta")), "label must be on .* cpu, got meta"),
        (lambda: dice_loss(LOGITS, LABEL, gamma=0.5), "gamma must be 0 or at least 1, got 0.5"),
        (lambda: dice_loss(LOGITS, LABEL, terms=("iou",)), r"terms must be .*, got \('iou',\)"),
        (lambda: dice_loss(LOGITS, LABEL, backend="cpp"), "backend: expected one of .* 'cpp'"),
        (lambda: dice_loss(LOGITS, LABEL, backend="triton"), "backend='triton': .*CUDA.* got cpu"),
        (
            lambda: dice_loss(LOGITS, LOGITS.clone().requires_grad_(), backend="triton"),
            "expected a label without gradient",
        ),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_label_that_is_no_class_raises() -> None:
    for bad in (-1, 3):
        with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
            dice_loss(LOGITS, torch.full_like(LABEL, bad))


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def gradients(logits: Tensor, label: Tensor, **kwargs: object) -> tuple[LossTerms, Tensor]:
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    terms = dice_loss(leaf, label, **kwargs)
    weights = torch.arange(1, 1 + terms.dice.numel(), device=leaf.device, dtype=leaf.dtype)
    loss = (terms.dice * weights.view_as(terms.dice)).sum()
    (grad,) = torch.autograd.grad(loss + (20 * terms.focal + terms.cross_entropy).sum(), leaf)
    return terms, grad


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("gamma", [0.0, 2.0, 2.5])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(2, 4, 96, 88, 80), (1, 64, 37, 41), (3, 1, 1000)], ids=str)
def test_gpu_equals_the_reference_in_float64(
    shape: tuple[int, ...], target: str, gamma: float
) -> None:
    logits, label, kind = random_case(shape, target)
    logits, label = logits.cuda(), label.cuda()
    exact, exact_grad = gradients(logits, label, gamma=gamma, backend="reference", **kind)
    label = label.float() if label.is_floating_point() else label
    ours, grad = gradients(logits.float(), label, gamma=gamma, backend="triton", **kind)
    again, grad_again = gradients(logits.float(), label, gamma=gamma, backend="triton", **kind)
    for a, b, c in zip(ours, exact, again, strict=True):
        # float32 rounding of terms and of a chain of sums; exp approximated
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
        assert a.equal(c)
    assert grad.equal(grad_again)
    bound = 1e-5 * exact_grad.abs().max().item()
    torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-4, atol=bound)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_gpu_compiled_full_graph_equals_eager(target: str, sparse: bool) -> None:
    logits, label, kind = random_case((2, 3, 20, 30), target)
    label = label.float().cuda() if label.is_floating_point() else label.cuda()
    known = label.reshape(2, -1, 20, 30)[:, 0] > 0 if sparse else None

    def loss(z: Tensor) -> Tensor:
        terms = dice_loss(2 * z, label, known=known, backend="triton", **kind)
        return terms.dice.sum() + 20 * terms.focal.sum() + terms.cross_entropy.sum()

    leaves = [logits.float().cuda().requires_grad_() for _ in range(2)]
    for run, leaf in zip((torch.compile(loss, fullgraph=True), loss), leaves, strict=True):
        run(leaf).backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


@pytest.mark.gpu
@needs_gpu
def test_gpu_keeps_nothing_of_the_size_of_the_logits() -> None:
    logits, label, _ = random_case((1, 8, 64, 64, 64), "label")
    logits, label = logits.float().cuda().requires_grad_(), label.to(torch.uint8).cuda()
    before = torch.cuda.memory_allocated()
    terms = dice_loss(logits, label)
    assert torch.cuda.memory_allocated() - before < logits.nbytes // 100
    assert terms.dice.grad_fn is not None


@pytest.mark.gpu
@needs_gpu
def test_gpu_reaches_past_two_to_the_31_elements() -> None:
    classes, size = 5, 2**29
    if torch.cuda.get_device_properties(0).total_memory < 30 * 2**30:
        pytest.skip("needs 30 GiB of GPU memory")
    logits = torch.zeros((1, classes, size), dtype=torch.bfloat16, device="cuda")
    label = torch.zeros((1, size), dtype=torch.uint8, device="cuda")
    label[0, -7:] = 4
    logits[0, 4, -7:] = 30
    terms = dice_loss(logits.requires_grad_(), label, backend="triton")
    assert terms.counts.equal(torch.tensor([[size - 7.0, 0, 0, 0, 7]], device="cuda"))
    (grad,) = torch.autograd.grad(terms.dice[0, 4], logits)
    assert grad[0, :, -7:].abs().max() < grad[0, 4, :7].abs().max()
    assert (grad[0, 4, :-7] > 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_is_that_of_the_known_voxels_alone(target: str, dtype: torch.dtype) -> None:
    """Whatever logits and label are elsewhere; the last sample has no known voxel."""
    logits, label, kind = random_case((3, 4, 50), target)
    logits, label = logits.to(dtype), label.to(dtype) if target == "soft" else label
    known = torch.rand(3, 50, generator=torch.Generator().manual_seed(1)) < 0.3
    known[-1] = False
    unknown = ~known.unsqueeze(1)
    wild = logits.masked_fill(unknown, torch.nan).requires_grad_()
    nowhere = unknown.squeeze(1) if label.ndim == 2 else unknown
    ours = dice_loss(wild, label.masked_fill(nowhere, 99), known=known, **kind)
    (grad,) = torch.autograd.grad(total(ours), wild)
    assert (grad.masked_select(unknown) == 0).all()
    # float32 sums of the same terms in another order; bfloat16 gradients are rounded to 8 bits
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    close = {"rtol": 20 * eps, "atol": 20 * eps}
    weights = torch.linspace(0.5, 1.5, 12, dtype=ours.dice.dtype).view(3, 4)
    for b in range(2):
        leaf = logits[b : b + 1, :, known[b]].requires_grad_()
        alone = dice_loss(leaf, label[b : b + 1][..., known[b]], **kind)
        for value, expected in zip(ours, alone, strict=True):
            torch.testing.assert_close(value[b : b + 1], expected, **close)
        loss = (alone.dice * weights[b]).sum() + (20 * alone.focal + 3 * alone.cross_entropy).sum()
        (expected,) = torch.autograd.grad(loss, leaf)
        close_grad = {"rtol": max(20 * eps, torch.finfo(dtype).eps), "atol": 20 * eps}
        torch.testing.assert_close(grad[b : b + 1, :, known[b]], expected, **close_grad)
    assert ours.counts[2].tolist() == [0] * 4
    assert (ours.focal[2], ours.cross_entropy[2]) == (0, 0)
    assert ours.dice[2].tolist() == [1] * 4


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (torch.ones(2, 6), "known must be bool with shape .2, 7., got torch.float32 .2, 6."),
        (torch.ones(2, 7), "known must be bool with shape .2, 7., got torch.float32 .2, 7."),
    ],
)
def test_known_voxels_that_do_not_fit(known: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dice_loss(torch.zeros(2, 3, 7), torch.zeros(2, 7, dtype=torch.uint8), known=known)
