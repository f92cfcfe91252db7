"""What predict.json says of each case, kept without writing the whole file after every case.

While commands work, what is new of a case stands in a file of its own, .cases/CASE/case.json. Only
the command that has the case writes it, so the work per case does not grow with the number of
cases, and it needs no order of what several commands say. When the last of them ends, or the next
one begins alone, all goes into predict.json.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recycleseg.files import FileError, read_json_object, write_json
from recycleseg.names import file_name

RECORD = "predict.json"
# Parts of the record with one entry per case.
BY_CASE = ("images", "contents", "seconds", "failed")
_CASES, _CASE = ".cases", "case.json"


def folder_of_case(root: Path, case_id: str) -> Path:
    """Where the commands that work on a case find its record, and the lock of whoever has it."""
    return root / _CASES / file_name(case_id)


def write_case(root: Path, case_id: str, said: Mapping[str, Any]) -> None:
    """Note all that is said of a case: values for some of `BY_CASE`."""
    folder = folder_of_case(root, case_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _CASE, {"case": case_id, **said})


def read_case(root: Path, case_id: str) -> dict[str, Any]:
    """What is said of a case since predict.json was written; nothing if there is no such file."""
    return _read(folder_of_case(root, case_id) / _CASE)


def write_whole_record(root: Path, record: Mapping[str, Any]) -> None:
    """Write predict.json, which then says all; the files of the cases are no longer needed."""
    write_json(root / RECORD, record)
    shutil.rmtree(root / _CASES, ignore_errors=True)  # what stays says the same


def read_with_cases(path: Path) -> dict[str, Any]:
    """Read a predict.json, and take over what the files beside it say of cases.

    Raises:
        FileError: predict.json holds something else than a JSON object.
    """
    # Before the record, because a command that ends now writes this and deletes those.
    said = [_read(file) for file in sorted(path.parent.glob(f"{_CASES}/*/{_CASE}"))]
    record = read_json_object(path)
    for of_case in said:
        case_id = of_case.get("case")
        if not isinstance(case_id, str):
            continue
        for key in BY_CASE:
            if isinstance(of_cases := record.setdefault(key, {}), dict):
                of_cases.pop(case_id, None)
                of_cases |= {case_id: of_case[key]} if key in of_case else {}
    return record


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except FileError:  # there is none, or it is damaged and the case is done again
        return {}
