"""The kinds of problems that a data set can have, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from recycleseg.files import shortened

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        title: what is wrong, in a few words.
        severity: "error": training refuses the data set; "warning": a person should look at it.
        advice: what to do, in a few words.
    """

    title: str
    severity: Severity
    advice: str


@dataclass(frozen=True)
class Finding:
    """One problem of a data set.

    Attributes:
        kind: what kind of problem it is.
        case_id: name of the case; empty if the problem is of the whole data set.
        text: one line that names the file or the case, what was expected and what came.
    """

    kind: Kind
    case_id: str
    text: str

    @property
    def severity(self) -> Severity:
        """That of its kind."""
        return self.kind.severity


DESCRIPTION = Kind("file names or split", "error", "rename the files, or correct split.json")
NAME = Kind("name that no case may have", "warning", "rename the files; the case is left out")
MISSING = Kind("missing file", "error", "add the file, or remove the case")
UNREADABLE = Kind("unreadable file", "error", "copy or export the file again")
AXES = Kind("wrong number of axes or channels", "error", "export the image again")
VALUES = Kind("NaN, Inf or huge values", "error", "replace them, or export the image again")
GRID = Kind("different grids in one case", "error", "resample to the grid of the first channel")
LABEL_VALUES = Kind("unknown label values", "error", "correct the label, or name them in labels")
MIXED_SIZES = Kind("voxel size in some files only", "error", "give all files their size, or none")
SAME_SCAN = Kind("same scan twice", "warning", "remove one, or keep both on one side of the split")
TWO_LABELS = Kind("same scan with two labels", "warning", "decide which label is right")
SAME_CHANNELS = Kind("same content in two channels", "warning", "copy the right file again")
TWO_SIDES = Kind("patient on two sides of the split", "warning", "split by patient")
SPACING = Kind("unusual voxel size", "warning", "check the unit: mm, not cm or micrometres")
SHAPE = Kind("unusual shape", "warning", "check that it is the right scan, whole and not cropped")
INTENSITY = Kind("unusual intensities", "warning", "check unit and scaling, e.g. HU against 0 to 1")
NO_FOREGROUND = Kind("label without foreground", "warning", "check that the structure is not there")
RARE_CLASS = Kind("class in few cases", "warning", "add cases, or merge the class with another")


def by_kind(findings: Iterable[Finding]) -> dict[Kind, list[Finding]]:
    """The findings of each kind, in their order."""
    kinds: dict[Kind, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds


def warning_lines(findings: Iterable[Finding]) -> list[str]:
    """One short line for each kind of warning, with the cases or else the first text."""
    warnings = (finding for finding in findings if finding.severity == "warning")
    lines = []
    for kind, alike in by_kind(warnings).items():
        cases = [finding.case_id for finding in alike if finding.case_id]
        what = shortened(cases, 3) if cases else alike[0].text
        lines.append(f"warning: {kind.title} ({len(alike)}): {what}; {kind.advice}")
    return lines
