"""Samplers against their equations and against the arrays computed by ImgX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recycleseg.diffusion.network import NetworkInput
from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.samplers import ddim_step, ddpm_step, reverse_step, sample
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.ops.noise_step import x_to_mask

# float32 rounding; the state has values of up to 5, the predicted x_start of up to 1e2 from noise
ROUNDING = {"rtol": 5e-6, "atol": 5e-6}


def diffusion_of(steps: int = 5, **options: Any) -> GaussianDiffusion:
    return GaussianDiffusion(NoiseSchedule("linear", 1001).respace(steps), **options)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_steps_equal_imgx(
    reference: Callable[[str], dict[str, np.ndarray]],
    channels_first: Callable[[np.ndarray], Tensor],
    imgx_schedule: Callable[..., NoiseSchedule],
) -> None:
    arrays = reference("c_samplers")
    outputs = {key for key in arrays if key.count("/") == 5}
    inputs = {"model_out", "model_out_var", "x_t", "noise", "t_index"}
    assert {key.split("/")[-1] for key in set(arrays) - outputs} == inputs
    steps: dict[str, Callable[..., Tensor]] = {
        "ddpm_sample": lambda d, out, x_t, t, noise: ddpm_step(d, out, x_t, t, noise=noise)[0],
        "ddim_sample": lambda d, out, x_t, t, noise: ddim_step(d, out, x_t, t)[0],
        "x_start_pred": lambda d, out, x_t, t, noise: ddpm_step(d, out, x_t, t, noise=noise)[1],
        "p_mean": lambda d, out, x_t, t, noise: d.p_mean_variance(out, x_t, t)[0],
        "p_log_variance": lambda d, out, x_t, t, noise: d.p_mean_variance(out, x_t, t)[1],
        "x_to_logits(x_start_pred)": lambda d, out, x_t, t, noise: d.x_to_logits(
            d.predict_x_start(out, x_t, t)
        ),
        "model_out_to_logits_start": lambda d, out, x_t, t, noise: d.predict_logits(out, x_t, t),
        "predict_noise_from_model_out_xt": lambda d, out, x_t, t, noise: d.predict_noise(
            out, x_t, t
        ),
    }
    for key in sorted(outputs):
        dim, size, prediction_type, exclusive, variance_type, output = key.split("/")
        names = ["model_out", *(["model_out_var"] if "learned" in variance_type else [])]
        model_out = torch.cat([channels_first(arrays[f"{dim}/in/{name}"]) for name in names], 1)
        x_t, noise = (channels_first(arrays[f"{dim}/in/{name}"]) for name in ("x_t", "noise"))
        t = torch.from_numpy(arrays[f"{dim}/{size}/t_index"]).long()
        diffusion = GaussianDiffusion(
            # by way of the noise: that is how ImgX takes its DDIM step
            imgx_schedule("linear", int(size[1:]), by_ratio=True),
            prediction_type=prediction_type,
            variance_type=variance_type,
            exclusive=exclusive == "exclusive",
            imgx_compat=True,
        )
        ours = steps[output](diffusion, model_out, x_t, t, noise)
        theirs = channels_first(arrays[key])
        # the noise follows from a small difference: 1e2 times the rounding of its terms
        atol = 1e-4 if output == "predict_noise_from_model_out_xt" else 5e-6
        torch.testing.assert_close(
            ours, theirs, rtol=5e-6, atol=atol, msg=lambda m, k=key: f"{k}: {m}"
        )
        if output == "x_start_pred":
            _, of_ddim = ddim_step(diffusion, model_out, x_t, t)
            assert of_ddim.equal(ours)


def noise_of(*shape: int, seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12(eta: float) -> None:
    """Equations 12 and 16 of Song et al., in their own symbols, sample by sample in Python."""
    diffusion = diffusion_of(11, prediction_type="noise")
    x_t, predicted_noise, noise = torch.randn(3, 11, dtype=torch.float64, generator=seeded())
    t = torch.arange(11)
    shape = (11, 1, 1)
    x_prev, x_start = ddim_step(
        diffusion,
        predicted_noise.view(shape),
        x_t.view(shape),
        t,
        eta=eta,
        noise=noise.view(shape),
    )
    for i in range(11):
        alpha = float(diffusion.schedule.alphas_cumprod[i])
        alpha_prev = float(diffusion.schedule.alphas_cumprod[i - 1]) if i else 1.0
        sigma = eta * math.sqrt((1 - alpha_prev) / (1 - alpha)) * math.sqrt(1 - alpha / alpha_prev)
        epsilon = float(predicted_noise[i])
        start = (float(x_t[i]) - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)
        direction = math.sqrt(1 - alpha_prev - sigma**2) * epsilon
        expected = math.sqrt(alpha_prev) * start + direction + sigma * float(noise[i])
        assert math.isclose(float(x_start[i]), start, rel_tol=1e-9)
        # sqrt(1 - alpha_prev - sigma^2) loses digits where it is all but 0, at t_index 0 and 1
        assert math.isclose(float(x_prev[i]), expected, rel_tol=1e-9, abs_tol=1e-9)


def test_ddim_at_eta_1_is_ddpm() -> None:
    """Song et al., section 4.1: the same mean and variance as the DDPM posterior."""
    diffusion = diffusion_of(5)
    model_out, x_t, noise = torch.randn(3, 5, 3, 4, dtype=torch.float64, generator=seeded())
    t = torch.arange(5)
    ddim, _ = ddim_step(diffusion, model_out, x_t, t, eta=1.0, noise=noise)
    ddpm, _ = ddpm_step(diffusion, model_out, x_t, t, noise=noise)
    torch.testing.assert_close(ddim, ddpm, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("step", [ddpm_step, ddim_step])
def test_last_step_gives_the_prediction(step: Callable[..., tuple[Tensor, Tensor]]) -> None:
    model_out, x_t, noise = torch.randn(3, 2, 3, 4, generator=seeded())
    options = {"eta": 1.0} if step is ddim_step else {}
    t = torch.zeros(2, dtype=torch.int64)
    x_prev, x_start = step(diffusion_of(), model_out, x_t, t, noise=noise, **options)
    torch.testing.assert_close(x_prev, x_start)


def test_imgx_sigma_is_the_log_variance() -> None:
    model_out, x_t, noise = torch.randn(3, 2, 3, 4, generator=seeded())
    t = torch.tensor([1, 4])
    ours, imgx = diffusion_of(), diffusion_of(imgx_compat=True)
    assert ddim_step(ours, model_out, x_t, t, eta=0.5, noise=noise)[0].isfinite().all()
    assert ddim_step(imgx, model_out, x_t, t, eta=0.5, noise=noise)[0][0].isnan().all()
    plain, _ = ddim_step(ours, model_out, x_t, t)
    torch.testing.assert_close(ddim_step(imgx, model_out, x_t, t)[0], plain)


def test_sampling_follows_the_switch_of_the_diffusion() -> None:
    network = Recorder(torch.randn(1, 2, 4, 3, generator=seeded()))
    image = torch.zeros(1, 1, 4, 3)
    for imgx_compat in (False, True):
        diffusion = diffusion_of(imgx_compat=imgx_compat)
        *_, probs = sample(network, diffusion, image, 2, noise=noise_of(1, 2, 4, 3), eta=0.5)
        assert probs.isfinite().all()
        # with ImgX's sigma, the state that the second step sees is lost
        assert network.masks[-1].isnan().any() == imgx_compat


def test_ddim_ignores_a_learned_variance() -> None:
    model_out, variance, x_t = torch.randn(3, 2, 3, 4, generator=seeded())
    t = torch.tensor([1, 4])
    expected = ddim_step(diffusion_of(), model_out, x_t, t)
    learned = diffusion_of(variance_type="learned_range")
    ours = ddim_step(learned, torch.cat([model_out, variance], 1), x_t, t)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("step", ["ddpm", "ddim", "ddim eta"])
def test_steps_compile_as_one_graph(step: str) -> None:
    diffusion = diffusion_of()

    def reverse(model_out: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        if step == "ddpm":
            return ddpm_step(diffusion, model_out, x_t, t, noise=noise)
        eta = 0.5 if step == "ddim eta" else 0.0
        return ddim_step(diffusion, model_out, x_t, t, eta=eta, noise=noise)

    model_out, x_t, noise = torch.randn(3, 3, 2, 6, generator=seeded())
    arguments = (model_out, x_t, torch.tensor([0, 2, 4]), noise)
    compiled = torch.compile(reverse, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), reverse(*arguments), **ROUNDING)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("variance_type", ["fixed_large", "learned", "learned_range"])
@pytest.mark.parametrize("prediction_type", ["x_start", "noise"])
def test_the_public_steps_are_the_step_of_the_sampler(
    sampler: Any, variance_type: str, prediction_type: str
) -> None:
    diffusion = diffusion_of(variance_type=variance_type, prediction_type=prediction_type)
    model_out, variance, x_t, noise = torch.randn(4, 3, 2, 6, generator=seeded())
    if diffusion.learns_variance:
        model_out = torch.cat([model_out, variance], 1)
    arguments = (diffusion, model_out, x_t, torch.tensor([0, 2, 4]))
    x = NetworkInput(torch.zeros(3, 1, 6), 4)
    x.mask.fill_(-1)
    x_prev, probs = reverse_step(*arguments, x, sampler=sampler, eta=0.5, noise=noise)
    if sampler == "ddpm":
        expected, x_start = ddpm_step(*arguments, noise=noise)
    else:
        expected, x_start = ddim_step(*arguments, eta=0.5, noise=noise)
    assert x_prev.equal(expected)
    torch.testing.assert_close(probs, x_to_mask(x_start))
    assert x.mask[:, :2].equal(x_to_mask(x_prev))
    assert bool((x.mask[:, 2:] == -1).all())
    assert x.tensor[:, 0].equal(torch.zeros(3, 6))


class Recorder:
    """A network that keeps what it is given and answers with fixed logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.masks: list[Tensor] = []
        self.times: list[Tensor] = []

    def __call__(
        self, image: Tensor, mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        assert mask is None and t is not None
        self.masks.append(image[:, 1:].clone())
        self.times.append(t)
        return self.logits + len(self.masks)


@pytest.mark.parametrize("self_conditioning", [False, True])
def test_sampling_loop(self_conditioning: bool) -> None:
    diffusion = diffusion_of()
    image = torch.zeros(2, 1, 4, 3)
    network = Recorder(torch.randn(2, 3, 4, 3, generator=seeded()).requires_grad_())
    x_T = torch.randn(2, 3, 4, 3, generator=seeded())
    steps = list(
        sample(network, diffusion, image, 3, noise=lambda: x_T, self_conditioning=self_conditioning)
    )
    assert len(steps) == len(network.masks) == 5
    assert not any(probs.requires_grad for probs in steps)
    # indices 1000, 750, 500, 250, 0 of the training schedule
    times = torch.stack(network.times)[:, 0]
    torch.testing.assert_close(times, (torch.arange(1000, -1, -250) + 1) / 1001)

    x_t, previous = x_T, torch.zeros_like(x_T)
    for i, mask in enumerate(network.masks):
        expected = x_to_mask(x_t)
        if self_conditioning:
            expected = torch.cat([expected, previous], 1)
        torch.testing.assert_close(mask, expected)
        t = torch.full((2,), 4 - i)
        x_t, x_start = ddim_step(diffusion, network.logits.detach() + i + 1, x_t, t)
        previous = x_to_mask(x_start)
        torch.testing.assert_close(steps[i], previous)


@pytest.mark.parametrize("options", [{}, {"eta": 1.0}, {"sampler": "ddpm"}])
def test_sampling_is_seeded(options: dict[str, Any]) -> None:
    def network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        return 3 * image[:, 1:] + image[:, :1]

    def last(seed: int) -> Tensor:
        noise = noise_of(1, 2, 8, 6, 4, seed=seed)
        image = torch.ones(1, 1, 8, 6, 4)
        *_, probs = sample(network, diffusion_of(), image, 2, noise=noise, **options)
        return probs

    assert last(1).shape == (1, 2, 8, 6, 4)
    assert last(1).equal(last(1))
    assert not last(1).equal(last(2))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_sampling_finds_what_a_perfect_network_knows(sampler: Any) -> None:
    label = torch.randint(0, 3, (2, 6, 5), generator=seeded())
    x_start = diffusion_of().label_to_x(label, 3)

    def network(image: Tensor, mask: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        return 20 * x_start

    for steps in (1, 2, 5, 1001):
        arguments = (network, diffusion_of(steps), torch.zeros(2, 1, 6, 5), 3)
        *_, probs = sample(*arguments, sampler=sampler, noise=noise_of(2, 3, 6, 5))
        assert probs.argmax(1).equal(label)


@pytest.mark.parametrize("imgx_compat", [False, True])
@pytest.mark.parametrize("prediction_type", ["x_start", "noise"])
@pytest.mark.parametrize(
    "variance_type", ["fixed_small", "fixed_large", "learned", "learned_range"]
)
@pytest.mark.parametrize("options", [{}, {"eta": 1.0}, {"sampler": "ddpm"}], ids=str)
def test_one_step_is_one_prediction_from_noise(
    options: dict[str, Any], variance_type: str, prediction_type: str, imgx_compat: bool
) -> None:
    if imgx_compat:
        options = {**options, "eta": 0.0}  # ImgX's sigma is NaN above
    types = {"prediction_type": prediction_type, "variance_type": variance_type}
    diffusion = diffusion_of(1, imgx_compat=imgx_compat, **types)
    channels = 4 if diffusion.learns_variance else 2
    # float64, because x_start from the noise at T - 1 is a difference of large numbers. The
    # variance is large as well, up to a sigmoid of 1.
    model_out = torch.randn(1, channels, 4, 3, generator=seeded(), dtype=torch.float64)
    model_out[:, 2:].mul_(60)
    network = Recorder(model_out - 1)
    image, x_T = torch.zeros(1, 1, 4, 3), noise_of(1, 2, 4, 3)().double()
    (probs,) = sample(network, diffusion, image, 2, noise=lambda: x_T, **options)
    assert torch.cat(network.times).tolist() == [1.0]
    t = torch.zeros(1, dtype=torch.int64)
    x_start = diffusion.predict_x_start(model_out, x_T, t)
    torch.testing.assert_close(probs, x_to_mask(x_start))
    x_0, _ = reverse_step(diffusion, model_out, x_T, t, noise=x_T, **options)
    torch.testing.assert_close(x_0, x_start)


def test_bad_arguments() -> None:
    x = torch.zeros(1, 2, 3)
    t = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\], got 1.5"):
        ddim_step(diffusion_of(), x, x, t, eta=1.5)
    with pytest.raises(ValueError, match=r"eta = 0.5 needs noise, got None"):
        ddim_step(diffusion_of(), x, x, t, eta=0.5)
    for step in (ddim_step, ddpm_step):
        with pytest.raises(ValueError, match=r"t_index must have shape \(1,\)"):
            step(diffusion_of(), x, x, torch.zeros(2, dtype=torch.int64), noise=x)
        for dtype in (torch.int32, torch.complex64):
            with pytest.raises(ValueError, match="model_out: expected floating point"):
                step(diffusion_of(), x.to(dtype), x, t, noise=x)
            with pytest.raises(ValueError, match="x_t: expected floating point of shape"):
                step(diffusion_of(), x, x.to(dtype), t, noise=x)
    network = Recorder(x)
    for dtype in (torch.int32, torch.complex64):
        with pytest.raises(ValueError, match=f"image: expected floating point, got {dtype}"):
            next(sample(network, diffusion_of(), x.to(dtype), 2, noise=lambda: x))
    with pytest.raises(ValueError, match="unknown sampler 'euler', expected 'ddim' or 'ddpm'"):
        next(sample(network, diffusion_of(), x, 2, noise=lambda: x, sampler="euler"))
    with pytest.raises(ValueError, match=r"noise must give shape \(1, 4, 3\), got \(1, 2, 3\)"):
        next(sample(network, diffusion_of(), x, 4, noise=lambda: x))
