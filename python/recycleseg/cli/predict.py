"""`recycle-predict`: segment images with one or more trained runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from recycleseg.cli._arguments import Guide, named_as_options
from recycleseg.cli._common import (
    CONTINUE,
    check_overwrite,
    exit_code_of,
    new_parser,
    parse,
    run_command,
    user_memo,
)
from recycleseg.cli._paths import check_exists
from recycleseg.cli._progress import CaseProgress, failures_of, open_folder
from recycleseg.data.identity import ContentMemo
from recycleseg.data.inputs import SplitName, find_cases, find_split_cases
from recycleseg.data.layout import Case
from recycleseg.data.sizes import unused_note
from recycleseg.data.volumes import file_ending
from recycleseg.files import shortened
from recycleseg.parts import Part, chosen_part
from recycleseg.prediction.folder import PredictionFolder
from recycleseg.prediction.predictor import Prediction, Predictor
from recycleseg.prediction.process import process_cases
from recycleseg.prediction.record import make_record
from recycleseg.progress import plain_console, print_line
from recycleseg.run.config import load_config
from recycleseg.run.device import choose_precision, own_gpu
from recycleseg.run.environment import describe_environment
from recycleseg.run.folder import RunFolder
from recycleseg.run.options import PostprocessConfig
from recycleseg.sampling.memory import LARGEST_STATE, peak_memory

NAME = "recycle-predict"
GUIDE = Guide(
    "recycle-predict -m runs/first -i scans -o predictions",
    loose=("--models", "--input", "--out"),
    basic=(
        *("models", "input", "out", "split", "steps", "samples", "seed", "mirror", "keep_largest"),
        *("fill_holes", "device", "threads", "save_probabilities", "save_uncertainty"),
        *("save_steps", "overwrite", "quiet"),
    ),
)
# Options that replace settings of the runs -> the names of these settings in config.yaml.
SAMPLING = {
    "sampler": "sampling.sampler",
    "steps": "sampling.num_steps",
    "eta": "sampling.eta",
    "samples": "sampling.samples",
    "mirror": "sampling.mirror",
    "fusion": "sampling.fusion",
    "window_batch": "sampling.window_batch",
    "seed": "seed",
}

# `spacing` and `screen_spacing` of a volume.
_Sizes = tuple[tuple[float, ...] | None, tuple[float, ...] | None]


@dataclass(frozen=True)
class Extras:
    """What to save for every case beside its label map.

    Attributes:
        probabilities: CASE.npz, as nnU-Net saves it.
        uncertainty: entropy, and disagreement between samples or models.
        steps: the label map after every sampling step.
    """

    probabilities: bool = False
    uncertainty: bool = False
    steps: bool = False


@dataclass(frozen=True)
class Command:
    """The meaning of a command line.

    Attributes:
        runs: run folders.
        inputs: image files, folders of images, or one data set.
        out: folder of the predictions.
        split: part of the data set to predict; None if `inputs` are images.
        sampling: the given options of `SAMPLING`.
        postprocess: None takes the rules of the run.
        extras: what to save beside label maps.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: CPU threads; None leaves the default.
        part: which of the cases to predict.
        overwrite: whether to predict again the cases that are already there.
        quiet: whether to print errors alone.
    """

    runs: tuple[Path, ...]
    inputs: tuple[Path, ...]
    out: Path
    split: SplitName | None
    sampling: dict[str, Any]
    postprocess: PostprocessConfig | None
    extras: Extras
    device: str
    threads: int | None
    part: Part
    overwrite: bool
    quiet: bool


# fmt: off
def build_parser() -> ArgumentParser:
    """The command's parser."""
    parser = new_parser(
        NAME,
        "Segment images with trained runs; each label map has the grid of its image. "
        "Settings that you do not give are those of the run. If the command stops, run it again to "
        "continue. Run it several times at once, also on several machines, to share the cases. "
        "Exit code 3: some cases failed, the others are done.",
    )
    add = parser.add_argument
    add("-m", "--models", nargs="+", type=str, required=True, metavar="RUN",
        help="run folders of recycle-train; the probabilities of several are averaged")
    add("-i", "--input", nargs="+", type=str, required=True, metavar="INPUT",
        help="image files (CASE_0000 stands for all channels of a case), folders of images, or, "
        "with --split, a data set")
    add("-o", "--out", type=str, required=True, metavar="DIR", help="folder of the predictions")
    add("--split", choices=("train", "val", "test", "all"), help="cases of the data set INPUT")
    add("--sampler", choices=("ddim", "ddpm"), help="reverse process")
    add("--steps", type=int, help="number of sampling steps")
    add("--eta", type=float, help="noise of ddim; 0 is deterministic")
    add("--samples", type=int, help="number of trajectories; their probabilities are averaged")
    add("--seed", type=int, help="decides the noise, together with the name of the case")
    add("--mirror", action="store_true", help="average also over mirrored images")
    add("--fusion", choices=("trajectory", "step"),
        help="join windows after the last step (trajectory) or at every step")
    add("--window-batch", type=str, metavar="auto|N",
        help="windows per forward pass; changes speed and memory, not the result")
    add("--keep-largest", nargs="+", type=str, metavar="CLASS",
        help="keep only the largest component of these classes, of every class (all), or of all "
        "classes together (foreground); replaces the post-processing of the run")
    add("--fill-holes", nargs="+", type=str, metavar="CLASS",
        help="fill holes in these classes or in every class (all); replaces the post-processing of "
        "the run")
    add("--muscle-ultrasound", action="store_true",
        help="the paper's rule for muscle ultrasound; replaces the post-processing of the run")
    add("--no-postprocess", action="store_true", help="no post-processing")
    add("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", type=int, help="CPU threads")
    add("--save-probabilities", action="store_true", help="write OUT/CASE.npz as nnU-Net does")
    add("--save-uncertainty", action="store_true",
        help="write OUT/entropy and OUT/disagreement (between samples and models), in nats")
    add("--save-steps", action="store_true",
        help="write the label map after each sampling step to OUT/steps/step_K")
    add("--part", type=str, metavar="I/N",
        help="predict the I-th of N parts of the cases; by default the part that torchrun, a job "
        "array or step of Slurm, or an indexed job of Kubernetes gives this process, else all")
    add("--overwrite", action="store_true", help="predict again the cases that OUT already has")
    return parser
