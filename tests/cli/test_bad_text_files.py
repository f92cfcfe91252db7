"""Text files that trouble parsers end a command with one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recycleseg.cli import data, train

ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{key}: &{key} [{','.join([f'*{before}'] * 9)}]\n"
    for before, key in zip("abcdefgh", "bcdefghi", strict=True)
)
CONFIGS = {
    "aliases": (ALIASES.encode(), "expected at most 10000 values in YAML, got more"),
    "deep": (b"[" * 100_000, "expected YAML of at most 100 levels, got more"),
    "long": (b"#" * 2**19, "expected YAML of at most 262144 bytes, got 524288"),
    "half of UTF-16": (b"\xff\xfea", "expected YAML as text in UTF-8, got other bytes"),
    "NUL": (b"a: \0", "expected YAML, got: "),
}
DESCRIPTION: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "a": 1},
    "file_ending": ".nii.gz",
}
DATASETS: dict[str, tuple[bytes, str]] = {
    "deep": (b"[" * 100_000, "dataset.json: expected JSON of at most 100 levels, got more"),
    "half": (json.dumps(DESCRIPTION).encode()[:40], "dataset.json: expected JSON, got: "),
    "half of UTF-16": (b"\xff\xfe{", "dataset.json: expected JSON, got: 'utf-16-le' codec"),
    "digits": (b'{"labels": ' + b"9" * 5000 + b"}", "dataset.json: expected JSON, got: Exceeds"),
    "list of endings": (
        json.dumps({**DESCRIPTION, "file_ending": [".nii.gz", ".nii"]}).encode(),
        "dataset.json: file_ending: expected one of ",
    ),
    "NUL in a name": (
        json.dumps(
            {**DESCRIPTION, "dataset": {"c": {"images": ["a\0.nii.gz"], "label": "b.nii.gz"}}}
        ).encode(),
        'dataset.json: dataset: c: expected {"images": [path, ...], "label": path}, got ',
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, message = CONFIGS[name]
    (tmp_path / "x.yaml").write_bytes(content)
    assert train.main(["--config", str(tmp_path / "x.yaml"), "--out", str(tmp_path / "run")]) == 2
    said, errors = capfd.readouterr()
    assert said == "" and errors.count("\n") == 1
    assert errors.startswith(f"recycle-train: error: {tmp_path}/x.yaml: {message}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", DATASETS)
def test_description_of_a_data_set(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content, message = DATASETS[name]
    (tmp_path / "dataset.json").write_bytes(content)
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "c_0000.nii.gz").touch()
    assert data.main(["check", str(tmp_path)]) == 2
    said, errors = capfd.readouterr()
    assert said == "" and message in errors and str(tmp_path) in errors
    assert "Traceback" not in errors
