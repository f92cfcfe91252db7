"""Which metrics a report shows, how it prints them, and what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recycleseg.metrics.scores import Scores
from recycleseg.metrics.surface import tolerance_names

Array = NDArray[np.float64]

DASH = "–"


@dataclass(frozen=True)
class Column:
    """The values of a metric for every case and label.

    Attributes:
        key: name of the metric.
        heading: what the report calls it.
        unit: "mm", "ml" or "mm²", or "pixels" or "voxels"; empty for a share.
        digits: digits behind the point.
        signed: whether positive values get a plus sign.
        values: (B, C); NaN where the metric does not apply, inf for a distance to a structure that
            only one map has.
        about: definition of the metric in words; empty for a size.
    """

    key: str
    heading: str
    unit: str
    digits: int
    signed: bool
    values: Array
    about: str

    @property
    def title(self) -> str:
        """Heading with the unit."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    def text(self, value: float) -> str:
        """A value as the report prints it."""
        return format_number(value, self.digits, signed=self.signed)


def format_number(value: float, digits: int, *, signed: bool = False) -> str:
    """A number with a true minus sign; a dash for NaN, ∞ for inf."""
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def shown_columns(scores: Scores) -> list[Column]:
    """Dice, surface Dice, Hausdorff percentile, average surface distance and volume error.

    Surface metrics use voxel surfaces. If these were not evaluated, they use area-weighted ones.
    """
    table, percentile = scores.table, f"{scores.percentile:g}"
    voxel = "voxel" in scores.definitions
    prefix = "" if voxel else "surfel_"
    where = (
        "between the centres of the voxels of the two surfaces"
        if voxel
        else "between surfaces whose pieces count by their area"
    )
    columns = [Column("dice", "Dice", "", 3, False, table["dice"], _DICE)]
    single = f"{prefix}nsd" in table
    names = tolerance_names(scores.tolerances_mm, single, scores.unit)
    for name, tolerance in names.items():
        key = prefix + name
        about = (
            f"Normalised surface Dice: the share of both surfaces that lies within "
            f"{tolerance:g} {scores.unit} of the other. 1 is best."
        )
        heading = f"NSD at {tolerance:g} {scores.unit}"
        columns.append(Column(key, heading, "", 3, False, table[key], about))
    hausdorff = (
        f"Hausdorff distance at the {percentile}th percentile {where}: the larger of the two "
        "directed percentiles (prediction to reference, reference to prediction). 0 is best."
    )
    average = f"Average symmetric distance {where}, over both surfaces together. 0 is best."
    columns += [
        Column(key, heading, scores.unit, 2, False, table[key], about)
        for key, heading, about in (
            (f"{prefix}hd{percentile}", f"HD{percentile}", hausdorff),
            (f"{prefix}assd", "ASSD", average),
        )
    ]
    return [*columns, _size_error(table)]


def size_columns(scores: Scores) -> list[Column]:
    """Sizes in the prediction and in the reference."""
    pred, ref, unit = sizes(scores.table)
    what, digits = size_name(unit), size_digits(ref)
    return [
        Column(f"{where}_size", f"{what}, {where}", unit, digits, False, values, "")
        for where, values in (("predicted", pred), ("reference", ref))
    ]


def sizes(table: dict[str, Array]) -> tuple[Array, Array, str]:
    """Sizes of prediction and reference (B, C), and their unit."""
    name = next(key for key in table if key.startswith(("pred_volume_", "pred_area_")))
    size = name.removeprefix("pred_")
    unit = size.split("_")[1].replace("mm2", "mm²")
    return table[name], table[f"ref_{size}"], unit


def _size_error(table: dict[str, Array]) -> Column:
    pred, ref, unit = sizes(table)
    error = np.where((pred == 0) & (ref == 0), np.nan, pred - ref)
    what = size_name(unit)
    about = (
        f"{what} of the prediction minus {what.lower()} of the reference: below 0 if the "
        "prediction is too small. 0 is best."
    )
    return Column("size_error", f"{what} error", unit, size_digits(ref), True, error, about)


def size_name(unit: str) -> str:
    """ "Volume" or "Area", from the unit of `sizes`."""
    return "Volume" if unit in ("ml", "voxels") else "Area"


def size_digits(ref: Array) -> int:
    """How many digits behind the point give a typical size three or four significant digits."""
    present = ref[ref > 0]
    if len(present) == 0:
        return 2
    return int(np.clip(3 - math.floor(math.log10(np.median(present))), 0, 3))


_DICE = (
    "Twice the overlap of prediction and reference, divided by the sum of their sizes. 1 is best; "
    "it is 0 if only one of them has the structure."
)
