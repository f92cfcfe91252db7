"""ddim_update against its formula and the samplers of recycleseg.diffusion, and its contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.samplers import ddim_step, ddpm_step
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.ops.ddim_update import ddim_update, ddim_update_reference
from recycleseg.ops.philox import philox_normal

SHAPE = (3, 4, 5, 6)
T_INDEX = torch.tensor([0, 4, 9])


def process(prediction_type: str, exclusive: bool) -> GaussianDiffusion:
    schedule = NoiseSchedule("linear", num_timesteps=10, beta_start=1e-3, beta_end=0.3)
    return GaussianDiffusion(schedule, prediction_type=prediction_type, exclusive=exclusive)


def coefficients_of_x_start(
    sampler: str, diffusion: GaussianDiffusion, eta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, s (3,) of x_prev = a * x_start + b * x_t + s * noise at T_INDEX, as the design has."""
    schedule = diffusion.schedule
    alphas_cumprod = schedule.alphas_cumprod[T_INDEX]
    alphas_cumprod_prev = schedule.alphas_cumprod_prev[T_INDEX]
    variance = schedule.posterior_variance[T_INDEX]
    if sampler == "ddpm":
        a = schedule.posterior_mean_coef_start[T_INDEX]
        b = schedule.posterior_mean_coef_t[T_INDEX]
        s = torch.where(T_INDEX > 0, variance.sqrt(), 0.0)
    else:
        s = eta * variance.sqrt()
        b = (1 - alphas_cumprod_prev - s.square()).sqrt() / (1 - alphas_cumprod).sqrt()
        a = alphas_cumprod_prev.sqrt() - b * alphas_cumprod.sqrt()
    return a, b, s


def coefficients_of(sampler: str, diffusion: GaussianDiffusion, eta: float) -> tuple[Tensor, ...]:
    """coefficients (3, 3) and start_coefficients (3, 2) of T_INDEX."""
    a, b, s = coefficients_of_x_start(sampler, diffusion, eta)
    alphas_cumprod = diffusion.schedule.alphas_cumprod[T_INDEX]
    start = torch.stack([alphas_cumprod.rsqrt(), -(1 / alphas_cumprod - 1).sqrt()], dim=1)
    if diffusion.prediction_type == "noise":
        a, b = a * start[:, 1], b + a * start[:, 0]
    return torch.stack([a, b, s], dim=1), start


def random_tensors(dtype: torch.dtype = torch.float64) -> Tensor:
    """model_out, x_t and noise."""
    return torch.randn((3, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("prediction_type", ["x_start", "noise"])
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 0.7), ("ddpm", 1.0)])
def test_is_the_samplers_step(
    sampler: str, eta: float, prediction_type: str, exclusive: bool
) -> None:
    diffusion = process(prediction_type, exclusive)
    model_out, x_t, noise = random_tensors()
    coefficients, start = coefficients_of(sampler, diffusion, eta)
    x_start = diffusion.predict_x_start(model_out, x_t, T_INDEX)
    a, b, s = (c.view(3, 1, 1, 1) for c in coefficients_of_x_start(sampler, diffusion, eta))
    expected = a * x_start + b * x_t + s * noise
    network_input = torch.full((3, 6, 5, 6), torch.nan, dtype=torch.float64)
    mean = torch.ones_like(x_t)
    update = ddim_update(
        model_out,
        x_t,
        coefficients,
        prediction_type=prediction_type,
        start_coefficients=start,
        exclusive=exclusive,
        noise=noise if eta else None,
        network_input=network_input,
        first_channel=1,
        return_label=exclusive,
        return_probs=True,
        probs_mean=mean,
        mean_weight=0.25,
    )
    probs = (x_start.clip(-1, 1) + 1) / 2
    torch.testing.assert_close(update.x_prev, expected)
    torch.testing.assert_close(update.probs, probs)
    torch.testing.assert_close(mean, 0.75 + 0.25 * probs)
    torch.testing.assert_close(network_input[:, 1:5], (expected.clip(-1, 1) + 1) / 2)
    assert network_input[:, [0, 5]].isnan().all()
    if exclusive:
        assert update.label is not None
        assert update.label.dtype == torch.uint8
        assert update.label.equal(probs.argmax(1).to(torch.uint8))
    if sampler == "ddpm":
        sampled = ddpm_step(diffusion, model_out, x_t, T_INDEX, noise=noise)
    else:
        sampled = ddim_step(diffusion, model_out, x_t, T_INDEX, eta=eta, noise=noise)
    torch.testing.assert_close(sampled, (expected, x_start))


