"""Who the patients are: told by the user, or noticed from the names of the cases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from recycleseg.data.patients import named_patients, noticed_patients, scans_by_patient
from recycleseg.files import FileError


def families(case_ids: Iterable[str]) -> list[list[str]]:
    """The cases of every patient with several scans."""
    scans = scans_by_patient(noticed_patients(case_ids)).values()
    return [sorted(cases) for cases in scans if len(cases) > 1]


# Numbers count patients in these names: of public data sets, of sites, of years, and of words that
# look like a frame or a scan.
ONE_SCAN_EACH = {
    "MSD": [f"hippocampus_{i:03}" for i in range(40)],
    "MSD without zeros": [f"spleen_{i}" for i in range(40)],
    "left atrium": [f"la_{i:03}" for i in range(40)],
    "cases": [f"case_{i}" for i in range(40)],
    "KiTS": [f"case_{i:05}" for i in range(40)],
    "PROMISE12": [f"Case{i:02}" for i in range(40)],
    "BraTS 2021": [f"BraTS2021_{i:05}" for i in range(40)],
    "BraTS of several years": [f"BraTS{y}_{i:03}" for y in range(2015, 2022) for i in range(9)],
    "AMOS": [f"amos_{i:04}" for i in range(40)],
    "AMOS with modality": [f"AMOS22_CT_{i:04}" for i in range(40)],
    "LUNG1": [f"LUNG1-{i:03}" for i in range(40)],
    "LiTS": [f"volume-{i}" for i in range(40)],
    "BTCV": [f"img{i:04}" for i in range(40)],
    "TotalSegmentator": [f"s{i:04}" for i in range(40)],
    "TCGA": [f"TCGA-{site:02}-{i:04}" for site in (2, 6, 8, 12) for i in range(3, 40, 3)],
    "IXI": [f"IXI{i:03}-{('Guys', 'HH', 'IOP')[i % 3]}-{700 + i:04}" for i in range(40)],
    "ADNI": [f"{site:03}_S_{i:04}" for site in (2, 3, 5, 6, 7, 9) for i in (295, 413, 500)],
    "M&Ms": ["A0S9V9", "A1D0Q7", "A1D9Z7", "B9C1L4"],
    "BUSI": [f"{kind} ({i})" for kind in ("benign", "malignant") for i in range(1, 9)],
    "DRIVE": [f"{i:02}_test" for i in range(1, 21)] + [f"{i}_training" for i in range(21, 41)],
    "HC18": [f"{i:03}_HC" for i in range(40)],
    "sites": [f"site{site}_{i:03}" for site in range(1, 7) for i in range(9)],
    "hospitals": [f"{site}_{i:03}" for site in "ABC" for i in range(9)],
    "years": [f"{year}_{i:03}" for year in range(2015, 2022) for i in range(9)],
    "dates": [f"{20200101 + day}_{i:03}" for day in range(9) for i in range(1, 4)],
    "numbers": [f"{i:03}" for i in range(40)],
    "scan numbers": [f"scan_{i:03}" for i in range(40)],
    "a study's scans": [f"MRI_scan_{i:03}" for i in range(40)],
    "a study's frames": [f"us_frame_{i:03}" for i in range(40)],
    "a numbered study's slices": [f"TS1_s{i:04}" for i in range(40)],
    "BIDS": [f"sub-{i:02}" for i in range(40)],
    "few numbers under numbers": ["P01_01", "P01_02", "P02_01", "P02_02"],
}


@pytest.mark.parametrize("case_ids", ONE_SCAN_EACH.values(), ids=ONE_SCAN_EACH)
def test_numbers_of_patients(case_ids: list[str]) -> None:
    assert noticed_patients(case_ids) == {case_id: case_id for case_id in case_ids}


SEVERAL_SCANS = {
    "ACDC": ("patient{p:03}", ("_frame01", "_frame12")),
    "phases": ("patient{p:03}", ("_ED", "_ES")),
    "time points": ("p{p}", ("_t0", "_t1")),
    "capital T": ("P{p:02}", ("_T1", "_T2")),
    "days": ("x{p}", ("_day3", "_day14")),
    "sides": ("knee_{p:03}", ("_L", "_R")),
    "sides in words": ("case{p}", (" left", " right")),
    "glued sides": ("Image_{p:02}", ("L", "R")),
    "letters": ("case{p}", ("a", "b")),
    "scans": ("p{p}", ("_scan1", "_scan2")),
    "first without a number": ("p{p}", ("", "_scan2")),
    "second with a number": ("case{p}", ("", "-2")),
    "many numbers": ("p{p:02}", ("", "_2", "_10")),
    "number beside a phase": ("p{p:02}", ("_ED", "_2")),
    "sessions": ("ABC-{p:04}", ("_ses-01", "_ses-02")),
    "BIDS": ("sub-{p:02}", ("_ses-1_acq-ax_T1w", "_ses-1_acq-cor_T1w", "_ses-2_T1w")),
    "slices": ("patient{p:03}", ("_slice_001", "_slice_002", "_slice_103")),
    "CAMUS": ("patient{p:04}", ("_2CH_ED", "_2CH_ES", "_4CH_ED", "_4CH_ES")),
    "M&Ms-2": ("{p:03}", ("_SA_ED", "_SA_ES", "_LA_ED", "_LA_ES")),
    "HC18": ("{p:03}", ("_HC", "_2HC", "_3HC")),
    "HC18 without the first": ("{p:03}", ("_2HC", "_3HC")),
    "OASIS": ("OAS1_{p:04}", ("_MR1", "_MR2")),
    "OASIS-3": ("OAS3{p:04}", ("_d0129", "_d2430")),
    "ADNI": ("002_S_{p:04}", ("_m00", "_m12")),
    "dates": ("P{p}", ("_20200101", "_20210304")),
    "dates with dashes": ("P{p}", ("_2020-01-01", "_2021-03-04")),
    "BraTS 2023": ("BraTS-GLI-{p:05}", ("-000", "-001")),
    "PI-CAI": ("1{p:04}", ("_1000005", "_1000006")),
    "TCGA slices": ("TCGA_CS_{p:04}_19960909", ("_1", "_2", "_23")),
    "DeepLesion": ("{p:06}", ("_01_01_109", "_01_02_014", "_02_01_014")),
    "treatment": ("rectum{p}", ("_pre", "_post")),
}


@pytest.mark.parametrize(("name", "ends"), SEVERAL_SCANS.values(), ids=SEVERAL_SCANS)
def test_scans_of_a_patient(name: str, ends: tuple[str, ...]) -> None:
    patients = [name.format(p=p) for p in range(1, 8)]
    expected = [sorted(patient + end for end in ends) for patient in patients]
    assert families(case_id for cases in expected for case_id in cases) == expected


def test_names_of_people() -> None:
    case_ids = ["anna_scan1", "anna_scan2", "bert_scan1", "cleo_scan1"]
    assert families(case_ids) == [["anna_scan1", "anna_scan2"]]
    assert families(["anna_L", "anna_R", "bert_L"]) == [["anna_L", "anna_R"]]


def test_a_case_alone_stands_for_itself() -> None:
    case_ids = ["p1_ED", "p1_ES", "p2_ED", "x"]
    assert noticed_patients(case_ids) == {"p1_ED": "p1", "p1_ES": "p1", "p2_ED": "p2_ED", "x": "x"}
    assert noticed_patients([]) == {}


@pytest.mark.parametrize(
    ("pattern", "patients"),
    [(r"^[a-z]+\d", ["ab1", "ab1", "c2"]), (r"^([a-z]+)\d", ["ab", "ab", "c"])],
)
def test_pattern(pattern: str, patients: list[str]) -> None:
    case_ids = ("ab1_x", "ab1_y", "c2_x")
    assert named_patients(pattern, case_ids) == dict(zip(case_ids, patients, strict=True))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"group_by: expected a CSV file or a regular expression, got '\(': missing \)"),
        (r"^c\d", "a pattern that finds the patient in every case name, got .* none in ab1$"),
        (r"^[a-z]+\d(_x)?", "finds none in ab1, c2$"),
        ("", "finds none in ab1, c2$"),
    ],
)
def test_pattern_that_does_not_fit(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_patients(pattern, ("ab1", "c2"))


@pytest.mark.parametrize(
    "text",
    [
        "case,patient\nc1,A\nc2,A\nc3,B\n",
        "c1;A\nc2;A\n\nc3;B\nc9;B",
        "\ufeffc1\tA\r\nc2\tA\r\nc3\t B \r\n",
    ],
    ids=["commas and header", "semicolons", "tabs and byte order mark"],
)
def test_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "groups.CSV"
    path.write_text(text, encoding="utf-8")
    assert named_patients(str(path), ("c1", "c2", "c3")) == {"c1": "A", "c2": "A", "c3": "B"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c1,A\n", "groups.csv: expected the patient of every case, got none for c2$"),
        ("c1,A\nc2,B\nc1,B\n", "expected one patient of case c1, got A and B"),
        ("c1,A\nc2,\n", "expected one patient of case c2, got none"),
        ("c1,60,A\n", "expected rows CASE,PATIENT, got 'c1,60,A'"),
        ("c1\n", "expected rows CASE,PATIENT, got 'c1'"),
        (None, "groups.csv: expected a table of cases and patients, got: .*No such file"),
    ],
)
def test_bad_table(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "groups.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FileError, match=message):
        named_patients(str(path), ("c1", "c2"))
