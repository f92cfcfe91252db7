"""Where the names of labels come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recycleseg.evaluation.labels import find_labels, read_labels
from recycleseg.files import FileError


def test_option_is_json_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "a": 1}, "file_ending": ".png"}))
    assert read_labels(str(path)) == read_labels('{"a": 1}') == {"a": 1}
    with pytest.raises(FileError, match="--labels: expected a JSON file or {...}, got missing"):
        read_labels("missing")
    with pytest.raises(FileError, match="--labels: expected JSON, got"):
        read_labels("{a: 1}")
    path.write_text("[1]")
    with pytest.raises(FileError, match="dataset.json: expected a JSON object, got list"):
        read_labels(str(path))


def test_the_ignore_label_is_kept(tmp_path: Path) -> None:
    labels = {"a": 1, "ignore": 2}
    assert read_labels(json.dumps(labels)) == labels
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **labels}}))
    assert find_labels(tmp_path, tmp_path) == (labels, tmp_path / "dataset.json")


def test_descriptions_are_looked_for_in_order(tmp_path: Path) -> None:
    pred, ref = tmp_path / "pred", tmp_path / "data/labelsTr"
    pred.mkdir()
    ref.mkdir(parents=True)
    assert find_labels(pred, ref) is None
    for number, path in enumerate((ref.parent, ref, pred), 1):
        (path / "dataset.json").write_text(json.dumps({"labels": {"a": number}}))
        assert find_labels(pred, ref) == ({"a": number}, path / "dataset.json")
    (pred / "predict.json").write_text(json.dumps({"dataset": {"labels": {"a": [4, 5]}}}))
    assert find_labels(pred, ref) == ({"a": (4, 5)}, pred / "predict.json")
    (pred / "case.nii").touch()
    assert find_labels(pred / "case.nii", ref) == ({"a": (4, 5)}, pred / "predict.json")


def test_what_is_no_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "predict.json"
    path.write_bytes(b'{"dataset": {"labels": {"h\xe9art": 1}}}')
    for read in (lambda: find_labels(tmp_path, tmp_path), lambda: read_labels(str(path))):
        with pytest.raises(FileError, match="predict.json: expected JSON, got: 'utf-8' codec"):
            read()
    path.write_bytes('{"dataset": {"labels": {"héart": 1}}}'.encode())
    assert find_labels(tmp_path, tmp_path) == ({"héart": 1}, path)
