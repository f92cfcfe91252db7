"""The plan for a data set on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from recycleseg.data.cache import read_contents
from recycleseg.data.cache_files import CacheFiles
from recycleseg.data.cached_facts import ChangeWatch, check_with_cache
from recycleseg.data.check import refuse_errors
from recycleseg.data.findings import TWO_SIDES, warning_lines
from recycleseg.data.identity import ContentMemo
from recycleseg.data.layout import read_dataset
from recycleseg.data.preprocess import PreprocessConfig
from recycleseg.files import FileError
from recycleseg.planning.fingerprint import fingerprint_of
from recycleseg.planning.planner import TrainingPlan, make_training_plan
from recycleseg.planning.resources import find_resources
from recycleseg.processes import ALONE, Processes
from recycleseg.progress import print_line, stages
from recycleseg.run.config import TrainConfig
from recycleseg.run.factory import cache_root


def plan_for_data(
    given: Mapping[str, Any],
    console: Console,
    processes: Processes = ALONE,
    *,
    with_notes: bool = False,
) -> TrainingPlan:
    """Open all cases of a data set, print what is unusual about them, and plan a run.

    Args:
        given: options of the user by their dotted names, with `data`.
        console: where progress and warnings are shown.
        processes: those of the run.
        with_notes: whether to print the notes of the data set, which a training prints later.

    Raises:
        FileError: the data set is invalid; the message lists every problem.
        ValueError: an option is not understood, or the memory is too small.
    """
    resources = find_resources(
        given.get("runtime.device", "auto"),
        given.get("runtime.precision", "auto"),
        threads=given.get("runtime.threads"),
        time=given.get("time"),
        memory=given.get("memory"),
        processes=processes,
    )
    asked = {
        name: given[name] for name in ("seed", "split_file", "fold", "group_by") if name in given
    }
    dataset = read_dataset(given["data"], TrainConfig(**asked).split_rule)
    cache = cache_root(given.get("runtime.cache"))
    with stages(console, "reading") as progress:
        contents = read_contents(dataset, cache, progress=progress)
    with stages(console, "planning") as progress:
        pixel_size = given.get("preprocess.pixel_size", PreprocessConfig.pixel_size)
        with ContentMemo(cache) as memo:
            facts, findings = check_with_cache(
                dataset,
                CacheFiles(cache),
                ChangeWatch(contents, memo),
                pixel_size=pixel_size,
                progress=progress,
            )
    refuse_errors(dataset, findings)
    if not any(facts[case_id].class_voxels.any() for case_id in dataset.split["train"]):
        raise FileError(f"{dataset.root}: expected foreground in the training labels, got none")
    # The notes of the data set tell what is wrong with the split.
    warnings = warning_lines(finding for finding in findings if finding.kind is not TWO_SIDES)
    more = f"recycle-data check {shlex.quote(str(dataset.root))} lists all warnings"
    notes = dataset.notes if with_notes else ()
    for line in (*notes, *warnings, *([more] if warnings else [])):
        print_line(console, line)
    return make_training_plan(fingerprint_of(dataset, facts), resources, given)
