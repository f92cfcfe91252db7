"""Gaussian diffusion of segmentation masks: the forward step, the posterior, what a network tells.

A mask of C classes lives in x space as 2 * probability - 1, one channel a class. Shapes:
x_start, x_t, noise and masks (B, C, *S); t_index (B,) int64 with values 0 ... T-1.
"""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from torch import Tensor

from recycleseg.classes import probabilities
from recycleseg.diffusion.network import NetworkInput
from recycleseg.diffusion.schedule import NoiseSchedule
from recycleseg.ops.ddim_update import PredictionType
from recycleseg.ops.noise_step import SourceType, noise_step
from recycleseg.ops.philox import Noise, PhiloxNoise

VarianceType = Literal["fixed_small", "fixed_large", "learned", "learned_range"]

# Least probability that x_to_logits distinguishes from 0.
MIN_PROBABILITY = 1e-5


def check_t_index(t_index: Tensor, x: Tensor) -> None:
    """Raise ValueError unless t_index has one index for each sample of x."""
    if t_index.shape != x.shape[:1]:
        raise ValueError(
            f"t_index must have shape ({x.shape[0]},), one index a sample, "
            f"got {tuple(t_index.shape)}"
        )


def weighted_sum(x: Tensor, t_index: Tensor, coefficients: Tensor, *terms: Tensor) -> Tensor:
    """Sum of coefficient * term, computed in float32 at least, in the dtype of x.

    Args:
        x: (B, C, *S), which tells dtype and batch of the result.
        t_index: (B,), at which the coefficients were looked up.
        coefficients: (B, n), one a term.
        terms: n tensors (B, C, *S).

    Raises:
        ValueError: t_index is not (B,).
    """
    check_t_index(t_index, x)
    coefficients = coefficients.to(torch.promote_types(x.dtype, torch.float32))
    columns = coefficients.view(*coefficients.shape, *[1] * (x.ndim - 1)).unbind(1)
    products = [column * term for column, term in zip(columns, terms, strict=True)]
    return sum(products[1:], products[0]).to(x.dtype)


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
            for overlapping classes too. `ddim_step`, `vlb_loss` and `SelfConditioning` go by it.

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
        self.num_timesteps = T = schedule.num_timesteps
        if imgx_compat:
            time = (torch.arange(T) + 1) / T
        else:
            time = (schedule.train_t_index + 1) / schedule.num_train_timesteps
        arrays = vars(schedule).items()
        self._tables = {name: array for name, array in arrays if isinstance(array, Tensor)}
        self._tables["time"] = time.float()

    def to(self, device: torch.device | str) -> GaussianDiffusion:
        """The same diffusion with its coefficient tables on `device`."""
        moved = copy.copy(self)
        moved._tables = {name: table.to(device) for name, table in self._tables.items()}
        return moved

    @property
    def learns_variance(self) -> bool:
        """Whether the network gives 2 * C channels, the last C for the variance."""
        return self.variance_type in ("learned", "learned_range")

    # coefficients of a whole batch

    def look_up(self, name: str, t_index: Tensor) -> Tensor:
        """Values (B,) of one array of the schedule at t_index: float64, of "time" float32.

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

    def network_time(self, t_index: Tensor) -> Tensor:
        """Time (B,) float32 in (0, 1] that the network is told: that of the training schedule.

        Raises:
            ValueError: t_index lies on another device than the tables.
        """
        return self.look_up("time", t_index)

    def posterior_mean_coefficients(self, t_index: Tensor) -> Tensor:
        """Coefficients (B, 2) float64 of x_start and x_t in the mean of q(x_{t-1} | x_t, x_0)."""
        names = ("posterior_mean_coef_start", "posterior_mean_coef_t")
        return torch.stack([self.look_up(name, t_index) for name in names], dim=1)

    def x_start_coefficients(self, t_index: Tensor) -> Tensor:
        """Coefficients (B, 2) float64 of x_t and of the predicted noise in x_start."""
        alphas_cumprod = self.look_up("alphas_cumprod", t_index)
        return torch.stack([alphas_cumprod.rsqrt(), -(1 / alphas_cumprod - 1).sqrt()], dim=1)

    # between labels, logits and x

    def logits_to_x(self, logits: Tensor) -> Tensor:
        """Logits to x space, 2 * probability - 1, in float32 at least."""
        return 2 * probabilities(logits, self.exclusive) - 1

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

    def x_to_logits(self, x: Tensor) -> Tensor:
        """Logits whose probabilities are those of x, kept 1e-5 away from 0 (and from 1)."""
        probs = (x + 1) / 2
        if self.exclusive or self.imgx_compat:
            return probs.clamp(MIN_PROBABILITY, 1).log()
        return probs.logit(eps=MIN_PROBABILITY)

    # forward process

    def forward_step(
        self,
        source: Tensor,
        source_type: SourceType,
        num_classes: int,
        t_index: Tensor,
        noise: Noise,
        x: NetworkInput | None = None,
        *,
        return_x: bool = False,
    ) -> Tensor | None:
        """Noise a segmentation to t_index, x_t ~ q(x_t | x_0): the only forward step.

        Args:
            source: ``label``: the truth, (B, *S) integers, or of overlapping classes a mask
                (B, C, *S); ``logits`` or ``probs`` (B, C, *S): a prediction.
            source_type: which of these.
            num_classes: C.
            t_index: (B,) int64.
            noise: normal noise (B, C, *S), or what it is drawn by.
            x: network input whose mask becomes, in its first C channels, that of x_t.
            return_x: whether to give x_t.

        Returns:
            x_t (B, C, *S) without gradient, float64 of a float64 source, else float32; or None.

        Raises:
            ValueError: t_index is not (B,), or the shapes do not fit.
        """
        check_t_index(t_index, source)
        if source_type == "label" and not self.exclusive:
            source, source_type = source.float(), "probs"
        dtype = torch.float64 if source.dtype == torch.float64 else torch.float32
        alphas_cumprod = self.look_up("alphas_cumprod", t_index)
        return noise_step(
            source,
            alphas_cumprod.sqrt().to(dtype),
            (1 - alphas_cumprod).sqrt().to(dtype),
            source_type=source_type,
            num_classes=num_classes,
            exclusive=self.exclusive,
            network_input=None if x is None else x.tensor,
            first_channel=0 if x is None else x.mask_channel,
            return_x=return_x,
            **(noise._asdict() if isinstance(noise, PhiloxNoise) else {"noise": noise}),
        ).x_t

    def q_sample(self, x_start: Tensor, t_index: Tensor, noise: Tensor) -> Tensor:
        """Sample x_t ~ q(x_t | x_0) with the given noise.

        Args:
            x_start: (B, C, *S), any floating dtype.
            t_index: (B,) int64.
            noise: normal noise (B, C, *S).

        Returns:
            x_t as x_start, without gradient.

        Raises:
            ValueError: t_index is not (B,) or on another device, or the shapes do not fit.
        """
        x = x_start.to(torch.promote_types(x_start.dtype, torch.float32))
        x_t = self.forward_step((x + 1) / 2, "probs", x.shape[1], t_index, noise, return_x=True)
        assert x_t is not None
        return x_t.to(x_start.dtype)

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t_index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, C, *S) and log variance (B, 1, ..., 1) of q(x_{t-1} | x_t, x_0)."""
        log_variance = self.look_up("posterior_log_variance_clipped", t_index)
        return self.predict_x_prev(x_start, x_t, t_index), _per_sample(log_variance, x_t)

    def predict_x_prev(self, x_start: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0)."""
        coefficients = self.posterior_mean_coefficients(t_index)
        return weighted_sum(x_t, t_index, coefficients, x_start, x_t)

    def predict_x_start_from_noise(self, x_t: Tensor, t_index: Tensor, noise: Tensor) -> Tensor:
        """The x_start from which this noise leads to x_t."""
        return weighted_sum(x_t, t_index, self.x_start_coefficients(t_index), x_t, noise)

    def predict_noise_from_x_start(self, x_t: Tensor, t_index: Tensor, x_start: Tensor) -> Tensor:
        """The noise that leads from this x_start to x_t."""
        alphas_cumprod = self.look_up("alphas_cumprod", t_index)
        inverse_std = (1 - alphas_cumprod).rsqrt()
        coefficients = torch.stack([inverse_std, -alphas_cumprod.sqrt() * inverse_std], dim=1)
        return weighted_sum(x_t, t_index, coefficients, x_t, x_start)

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

    def prediction(self, model_out: Tensor, x_t: Tensor) -> Tensor:
        """The channels (B, C, *S) of model_out without those of a learned variance.

        Raises:
            ValueError: model_out does not have the channels that go with x_t.
        """
        prediction, _ = self.split_model_out(model_out)
        if prediction.shape != x_t.shape:
            batch, channels, *spatial = x_t.shape
            expected = (batch, channels * (2 if self.learns_variance else 1), *spatial)
            raise ValueError(
                f"model_out must have shape {expected} for x_t {tuple(x_t.shape)} and "
                f"variance_type {self.variance_type!r}, got {tuple(model_out.shape)}"
            )
        return prediction

    def predict_x_start(self, model_out: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Predicted x_start (B, C, *S), dtype of x_t; channels of the variance are ignored.

        Raises:
            ValueError: model_out does not have the channels that go with x_t.
        """
        prediction = self.prediction(model_out, x_t)
        if self.prediction_type == "x_start":
            return self.logits_to_x(prediction).to(x_t.dtype)
        return self.predict_x_start_from_noise(x_t, t_index, prediction)

    def predicted_source(
        self, model_out: Tensor, x_t: Tensor | None, t_index: Tensor
    ) -> tuple[Tensor, SourceType]:
        """The predicted x_start as `forward_step` takes it: logits or probabilities (B, C, *S).

        x_t is needed of a network that predicts the noise.
        """
        if self.prediction_type == "x_start":
            return self.split_model_out(model_out)[0], "logits"
        assert x_t is not None
        return (self.predict_x_start(model_out, x_t, t_index) + 1) / 2, "probs"

    def predict_noise(self, model_out: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Predicted noise (B, C, *S); otherwise as `predict_x_start`."""
        if self.prediction_type == "noise":
            return self.prediction(model_out, x_t)
        x_start = self.predict_x_start(model_out, x_t, t_index)
        return self.predict_noise_from_x_start(x_t, t_index, x_start)

    def predict_logits(self, model_out: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Logits (B, C, *S) of the predicted segmentation; otherwise as `predict_x_start`."""
        if self.prediction_type == "x_start":
            return self.prediction(model_out, x_t)
        return self.x_to_logits(self.predict_x_start(model_out, x_t, t_index))

    def p_mean_variance(
        self, model_out: Tensor, x_t: Tensor, t_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log variance of p(x_{t-1} | x_t), and the predicted x_start.

        Returns:
            mean (B, C, *S), log_variance ((B, C, *S) if learned, else (B, 1, ..., 1)), x_start.
        """
        x_start = self.predict_x_start(model_out, x_t, t_index)
        mean = self.predict_x_prev(x_start, x_t, t_index)
        if self.learns_variance:
            return mean, self.learned_log_variance(model_out, x_t, t_index), x_start
        return mean, _per_sample(self.fixed_log_variance(t_index), x_t), x_start

    def learned_log_variance(self, model_out: Tensor, x_t: Tensor, t_index: Tensor) -> Tensor:
        """Log variance (B, C, *S) of p(x_{t-1} | x_t) where it is learned, dtype of x_t."""
        _, variance_out = self.split_model_out(model_out)
        assert variance_out is not None
        if self.variance_type == "learned":
            return variance_out.to(x_t.dtype)
        smallest = self.look_up("posterior_log_variance_clipped", t_index)
        largest = self.look_up("betas", t_index).log()
        fraction = variance_out.to(torch.promote_types(x_t.dtype, torch.float32)).sigmoid()
        ends = torch.stack([largest, smallest], dim=1)
        return weighted_sum(x_t, t_index, ends, fraction, 1 - fraction)

    def fixed_log_variance(self, t_index: Tensor) -> Tensor:
        """Log variance (B,) float64 of p(x_{t-1} | x_t) where it is not learned."""
        smallest = self.look_up("posterior_log_variance_clipped", t_index)
        if self.variance_type == "fixed_small":
            return smallest
        # beta_0 is far above the decoder's best variance (Ho et al., section 3.2)
        return torch.where(t_index == 0, smallest, self.look_up("betas", t_index).log())


def _per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Values (B,) as (B, 1, ..., 1) to go with x, in its dtype."""
    return values.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
