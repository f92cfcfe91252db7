"""Eight made-up data sets, as a planner sees them: sizes alone, no images.

Imports nothing, because nnU-Net's environment reads it too.
"""

# Of every data set:
#   shapes, spacings: voxels and mm per voxel of each case, axes x, y(, z)
#   extents:          mm, the box around all foreground of each case
#   channels:         names of the image's channels, as in dataset.json
#   num_classes:      background included


def _same(num_cases, *, shape, spacing, extent, channels, num_classes):
    """A data set whose cases have one size."""
    return {
        "shapes": [shape] * num_cases,
        "spacings": [spacing] * num_cases,
        "extents": [extent] * num_cases,
        "channels": channels,
        "num_classes": num_classes,
    }


def _ultrasound(num_cases):
    """Images whose depth setting decides the pixel size; the structure fills half of each."""
    cases = range(num_cases)
    shapes = [[360 + 20 * (n % 5), 450 + 25 * (n * 3 % 5)] for n in cases]
    pixels = [0.1 + 0.05 * (n * 2 % 5) for n in cases]
    shares = [0.45 + 0.02 * (n % 7) for n in cases]
    return {
        "shapes": shapes,
        "spacings": [[mm, mm] for mm in pixels],
        "extents": [
            [share * mm * side for side in shape]
            for share, mm, shape in zip(shares, pixels, shapes, strict=True)
        ],
        "channels": ["ultrasound"],
        "num_classes": 2,
    }


FINGERPRINTS = {
    "brain": _same(
        100,
        shape=[176, 224, 176],
        spacing=[1.0, 1.0, 1.0],
        extent=[140.0, 175.0, 130.0],
        channels=["T1"],
        num_classes=4,
    ),
    "heart": _same(
        200,
        shape=[216, 256, 9],
        spacing=[1.48, 1.48, 10.0],
        extent=[95.0, 95.0, 75.0],
        channels=["cine MR"],
        num_classes=4,
    ),
    "prostate": _same(
        32,
        shape=[320, 320, 20],
        spacing=[0.6, 0.6, 3.6],
        extent=[50.0, 45.0, 54.0],
        channels=["T2", "ADC"],
        num_classes=3,
    ),
    "whole body": _same(
        200,
        shape=[512, 512, 400],
        spacing=[0.8, 0.8, 1.5],
        extent=[330.0, 250.0, 480.0],
        channels=["CT"],
        num_classes=16,
    ),
    "ultrasound": _ultrasound(100),
    "tiny crops": _same(
        200,
        shape=[16, 16, 12],
        spacing=[1.0, 1.0, 1.0],
        extent=[8.0, 8.0, 6.0],
        channels=["MR"],
        num_classes=2,
    ),
    "tumour": _same(
        400,
        shape=[150, 180, 140],
        spacing=[1.0, 1.0, 1.0],
        extent=[65.0, 70.0, 60.0],
        channels=["T1", "T1Gd", "T2", "FLAIR"],
        num_classes=4,
    ),
    "giant": _same(
        1,
        shape=[1500, 1500, 1500],
        spacing=[0.05, 0.05, 0.05],
        extent=[30.0, 30.0, 30.0],
        channels=["micro-CT"],
        num_classes=3,
    ),
}
