"""`recycle-train`: train a segmentation network on a data set or on the built-in phantom."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from rich.console import Console

from recycleseg.cli._common import run_command, with_suggestion
from recycleseg.data.layout import read_dataset
from recycleseg.data.phantom import phantom_name
from recycleseg.files import as_json
from recycleseg.planning.data import plan_for_data
from recycleseg.planning.description import plan_yaml
from recycleseg.planning.draft import num_levels
from recycleseg.planning.planner import TrainingPlan
from recycleseg.progress import plain_console, print_line
from recycleseg.run.config import (
    TrainConfig,
    add_config_arguments,
    config_from,
    load_config,
    preset_file,
    preset_names,
)
from recycleseg.run.folder import RunFolder, run_root
from recycleseg.run.options import PhantomConfig
from recycleseg.run.yaml_file import read_yaml
from recycleseg.training.trainer import Trainer

PHANTOM_PRESET = "tiny"


class Command(NamedTuple):
    """The meaning of a command line.

    Attributes:
        config: all settings of the run.
        resume: whether to continue the run in its folder.
        overwrite: whether to delete the run in its folder first.
    """

    config: TrainConfig
    resume: bool
    overwrite: bool


def build_parser() -> ArgumentParser:
    """The command's parser; most options are the fields of TrainConfig."""
    parser = ArgumentParser(
        prog="recycle-train",
        description="Train a diffusion model for medical image segmentation by recycling. With "
        "--data, patch, network and all else are planned from the data, the memory and --time. "
        "Without --data it trains on a built-in phantom.",
        exit_on_error=False,
    )
    parser.add_argument(
        "--preset",
        type=str,
        default=None,
        help=f"settings that replace those of the plan: {', '.join(preset_names())}",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file that changes settings")
    parser.add_argument(
        "--memory", type=str, help="memory that the plan may use, such as 8G; else 3/4 of the free"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in --out first")
    add_config_arguments(parser)
    return parser


def parse_command(arguments: Sequence[str], base: str | None = None) -> Command:
    """Parse the arguments of the command line.

    Settings come from the base, then from the preset, then, with --init-from, the model of that
    run, then from files and options in their order; later ones win. A run that is resumed has its
    own settings as base, and neither preset nor first run change them again.

    Args:
        arguments: the command line.
        base: YAML of the plan, or of the run to resume; None takes what is right without data.

    Raises:
        ValueError: an option is unknown (the message suggests a similar one), or a value is wrong.
    """
    own = _given(arguments)
    if own.get("resume") and own.get("overwrite"):
        raise ValueError("--resume, --overwrite: expected at most one of them, got both")
    if own.get("memory") is not None and own.get("data") is None:
        raise ValueError("--memory: expected --data with it, because only data are planned for")
    values = _parse(arguments, own, base)
    return Command(config_from(values), values.resume, values.overwrite)


def plan_command(
    arguments: Sequence[str], console: Console, *, with_notes: bool = False
) -> tuple[TrainingPlan, str]:
    """Plan the run of a command line with --data.

    Args:
        arguments: the command line.
        console: where progress and warnings are shown.
        with_notes: see `plan_for_data`.

    Returns:
        The plan, and its YAML.

    Raises:
        ValueError: see `parse_command` and `plan_for_data`.
    """
    own = _without_printing(arguments)
    levels = num_levels(_given(own))
    # Kernels or factors that are given alone tell how many levels the plan will have.
    base = None if levels is None else yaml.safe_dump({"model": {"channels": [8] * levels}})
    parse_command(own, base)  # wrong options end it before files are read
    given = _options_to_fit(arguments)
    plan = plan_for_data(given, console, with_notes=with_notes)
    return plan, plan_yaml(plan, f"Plan for {given['data']}")


def _options_to_fit(arguments: Sequence[str]) -> dict[str, Any]:
    """What a plan has to fit to: all options but the base's, by their dotted names."""
    own = _without_printing(arguments)
    return dict(_parse(own, _given(own), None, defaults=False).items())


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of the command line and of its files."""
    for path in _config_files(arguments):
        read_yaml(path)  # the parser below has no bounds, and its errors do not name the file
    with _suggesting() as parser:
        given = parser.parse_args(_with_underscores(_without_printing(arguments)), defaults=False)
        return dict(given.items())


def _parse(
    arguments: Sequence[str], own: Mapping[str, Any], base: str | None, *, defaults: bool = True
) -> Namespace:
    layers = [] if base is None else ["--config", base]
    with _suggesting() as parser, ExitStack() as stack:
        if not own.get("resume"):
            preset = own.get("preset") or (None if own.get("data") else PHANTOM_PRESET)
            if preset is not None:
                layers += ["--config", str(stack.enter_context(preset_file(preset)))]
            if defaults and "time" in own and "optim.steps" not in own:
                layers += ["--optim.steps", "0"]  # the preset's number is for another time
            if own.get("init_from") is not None:
                model = load_config(RunFolder(Path(own["init_from"])).config).model
                layers += ["--config", yaml.safe_dump({"model": as_json(asdict(model))})]
        return parser.parse_args([*layers, *_with_underscores(arguments)], defaults=defaults)


def _with_underscores(arguments: Sequence[str]) -> list[str]:
    """Options of several words as in files: --init_from for --init-from."""
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = f"--{name[2:].replace('-', '_')}"
        found.append(f"{name}{equals}{value}")
    return found


def _config_files(arguments: Sequence[str]) -> list[Path]:
    """The files that --config names; it takes YAML text, too."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    values = [Path(value) for name, value in pairwise(words) if name == "--config"]
    return [path for path in values if len(path.name) < 256 and path.is_file()]


def _without_printing(arguments: Sequence[str]) -> list[str]:
    """Without --print_config, which ends the program once all settings are known."""
    return [a for a in _with_underscores(arguments) if not a.startswith("--print_config")]


@contextmanager
def _suggesting() -> Iterator[ArgumentParser]:
    """The parser; its errors become ValueErrors, which suggest the names of similar options."""
    parser = build_parser()
    try:
        yield parser
    except ArgumentError as error:
        raise ValueError(with_suggestion(str(error), parser)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycle-train`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    interrupted = "run the same command again, with --resume if training had begun"
    return run_command("recycle-train", lambda: _train(given), interrupted)


def _train(arguments: Sequence[str]) -> int:
    given = _options_to_fit(arguments)
    # The printed configuration may go into a file, so nothing else goes there.
    printing = len(_without_printing(arguments)) < len(arguments)
    console = plain_console(stderr=printing)
    base = plan = None
    folder = _folder_of(given)
    if given.get("resume"):
        base = str(folder.config) if folder.config.is_file() else None
    elif given.get("data") is not None:
        if not printing:
            folder.check(resume=False, overwrite=bool(given.get("overwrite")))
        _, base = plan_command(arguments, console)
        plan = base
        if not printing:
            print_line(console, plan)
    command = parse_command(arguments, base)
    trainer = Trainer(command.config, console=console, plan=plan)
    trainer.fit(resume=command.resume, overwrite=command.overwrite)
    return 0


def _folder_of(given: Mapping[str, Any]) -> RunFolder:
    """The folder of the run."""
    if given.get("out"):
        return RunFolder(Path(given["out"]))
    if given.get("data") is None:
        name = phantom_name(given.get("phantom.spatial_dims", PhantomConfig.spatial_dims))
    else:
        name = read_dataset(given["data"], None).name  # the rule of the split does not matter
    return RunFolder(run_root(None, name, given.get("strategy", TrainConfig.strategy)))
