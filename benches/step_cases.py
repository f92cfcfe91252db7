"""The sizes at which whole training steps and 5-step sampling are timed."""

from __future__ import annotations

from dataclasses import dataclass

NUM_CLASSES = 3


@dataclass(frozen=True)
class Case:
    """What one batch and its network look like.

    Attributes:
        batch: Images in the batch.
        shape: Voxels of an image along each axis.
        channels: Of the network, from its first level to the bottom.
    """

    batch: int
    shape: tuple[int, ...]
    channels: tuple[int, ...]


# Both fit a CPU: windows of a 3D MR image, and 2D ultrasound images.
CASES = {
    "A": Case(2, (32, 48, 32), (16, 32, 64, 128)),
    "B": Case(4, (256, 256), (32, 64, 128, 256)),
}
