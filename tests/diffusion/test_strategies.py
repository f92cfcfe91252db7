"""Whole loss steps of every strategy, against ImgX's, and what each strategy promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.diffusion.strategies import (
    DiffusionObjective,
    Draws,
    Recycling,
    SelfConditioning,
    Standard,
    Strategy,
    Supervised,
)
from recycleseg.diffusion.timesteps import ImportanceTimesteps
from recycleseg.losses import SegmentationLoss
from recycleseg.models.unet import UNet
from recycleseg.ops.noise_step import x_to_mask

Arrays = dict[str, np.ndarray]
NUM_CLASSES = 3


def make_objective(
    prediction_type: str = "x_start",
    variance_type: str = "fixed_small",
    imgx_compat: bool = True,
    **weights: float,
) -> DiffusionObjective:
    diffusion = GaussianDiffusion(
        NoiseSchedule("linear", 1001),
        prediction_type=prediction_type,
        variance_type=variance_type,
        exclusive=True,
        imgx_compat=imgx_compat,
    )
    mse, vlb = weights.pop("mse", 0.0), weights.pop("vlb", 0.0)
    loss = SegmentationLoss(exclusive=True, imgx_compat=True, **weights)
    return DiffusionObjective(diffusion, loss, mse, vlb)


DICE_FOCAL = {"dice": 1.0, "focal": 1.0}
CASES: dict[str, tuple[Callable[[], Strategy], str]] = {
    "diffusion": (lambda: Standard(make_objective(**DICE_FOCAL), NUM_CLASSES), "params_std"),
    "diffusion_importance": (
        lambda: Standard(make_objective(**DICE_FOCAL), NUM_CLASSES),
        "params_std",
    ),
    "diffusion_noise_mse_vlb": (
        lambda: Standard(
            make_objective(
                "noise", "learned_range", dice=1.0, focal=0.0, cross_entropy=1.0, mse=0.3, vlb=0.1
            ),
            NUM_CLASSES,
        ),
        "params_learned",
    ),
    "recycling_max": (
        lambda: Recycling(make_objective(**DICE_FOCAL), NUM_CLASSES, "max"),
        "params_std",
    ),
    "recycling_next": (
        lambda: Recycling(make_objective(**DICE_FOCAL), NUM_CLASSES, "next"),
        "params_std",
    ),
    "recycling_next_reverse": (
        lambda: Recycling(make_objective(**DICE_FOCAL), NUM_CLASSES, "next", True),
        "params_std",
    ),
    "selfcond_same": (
        lambda: SelfConditioning(make_objective(**DICE_FOCAL), NUM_CLASSES, "same", 0.5),
        "params_selfcond",
    ),
    "selfcond_next": (
        lambda: SelfConditioning(make_objective(**DICE_FOCAL), NUM_CLASSES, "next", 0.5),
        "params_selfcond",
    ),
}


def subset(arrays: Arrays, prefix: str) -> Arrays:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def importance_weight(arrays: Arrays, t: Tensor) -> Tensor:
    timesteps = ImportanceTimesteps(1001, imgx_compat=True)
    timesteps.loss_sq = torch.from_numpy(arrays["in/loss_sq_hist(importance)"])
    return timesteps.loss_probs()[t] * 1001


@pytest.mark.parametrize("case", CASES)
def test_loss_step_matches_imgx(
    case: str,
    reference: Callable[[str], Arrays],
    channels_first: Callable[[np.ndarray], Tensor],
) -> None:
    arrays = reference("k_loss_steps")
    make_strategy, params = CASES[case]
    out = subset(arrays, case + "/")
    mask_channels = 2 * NUM_CLASSES if case.startswith("selfcond") else NUM_CLASSES
    network = UNet.from_imgx(subset(arrays, params + "/"), mask_channels=mask_channels)
    t = torch.from_numpy(out["t_index"]).long()
    weight = torch.ones(len(t))
    if case == "diffusion_importance":
        weight = importance_weight(arrays, t)
    uniforms = out.get("uniform_for_self_cond")
    draws = Draws(
        t,
        weight,
        tuple(channels_first(out[k]) for k in ("noise0", "noise1") if k in out),
        weight if uniforms is None else torch.from_numpy(uniforms),
    )
    strategy = make_strategy()
    result = strategy(
        network,
        channels_first(arrays["in/image"]),
        torch.from_numpy(arrays["in/label"]),
        draws,
    )
    result.loss.backward()

    # float32 through a dozen layers: the reference's own rounding is of this size.
    near = {"rtol": 2e-4, "atol": 2e-5}
    np.testing.assert_allclose(result.loss_per_sample.detach(), out["loss_batch"], **near)
    np.testing.assert_allclose(result.loss.detach(), out["loss"], **near)
    # From noise, x_start = (x_t - sqrt(1 - ab) noise) / sqrt(ab) multiplies rounding by up to 150,
    # and the logarithm of a small probability by more.
    atol = 1e-2 if case == "diffusion_noise_mse_vlb" else 2e-4
    np.testing.assert_allclose(
        result.logits.detach(), channels_first(out["logits"]), rtol=1e-3, atol=atol
    )
    gradients = UNet.from_imgx(subset(out, "grad/"), mask_channels=mask_channels)
    expected = dict(gradients.named_parameters())
    compared = 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        scale = max(float(expected[name].detach().abs().max()), 1e-3)
        np.testing.assert_allclose(
            parameter.grad / scale, expected[name].detach() / scale, atol=2e-3, err_msg=name
        )
        compared += 1
    assert compared == len(subset(out, "grad/"))
    if not isinstance(strategy, Supervised):
        assert strategy.num_noises == len(draws.noise)
        whole_range = case.startswith("diffusion") or case == "selfcond_same"
        assert strategy.t_range == (0, 1001 if whole_range else 1000)


class RecordingNetwork:
    """Answers with constant logits; remembers what it was shown and whether it had to learn."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.requires_grad_()
        self.calls: list[tuple[Tensor | None, Tensor | None, bool]] = []

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        assert mask is None
        shown = None if t is None else image[:, 1:].clone()
        self.calls.append((shown, t, torch.is_grad_enabled()))
        return self.logits * 1.0


