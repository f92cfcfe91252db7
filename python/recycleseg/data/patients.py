"""Which cases are scans of one patient: told by the user, or noticed from the names of the cases.

A model knows the patients that it was trained on. Its scores on other scans of the same patients
say too little about new patients, so all scans of a patient belong in one part of a split.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from recycleseg.files import FileError, read_text_bytes, shortened

# What may stand after a patient's name: times, sides, scans, slices, views and modalities.
_NUMBERED = (
    "frame fr phase time timepoint tp day week wk month year visit session ses fu follow-?up scan "
    "rescan acq run series rep repeat retest slice sl"
)
_PLAIN = (
    "baseline bl pre post ed es systole diastole test left right lt rt l r od os sax lax sa la "
    "ax axial cor coronal sag sagittal ct mr mri us pet t1w t2w t1c t1ce t1gd flair dwi adc"
)
_GLUED = "ed es pre post left right l r"
_SUFFIX = re.compile(
    r"(?P<patient>.*[^\W_])(?:"
    rf"[_\-. ]+(?:{_NUMBERED.replace(' ', '|')})(?:[_\-. ]?\d+)?|"
    rf"[_\-. ]+(?:{_PLAIN.replace(' ', '|')})\d?|"
    r"[_\-. ]+[tdvszwmyf]\d+|"
    r"[_\-. ]+(?:19|20)\d\d(?:\d{4}|-\d\d-\d\d)|"
    rf"(?<=\d)(?:{_GLUED.replace(' ', '|')})|"
    r"(?<=\d)[_\-. ]?[a-d]"
    r")",
    re.IGNORECASE,
)
_BIDS = re.compile(r"(sub-[A-Za-z0-9]+)(?:_.*)?")
# 010_2HC is the second image of 010_HC.
_NUMBER_AND_WORD = re.compile(r"(.*\d[_\-. ]+)\d([A-Za-z]+)")
_ORDINAL = re.compile(r"(.*[^\W_])[_\-. ]+\(?\d{1,3}\)?")
# A number under a number, such as BraTS-GLI-00005-001. The name does not begin with a date, and the
# first number is no year.
_COUNTER = re.compile(
    r"(?!(?:19|20)\d{6}\D)(.*?(?<!\d)(?!(?:19|20)\d\d\D)\d{3,})(?:[_\-. ]\d+){1,3}"
)
_MIN_COUNTED = 5


def named_patients(group_by: str, case_ids: Sequence[str]) -> dict[str, str]:
    """The patient of every case, as the user tells it.

    Args:
        group_by: name of a CSV file with two columns, case and patient (a header is allowed); or a
            regular expression that finds the patient in the case's name: its first group, or the
            whole match if it has no group.
        case_ids: the cases.

    Returns:
        case_id -> patient.

    Raises:
        FileError: the table cannot be read, or gives a case no patient or two.
        ValueError: the expression is invalid, or finds no patient in some names.
    """
    if is_table(group_by):
        return complete_patients(_read_table(Path(group_by)), case_ids, group_by)
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise ValueError(
            f"group_by: expected a CSV file or a regular expression, got {group_by!r}: {error}"
        ) from error
    found = {case_id: pattern.search(case_id) for case_id in case_ids}
    patients = {c: match[min(1, pattern.groups)] for c, match in found.items() if match}
    if missing := [case_id for case_id in case_ids if not patients.get(case_id)]:
        raise ValueError(
            f"group_by: expected a pattern that finds the patient in every case name, got "
            f"{group_by!r}, which finds none in {shortened(missing)}"
        )
    return patients


def is_table(group_by: str) -> bool:
    """Whether `group_by` of `named_patients` is the name of a CSV file."""
    return group_by.lower().endswith(".csv")


def complete_patients(
    patients: Mapping[str, str], case_ids: Sequence[str], source: str
) -> dict[str, str]:
    """The patients of these cases alone.

    Args:
        patients: case_id -> patient, of these and perhaps other cases.
        case_ids: the cases.
        source: what messages call the place of `patients`.

    Raises:
        FileError: a case has no patient.
    """
    if missing := [case_id for case_id in case_ids if case_id not in patients]:
        raise FileError(
            f"{source}: expected the patient of every case, got none for {shortened(missing)}"
        )
    return {case_id: patients[case_id] for case_id in case_ids}


def noticed_patients(case_ids: Iterable[str]) -> dict[str, str]:
    """The patient of every case, as its name suggests.

    Names that differ only by a frame, time, side, scan, slice, view, modality or date at their end
    (p1_frame01, p1_ED, p1_t0, p1_day3, p1_L, p1_scan2) belong to one patient. A number alone does
    (p1-2) if the name before it is a patient too (p1 or p1_ED), or if the name before it ends in a
    number of three digits or more (BraTS-GLI-00005-001) in at least five patients. Other numbers
    count the patients (hippocampus_001).

    Returns:
        case_id -> patient; a case whose patient has no other scan stands for itself.
    """
    ids = tuple(case_ids)
    names = {case_id: _without_suffixes(case_id) for case_id in ids}
    counted = {c: match[1] for c in ids if (match := _COUNTER.fullmatch(names[c]))}
    if len(set(counted.values())) >= _MIN_COUNTED:
        names.update(counted)
    known = set(names.values())
    for case_id, name in names.items():
        match = _ORDINAL.fullmatch(name)
        if match and match[1] in known:
            names[case_id] = match[1]
    families: dict[str, list[str]] = defaultdict(list)
    for case_id, name in names.items():
        families[name].append(case_id)
    largest = max(map(len, families.values()), default=0)
    return {
        case_id: name if _is_patient(name, members, len(families), largest) else case_id
        for name, members in families.items()
        for case_id in members
    }


def scans_by_patient(patients: Mapping[str, str]) -> dict[str, list[str]]:
    """patient -> the patient's cases, in the order of `patients`."""
    scans: dict[str, list[str]] = defaultdict(list)
    for case_id, patient in patients.items():
        scans[patient].append(case_id)
    return dict(scans)


