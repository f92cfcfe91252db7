"""Data sets of many kinds, as a plan sees them."""

from __future__ import annotations

import numpy as np

from recycleseg.planning.fingerprint import Fingerprint


def fingerprint(
    spacing: tuple[float, ...],
    shape: tuple[int, ...],
    anatomy: tuple[float, ...],
    *,
    channels: int = 1,
    classes: int = 3,
    cases: int = 20,
) -> Fingerprint:
    """A fingerprint of equal cases; anatomy is the size of the structures in mm."""
    rows = (np.tile(np.array(row, dtype=np.float64), (cases, 1)) for row in (spacing, shape))
    return Fingerprint(
        *rows,
        np.tile(np.array(anatomy, dtype=np.float64), (cases, 1)),
        tuple(f"channel {c}" for c in range(channels)),
        ("background", *(f"class {c}" for c in range(1, classes))),
    )


HEART = fingerprint((1.48, 1.48, 10), (216, 256, 9), (110, 110, 90), classes=4)
PROSTATE = fingerprint((0.6, 0.6, 3.6), (320, 320, 20), (60, 50, 60), channels=2)
BRAIN = fingerprint((1, 1, 1), (176, 224, 176), (140, 170, 140), classes=4)
WHOLE_BODY = fingerprint((0.8, 0.8, 1.5), (512, 512, 400), (320, 220, 500), classes=16)
CROPS = fingerprint((1, 1, 1), (35, 50, 36), (22, 39, 26))
TINY = fingerprint((1, 1, 1), (16, 16, 12), (8, 8, 6), classes=2)
TUMOUR = fingerprint((1, 1, 1), (150, 180, 140), (70, 80, 70), channels=4, classes=4)
IMAGES = fingerprint((0.1, 0.1), (512, 640), (30, 30), classes=2)
GIANT = fingerprint((0.05, 0.05, 0.05), (1500, 1500, 1500), (40, 40, 40), classes=2, cases=1)
ALL = {
    "heart": HEART,
    "prostate": PROSTATE,
    "brain": BRAIN,
    "whole body": WHOLE_BODY,
    "crops": CROPS,
    "tiny": TINY,
    "tumour": TUMOUR,
    "images": IMAGES,
    "giant": GIANT,
}
