"""The Triton kernels of dice_loss against its reference in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recycleseg.losses import SegmentationLoss
from recycleseg.ops.dice_loss import LossTerms, dice_loss

Device = torch.device

SHAPES = [
    (2, 1, 11, 13),
    (2, 2, 7, 5, 3),
    (1, 3, 700),  # several tiles
    (2, 4, 9, 10),
    (1, 5, 6, 7, 8),
    (2, 16, 5, 13),
    (1, 33, 8, 9),
    (1, 64, 6, 7),
    (3, 3, 1, 1),
]
TARGETS = ["label", "soft", "overlapping"]


@pytest.fixture(autouse=True)
def with_kernel(fuse: Callable[[str], None]) -> None:
    fuse("dice_loss")


def random_case(shape: tuple[int, ...], target: str, device: Device) -> tuple[Tensor, Tensor]:
    """Logits in float32 and a label or mask; the last sample of several has no foreground."""
    generator = torch.Generator().manual_seed(0)
    batch, classes, *spatial = shape
    logits = 3 * torch.randn(shape, generator=generator)
    if target == "label":
        label = torch.randint(0, classes, (batch, *spatial), generator=generator)
    elif target == "soft":
        label = torch.randn(shape, generator=generator).softmax(1)
    else:
        label = torch.randint(0, 2, shape, generator=generator)
    if batch > 1:
        label[-1] = 0
        if target == "soft":
            label[-1, 0] = 1
    return logits.to(device), label.to(device)


def run(
    logits: Tensor,
    label: Tensor,
    target: str,
    gamma: float = 2.0,
    backend: str = "auto",
    known: Tensor | None = None,
) -> tuple[LossTerms, Tensor]:
    """The terms, and the gradient of a sum in which each value has a weight of its own."""
    leaf = logits.detach().requires_grad_()
    exclusive = target != "overlapping"
    terms = dice_loss(leaf, label, exclusive=exclusive, gamma=gamma, known=known, backend=backend)
    generator = torch.Generator().manual_seed(1)
    loss = terms.counts.new_zeros(())
    for term in (terms.dice, terms.focal, terms.cross_entropy):
        weights = torch.randn(term.shape, generator=generator, dtype=torch.float64)
        loss = loss + (weights.to(term) * term).sum()
    (grad,) = torch.autograd.grad(loss, leaf)
    return terms, grad


def assert_equals_reference(
    logits: Tensor,
    label: Tensor,
    target: str,
    tolerance: float,
    gamma: float = 2.0,
    known: Tensor | None = None,
) -> None:
    ours, grad = run(logits, label, target, gamma, known=known)
    wide = label.double() if label.is_floating_point() else label
    exact, exact_grad = run(logits.double(), wide, target, gamma, "reference", known)
    for value, expected in zip(ours, exact, strict=True):
        assert value.dtype == torch.float32
        # sums of many classes' losses are above 1
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    assert grad.dtype == logits.dtype
    # of the largest, for it may be the difference of two that nearly cancel; half precision rounds
    bound = tolerance * exact_grad.abs().max().item()
    rtol = max(tolerance, torch.finfo(logits.dtype).eps)
    if logits.dtype == torch.float16:
        bound = max(bound, 2**-24)  # the least float16
    torch.testing.assert_close(grad.double(), exact_grad, rtol=rtol, atol=bound)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(
    shape: tuple[int, ...], target: str, device: Device, tolerance: float
) -> None:
    assert_equals_reference(*random_case(shape, target, device), target, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(3, 3, 9, 7), (3, 5, 700), (3, 33, 8, 9)], ids=str)
def test_voxels_that_are_not_known_add_nothing(
    shape: tuple[int, ...],
    target: str,
    dtype: torch.dtype,
    device: Device,
    tolerance: float,
    poisoned_memory: None,
) -> None:
    logits, label = random_case(shape, target, device)
    logits, label = logits.to(dtype), label.to(dtype) if target == "soft" else label
    generator = torch.Generator().manual_seed(1)
    known = torch.rand((shape[0], *shape[2:]), generator=generator).to(device) < 0.4
    known[1] = False
    assert_equals_reference(logits, label, target, tolerance, known=known)

    unknown = ~known if label.ndim < logits.ndim else ~known.unsqueeze(1)
    expected, expected_grad = run(logits, label, target, known=known)
    wild = logits.masked_fill(~known.unsqueeze(1), torch.nan)
    terms, grad = run(wild, label.masked_fill(unknown, 99), target, known=known)
    assert all(a.equal(b) for a, b in zip(terms, expected, strict=True))
    assert grad.equal(expected_grad)
    assert (grad.masked_select(~known.unsqueeze(1)) == 0).all()
    assert terms.focal[1] == 0 and terms.counts[1].sum() == 0


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("target", TARGETS)
def test_gamma(target: str, gamma: float, device: Device, tolerance: float) -> None:
    assert_equals_reference(*random_case((2, 3, 9, 7), target, device), target, tolerance, gamma)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_half_precision(target: str, dtype: torch.dtype, device: Device, tolerance: float) -> None:
    logits, label = random_case((2, 3, 9, 7), target, device)
    label = label.to(dtype) if label.is_floating_point() else label
    assert_equals_reference(logits.to(dtype), label, target, tolerance)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.bfloat16]
)
def test_dtypes_of_the_label(dtype: torch.dtype, device: Device) -> None:
    for target in ("label", "overlapping"):
        if target == "label" and dtype in (torch.bool, torch.bfloat16):
            continue
        logits, label = random_case((2, 4, 9, 7), target, device)
        expected, expected_grad = run(logits, label, target)
        ours, grad = run(logits, label.to(dtype), target)
        assert all(a.equal(b) for a, b in zip(ours, expected, strict=True))
        assert grad.equal(expected_grad)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(2, 3, 6, 7), (2, 5, 3, 4, 5)], ids=str)
def test_memory_layouts_give_the_same(
    shape: tuple[int, ...], target: str, device: Device, tolerance: float
) -> None:
    logits, label = random_case(shape, target, device)
    expected, expected_grad = run(logits, label, target)
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d

    def channel_slice(x: Tensor) -> Tensor:
        wide = torch.full((shape[0], shape[1] + 3, *shape[2:]), 7, dtype=x.dtype, device=x.device)
        wide = wide.contiguous(memory_format=last)
        wide[:, 2:-1] = x
        return wide[:, 2:-1]

    def one_stride(x: Tensor) -> Tensor:
        return torch.stack([x, x], dim=-1)[..., 1]

    def no_stride(x: Tensor) -> Tensor:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)

    def last_in_memory(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=last)

    for change in (channel_slice, one_stride, no_stride, last_in_memory):
        only_masks = change in (channel_slice, last_in_memory) and label.ndim != logits.ndim
        ours, grad = run(change(logits), label if only_masks else change(label), target)
        for value, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(value, other, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(grad, expected_grad, rtol=tolerance, atol=tolerance)
    assert grad.is_contiguous(memory_format=last)


@pytest.mark.parametrize("target", TARGETS)
def test_several_tiles_a_program(
    target: str, device: Device, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import recycleseg.kernels.dice_loss as kernels

    monkeypatch.setattr(kernels, "_PROGRAMS", 4)
    assert_equals_reference(*random_case((2, 16, 1000), target, device), target, tolerance)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (1, 33, 8, 9), (2, 1, 1)], ids=str)
def test_every_element_is_written(
    shape: tuple[int, ...], target: str, device: Device, poisoned_memory: None
) -> None:
    terms, grad = run(*random_case(shape, target, device), target)
    assert all(term.isfinite().all() for term in terms)
    assert grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("target", TARGETS)
def test_saturated_logits_equal_the_reference(
    target: str, gamma: float, device: Device, tolerance: float
) -> None:
    """Logits of +-1e4, right and wrong, with an absent class whose probability is 0 too."""
    logits, label = random_case((2, 3, 9, 7), target, device)
    logits = 1e4 * logits.sign()
    logits[:, 2] = -1e4
    label[:, 2] = 0
    assert_equals_reference(logits, label, target, tolerance, gamma)
    terms, grad = run(logits, label, target, gamma)
    assert all(term.isfinite().all() for term in terms)
    assert grad.isfinite().all()


@pytest.mark.parametrize("target", TARGETS)
def test_small_losses_keep_their_digits(target: str, device: Device, tolerance: float) -> None:
    """Of a network that is right and sure, log p is near 0."""
    logits, label = random_case((1, 2, 9, 7), target, device)
    mask = label if label.ndim == logits.ndim else torch.stack([label == 0, label == 1], 1)
    logits = 10 * (2 * (mask > 0.5).float() - 1) + logits / 10
    terms, _ = run(logits, label, target)
    wide = label.double() if label.is_floating_point() else label
    exact, _ = run(logits.double(), wide, target, backend="reference")
    if target == "overlapping":
        entropy = terms.cross_entropy.double()
        torch.testing.assert_close(entropy, exact.cross_entropy, rtol=10 * tolerance, atol=0)
    else:  # log p is rounded as the sum of the exponentials is, near 1
        torch.testing.assert_close(terms.focal.double(), exact.focal, rtol=tolerance, atol=1e-7)


def test_each_voxel_by_itself_keeps_its_digits(device: Device, tolerance: float) -> None:
    """Where a mean could hide an error: samples of one voxel and one class."""
    logits = torch.linspace(-20, 20, 321, device=device).view(-1, 1, 1)
    mask = torch.ones_like(logits)
    ours, _ = run(logits, mask, "overlapping", gamma=0.0)
    exact, _ = run(logits.double(), mask, "overlapping", gamma=0.0, backend="reference")
    torch.testing.assert_close(ours.focal.double(), exact.focal, rtol=tolerance / 4, atol=0)


def test_logits_that_are_nan_are_not_hidden(device: Device) -> None:
    for target in TARGETS:
        logits, label = random_case((3, 4, 6, 5), target, device)
        logits[0, 2, 1, 1] = torch.nan
        terms, grad = run(logits, label, target)
        for term in (terms.dice[:, 2], terms.focal, terms.cross_entropy):
            assert term.isnan().tolist() == [True, False, False]
        assert grad[0].isnan().any()
        assert grad[1:].isfinite().all()


# NumPy, which stands for the GPU, warns of the greatest of nothing but NaN
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_a_label_that_is_no_class_gives_nan(device: Device) -> None:
    for bad in (-1, 4, 2**32):
        logits, label = random_case((2, 4, 6, 5), "label", device)
        label[0, 3, 3] = bad
        terms, grad = run(logits, label, "label")
        for term in (terms.dice, terms.focal[:, None], terms.cross_entropy[:, None]):
            assert term.isnan().all(1).tolist() == [True, False]
        assert grad[0].isnan().any()
        assert grad[1].isfinite().all()


def test_the_same_bits_every_time(device: Device) -> None:
    logits, label = random_case((2, 4, 19, 21), "label", device)
    (terms, grad), (again, grad_again) = (run(logits, label, "label") for _ in range(2))
    assert all(a.equal(b) for a, b in zip(terms, again, strict=True))
    assert grad.equal(grad_again)


@pytest.mark.parametrize("imgx_compat", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_segmentation_loss(
    target: str,
    imgx_compat: bool,
    device: Device,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits, label = random_case((2, 3, 9, 7), target, device)
    loss = SegmentationLoss(
        1, 20, 0.5, exclusive=target != "overlapping", focal_gamma=1.5, imgx_compat=imgx_compat
    )
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, label)
    value[0].backward()
    components = loss.components(logits, label)
    monkeypatch.undo()
    wide = label.double().cpu() if label.is_floating_point() else label.cpu()
    exact_leaf = logits.double().cpu().requires_grad_()
    exact = loss(exact_leaf, wide)
    exact[0].backward()
    close = {"rtol": 10 * tolerance, "atol": tolerance, "equal_nan": True}
    torch.testing.assert_close(value.double().cpu(), exact, **close)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.double().cpu(), exact_leaf.grad, **close)
    for name, expected in loss.components(exact_leaf, wide).items():
        torch.testing.assert_close(components[name].double().cpu(), expected, **close)


@pytest.mark.parametrize("exclusive", [True, False])
def test_is_a_well_formed_operator(
    exclusive: bool, opcheck: Callable[..., None], device: torch.device
) -> None:
    from recycleseg.kernels.dice_loss import dice_loss_bwd, dice_loss_fwd

    torch.manual_seed(0)
    logits = torch.randn(2, 3, 20, device=device, requires_grad=True)
    label = torch.randint(3, (2, 20), device=device) if exclusive else logits.detach().sigmoid()
    grad_sums = torch.randn(2, 11, device=device)
    for known in (None, torch.randint(2, (2, 20), dtype=torch.uint8, device=device)):
        opcheck(dice_loss_fwd, (logits, label, known, exclusive, 2.0))
        opcheck(dice_loss_bwd, (grad_sums, logits.detach(), label, known, exclusive, 2.0))