def test_draws_the_noise_of_its_seed_and_none_without() -> None:
    model_out, x_t, _ = random_tensors(torch.float32)
    coefficients = torch.rand((3, 3), generator=torch.Generator().manual_seed(1))
    noise = philox_normal(SHAPE, 5, 6)
    drawn = ddim_update(model_out, x_t, coefficients, seed=torch.tensor(5), offset=6)
    given = ddim_update(model_out, x_t, coefficients, noise=noise)
    without = ddim_update(model_out, x_t, coefficients)
    assert drawn.x_prev.equal(given.x_prev)
    assert without.x_prev.equal(ddim_update(model_out, x_t, coefficients, noise=0 * noise).x_prev)
    assert without[1:] == (None, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_computes_in_float32_in_the_layout_of_x_t(dtype: torch.dtype) -> None:
    model_out, x_t, _ = random_tensors(torch.float32)
    coefficients = torch.rand((3, 3), generator=torch.Generator().manual_seed(1))
    last = x_t.contiguous(memory_format=torch.channels_last)
    model_out = model_out.to(dtype).requires_grad_()
    update = ddim_update(model_out, last, coefficients, return_probs=True)
    expected = ddim_update(model_out.float(), x_t, coefficients)
    assert update.x_prev.equal(expected.x_prev)
    for result in (update.x_prev, update.probs):
        assert result is not None
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert not result.requires_grad
    assert ddim_update(model_out, x_t.to(dtype), coefficients).x_prev.dtype == torch.float32


def test_the_reference_is_differentiable() -> None:
    model_out, x_t, noise = random_tensors()[:, :, :, :2, 0]
    diffusion = process("x_start", True)
    coefficients, _ = coefficients_of("ddim", diffusion, 0.5)

    def step(model_out: Tensor, x_t: Tensor) -> Tensor:
        return ddim_update_reference(model_out, x_t, coefficients, noise=noise)[0]

    leaves = model_out.clone().requires_grad_(), x_t.clone().requires_grad_()
    assert torch.autograd.gradcheck(step, leaves)


@pytest.mark.parametrize("prediction_type", ["x_start", "noise"])
def test_compiled_full_graph_equals_eager(prediction_type: str) -> None:
    def step(model_out: Tensor, x_t: Tensor, **kwargs: Any) -> tuple[Tensor | None, ...]:
        update = ddim_update(
            2 * model_out,
            x_t,
            coefficients,
            prediction_type=prediction_type,
            start_coefficients=start,
            return_label=True,
            return_probs=True,
            **kwargs,
        )
        return update.x_prev + 1, update.label, update.probs

    diffusion = process(prediction_type, True)
    coefficients, start = (c.float() for c in coefficients_of("ddim", diffusion, 0.5))
    model_out, x_t, noise = random_tensors(torch.float32)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for draw in ({}, {"noise": noise}, {"seed": 1}, {"seed": torch.tensor(1), "offset": 2}):
        results = []
        for run in (compiled, step):
            written = {"network_input": torch.ones(3, 5, 5, 6), "probs_mean": torch.ones(SHAPE)}
            given = {**draw, **written, "first_channel": 1, "mean_weight": 0.5}
            results.append([*run(model_out, x_t, **given), *written.values()])
        torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_out": torch.zeros(2, 3)}, r"model_out: expected floating point \(B, C, \*S\)"),
        ({"model_out": torch.zeros(2, 3, 5).int()}, "model_out: expected floating .* torch.int32"),
        ({"x_t": torch.zeros(2, 4, 5)}, r"x_t: expected floating point of shape \(2, 3, 5\), got"),
        ({"x_t": torch.zeros(2, 3, 5, device="meta")}, "x_t: expected a tensor on cpu, got meta"),
        ({"coefficients": torch.zeros(2, 2)}, r"coefficients: expected .* \(2, 3\), got .* \(2, 2"),
        ({"coefficients": torch.zeros(2, 3).double()}, "coefficients: expected torch.float32"),
        ({"prediction_type": "v"}, r"prediction_type: expected one of \('x_start', 'noise'\)"),
        (
            {"prediction_type": "noise", "return_probs": True},
            r"start_coefficients: expected \(B, 2\) for the label, probs or .* got None",
        ),
        (
            {
                "prediction_type": "noise",
                "return_label": True,
                "start_coefficients": torch.zeros(2, 3),
            },
            r"start_coefficients: expected .* \(2, 2\), got",
        ),
        ({"seed": 0, "noise": torch.zeros(2, 3, 5)}, "noise, seed: expected at most one of them"),
        ({"noise": torch.zeros(2, 3, 4)}, r"noise: expected .* \(2, 3, 5\), got"),
        ({"seed": torch.zeros(1)}, "seed: expected an int or a 0-d int64 tensor"),
        ({"seed": 1, "offset": 2**60}, "offset: expected 0 to"),
        ({"network_input": torch.zeros(2, 4, 5), "first_channel": 2}, "network_input: expected"),
        ({"return_label": True, "exclusive": False}, "return_label: expected False of overlapping"),
        ({"probs_mean": torch.zeros(2, 3, 5)}, "probs_mean, mean_weight: .* got no mean_weight"),
        ({"mean_weight": 1.0}, "probs_mean, mean_weight: .* got no probs_mean"),
        (
            {"probs_mean": torch.zeros(2, 3, 5).half(), "mean_weight": 1.0},
            "probs_mean: expected torch.float32 .*, got torch.float16",
        ),
        (
            {"probs_mean": torch.zeros(2, 3, 5), "mean_weight": torch.ones(1)},
            r"mean_weight: expected torch.float32 of shape \(\), got",
        ),
        ({"backend": "cpp"}, r"backend: expected one of \('auto', 'triton', 'reference'\)"),
        ({"backend": "triton"}, "backend='triton': expected CUDA tensors, got cpu"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments = {
        "model_out": torch.zeros(2, 3, 5),
        "x_t": torch.zeros(2, 3, 5),
        "coefficients": torch.zeros(2, 3),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        ddim_update(**arguments)
