"""Structure and numbers of the report, read from its HTML."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recycleseg.evaluation import compare
from recycleseg.metrics import evaluate
from recycleseg.report.columns import shown_columns
from recycleseg.report.html import write_report
from recycleseg.report.sentences import Presence

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Parsed(html.parser.HTMLParser):
    """Elements with their attributes, tables as rows of texts, the visible text and the JSON."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self.data: Any = None
        self._rows: list[list[str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            name = dict(attrs).get("id") or dict(attrs).get("class") or f"{len(self.tables)}"
            self._rows = self.tables[name] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"] and self.elements[-1][1].get("id") == "case-data":
            self.data = json.loads(data)
        if {"script", "style"} & set(self.open):
            return
        self.text += data
        if {"th", "td"} & set(self.open):
            self._rows[-1][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [a[name] or "" for _, a in self.elements if name in a]


@pytest.fixture
def report(evaluated: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """A function that writes a report of an evaluation by `evaluated`; gives scores and page."""

    def write(*, with_images: bool = True, options: Any = None, **made: Any) -> tuple[Any, Parsed]:
        scores, images = evaluated(**made)
        options = {"title": "Boxes", **(options or {})}
        path = tmp_path / "report.html"
        write_report(path, scores, images=images if with_images else {}, **options)
        assert [p.name for p in tmp_path.glob("report.html*")] == ["report.html"]
        page = path.read_text(encoding="utf-8")
        parsed = Parsed(page)
        check_structure(parsed, page)
        return scores, parsed

    return write


def check_structure(parsed: Parsed, page: str) -> None:
    """Ids are unique, links have a target, nothing is loaded, tables have headers."""
    ids = parsed.attributes("id")
    assert [name for name, number in Counter(ids).items() if number > 1] == []
    links = parsed.attributes("href")
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    outside = [link for link in [*links, *parsed.attributes("src")] if link[:1] != "#"]
    assert all(link.startswith(("data:image/png;", "data:image/jpeg;")) for link in outside)
    assert not re.search(r"https?://|url\(|@import|\bnan to\b", page)
    assert not re.search(r"\b(nan|inf|None)\b", parsed.text)
    labelled = parsed.attributes("aria-labelledby")
    assert labelled and set(labelled) <= set(ids)
    scripts = [a.get("type") for tag, a in parsed.elements if tag == "script"]
    assert scripts == ["application/json", None]
    for rows in parsed.tables.values():
        assert len({len(row) for row in rows}) == 1 and len(rows) > 1
        assert all(rows[0])
    headers = [a.get("scope") for tag, a in parsed.elements if tag == "th"]
    assert set(headers) == {"col", "row"}


def test_lengths_without_pixel_sizes_are_in_pixels(report: Callable[..., Any]) -> None:
    scores, parsed = report(dims=2, sized=False)
    assert scores.by_step[-1].unit == "pixels"
    header = parsed.tables["case-table"][0]
    assert header[2:7] == [
        "Dice",
        "NSD at 1 pixels",
        "HD95 (pixels)",
        "ASSD (pixels)",
        "Area error (pixels)",
    ]
    assert header[-3:-1] == ["Area, predicted (pixels)", "Area, reference (pixels)"]
    assert "The size of the pixels is unknown, so all lengths are in pixels." in parsed.text
    assert re.search(r"Bar: \d+ pixels\.", parsed.text)
    assert not re.search(r"\bmm\b|mm²", parsed.text)


def test_volumes_without_voxel_sizes_are_in_voxels() -> None:
    box = np.zeros((6, 6, 6), np.uint8)
    box[1:4, 1:4, 1:4] = 1
    columns = shown_columns(evaluate(np.roll(box, 1, 0), box, spacing=None, labels={"a": 1}))
    assert [column.title for column in columns][-2:] == ["ASSD (pixels)", "Volume error (voxels)"]


def test_table_holds_the_scores(report: Callable[..., Any]) -> None:
    scores, parsed = report(missed=(1,), extra=(3,), absent=(2,))
    final = scores.by_step[-1]
    header, *rows = parsed.tables["case-table"]
    columns = shown_columns(final)
    assert header[2 : 2 + len(columns)] == [column.title for column in columns]
    assert header[2:5] == ["Dice", "NSD at 1 mm", "HD95 (mm)"]
    assert header[-3:] == ["Volume, predicted (ml)", "Volume, reference (ml)", "Remark"]
    expected = final.rows()
    assert len(rows) == len(expected) == 14
    assert [*zip(*parsed.data["texts"], parsed.data["remarks"], strict=True)] == [
        tuple(row[2:]) for row in rows
    ]
    keys = [math.nan if k is None else float(k) for of in parsed.data["keys"] for k in of]
    stored = np.array(keys).reshape(7, 14)
    for number, (row, truth) in enumerate(zip(rows, expected, strict=True)):
        assert row[:2] == [scores.case_ids[truth["case"]], truth["label"]]
        values = [truth[m] for m in ("dice", "nsd", "hd95", "assd")]
        values += [truth["pred_volume_ml"] - truth["ref_volume_ml"]]
        values += [truth["pred_volume_ml"], truth["ref_volume_ml"]]
        if not values[-1] and not values[-2]:
            values[4] = math.nan
        # The page stores six digits, for sorting.
        assert stored[:, number] == pytest.approx(values, rel=1e-5, nan_ok=True)
        assert row[2] == ("–" if math.isnan(truth["dice"]) else f"{truth['dice']:.3f}")
        infinite, dash = math.isinf(truth["hd95"]), math.isnan(truth["hd95"])
        assert row[4] == ("∞" if infinite else "–" if dash else f"{truth['hd95']:.2f}")
    remarks = {(row[0], row[1]): row[-1] for row in rows if row[-1]}
    assert remarks == {
        ("b", "shell"): "missed",
        ("d", "shell"): "not in reference",
        ("c", "shell"): "in neither",
    }


def test_summary_counts_what_no_mean_holds(report: Callable[..., Any]) -> None:
    scores, parsed = report(missed=(1, 4), extra=(3,), absent=(2,))
    summary = scores.by_step[-1].aggregate()["shell"]
    _, shell, core, overall = parsed.tables["summary-table"]
    assert shell[0] == "shell" and core[0] == "core" and overall[0] == "Mean of all"
    assert shell[1].startswith(f"{summary['dice'].mean:.3f}")
    assert shell[3].startswith(f"{summary['hd95'].mean:.2f}")
    assert shell[3].endswith("3 × ∞ left out")
    assert shell[-1] == "72 missed1 not in reference1 in neither"
    assert core[-1] == "7"
    told = "shell was missed in 2 cases, shell was predicted without a reference in 1 case,"
    assert told in parsed.text


def test_pictures_and_rows_link_to_each_other(report: Callable[..., Any]) -> None:
    _, parsed = report(entropy=True)
    cards = [a["id"] for tag, a in parsed.elements if tag == "article"]
    assert len(cards) == 6
    links = set(parsed.attributes("href"))
    for card in cards:
        assert f"#{card}" in links and f"#r{card[1:]}-0" in links
    pictures = [a for tag, a in parsed.elements if tag == "image"]
    assert len(pictures) == 6 * 3 * 3
    assert sum(a.get("id", "").startswith("p") for a in pictures) == 6 * 3


@pytest.mark.parametrize(
    "made",
    [
        {"dims": 2, "labels": {"head": 1}, "entropy": True},
        {"dims": 2, "case_ids": ("only",), "steps": 2},
        {"case_ids": ("only",), "labels": {"box": 1}},
        {"case_ids": ("one", "two"), "labels": {"whole": (1, 2), "core": 2}, "entropy": True},
        {"case_ids": ("only",), "labels": {"box": 1}, "missed": (0,)},
        {"case_ids": ("one", "two"), "labels": {"box": 1}, "absent": (0, 1), "steps": 3},
        {"missed": (0, 1, 2, 3, 4, 5, 6), "labels": {"box": 1}, "steps": 2},
        {"labels": {f"structure {n}": n for n in range(1, 4)}, "extra": (0,), "steps": 2},
    ],
    ids=lambda made: "-".join(made),
)
@pytest.mark.parametrize("with_images", [True, False])
def test_any_evaluation_has_a_report(
    report: Callable[..., Any], made: dict[str, Any], with_images: bool
) -> None:
    scores, parsed = report(with_images=with_images, **made)
    assert len(parsed.tables["case-table"]) == 1 + len(scores.case_ids) * len(scores.labels)
    dice = scores.by_step[-1].table["dice"]
    cards = [a for tag, a in parsed.elements if tag == "article"]
    assert len(cards) == min(np.isfinite(dice).any(1).sum(), 6)
    assert ("Dice by sampling step" in parsed.text) == (len(scores.by_step) > 1)


def test_nothing_breaks_out_of_its_place(
    evaluated: Callable[..., Any], report: Callable[..., Any], tmp_path: Path
) -> None:
    # No file can have such a name, but the id of a case can.
    scores, images = evaluated(labels={'<b id="x">&amp;': 1, "{{ 7 * 7 }}": 2}, steps=2)
    names = {c: f"</script><script>alert('{c}')</script>&\"" for c in scores.case_ids}
    hostile = dataclasses.replace(
        scores,
        case_ids=tuple(names.values()),
        prediction_files={names[c]: p for c, p in scores.prediction_files.items()},
        reference_files={names[c]: p for c, p in scores.reference_files.items()},
        failed={"<i>": "<img src=x onerror=alert(1)>"},
        notes=("<script>1</script>",),
    )
    path = tmp_path / "report.html"
    write_report(
        path,
        hostile,
        title="</title><script>",
        images={names[c]: p for c, p in images.items()},
        comparison=compare(hostile, hostile, names=("<a>", "</style>")),
        details={"<u>": "</dd>"},
    )
    page = path.read_text(encoding="utf-8")
    parsed = Parsed(page)
    check_structure(parsed, page)
    assert {"b", "i", "u", "img"}.isdisjoint(tag for tag, _ in parsed.elements)
    assert parsed.tables["case-table"][1][0] == names["a"]
    assert parsed.tables["case-table"][2][1] == "{{ 7 * 7 }}"
    assert parsed.data["cases"] == [*names.values()]
    assert parsed.data["structures"] == ['<b id="x">&amp;', "{{ 7 * 7 }}"]
    assert "<img src=x onerror=alert(1)>" in parsed.text


def test_comparison_is_told_in_words(
    evaluated: Callable[..., Any], report: Callable[..., Any]
) -> None:
    a, _ = evaluated()
    worse = dataclasses.replace(a.by_step[-1], table=dict(a.by_step[-1].table))
    worse.table["dice"] = a.by_step[-1].table["dice"] - np.linspace(0.1, 0.2, 14).reshape(7, 2)
    b = dataclasses.replace(a, by_step=(worse,))
    comparison = compare(a, b, names=("ours", "theirs"))
    _, parsed = report(options={"comparison": comparison})
    header, first, *_ = parsed.tables["comparison"]
    assert header[:4] == ["Structure", "Metric", "ours", "theirs"]
    row = comparison.rows[0]
    assert first[:2] == ["shell", "Dice"] and first[4].startswith(f"+{row.difference:.3f}range +")
    assert first[2] == f"{row.mean_a:.3f}n = 7 pairs"
    assert {r[-1] for r in parsed.tables["comparison"][1:]} == {"too few pairs (7) for 8 tests"}
    only = compare(a, b, names=("ours", "theirs"), metrics=("dice",))
    _, parsed = report(options={"comparison": only})
    _, first, _ = parsed.tables["comparison"]
    row = only.rows[0]
    interval = f"+{row.typical:.3f}+{row.ci_low:.3f} to +{row.ci_high:.3f}"
    assert (first[5], first[-1]) == (interval, "ours better")
    assert "ours compared with theirs" in parsed.text


def test_details_notes_and_failures_are_shown(
    evaluated: Callable[..., Any], tmp_path: Path
) -> None:
    scores, _ = evaluated()
    scores = dataclasses.replace(scores, failed={"h": "h.nii.gz: broken"}, notes=("a note",))
    path = tmp_path / "report.html"
    write_report(path, scores, title="T", images={}, details={"Model": "runs/x"})
    parsed = Parsed(path.read_text(encoding="utf-8"))
    for text in ("Model", "runs/x", "a note", "h.nii.gz: broken", "1 case could not be evaluated"):
        assert text in parsed.text


def test_what_cannot_be_drawn_is_said(evaluated: Callable[..., Any], tmp_path: Path) -> None:
    scores, images = evaluated(case_ids=("a", "b"))
    images["a"][0].write_bytes(b"no image")
    scores.reference_files["b"].unlink()
    write_report(tmp_path / "report.html", scores, title="T", images=images)
    parsed = Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "image not shown" in parsed.text and "a_0000.nii.gz" in parsed.text
    assert "cannot be drawn" in parsed.text


def test_only_the_script_of_the_report_may_run(report: Callable[..., Any]) -> None:
    _, parsed = report()
    policy = next(
        a["content"]
        for tag, a in parsed.elements
        if tag == "meta" and "content" in a and "script-src" in (a["content"] or "")
    )
    assert policy is not None
    assert "default-src 'none'" in policy and "'unsafe-eval'" not in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)


def test_presence_counts_each_case_once(evaluated: Callable[..., Any]) -> None:
    scores, _ = evaluated(missed=(1,), extra=(3,), absent=(2,))
    presence = Presence.of(scores.by_step[-1])
    where = (presence.missed, presence.hardly, presence.extra, presence.absent)
    assert [int(w.sum()) for w in where] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": [3]}, 3 * math.log(2)),
        ({"background": 0}, math.log(3)),  # without a foreground, the evaluated labels count
        (None, math.log(3)),
    ],
)
def test_greatest_entropy_is_that_of_the_predicted_labels(
    evaluated: Callable[..., Any], tmp_path: Path, labels: dict[str, Any] | None, expected: float
) -> None:
    scores, images = evaluated(case_ids=("a",), dims=2, entropy=True)
    if labels is not None:
        record = json.dumps({"dataset": {"labels": labels}})
        (scores.prediction_roots[0] / "predict.json").write_text(record)
    write_report(tmp_path / "report.html", scores, title="t", images=images)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{expected:.2f} nats" in page