def _without_suffixes(case_id: str) -> str:
    if match := _BIDS.fullmatch(case_id):
        return match[1]
    name = case_id
    while match := _SUFFIX.fullmatch(name):
        name = match["patient"]
    if match := _NUMBER_AND_WORD.fullmatch(name):
        return match[1] + match[2]
    return name


def _is_patient(name: str, members: Sequence[str], num_families: int, largest: int) -> bool:
    """Whether the common part of some names is a patient, and not a study or an organ.

    A study's name stands before many numbers (us_frame_001, us_frame_002, ...).
    """
    if len(members) < 2:
        return False
    if not any(case_id[-1].isdigit() for case_id in members):
        return True
    if re.search(r"\d", name):
        return num_families > 1
    return num_families >= largest


def _rows(lines: list[str], delimiter: str, path: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter=delimiter)
    except csv.Error as error:
        raise FileError(f"{path}: expected a table of cases and patients, got: {error}") from error


def _read_table(path: Path) -> dict[str, str]:
    content = read_text_bytes(path, "a table of cases and patients")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected a table of cases and patients, got: {error}") from error
    first = lines[0] if lines else ""
    delimiter = next((d for d in ",;\t" if d in first), ",")
    patients: dict[str, str] = {}
    for row in _rows(lines, delimiter, path):
        if not row:
            continue
        if len(row) != 2:
            raise FileError(f"{path}: expected rows CASE,PATIENT, got {delimiter.join(row)!r}")
        case_id, patient = (cell.strip() for cell in row)
        if not patient or patients.setdefault(case_id, patient) != patient:
            got = f"{patients[case_id]} and {patient}" if patient else "none"
            raise FileError(f"{path}: expected one patient of case {case_id}, got {got}")
    return patients