def record(strategy: Strategy, t: Tensor) -> tuple[RecordingNetwork, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    network = RecordingNetwork(torch.randn(2, NUM_CLASSES, 6, 5, generator=generator))
    noises = tuple(
        torch.randn(2, NUM_CLASSES, 6, 5, generator=generator)
        for _ in range(0 if isinstance(strategy, Supervised) else strategy.num_noises)
    )
    label = torch.randint(NUM_CLASSES, (2, 6, 5), generator=generator)
    draws = Draws(t, torch.ones(2), noises, torch.zeros(2))
    strategy(network, torch.zeros(2, 1, 6, 5), label, draws).loss.backward()
    assert network.logits.grad is not None
    return network, noises


def test_recycling_noises_its_own_prediction() -> None:
    objective = make_objective(**DICE_FOCAL)
    diffusion = objective.diffusion
    t = torch.tensor([0, 400])
    network, noises = record(Recycling(objective, NUM_CLASSES), t)
    (_, t_first, first_learns), (mask, t_second, second_learns) = network.calls
    assert (first_learns, second_learns) == (False, True)
    assert t_first is not None and t_second is not None and mask is not None
    torch.testing.assert_close(t_first, torch.full((2,), 1.0))
    torch.testing.assert_close(t_second, (t + 1) / 1001)
    x_pred = 2 * network.logits.detach().softmax(1) - 1
    expected = x_to_mask(diffusion.q_sample(x_pred, t, noises[1]))
    torch.testing.assert_close(mask, expected)


def test_self_conditioning_next_sees_x_t_unless_told_to_do_as_imgx() -> None:
    t = torch.tensor([3, 700])
    masks = {}
    for imgx_compat in (False, True):
        objective = make_objective(imgx_compat=imgx_compat, **DICE_FOCAL)
        strategy = SelfConditioning(objective, NUM_CLASSES, "next", 0.5)
        network, _ = record(strategy, t)
        (mask_prev, _, _), (mask, _, _) = network.calls
        assert mask_prev is not None and mask is not None
        masks[imgx_compat] = mask[:, :NUM_CLASSES]
        x_prev_mask = mask_prev[:, :NUM_CLASSES]
        kept = mask[:, NUM_CLASSES:]
        torch.testing.assert_close(kept, network.logits.detach().softmax(1))
    torch.testing.assert_close(masks[True], x_prev_mask)
    assert not torch.allclose(masks[False], x_prev_mask)


def test_supervised_shows_neither_mask_nor_time() -> None:
    network = RecordingNetwork(torch.zeros(2, NUM_CLASSES, 6, 5))
    strategy = Supervised(SegmentationLoss(**DICE_FOCAL))
    label = torch.ones(2, 6, 5, dtype=torch.int64)
    result = strategy(network, torch.zeros(2, 1, 6, 5), label)
    assert network.calls == [(None, None, True)]
    assert result.t_index is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: Recycling(o, 3, "last"), "prev_step: expected 'max' or 'next', got 'last'"),
        (lambda o: Recycling(o, 3, "max", True), "reverse_step: expected False"),
        (lambda o: SelfConditioning(o, 3, "max"), "prev_step: expected 'same' or 'next'"),
        (lambda o: SelfConditioning(o, 3, "same", 1.5), "probability: expected 0 to 1, got 1.5"),
    ],
)
def test_wrong_options_are_named(
    make: Callable[[DiffusionObjective], Strategy], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(make_objective(**DICE_FOCAL))


def every_strategy(exclusive: bool) -> list[Strategy]:
    """All of them with all loss terms, and a network that predicts noise and variance too."""
    strategies: list[Strategy] = [Supervised(SegmentationLoss(1.0, 20.0, 0.5, exclusive=exclusive))]
    for prediction_type in ("x_start", "noise"):
        diffusion = GaussianDiffusion(
            NoiseSchedule("linear", 1001),
            prediction_type=prediction_type,
            variance_type="learned_range",
            exclusive=exclusive,
        )
        loss = SegmentationLoss(1.0, 20.0, 0.5, exclusive=exclusive)
        objective = DiffusionObjective(diffusion, loss, mse=0.3, vlb=0.1)
        strategies += [
            Standard(objective, NUM_CLASSES),
            Recycling(objective, NUM_CLASSES, "max"),
            Recycling(objective, NUM_CLASSES, "next", True),
            SelfConditioning(objective, NUM_CLASSES, "same", 0.5),
        ]
    return strategies


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("number", range(9))
def test_only_known_voxels_are_learned_from(number: int, exclusive: bool) -> None:
    """The loss and its gradient are those of an image that has these voxels alone."""
    strategy = every_strategy(exclusive)[number]
    supervised = isinstance(strategy, Supervised)
    generator = torch.Generator().manual_seed(0)
    channels = NUM_CLASSES if supervised else 2 * NUM_CLASSES
    logits = torch.randn(2, channels, 6, 5, generator=generator)
    num_noises = 0 if isinstance(strategy, Supervised) else strategy.num_noises
    noises = [torch.randn(2, NUM_CLASSES, 6, 5, generator=generator) for _ in range(num_noises)]
    shape = (2, 6, 5) if exclusive else (2, NUM_CLASSES, 6, 5)
    label = torch.randint(NUM_CLASSES if exclusive else 2, shape, generator=generator)
    label[..., 3:] = 0
    known = torch.zeros(2, 6, 5, dtype=torch.bool)
    known[..., :3] = True

    def step(width: int, known: Tensor | None) -> tuple[Tensor, Tensor]:
        network = RecordingNetwork(logits[..., :width].detach().clone())
        kept = tuple(noise[..., :width] for noise in noises)
        draws = Draws(torch.tensor([0, 400]), torch.ones(2), kept, torch.zeros(2))
        result = strategy(network, torch.zeros(2, 1, 6, width), label[..., :width], draws, known)
        result.loss.backward()
        assert network.logits.grad is not None
        return result.loss_per_sample, network.logits.grad

    loss, grad = step(5, known)
    expected, expected_grad = step(3, None)
    # float32 sums in another order; predicted noise multiplies their rounding
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad[..., :3], expected_grad, rtol=1e-4, atol=1e-6)
    assert (grad[..., 3:] == 0).all()
