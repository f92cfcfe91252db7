"""The Gaussian process against its equations and against the arrays computed by ImgX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recycleseg.classes import probabilities
from recycleseg.diffusion.likelihood import noise_mse_loss, vlb_loss
from recycleseg.diffusion.process import GaussianDiffusion
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.ops.noise_step import x_to_mask

Reference = Callable[[str], dict[str, np.ndarray]]
ChannelsFirst = Callable[[np.ndarray], Tensor]

# float32 rounding, relative to operands that are about 10 at most
ROUNDING = {"rtol": 2e-6, "atol": 2e-6}

VARIANCE_TYPES = ["fixed_small", "fixed_large", "learned", "learned_range"]


def diffusion_of(steps: int = 1001, **options: Any) -> GaussianDiffusion:
    return GaussianDiffusion(NoiseSchedule("linear", 1001).respace(steps), **options)


# arrays computed by ImgX


@pytest.mark.parametrize("dim", ["2d", "3d"])
def test_operations_equal_imgx(
    reference: Reference, channels_first: ChannelsFirst, imgx_schedule: Any, dim: str
) -> None:
    arrays = reference("b_gaussian_ops")
    inputs = {
        name: channels_first(arrays[f"{dim}/in/{name}"])
        for name in ("x_start", "x_start_soft", "noise", "x_t")
    }
    x_start, soft, noise, x_t = inputs.values()
    zero, one = torch.zeros_like(noise), torch.ones_like(noise)
    label = torch.from_numpy(arrays[f"{dim}/in/label"])
    any_diffusion = diffusion_of(imgx_compat=True)
    close(any_diffusion.label_to_x(label, x_start.shape[1]), x_start, "label_to_x")
    seen = {f"{dim}/in/label", *(f"{dim}/in/{name}" for name in inputs)}

    for key in sorted(k for k in arrays if k.startswith(dim) and k not in seen):
        seen.add(key)
        _, *process, output = key.split("/")
        if not process:
            ours = {
                "mask_to_x": lambda: any_diffusion.label_to_x(label, x_start.shape[1]),
                "x_to_logits(x_start_soft)": lambda: any_diffusion.x_to_logits(soft),
                "x_to_logits(x_t)": lambda: any_diffusion.x_to_logits(x_t),
            }[output]()
            close(ours, channels_first(arrays[key]), key, **ROUNDING)
            continue
        t = torch.from_numpy(arrays["/".join([dim, *process, "t_index"])]).long()
        # these two go by sqrt(1 / alphas_cumprod - 1), which ImgX keeps in float32
        by_ratio = output in ("predict_noise_from_xstart_xt", "predict_xstart_from_noise_xt")
        schedule = imgx_schedule(process[0], int(process[1][1:]), by_ratio=by_ratio)
        d = GaussianDiffusion(schedule, imgx_compat=True)
        ours = {
            "t_index": lambda d, t: t.int(),
            "t": lambda d, t: d.network_time(t),
            "q_sample": lambda d, t: d.q_sample(x_start, t, noise),
            "x_to_mask(q_sample)": lambda d, t: x_to_mask(d.q_sample(x_start, t, noise)),
            "q_mean": lambda d, t: d.q_sample(soft, t, zero),
            "q_log_variance": lambda d, t: d.q_sample(zero, t, one).square().log().flatten(1)[:, 0],
            "q_posterior_mean": lambda d, t: d.q_posterior(soft, x_t, t)[0],
            "q_posterior_log_variance": lambda d, t: d.q_posterior(soft, x_t, t)[1].flatten(),
            "predict_xprev_from_xstart_xt": lambda d, t: d.predict_x_prev(soft, x_t, t),
            "predict_xstart_from_noise_xt": lambda d, t: d.predict_x_start_from_noise(
                x_t, t, noise
            ),
            "predict_noise_from_xstart_xt": lambda d, t: d.predict_noise_from_x_start(x_t, t, soft),
        }[output](d, t)
        theirs = channels_first(arrays[key]) if ours.ndim > 1 else flat(arrays[key])
        # the two predictions subtract terms up to 1e2 times as large as their result
        atol = 2e-4 if by_ratio else 2e-6
        close(ours, theirs, key, rtol=2e-6, atol=atol)
    assert seen == {key for key in arrays if key.startswith(dim)}
    assert {key.split("/")[0] for key in arrays} == {"2d", "3d"}


@pytest.mark.parametrize("variance_type", VARIANCE_TYPES)
@pytest.mark.parametrize("prediction_type", ["x_start", "noise"])
@pytest.mark.parametrize("dim", ["2d", "3d"])
def test_losses_equal_imgx(
    reference: Reference,
    channels_first: ChannelsFirst,
    imgx_schedule: Any,
    dim: str,
    prediction_type: str,
    variance_type: str,
) -> None:
    arrays = reference("d_vlb_mse")
    x_start = channels_first(arrays[f"{dim}/in/x_start"])
    noise = channels_first(arrays[f"{dim}/in/noise"])
    cotangent = torch.from_numpy(arrays[f"{dim}/in/ct_b"])
    label = torch.from_numpy(arrays[f"{dim}/in/label"])
    close(diffusion_of().label_to_x(label, x_start.shape[1]), x_start, "label_to_x")
    inputs = ["model_out", *(["model_out_var"] if variance_type.startswith("learned") else [])]
    model_out = torch.cat([channels_first(arrays[f"{dim}/in/{name}"]) for name in inputs], dim=1)
    keys = [
        key
        for key in arrays
        if key.startswith(dim) and key.split("/")[2:5:2] == [prediction_type, variance_type]
    ]
    assert keys
    for key in keys:
        _, steps, _, exclusive, _, output = key.split("/")
        t = torch.from_numpy(arrays[f"{dim}/{steps}/t_index"]).long()
        x_t = channels_first(arrays[f"{dim}/{steps}/x_t"])
        options: dict[str, Any] = {
            "prediction_type": prediction_type,
            "variance_type": variance_type,
            "exclusive": exclusive == "exclusive",
            "imgx_compat": True,
        }
        schedule = imgx_schedule("linear", int(steps[1:]))
        close(GaussianDiffusion(schedule).q_sample(x_start, t, noise), x_t, "x_t", **ROUNDING)
        by_ratio = imgx_schedule("linear", int(steps[1:]), by_ratio=True)
        if prediction_type == "noise" or output.startswith("mse"):
            schedule = by_ratio
        d = GaussianDiffusion(schedule, **options)
        out = model_out.clone().requires_grad_()
        if output.startswith("vlb"):
            loss = vlb_loss(d, out, x_start, x_t, t)
        else:
            loss = noise_mse_loss(d, out, x_t, t, noise)
        if output.endswith("loss"):
            close(loss.detach(), torch.from_numpy(arrays[key]), key, rtol=5e-6, atol=1e-6)
            continue
        gradient = torch.zeros_like(out)  # a fixed variance: theirs stops it all
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad((loss * cotangent).sum(), out)
        # sums of float32 products up to 5e2, relative to the largest
        theirs = channels_first(arrays[key])
        close(gradient, theirs, key, rtol=2e-6, atol=1e-6 * (1 + float(theirs.abs().max())))


def test_losses_leave_no_array_out(reference: Reference) -> None:
    keys = {key for key in reference("d_vlb_mse") if "/in/" not in key}
    kinds = {tuple(key.split("/")[2:]) for key in keys}
    outputs = {f"{loss}_{what}" for loss in ("vlb", "mse") for what in ("loss", "grad_ct_b")}
    assert {kind for kind in kinds if len(kind) == 1} == {("t_index",), ("x_t",)}
    assert {kind for kind in kinds if len(kind) > 1} == {
        (prediction, exclusive, variance, output)
        for prediction in ("x_start", "noise")
        for exclusive in ("exclusive", "nonexclusive")
        for variance in VARIANCE_TYPES
        for output in outputs
    }


# the literature


def test_network_time_is_that_of_training() -> None:
    schedule = NoiseSchedule("linear", 1001)
    t = torch.tensor([0, 2, 4])
    train_index = torch.tensor([0, 500, 1000])
    time = GaussianDiffusion(schedule.respace(5)).network_time(t)
    assert time.dtype == torch.float32
    assert time.equal(GaussianDiffusion(schedule).network_time(train_index))
    close(time, (train_index + 1) / 1001, "time")
    imgx = GaussianDiffusion(schedule.respace(5), imgx_compat=True).network_time(t)
    close(imgx, torch.tensor([0.2, 0.6, 1.0]), "time of ImgX")


@pytest.mark.parametrize("exclusive", [True, False])
def test_x_to_logits_inverts_logits_to_x(exclusive: bool) -> None:
    d = diffusion_of(exclusive=exclusive)
    logits = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=seeded())
    x = d.logits_to_x(logits)
    # exact in real numbers while no probability is below the smallest kept one
    close(d.logits_to_x(d.x_to_logits(x)), x, "x", rtol=1e-12, atol=1e-12)
    extremes = d.x_to_logits(torch.tensor([-3.0, -1.0, 1.0, 3.0]).view(1, 4, 1))
    assert bool(extremes.isfinite().all())


@pytest.mark.parametrize("exclusive", [True, False])
def test_probabilities_and_masks(exclusive: bool) -> None:
    d = diffusion_of(exclusive=exclusive)
    logits = torch.randn(2, 3, 5, 4, generator=seeded())
    probs = probabilities(logits, d.exclusive)
    if exclusive:
        close(probs.sum(1), torch.ones(2, 5, 4), "sum of probabilities")
    close(x_to_mask(d.logits_to_x(logits)), probs, "mask")
    assert x_to_mask(torch.tensor([-7.0, 7.0])).tolist() == [0, 1]


def test_overlapping_labels_are_masks() -> None:
    d = diffusion_of(exclusive=False)
    mask = torch.randint(0, 2, (2, 3, 4, 5), dtype=torch.uint8, generator=seeded())
    assert d.label_to_x(mask, 3).equal(2 * mask.float() - 1)
    assert x_to_mask(d.label_to_x(mask, 3)).equal(mask.float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_exclusive_labels_become_one_hot(dtype: torch.dtype) -> None:
    label = torch.tensor([[[0, 2], [1, 1]]], dtype=dtype)
    x = diffusion_of().label_to_x(label, 3)
    assert x.shape == (1, 3, 2, 2)
    assert x.argmax(1).equal(label.long())
    assert x.sum() == -4


def test_noise_and_x_start_determine_each_other() -> None:
    d = diffusion_of(exclusive=True)
    x_start, noise = torch.randn(2, 4, 3, 6, dtype=torch.float64, generator=seeded())
    x_start, noise = x_start.view(4, 3, 6), noise.view(4, 3, 6)
    t = torch.tensor([0, 3, 500, 1000])
    x_t = d.q_sample(x_start, t, noise)
    # x_start is 6e-3 of x_t at the last step
    close(d.predict_x_start_from_noise(x_t, t, noise), x_start, "x_start", rtol=1e-9, atol=1e-9)
    close(d.predict_noise_from_x_start(x_t, t, x_start), noise, "noise", rtol=1e-9, atol=1e-9)


def test_posterior_mean_and_variance_are_those_of_the_schedule() -> None:
    d = diffusion_of(5)
    x_start, x_t = torch.randn(2, 5, 2, 7, dtype=torch.float64, generator=seeded())
    t = torch.arange(5)
    mean, log_variance = d.q_posterior(x_start, x_t, t)
    s = d.schedule
    expected = (
        s.posterior_mean_coef_start.view(5, 1, 1) * x_start
        + s.posterior_mean_coef_t.view(5, 1, 1) * x_t
    )
    close(mean, expected, "mean")
    close(log_variance.flatten(), s.posterior_log_variance_clipped, "log variance")


def test_learned_range_lies_between_the_fixed_variances() -> None:
    x_t = torch.zeros(4, 2, 3)
    t = torch.tensor([0, 1, 2, 4])

    def log_variance(variance_type: Any, variance_out: float | None = None) -> Tensor:
        channels = 2 if variance_out is None else 4
        model_out = torch.full((4, channels, 3), variance_out or 0.0)
        d = diffusion_of(5, variance_type=variance_type)
        return d.p_mean_variance(model_out, x_t, t)[1].expand(4, 2, 3)

    small, large = log_variance("fixed_small"), log_variance("fixed_large")
    assert small[0].equal(large[0])
    assert bool((small[1:] < large[1:]).all())
    close(log_variance("learned_range", -50.0), small, "least")
    close(log_variance("learned_range", 50.0)[1:], large[1:], "largest")
    middle = log_variance("learned_range", 0.0)[1:]
    close(middle, (small + large)[1:] / 2, "middle")
    assert bool((log_variance("learned", 0.25) == 0.25).all())


def gaussian_kl(mean_p: float, variance_p: float, mean_q: float, variance_q: float) -> float:
    p = torch.distributions.Normal(mean_p, math.sqrt(variance_p))
    q = torch.distributions.Normal(mean_q, math.sqrt(variance_q))
    return float(torch.distributions.kl_divergence(p, q))


@pytest.mark.parametrize("imgx_compat", [False, True])
def test_vlb_is_kl_of_posterior_from_model(imgx_compat: bool) -> None:
    d = diffusion_of(11, prediction_type="noise", variance_type="learned", imgx_compat=imgx_compat)
    generator = seeded()
    x_start, noise, predicted, learned = torch.randn(
        4, 2, 1, 1, dtype=torch.float64, generator=generator
    ).unbind()
    t = torch.tensor([3, 10])
    x_t = d.q_sample(x_start, t, noise)
    loss = vlb_loss(d, torch.cat([predicted, learned], 1), x_start, x_t, t)
    for i in range(2):
        s = d.schedule
        ab = float(s.alphas_cumprod[t[i]])
        guess = (float(x_t[i]) - math.sqrt(1 - ab) * float(predicted[i])) / math.sqrt(ab)
        coef_start, coef_t = s.posterior_mean_coef_start[t[i]], s.posterior_mean_coef_t[t[i]]
        q = (
            float(coef_start * x_start[i] + coef_t * x_t[i]),
            float(s.posterior_variance[t[i]]),
        )
        p = (float(coef_start * guess + coef_t * x_t[i]), math.exp(float(learned[i])))
        nats = gaussian_kl(*p, *q) if imgx_compat else gaussian_kl(*q, *p)
        # torch.distributions works in float32 here
        assert math.isclose(float(loss[i]), nats / math.log(2), rel_tol=1e-4)


def test_vlb_at_the_last_step_is_the_likelihood_of_the_model() -> None:
    d = diffusion_of(11, variance_type="learned")
    x_start = torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64).view(1, 3, 1)
    logits = torch.tensor([0.3, 0.1, -0.4], dtype=torch.float64).view(1, 3, 1)
    log_variance = torch.zeros_like(logits)
    t = torch.zeros(1, dtype=torch.int64)
    x_t = torch.zeros_like(x_start)
    loss = vlb_loss(d, torch.cat([logits, log_variance], 1), x_start, x_t, t)
    # at t_index 0 the posterior mean is x_start itself
    mean = d.logits_to_x(logits).flatten()
    normal = torch.distributions.Normal(mean, torch.ones_like(mean))
    below, above = normal.cdf(x_start.flatten() + 1 / 255), normal.cdf(x_start.flatten() - 1 / 255)
    probability = torch.stack([below[0], 1 - above[1], below[2] - above[2]])
    # the approximation of the normal CDF is good to 2e-4, and its slope to 1e-3
    close(loss, -probability.log2().mean().view(1), "bits", rtol=5e-3, atol=0)


def test_vlb_gradient_reaches_the_mean_only_where_the_variance_is_fixed() -> None:
    x_start, x_t = torch.randn(2, 3, 2, 5, generator=seeded())
    t = torch.tensor([0, 2, 4])
    fixed = torch.randn(3, 2, 5, generator=seeded()).requires_grad_()
    vlb_loss(diffusion_of(5), fixed, x_start, x_t, t).sum().backward()
    assert fixed.grad is not None
    assert bool(fixed.grad.isfinite().all())
    assert all(float(g.abs().max()) > 0 for g in fixed.grad)
    learned = torch.randn(3, 4, 5, generator=seeded()).requires_grad_()
    d = diffusion_of(5, variance_type="learned_range")
    vlb_loss(d, learned, x_start, x_t, t).sum().backward()
    assert learned.grad is not None
    assert float(learned.grad[:, :2].abs().max()) == 0
    assert all(float(g.abs().max()) > 0 for g in learned.grad[:, 2:])


def test_vlb_gradient_is_finite_for_extreme_learned_variances() -> None:
    x_start, x_t = torch.randn(2, 2, 2, 5, generator=seeded())
    model_out = torch.zeros(2, 4, 5)
    model_out[:, 2:] = torch.tensor([-60.0, -30.0, 0.0, 30.0, 60.0])
    model_out.requires_grad_()
    loss = vlb_loss(
        diffusion_of(5, variance_type="learned"), model_out, x_start, x_t, torch.tensor([0, 0])
    )
    loss.sum().backward()
    assert model_out.grad is not None
    assert bool(model_out.grad.isfinite().all())


def test_noise_mse_of_the_true_noise_is_zero() -> None:
    d = diffusion_of(prediction_type="noise", variance_type="learned")
    x_start, noise, variance = torch.randn(3, 2, 3, 4, generator=seeded())
    t = torch.tensor([1, 700])
    x_t = d.q_sample(x_start, t, noise)
    assert noise_mse_loss(d, torch.cat([noise, variance], 1), x_t, t, noise).tolist() == [0, 0]
    wrong = noise_mse_loss(d, torch.cat([noise + 2, variance], 1), x_t, t, noise)
    close(wrong, torch.tensor([4.0, 4.0]), "mse")


# dtypes, devices, compilation


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_have_the_dtype_of_x(dtype: torch.dtype) -> None:
    d = diffusion_of(5)
    exact = torch.randn(3, 4, 3, 6, generator=seeded()).to(dtype)
    x_start, x_t, noise = exact
    logits = noise.to(torch.bfloat16)
    t = torch.tensor([0, 1, 2, 4])
    wide = [tensor.double() for tensor in (x_start, x_t, noise)]
    # one rounding to the result: what happens inside is float32 at least
    rounding = {"rtol": max(torch.finfo(dtype).eps, 1e-6), "atol": 1e-6}
    for ours, expected in [
        (d.q_sample(x_start, t, noise), d.q_sample(wide[0], t, wide[2])),
        (d.predict_x_prev(x_start, x_t, t), d.predict_x_prev(wide[0], wide[1], t)),
        (d.predict_x_start(logits, x_t, t), d.logits_to_x(logits.double())),
    ]:
        assert ours.dtype == dtype
        close(ours.double(), expected, str(dtype), **rounding)
    assert d.logits_to_x(logits).dtype == torch.float32


def test_to_moves_the_tables_of_a_copy() -> None:
    d = diffusion_of(5)
    moved = d.to("meta")
    t = torch.zeros(2, dtype=torch.int64)
    assert moved.network_time(t.to("meta")).device.type == "meta"
    x = torch.zeros(2, 3, 4)
    assert moved.q_sample(x.to("meta"), t.to("meta"), x.to("meta")).device.type == "meta"
    assert d.q_sample(x, t, x).device.type == "cpu"
    with pytest.raises(ValueError, match=r"t_index is on cpu but the diffusion on meta.*\.to\("):
        moved.q_sample(x, t, x)
    with pytest.raises(ValueError, match="t_index is on cpu but the diffusion on meta"):
        moved.network_time(t)


@pytest.mark.parametrize(
    ("prediction_type", "variance_type"),
    [("x_start", "fixed_small"), ("x_start", "fixed_large"), ("noise", "learned_range")],
)
def test_compiles_as_one_graph(prediction_type: Any, variance_type: Any) -> None:
    d = diffusion_of(5, prediction_type=prediction_type, variance_type=variance_type)
    channels = 6 if d.learns_variance else 3
    model_out = torch.randn(4, channels, 5, 4, generator=seeded())
    x_start, noise = torch.randn(2, 4, 3, 5, 4, generator=seeded())
    t = torch.tensor([0, 1, 2, 4])

    def step(model_out: Tensor, x_start: Tensor, noise: Tensor, t: Tensor) -> list[Tensor]:
        x_t = d.q_sample(x_start, t, noise)
        return [
            d.network_time(t),
            x_to_mask(x_t),
            d.predict_logits(model_out, x_t, t),
            *d.p_mean_variance(model_out, x_t, t),
            vlb_loss(d, model_out, x_start, x_t, t),
            noise_mse_loss(d, model_out, x_t, t, noise),
        ]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    arguments = (model_out, x_start, noise, t)
    for ours, expected in zip(compiled(*arguments), step(*arguments), strict=True):
        close(ours, expected, "compiled", **ROUNDING)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, t: diffusion_of(prediction_type="v"), "prediction_type 'v', expected .*noise"),
        (lambda x, t: diffusion_of(variance_type="big"), "variance_type 'big', expected .*learned"),
        (lambda x, t: diffusion_of().q_sample(x, t[:1], x), r"shape \(2,\).*got \(1,\)"),
        (
            lambda x, t: diffusion_of(variance_type="learned").predict_x_start(x, x, t),
            r"'learned' needs 2 \* C channels in model_out, got 3",
        ),
        (
            lambda x, t: diffusion_of().predict_logits(x[:, :2], x, t),
            r"model_out must have shape \(2, 3, 5\) for x_t .*'fixed_small', got \(2, 2, 5\)",
        ),
        (
            lambda x, t: diffusion_of(exclusive=False).label_to_x(x, 4),
            r"mask \(B, 4, \*S\) as label, got shape \(2, 3, 5\)",
        ),
    ],
)
def test_bad_arguments(call: Callable[[Tensor, Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3, 5), torch.zeros(2, dtype=torch.int64))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def flat(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).flatten()


def close(ours: Tensor, theirs: Tensor, what: str, **tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, msg=lambda m: f"{what}: {m}", **tolerance)
