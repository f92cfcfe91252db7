"""Gaussian diffusion of segmentation masks: forward process, posterior, and what a network tells.

A mask of C classes lives in x space as 2 * probability - 1, one channel a class. Shapes:
x_start, x_t, noise and masks (B, C, *S); t_index (B,) int64 with values 0 ... T-1.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from recycleseg.diffusion.likelihood import discretized_gaussian_log_likelihood, normal_kl
from recycleseg.diffusion.schedule import NoiseSchedule

PredictionType = Literal["x_start", "noise"]
VarianceType = Literal["fixed_small", "fixed_large", "learned", "learned_range"]

# Least probability that x_to_logits distinguishes from 0.
MIN_PROBABILITY = 1e-5


def weighted_sum(dtype: torch.dtype, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """Sum of coefficient * tensor over the terms, in float32 at least, returned in `dtype`."""
    compute = torch.promote_types(dtype, torch.float32)
    products = [coefficient.to(compute) * tensor for coefficient, tensor in terms]
    return sum(products[1:], products[0]).to(dtype)


def columns_for(x: Tensor, t_index: Tensor, coefficients: Tensor) -> list[Tensor]:
    """Columns of coefficients (B, n), looked up at t_index, each (B, 1, ..., 1) to go with x.

    Raises:
        ValueError: t_index is not (B,).
    """
    if t_index.shape != x.shape[:1]:
        raise ValueError(
            f"t_index must have shape ({x.shape[0]},), one index a sample, "
            f"got {tuple(t_index.shape)}"
        )
    per_sample = (-1, *[1] * (x.ndim - 1))
    return [column.view(per_sample) for column in coefficients.unbind(1)]


class GaussianDiffusion:
    """The process x_t = sqrt(alphas_cumprod) * x_start + sqrt(1 - alphas_cumprod) * noise.

    Coefficients are looked up and combined in float64, then cast; results have the dtype of x, and
    half precision is computed in float32. Nothing here waits for the device.

    Args:
        schedule: noise schedule, of training or respaced for sampling.
        prediction_type: what the network gives: ``x_start`` (as logits) or the ``noise``.
        variance_type: variance of p(x_{t-1} | x_t): ``fixed_small`` (the posterior's),
            ``fixed_large`` (beta), ``learned`` (the network's last C channels are the log
            variance) or ``learned_range`` (they interpolate between the two fixed ones: Nichol &
            Dhariwal, arXiv 2102.09672, eq. 15, with a sigmoid to stay between them).
        exclusive: exclusive classes (softmax, class 0 is background) or overlapping (sigmoid).
        imgx_compat: do as ImgX: network time from the respaced schedule; x_to_logits gives log p
            for overlapping classes too; the VLB takes KL(p, q), at t_index 0 the likelihood under
            q, and never has a gradient through the mean; DDIM's sigma is eta * log variance.

    Raises:
        ValueError: an unknown prediction or variance type.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        *,
        prediction_type: PredictionType = "x_start",
        variance_type: VarianceType = "fixed_small",
        exclusive: bool = True,
        imgx_compat: bool = False,
    ) -> None:
        if prediction_type not in get_args(PredictionType):
            raise ValueError(
                f"unknown prediction_type {prediction_type!r}, "
                f"expected one of {get_args(PredictionType)}"
            )
        if variance_type not in get_args(VarianceType):
            raise ValueError(
                f"unknown variance_type {variance_type!r}, expected one of {get_args(VarianceType)}"
            )
        self.schedule = schedule
        self.prediction_type = prediction_type
        self.variance_type = variance_type
        self.exclusive = exclusive
        self.imgx_compat = imgx_compat
        self.num_timesteps = schedule.num_timesteps
        if imgx_compat:
            time = (torch.arange(schedule.num_timesteps) + 1) / schedule.num_timesteps
        else:
            time = (schedule.train_t_index + 1) / schedule.num_train_timesteps
        self._tables = {
            "time": time.float(),
            "betas": schedule.betas,
            "alphas_cumprod": schedule.alphas_cumprod,
            "alphas_cumprod_prev": schedule.alphas_cumprod_prev,
            "posterior_mean_coef_start": schedule.posterior_mean_coef_start,
            "posterior_mean_coef_t": schedule.posterior_mean_coef_t,
            "posterior_variance": schedule.posterior_variance,
            "posterior_log_variance_clipped": schedule.posterior_log_variance_clipped,
        }

    def to(self, device: torch.device | str) -> GaussianDiffusion:
        """The same diffusion with its coefficient tables on `device`."""
        moved = copy.copy(self)
        moved._tables = {name: table.to(device) for name, table in self._tables.items()}
        return moved

    @property
    def learns_variance(self) -> bool:
        """Whether the network gives 2 * C channels, the last C for the variance."""
        return self.variance_type in ("learned", "learned_range")

    def coefficient(self, name: str, t_index: Tensor, x: Tensor) -> Tensor:
        """Values of one array of the schedule at t_index, float64 (B, 1, ..., 1) to go with x.

        Raises:
            ValueError: t_index is not (B,), or lies on another device than the tables.
        """
        (column,) = columns_for(x, t_index, self.look_up(name, t_index).unsqueeze(1))
        return column

    def network_time(self, t_index: Tensor) -> Tensor:
        """Time (B,) float32 in (0, 1] that the network is told: that of the training schedule.

        Raises:
            ValueError: t_index lies on another device than the tables.
        """
        return self.look_up("time", t_index)

    def look_up(self, name: str, t_index: Tensor) -> Tensor:
        """Values (B,) of one array of the schedule at t_index, float64 but for "time".

        Raises:
            ValueError: t_index lies on another device than the tables.
        """
        table = self._tables[name]
        if table.device != t_index.device:
            raise ValueError(
                f"t_index is on {t_index.device} but the diffusion on {table.device}: "
                "move it by diffusion.to(device)"
            )
        return table[t_index]

    # coefficients of a whole batch, for the fused steps

    def q_scales(self, t_index: Tensor) -> tuple[Tensor, Tensor]:
        """Scales (B,) float32 of x_start and of the noise in q(x_t | x_0)."""
        alphas_cumprod = self.look_up("alphas_cumprod", t_index)
        return alphas_cumprod.sqrt().float(), (1 - alphas_cumprod).sqrt().float()

    def posterior_mean_coefficients(self, t_index: Tensor) -> Tensor:
        """Coefficients (B, 3) float64 of x_start, x_t and noise: the mean of q(x_{t-1} | x_t, x_0).

        The last one is 0.
        """
        of_start = self.look_up("posterior_mean_coef_start", t_index)
        of_x_t = self.look_up("posterior_mean_coef_t", t_index)
        return torch.stack([of_start, of_x_t, torch.zeros_like(of_x_t)], dim=1)

    def x_start_coefficients(self, t_index: Tensor) -> Tensor:
        """Coefficients (B, 2) float64 of x_t and of the predicted noise in x_start."""
        alphas_cumprod = self.look_up("alphas_cumprod", t_index)
        return torch.stack([alphas_cumprod.rsqrt(), -(1 / alphas_cumprod - 1).sqrt()], dim=1)

    # between labels, probabilities, logits and x

    def probs(self, logits: Tensor) -> Tensor:
        """Class probabilities (B, C, *S) of logits, in float32 at least."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.softmax(1) if self.exclusive else logits.sigmoid()

    def logits_to_x(self, logits: Tensor) -> Tensor:
        """Logits to x space, 2 * probability - 1, in float32 at least."""
        return 2 * self.probs(logits) - 1

    def label_to_x(self, label: Tensor, num_classes: int) -> Tensor:
        """Truth in x space, float32 (B, C, *S) with values -1 and 1.

        Args:
            label: exclusive classes: (B, *S) integers below num_classes; overlapping classes: a
                mask (B, C, *S).
            num_classes: C.

        Raises:
            ValueError: overlapping classes and a label whose axis 1 is not num_classes.
        """
        if self.exclusive:
            x = torch.full(
                (label.shape[0], num_classes, *label.shape[1:]), -1.0, device=label.device
            )
            return x.scatter_(1, label.long().unsqueeze(1), 1.0)
        if label.ndim < 3 or label.shape[1] != num_classes:
            raise ValueError(
                f"overlapping classes need a mask (B, {num_classes}, *S) as label, "
                f"got shape {tuple(label.shape)}"
            )
        return 2 * label.float() - 1

    def x_to_mask(self, x: Tensor) -> Tensor:
        """Clipped x as a mask in [0, 1]: all that a network sees of x."""
        return (x.clamp(-1, 1) + 1) / 2

    def x_to_logits(self, x: Tensor) -> Tensor:
        """Logits whose probabilities are those of x, kept 1e-5 away from 0 (and from 1)."""
        probs = (x + 1) / 2
        if self.exclusive or self.imgx_compat:
            return probs.clamp(MIN_PROBABILITY, 1).log()
        return probs.logit(eps=MIN_PROBABILITY)

    # forward process

    def q_sample(self, x_start: Tensor, t_index: Tensor, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) with the given normal noise."""
        alphas_cumprod = self.coefficient("alphas_cumprod", t_index, x_start)
        return weighted_sum(
            x_start.dtype, (alphas_cumprod.sqrt(), x_start), ((1 - alphas_cumprod).sqrt(), noise)
        )

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t_index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, C, *S) and log variance (B, 1, ..., 1) of q(x_{t-1} | x_t, x_0)."""
        log_variance = self.coefficient("posterior_log_variance_clipped", t_index, x_t)
        return self.predict_x_prev(x_start, x_t, t_index), log_variance.to(x_t.dtype)

    def predict_x_prev(self, x_start: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0)."""
        coefficients = self.posterior_mean_coefficients(t_index)
        of_start, of_x_t, _ = columns_for(x_t, t_index, coefficients)
        return weighted_sum(x_t.dtype, (of_start, x_start), (of_x_t, x_t))

    def predict_x_start_from_noise(self, x_t: Tensor, t_index: Tensor, noise: Tensor) -> Tensor:
        """The x_start from which this noise leads to x_t."""
        of_x_t, of_noise = columns_for(x_t, t_index, self.x_start_coefficients(t_index))
        return weighted_sum(x_t.dtype, (of_x_t, x_t), (of_noise, noise))

    def predict_noise_from_x_start(self, x_t: Tensor, t_index: Tensor, x_start: Tensor) -> Tensor:
        """The noise that leads from this x_start to x_t."""
        alphas_cumprod = self.coefficient("alphas_cumprod", t_index, x_t)
        inverse_std = (1 - alphas_cumprod).rsqrt()
        return weighted_sum(
            x_t.dtype, (inverse_std, x_t), (-alphas_cumprod.sqrt() * inverse_std, x_start)
        )

    # what the network's output says

    def split_model_out(self, model_out: Tensor) -> tuple[Tensor, Tensor | None]:
        """The C channels of the prediction, and those of the variance if that is learned.

        Raises:
            ValueError: the variance is learned and the number of channels is odd.
        """
        if not self.learns_variance:
            return model_out, None
        if model_out.shape[1] % 2:
            raise ValueError(
                f"variance_type {self.variance_type!r} needs 2 * C channels in model_out, "
                f"got {model_out.shape[1]}"
            )
        prediction, variance_out = model_out.chunk(2, dim=1)
        return prediction, variance_out

    def predict_x_start(self, model_out: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Predicted x_start (B, C, *S), dtype of x_t; channels of the variance are ignored.

        Raises:
            ValueError: model_out does not have the channels that go with x_t.
        """
        prediction = self._prediction(model_out, x_t)
        if self.prediction_type == "x_start":
            return self.logits_to_x(prediction).to(x_t.dtype)
        return self.predict_x_start_from_noise(x_t, t_index, prediction)

    def predict_noise(self, model_out: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Predicted noise (B, C, *S); otherwise as `predict_x_start`."""
        prediction = self._prediction(model_out, x_t)
        if self.prediction_type == "noise":
            return prediction
        x_start = self.logits_to_x(prediction).to(x_t.dtype)
        return self.predict_noise_from_x_start(x_t, t_index, x_start)

    def predict_logits(self, model_out: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Logits (B, C, *S) of the predicted segmentation; otherwise as `predict_x_start`."""
        prediction = self._prediction(model_out, x_t)
        if self.prediction_type == "x_start":
            return prediction
        return self.x_to_logits(self.predict_x_start_from_noise(x_t, t_index, prediction))

    def _prediction(self, model_out: Tensor, x_t: Tensor) -> Tensor:
        prediction, _ = self.split_model_out(model_out)
        if prediction.shape != x_t.shape:
            batch, channels, *spatial = x_t.shape
            expected = (batch, channels * (2 if self.learns_variance else 1), *spatial)
            raise ValueError(
                f"model_out must have shape {expected} for x_t {tuple(x_t.shape)} and "
                f"variance_type {self.variance_type!r}, got {tuple(model_out.shape)}"
            )
        return prediction

    def p_mean_variance(
        self, model_out: Tensor, x_t: Tensor, t_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log variance of p(x_{t-1} | x_t), and the predicted x_start.

        Returns:
            mean (B, C, *S), log_variance ((B, C, *S) if learned, else (B, 1, ..., 1)), x_start.
        """
        x_start = self.predict_x_start(model_out, x_t, t_index)
        mean = self.predict_x_prev(x_start, x_t, t_index)
        return mean, self._p_log_variance(model_out, x_t, t_index), x_start

    def _p_log_variance(self, model_out: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        _, variance_out = self.split_model_out(model_out)
        if variance_out is not None and self.variance_type == "learned":
            return variance_out.to(x_t.dtype)
        if variance_out is None:
            per_sample = (-1, *[1] * (x_t.ndim - 1))
            return self.fixed_log_variance(t_index).view(per_sample).to(x_t.dtype)
        smallest = self.coefficient("posterior_log_variance_clipped", t_index, x_t)
        largest = self.coefficient("betas", t_index, x_t).log()
        fraction = variance_out.to(torch.promote_types(x_t.dtype, torch.float32)).sigmoid()
        return weighted_sum(x_t.dtype, (largest, fraction), (smallest, 1 - fraction))

    def fixed_log_variance(self, t_index: Tensor) -> Tensor:
        """Log variance (B,) float64 of p(x_{t-1} | x_t) where it is not learned.

        Raises:
            ValueError: it is learned.
        """
        if self.learns_variance:
            raise ValueError(f"variance_type {self.variance_type!r} has no fixed variance")
        smallest = self.look_up("posterior_log_variance_clipped", t_index)
        if self.variance_type == "fixed_small":
            return smallest
        # beta_0 is far above the decoder's best variance (Ho et al., section 3.2)
        return torch.where(t_index == 0, smallest, self.look_up("betas", t_index).log())

    # losses of the process

    def vlb_loss(self, model_out: Tensor, x_start: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Term of the variational bound at t_index, (B,) in bits per element.

        KL(q(x_{t-1} | x_t, x_0), p(x_{t-1} | x_t)), at t_index 0 -log p(x_0 | x_1), discretised
        (Ho et al., eq. 5). Where the variance is learned the gradient reaches only its channels
        (Nichol & Dhariwal, section 3.1).
        """
        if self.learns_variance:
            prediction, variance_out = model_out.chunk(2, dim=1)
            model_out = torch.cat([prediction.detach(), variance_out], dim=1)
        elif self.imgx_compat:
            model_out = model_out.detach()
        q = self.q_posterior(x_start, x_t, t_index)
        p_mean, p_log_variance, _ = self.p_mean_variance(model_out, x_t, t_index)
        p = (p_mean, p_log_variance)
        kl = normal_kl(*p, *q) if self.imgx_compat else normal_kl(*q, *p)
        decoder = q if self.imgx_compat else p
        nll = -discretized_gaussian_log_likelihood(x_start, *decoder)
        nats = torch.where(t_index == 0, nll.flatten(1).mean(1), kl.flatten(1).mean(1))
        return nats / math.log(2)

    def noise_mse_loss(
        self, model_out: Tensor, x_t: Tensor, t_index: Tensor, noise: Tensor
    ) -> Tensor:
        """Mean squared error (B,) of the predicted noise (Ho et al., eq. 14)."""
        error = self.predict_noise(model_out, x_t, t_index) - noise
        return error.square().flatten(1).mean(1)
