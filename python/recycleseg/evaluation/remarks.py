"""What a reader of an evaluation must know before he trusts its numbers, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recycleseg.metrics.scores import Scores


def longest_side(spacing: Sequence[float] | None, shape: Sequence[int]) -> float:
    """Longest side of a voxel, in pixels if the spacing is unknown; axes of one voxel do not count.

    Args:
        spacing: mm along each axis, or None.
        shape: voxels along each axis.
    """
    sides = [1.0] * len(shape) if spacing is None else spacing
    return max((side for side, size in zip(sides, shape, strict=True) if size > 1), default=0.0)


def tolerance_notes(sides: Sequence[float], scores: Scores) -> Iterator[str]:
    """A line for each tolerance of surface Dice that is below the voxels of some cases.

    Args:
        sides: `longest_side` of each case.
        scores: of one of the cases.
    """
    for tolerance in scores.tolerances_mm:
        # Sizes in headers are float32.
        larger = [side for side in sides if side > tolerance * (1 + 1e-6)]
        if larger:
            yield (
                f"the tolerance of {tolerance:g} {scores.unit} for surface Dice is below the "
                f"longest side of the voxels (up to {max(larger):.3g} {scores.unit}) in "
                f"{len(larger)} of {len(sides)} cases: along that side, a surface that is one "
                "voxel off counts as wrong"
            )


def patients_note(num_cases: int, num_patients: int, group_by: str | None) -> Iterator[str]:
    """A line if patients have several cases."""
    if num_patients == num_cases:
        return
    source = "as their names suggest" if group_by is None else f"by {group_by}"
    yield (
        f"{num_cases} cases of {num_patients} patients, {source}: intervals and tests count "
        "patients, because cases of one patient are not independent"
    )
