"""How the intensities of a channel are normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recycleseg.files import FileError

_PERCENTILES = (0.5, 99.5)

# See `PreprocessConfig.intensity`.
Normalisation = Literal["auto", "zscore", "percentile", "ct", "none"]


@dataclass(frozen=True)
class ChannelIntensity:
    """How one channel is normalised.

    Attributes:
        method: see `PreprocessConfig.intensity`; "none" changes nothing.
        lower: intensities are clipped to it, by "ct" only.
        upper: intensities are clipped to it, by "ct" only.
        mean: of the training foreground, for "ct" only.
        std: of the training foreground, for "ct" only.
        nonzero: whether "zscore" and "percentile" leave zeros out of their statistics. Plans of
            older runs lack this field and include zeros.
    """

    method: Normalisation
    lower: float = 0.0
    upper: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    nonzero: bool = False

    def apply(self, values: Tensor) -> Tensor:
        """Normalise one channel (*S) float32; a constant image becomes zeros."""
        if self.method == "none":
            return values
        if self.method == "ct":
            return (values.clamp(self.lower, self.upper) - self.mean) / self.std
        counted = values != 0 if self.nonzero else torch.ones_like(values, dtype=torch.bool)
        lower, upper = self._range(values[counted])
        if not lower < upper:  # as in a binary mask, where zeros are information
            counted[:] = True
            lower, upper = self._range(values)
        if self.method == "percentile":
            values = values.clamp(lower, upper)
        # float64, because the variance of intensities around 1e6 is lost in float32 sums.
        std, mean = torch.std_mean(values[counted].double(), correction=0)
        return ((values - mean) / std.clamp_min(1e-8 * (1.0 + mean.abs()))).float()

    def _range(self, values: Tensor) -> tuple[float, float]:
        """Lowest and highest value for "zscore", percentiles for "percentile"."""
        if values.numel() == 0:
            return 0.0, 0.0
        if self.method == "zscore":
            return float(values.min()), float(values.max())
        lower, upper = np.percentile(values.numpy(), _PERCENTILES)
        return float(lower), float(upper)


def normalisation_of(channel_name: str) -> Normalisation:
    """What "auto" means for a channel with this name."""
    by_name: dict[str, Normalisation] = {"ct": "ct", "nonorm": "none"}
    return by_name.get(channel_name.lower(), "percentile")


def channel_intensity(
    name: str, asked: Normalisation, foreground: np.ndarray[Any, Any]
) -> ChannelIntensity:
    """How a channel is normalised.

    Args:
        name: of the channel in dataset.json.
        asked: see `PreprocessConfig.intensity`.
        foreground: (N,) intensities of the channel in the foreground of the training cases.

    Raises:
        FileError: "ct" without foreground.
    """
    method = normalisation_of(name) if asked == "auto" else asked
    if method != "ct":
        return ChannelIntensity(method, nonzero=method != "none")
    if foreground.size == 0:
        raise FileError(
            f"channel {name}: expected foreground in the training labels for CT intensities, "
            "got none"
        )
    lower, upper = np.percentile(foreground, _PERCENTILES)
    return ChannelIntensity(
        "ct",
        lower=float(lower),
        upper=float(upper),
        mean=float(foreground.mean(dtype=np.float64)),
        std=max(float(foreground.std(dtype=np.float64)), 1e-8),
    )