# fmt: on


def parse_command(arguments: Sequence[str]) -> Command:
    """Parse the arguments of the command line.

    Raises:
        ValueError: an option is unknown (the message suggests a similar one), or a value is wrong.
    """
    parsed = parse(build_parser(), arguments, GUIDE)
    runs = tuple(map(Path, parsed.models))
    if len({run.resolve() for run in runs}) < len(runs):
        raise ValueError(f"--models: expected each run once, got {' '.join(parsed.models)}")
    if len(runs) > 1 and parsed.save_steps:
        raise ValueError(f"--save-steps: expected one run as --models, got {len(runs)}")
    if parsed.split is not None and len(parsed.input) > 1:
        raise ValueError(f"--split: expected one data set as --input, got {len(parsed.input)}")
    if parsed.threads is not None and parsed.threads < 1:
        raise ValueError(f"--threads: expected at least 1, got {parsed.threads}")
    part = chosen_part(parsed.part)
    if parsed.overwrite and part.of > 1:
        raise ValueError(
            f"--overwrite: expected all cases, got part {part} because of {part.source}; choose "
            "another --out, or delete the folder by hand"
        )
    given = {option: parsed[option] for option in SAMPLING}
    given["window_batch"] = _auto_or_number(parsed.window_batch)
    return Command(
        runs=runs,
        inputs=tuple(map(Path, parsed.input)),
        out=Path(parsed.out),
        split=parsed.split,
        sampling={o: v for o, v in given.items() if v is not None and v is not False},
        postprocess=_postprocess(parsed),
        extras=Extras(parsed.save_probabilities, parsed.save_uncertainty, parsed.save_steps),
        device=parsed.device,
        threads=parsed.threads,
        part=part,
        overwrite=parsed.overwrite,
        quiet=parsed.quiet,
    )


