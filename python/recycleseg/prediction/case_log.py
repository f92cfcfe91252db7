"""What predict.json says of each case, kept without writing the whole file after every case.

While a command works, what changes stands in predict.jsonl: one line for each change of a case,
with all that the record then says of it. So the work per case does not grow with the number of
cases. At the end, or when the next command begins, the lines go into predict.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recycleseg.files import json_lines, read_json_object, system_errors_name, write_json

RECORD = "predict.json"
LOG = "predict.jsonl"
# Parts of the record with one entry per case.
BY_CASE = ("images", "contents", "seconds", "failed")


def log_case(root: Path, record: Mapping[str, Any], case_id: str) -> None:
    """Add a line with what the record says of a case."""
    said = {key: record[key][case_id] for key in BY_CASE if case_id in record[key]}
    # The line break comes first, so that a line that a full disk cut short ends there.
    line = "\n" + json.dumps({"case": case_id, **said}, allow_nan=False)
    with system_errors_name(root / LOG), (root / LOG).open("ab") as file:
        file.write(line.encode())


def write_whole_record(root: Path, record: Mapping[str, Any]) -> None:
    """Write predict.json, which then says all; the lines about cases are no longer needed."""
    write_json(root / RECORD, record)
    (root / LOG).unlink(missing_ok=True)


def read_with_log(path: Path) -> dict[str, Any]:
    """Read a predict.json, and take over what the lines beside it say of cases.

    A line that was cut short says nothing.

    Raises:
        FileError: predict.json holds something else than a JSON object.
    """
    record = read_json_object(path)
    for line in json_lines(path.with_name(LOG)):
        case_id = line.get("case")
        if not isinstance(case_id, str):
            continue
        for key in BY_CASE:
            if isinstance(of_cases := record.setdefault(key, {}), dict):
                of_cases.pop(case_id, None)
                of_cases |= {case_id: line[key]} if key in line else {}
    return record
