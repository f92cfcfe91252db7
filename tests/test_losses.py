"""Segmentation losses: definitions, gradients, odd inputs, and the arrays computed by ImgX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.losses import SegmentationLoss, cross_entropy_loss, dice_loss, focal_loss
from recycleseg.ops.noise_step import x_to_mask

# float32 rounding of sums over 210 voxels at most
ROUNDING = {"rtol": 2e-6, "atol": 2e-7}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_case(
    shape: tuple[int, ...] = (3, 4, 6, 5), *, exclusive: bool = True, dtype: Any = torch.float32
) -> tuple[Tensor, Tensor]:
    """Logits and a label; class 1 is absent from sample 0, all foreground from the last."""
    batch, classes, *spatial = shape
    logits = 3 * torch.randn(shape, dtype=torch.float64, generator=seeded())
    if exclusive:
        label = torch.randint(0, classes, (batch, *spatial), generator=seeded())
        label[0][label[0] == 1] = 0
        label[-1] = 0
    else:
        label = torch.randint(0, 2, shape, dtype=torch.uint8, generator=seeded())
        label[0, 1] = 0
        label[-1] = 0
    return logits.to(dtype), label


# arrays computed by ImgX


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("case", ["all", "absent", "absent1"])
@pytest.mark.parametrize("dim", ["2d", "3d"])
def test_equals_imgx(
    reference: Callable[[str], dict[str, np.ndarray]],
    channels_first: Callable[[np.ndarray], Tensor],
    dim: str,
    case: str,
    exclusive: bool,
) -> None:
    arrays = reference("d_losses")
    logits = channels_first(arrays[f"{dim}/in/logits"])
    label = torch.from_numpy(arrays[f"{dim}/in/label_{case}"])
    soft = channels_first(arrays[f"{dim}/in/mask_soft"])
    one_hot = F.one_hot(label.long(), logits.shape[1]).movedim(-1, 1)
    target = label if exclusive else one_hot
    prefix = f"{dim}/{case}/{'exclusive' if exclusive else 'nonexclusive'}/"

    def outputs(logits: Tensor) -> dict[str, Tensor]:
        every = {
            "dice_loss": dice_loss(logits, target, exclusive=exclusive),
            "cross_entropy": cross_entropy_loss(logits, target, exclusive=exclusive),
            "focal_loss": focal_loss(logits, target, exclusive=exclusive),
        }
        if case == "all":
            for gamma in (0, 1, 3):
                loss = focal_loss(logits, target, exclusive=exclusive, gamma=gamma)
                every[f"focal_loss_gamma{gamma}"] = loss
            every["cross_entropy_soft"] = cross_entropy_loss(logits, soft, exclusive=exclusive)
            every["focal_loss_soft"] = focal_loss(logits, soft, exclusive=exclusive)
        for weights in ((1, 0, 1), (1, 2, 0.5)):
            name = "dice{}_ce{}_focal{}".format(*weights)
            loss = weighted(weights, exclusive)
            every[f"segmentation_loss/{name}"] = loss(logits, target)
        return every

    seen = set()
    for name, loss in outputs(logits).items():
        seen.add(prefix + name)
        close(loss, torch.from_numpy(arrays[prefix + name]), prefix + name)
        start, *rest = name.split("/")
        cotangent = "ct_bc" if name == "dice_loss" else "ct_b"
        key = prefix + "/".join([f"{start}_grad_{cotangent}", *rest])
        seen.add(key)
        leaf = logits.clone().requires_grad_()
        total = outputs(leaf)[name] * torch.from_numpy(arrays[f"{dim}/in/{cotangent}"])
        total.sum().backward()  # a constant NaN has no gradient, here as in ImgX
        assert leaf.grad is not None
        close(leaf.grad, channels_first(arrays[key]), key)

    for name, metrics in imgx_metrics(logits, label, target, exclusive).items():
        for metric, ours in metrics.items():
            key = f"{prefix}segmentation_loss_metrics/{name}/{metric}"
            seen.add(key)
            if metric.endswith("volume_true"):
                ours = ours * float(np.prod(arrays[f"{dim}/in/spacing"])) / 1000  # mm^3 to ml
            close(ours, torch.from_numpy(arrays[key]), key)
    assert seen == {key for key in arrays if key.startswith(prefix)}

    key = f"{dim}/{case}/dice_loss_from_masks(softmax)"
    close(dice_loss(logits, one_hot), torch.from_numpy(arrays[key]), key)


def test_equals_imgx_leaves_no_array_out(
    reference: Callable[[str], dict[str, np.ndarray]],
) -> None:
    groups = {tuple(key.split("/")[:3]) for key in reference("d_losses") if "/in/" not in key}
    assert groups == {
        (dim, case, group)
        for dim in ("2d", "3d")
        for case in ("all", "absent", "absent1")
        for group in ("exclusive", "nonexclusive", "dice_loss_from_masks(softmax)")
    }


def weighted(weights: tuple[float, float, float], exclusive: bool) -> SegmentationLoss:
    dice, cross_entropy, focal = weights
    return SegmentationLoss(dice, focal, cross_entropy, exclusive=exclusive, imgx_compat=True)


def imgx_metrics(
    logits: Tensor, label: Tensor, target: Tensor, exclusive: bool
) -> dict[str, dict[str, Tensor]]:
    """What ImgX logs beside its loss, from our components and our truth in x space."""
    diffusion = GaussianDiffusion(NoiseSchedule("linear", 11))
    truth = x_to_mask(diffusion.label_to_x(label, logits.shape[1])).flatten(2)
    metrics = {}
    for weights in ((1, 0, 1), (1, 2, 0.5)):
        loss = weighted(weights, exclusive)
        parts = loss.components(logits, target)
        each = {"focal_loss": parts["focal"], "total_loss": loss(logits, target)}
        if weights[1]:
            each["cross_entropy_loss"] = parts["cross_entropy"]
        each["dice_loss"] = parts["dice"][:, 1:].nanmean(1)
        for i in range(logits.shape[1]):
            each[f"dice_loss_class_{i}"] = parts["dice"][:, i]
            each[f"class_{i}_proportion_true"] = truth[:, i].mean(1)
            each[f"class_{i}_volume_true"] = truth[:, i].sum(1)
        metrics["dice{}_ce{}_focal{}".format(*weights)] = each
    return metrics


# definitions


def test_exclusive_losses_by_their_definition() -> None:
    logits, label = random_case(dtype=torch.float64)
    p = logits.softmax(1)
    for b in range(3):
        for c in range(4):
            truth = label[b] == c
            ours = dice_loss(logits, label)[b, c]
            if not truth.any():
                assert ours.isnan()
                continue
            dice = 2 * p[b, c][truth].sum() / (p[b, c].sum() + truth.sum())
            torch.testing.assert_close(ours, 1 - dice)
    torch.testing.assert_close(
        cross_entropy_loss(logits, label),
        F.cross_entropy(logits, label, reduction="none").flatten(1).mean(1),
    )
    p_true = p.gather(1, label.unsqueeze(1)).flatten(1)
    expected = -((1 - p_true) ** 1.5 * p_true.log()).mean(1)
    torch.testing.assert_close(focal_loss(logits, label, gamma=1.5), expected)


def test_overlapping_losses_by_their_definition() -> None:
    logits, mask = random_case(exclusive=False, dtype=torch.float64)
    binary = F.binary_cross_entropy_with_logits(logits, mask.double(), reduction="none")
    torch.testing.assert_close(
        cross_entropy_loss(logits, mask, exclusive=False), binary.sum(1).flatten(1).mean(1)
    )
    p_true = torch.where(mask == 1, logits.sigmoid(), (-logits).sigmoid())
    expected = -((1 - p_true).square() * p_true.log()).sum(1).flatten(1).mean(1)
    torch.testing.assert_close(focal_loss(logits, mask, exclusive=False), expected)
    p = logits.sigmoid().flatten(2)
    dice = 2 * (p * mask.flatten(2)).sum(2) / (p + mask.flatten(2)).sum(2)
    expected = torch.where(mask.flatten(2).sum(2) > 0, 1 - dice, torch.nan)
    torch.testing.assert_close(dice_loss(logits, mask, exclusive=False), expected, equal_nan=True)


@pytest.mark.parametrize("exclusive", [True, False])
def test_segmentation_loss_is_the_weighted_sum(exclusive: bool) -> None:
    logits, label = random_case(exclusive=exclusive)
    loss = SegmentationLoss(0.5, 20, 3, exclusive=exclusive, focal_gamma=1.5)
    parts = loss.components(logits, label)
    dice = parts["dice"][:, 1:] if exclusive else parts["dice"]
    mean_dice = dice.nanmean(1).nan_to_num(0)
    expected = 0.5 * mean_dice + 20 * parts["focal"] + 3 * parts["cross_entropy"]
    torch.testing.assert_close(loss(logits, label), expected)
    for name, values in {
        "dice": dice_loss(logits, label, exclusive=exclusive),
        "focal": focal_loss(logits, label, exclusive=exclusive, gamma=1.5),
        "cross_entropy": cross_entropy_loss(logits, label, exclusive=exclusive),
    }.items():
        torch.testing.assert_close(parts[name], values, equal_nan=True)


def test_a_one_hot_mask_is_the_same_as_its_label() -> None:
    logits, label = random_case()
    mask = F.one_hot(label, 4).movedim(-1, 1)
    loss = SegmentationLoss(cross_entropy=1.0)
    torch.testing.assert_close(loss(logits, mask), loss(logits, label))


def test_a_perfect_prediction_costs_nothing() -> None:
    _, label = random_case()
    logits = 50 * F.one_hot(label, 4).movedim(-1, 1).float()
    loss = SegmentationLoss(cross_entropy=1.0)(logits, label)
    torch.testing.assert_close(loss, torch.zeros(3))


# no foreground, absent classes, hopeless logits


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("exclusive", [True, False])
def test_no_foreground_gives_a_finite_loss_and_gradient(exclusive: bool, scale: float) -> None:
    logits, label = random_case(exclusive=exclusive)
    logits = (scale * logits).requires_grad_()
    loss = SegmentationLoss(cross_entropy=1.0, exclusive=exclusive)(logits, label)
    loss.sum().backward()
    assert logits.grad is not None
    assert bool(loss.isfinite().all())
    assert bool(logits.grad.isfinite().all())
    only_dice = SegmentationLoss(1.0, 0.0, exclusive=exclusive)
    assert only_dice(logits, label)[-1] == 0
    assert bool((only_dice(logits, label)[:-1] > 0).all())
    # ImgX gives NaN to the sample, and leaves the others alone
    imgx = SegmentationLoss(1.0, 0.0, exclusive=exclusive, imgx_compat=True)(logits, label)
    assert imgx.isnan().tolist() == [False, False, True]


def test_absent_class_without_any_probability_has_a_finite_gradient() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[:, 2] = -1e4
    logits.requires_grad_()
    label = torch.tensor([[0, 1, 1, 0]])
    loss = SegmentationLoss()(logits, label)
    loss.sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert dice_loss(logits, label).isnan().tolist() == [[False, False, True]]


def test_logits_that_are_nan_are_not_hidden() -> None:
    logits, label = random_case()
    logits[0, 2, 1, 1] = math.nan
    assert SegmentationLoss()(logits, label).isnan().tolist() == [True, False, False]


def test_overlapping_classes_have_no_background() -> None:
    logits, mask = random_case((2, 2, 5, 5), exclusive=False)
    mask[0, 0], mask[0, 1] = 1, 0
    dice = dice_loss(logits, mask, exclusive=False)[0, 0]
    assert SegmentationLoss(1, 0, exclusive=False)(logits, mask)[0] == dice
    imgx = SegmentationLoss(1, 0, exclusive=False, imgx_compat=True)(logits, mask)
    assert imgx[0].isnan()


# gradients, dtypes, memory formats, compilation


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("shape", [(3, 3, 7), (2, 2, 3, 4), (2, 3, 2, 3, 2)])
def test_gradients(shape: tuple[int, ...], exclusive: bool, gamma: float) -> None:
    logits, label = random_case(shape, exclusive=exclusive, dtype=torch.float64)
    loss = SegmentationLoss(1, 20, 0.5, exclusive=exclusive, focal_gamma=gamma)
    assert torch.autograd.gradcheck(lambda z: loss(z, label), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("exclusive", [True, False])
def test_half_precision_is_computed_in_float32(exclusive: bool, dtype: torch.dtype) -> None:
    logits, label = random_case((2, 3, 16, 12, 8), exclusive=exclusive, dtype=dtype)
    loss = SegmentationLoss(cross_entropy=1.0, exclusive=exclusive)
    half, full = logits.clone().requires_grad_(), logits.float().requires_grad_()
    ours, expected = loss(half, label), loss(full, label)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    ours.sum().backward()
    expected.sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == dtype
    assert full.grad is not None
    assert half.grad.equal(full.grad.to(dtype))


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (2, 3, 4, 5, 6)])
def test_memory_format_does_not_matter(shape: tuple[int, ...], exclusive: bool) -> None:
    logits, label = random_case(shape, exclusive=exclusive)
    channels_last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    loss = SegmentationLoss(exclusive=exclusive)
    expected = loss(logits, label)
    for same in (
        logits.contiguous(memory_format=channels_last),
        logits.transpose(-1, -2).contiguous().transpose(-1, -2),
    ):
        assert not same.is_contiguous()
        torch.testing.assert_close(loss(same, label), expected)
    strided = label.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert loss(logits, strided).equal(expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_label_dtype_does_not_matter(dtype: torch.dtype) -> None:
    logits, label = random_case()
    loss = SegmentationLoss()
    assert loss(logits, label.to(dtype)).equal(loss(logits, label))


@pytest.mark.parametrize("exclusive", [True, False])
def test_compiles_as_one_graph(exclusive: bool) -> None:
    logits, label = random_case(exclusive=exclusive)
    loss = SegmentationLoss(cross_entropy=1.0, exclusive=exclusive)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    eager_in, compiled_in = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected, ours = loss(eager_in, label), compiled(compiled_in, label)
    torch.testing.assert_close(ours, expected)
    expected.sum().backward()
    ours.sum().backward()
    torch.testing.assert_close(compiled_in.grad, eager_in.grad)


# bad arguments

LOGITS = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: SegmentationLoss()(LOGITS, torch.zeros(2, 5, 4, dtype=torch.int64)),
            r"label must have shape \(2, 4, 5\) or \(2, 3, 4, 5\).* got \(2, 5, 4\)",
        ),
        (
            lambda: SegmentationLoss(exclusive=False)(LOGITS, LOGITS[:, 0].long()),
            r"label must have shape \(2, 3, 4, 5\) for overlapping classes, got \(2, 4, 5\)",
        ),
        (lambda: dice_loss(LOGITS, LOGITS[:, 0]), r"\(2, 4, 5\) must be integer, got .*float32"),
        (lambda: focal_loss(LOGITS.long(), LOGITS), r"logits must be floating .*int64 \(2, 3, 4"),
        (lambda: cross_entropy_loss(LOGITS[0, 0], LOGITS), r"\(B, C, \*S\), got .*\(4, 5\)"),
        (lambda: focal_loss(LOGITS, LOGITS, gamma=0.5), "0 or at least 1, got 0.5"),
        (lambda: SegmentationLoss(focal_gamma=-1), "0 or at least 1, got -1"),
        (lambda: SegmentationLoss(dice=-1), "weights must be at least 0 .*'dice': -1"),
        (lambda: SegmentationLoss(0, 0, 0), "not all 0"),
    ],
)
def test_bad_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    torch.testing.assert_close(
        ours, theirs, equal_nan=True, msg=lambda m: f"{what}: {m}", **ROUNDING
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exclusive", [True, False])
def test_loss_of_the_known_voxels_alone(exclusive: bool, dtype: Any) -> None:
    logits, label = random_case(exclusive=exclusive, dtype=dtype)
    known = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    loss = SegmentationLoss(1.0, 20.0, 0.5, exclusive=exclusive)
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, label, known)
    value.sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad.movedim(1, -1)[~known] == 0).all()
    for b in range(3):
        alone = logits[b : b + 1, :, known[b]].requires_grad_()
        expected = loss(alone, label[b : b + 1][..., known[b]])
        expected.sum().backward()
        torch.testing.assert_close(value[b : b + 1], expected, **ROUNDING)
        assert alone.grad is not None
        # sums in another order, then rounded to the dtype of the logits
        rtol = max(ROUNDING["rtol"], torch.finfo(dtype).eps)
        torch.testing.assert_close(
            leaf.grad[b : b + 1, :, known[b]], alone.grad, rtol=rtol, atol=1e-6
        )


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_sample_without_known_voxels_costs_nothing(exclusive: bool) -> None:
    logits, label = random_case(exclusive=exclusive)
    leaf = logits.requires_grad_()
    known = torch.zeros(3, 6, 5, dtype=torch.bool)
    loss = SegmentationLoss(1.0, 20.0, 0.5, exclusive=exclusive)(leaf, label, known)
    loss.sum().backward()
    assert loss.tolist() == [0.0] * 3
    assert leaf.grad is not None and (leaf.grad == 0).all()