def _postprocess(parsed: Namespace) -> PostprocessConfig | None:
    """The rules that the options give; None if no option is given."""
    given: dict[str, Any] = {
        "keep_largest": tuple(parsed.keep_largest or ()),
        "fill_holes": tuple(parsed.fill_holes or ()),
        "muscle_ultrasound": parsed.muscle_ultrasound,
    }
    if parsed.no_postprocess and any(given.values()):
        raise ValueError("--no-postprocess: expected no other rule of post-processing, got one")
    try:
        asked = PostprocessConfig(**given)
    except ValueError as error:
        raise ValueError(f"--{str(error).replace('_', '-')}") from error
    return asked if asked.has_rules or parsed.no_postprocess else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycle-predict`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command(NAME, lambda: _predict(given), CONTINUE)


def _predict(arguments: Sequence[str]) -> int:
    command = parse_command(arguments)
    check_exists("--models", "a run folder", *command.runs)
    check_exists("--input", "images", *command.inputs)
    if command.threads is not None:
        torch.set_num_threads(command.threads)
    predictor = _load(command)
    cases = _find(command, predictor)
    if command.overwrite:
        named = [("--models", run) for run in command.runs]
        named += [("--input", path) for path in command.inputs]
        check_overwrite(command.out, {f"{option} {path}": path for option, path in named})
    with user_memo() as memo:
        return _predict_cases(command, predictor, cases, memo)


def _predict_cases(
    command: Command, predictor: Predictor, cases: Sequence[Case], memo: ContentMemo
) -> int:
    console = plain_console(quiet=command.quiet)
    part = command.part.share([case.case_id for case in cases])
    if command.part.of > 1:
        print_line(console, command.part.described(cases))
    folder = _folder(command, predictor, cases, part, memo)
    left = open_folder(folder, console, overwrite=command.overwrite)
    images = {case.case_id: case.image_paths for case in cases}
    extras = command.extras
    sizes: list[_Sizes] = []
    half: list[str] = []
    with CaseProgress(console, "predicting", len(left)) as progress:

        def segment(case_id: str) -> Prediction:
            prediction = predictor(
                images[case_id],
                case_id=case_id,
                return_probs=extras.probabilities,
                return_uncertainty=extras.uncertainty,
                return_steps=extras.steps,
                progress=progress.within_case,
            )
            sizes.append((prediction.volume.spacing, prediction.volume.screen_spacing))
            if prediction.half_state:
                half.append(case_id)
            return prediction

        work = process_cases(left, segment, folder, progress.waiting)
        outcomes = progress.follow(work)
    if note := _size_note(predictor, sizes):
        print_line(console, note)
    if half:
        print_line(
            console,
            f"{shortened(half)}: sampled with a state in float16, because in float32 it takes more "
            f"than {LARGEST_STATE / 2**30:.0f} GiB",
        )
    failures = failures_of(outcomes)
    elsewhere = sum(outcome.elsewhere and outcome.failure is None for outcome in outcomes)
    counts = {
        "predicted": len(left) - elsewhere - len(failures),
        "by other processes": elsewhere,
        "already there": len(part) - len(left),
        "failed": len(failures),
    }
    told = [f"{what} {n}" for what, n in counts.items() if n or what != "by other processes"]
    print_line(
        console, f"{', '.join(told)}: {command.out}; peak memory {peak_memory() / 2**30:.2f} GiB"
    )
    if command.part.of > 1:
        others = {case.case_id for case in cases}.difference(part)
        done = sum(map(folder.is_done, others))
        print_line(console, f"of the other parts {done} of {len(others)} cases are there")
    return exit_code_of(NAME, "failed", failures)


def _size_note(predictor: Predictor, sizes: Sequence[_Sizes]) -> str:
    """A line if a model works in pixels and images give the size of their pixels, else nothing."""
    given = [(known, screen) for known, screen in sizes if known or screen]
    if not given or all(model.plan.unit == "mm" for model in predictor.models):
        return ""
    return unused_note(len(given), sum(bool(screen) for _, screen in given), len(sizes))


def _load(command: Command) -> Predictor:
    settings = {SAMPLING[option].split(".")[-1]: v for option, v in command.sampling.items()}
    rules = ("keep_largest", "fill_holes", "muscle_ultrasound")
    names = {"runtime.device": "device", **{f"postprocess.{rule}": rule for rule in rules}}
    names |= {SAMPLING[option]: option for option in command.sampling}
    with named_as_options({name: f"--{o.replace('_', '-')}" for name, o in names.items()}):
        return Predictor.load_many(
            command.runs,
            device=own_gpu(command.device),
            postprocess=command.postprocess,
            **settings,
        )


def _find(command: Command, predictor: Predictor) -> tuple[Case, ...]:
    model = predictor.models[0]
    channels, dims = model.plan.channel_names, model.plan.spatial_dims
    if command.split is None:
        return find_cases(command.inputs, channels, dims)
    # The rule of the training gives the split of the training.
    found: dict[tuple[str, ...], tuple[Path, tuple[Case, ...]]] = {}
    for run in command.runs:
        rule = load_config(RunFolder(run).config).split_rule
        cases = find_split_cases(command.inputs[0], command.split, channels, dims, rule)
        found.setdefault(tuple(case.case_id for case in cases), (run, cases))
    if len(found) > 1:
        (one, _), (other, _) = list(found.values())[:2]
        raise ValueError(
            f"--split {command.split}: expected runs with the same cases in this part, got {one} "
            f"and {other}, which differ in seed, fold or patients; predict each alone, or the test "
            "part"
        )
    return next(cases for _, cases in found.values())


def _folder(
    command: Command,
    predictor: Predictor,
    cases: Sequence[Case],
    part: Sequence[str],
    memo: ContentMemo,
) -> PredictionFolder:
    return PredictionFolder(
        command.out,
        _record(command, predictor, cases),
        endings={case.case_id: file_ending(case.image_paths[0]) for case in cases},
        images={case.case_id: [str(p.absolute()) for p in case.image_paths] for case in cases},
        sources={path.parent for case in cases for path in case.image_paths},
        part=part,
        memo=memo,
    )


def _record(command: Command, predictor: Predictor, cases: Sequence[Case]) -> dict[str, Any]:
    model = predictor.models[0]
    precision = choose_precision(model.config.runtime.precision, model.device)
    saved = {f"save_{name}": value for name, value in asdict(command.extras).items()}
    return make_record(
        command.runs,
        [model.config for model in predictor.models],
        model.plan,
        file_ending(cases[0].image_paths[0]),
        options={"device": command.device, "threads": command.threads, **saved},
        environment=describe_environment(model.device, precision),
    )


def _auto_or_number(text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ValueError(f"--window-batch: expected auto or a number from 1 on, got {text!r}")
