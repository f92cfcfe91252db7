"""`recycle-train`: train a segmentation network from a preset and options."""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from recycleseg.cli._common import run_command, with_suggestion
from recycleseg.files import as_json
from recycleseg.run.config import (
    TrainConfig,
    add_config_arguments,
    config_from,
    load_config,
    preset_file,
    preset_names,
)
from recycleseg.run.folder import RunFolder
from recycleseg.training.trainer import Trainer

DEFAULT_PRESET = "tiny"


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
        description="Train a diffusion model for medical image segmentation by recycling. "
        "Without --data it trains on a built-in phantom.",
        exit_on_error=False,
    )
    parser.add_argument(
        "--preset",
        type=str,
        default=DEFAULT_PRESET,
        help=f"settings to start from; other options change them: {', '.join(preset_names())}",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file that changes settings")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--overwrite", action="store_true", help="delete the run in --out first")
    add_config_arguments(parser)
    return parser


def parse_command(arguments: Sequence[str]) -> Command:
    """Parse the arguments of the command line.

    Settings come from the preset, then from files and options in their order; later ones win. With
    --init-from, the options of the model come from that run, then from files and options.

    Raises:
        ValueError: an option is unknown (the message suggests a similar one), or a value is wrong.
    """
    parser = build_parser()
    arguments = [_with_underscores(argument) for argument in arguments]
    try:
        preset = _chosen(arguments, "preset") or DEFAULT_PRESET
        with preset_file(preset) as path:
            first = ["--config", str(path), *_network_of_first_run(arguments)]
            parsed = parser.parse_args([*first, *arguments, "--preset", preset])
    except ArgumentError as error:
        raise ValueError(with_suggestion(str(error), parser)) from error
    if parsed.resume and parsed.overwrite:
        raise ValueError("--resume, --overwrite: expected at most one of them, got both")
    return Command(config_from(parsed), parsed.resume, parsed.overwrite)


def _with_underscores(argument: str) -> str:
    """An option of several words as in files: --init_from for --init-from."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _network_of_first_run(arguments: Sequence[str]) -> list[str]:
    """Arguments with the model of the run that training starts from; none without --init-from.

    A run that goes on has the model in its own folder, and the first run may be gone.
    """
    init_from, out = _chosen(arguments, "init_from"), _chosen(arguments, "out")
    if init_from is None:
        return []
    resume = "--resume" in arguments
    path = RunFolder(Path(out if resume and out is not None else init_from)).config
    if resume and not path.is_file():
        return []
    model = as_json(asdict(load_config(path).model))
    return ["--config", yaml.safe_dump({"model": model})]


def _chosen(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option, else its value in the last file that has it.

    It must be known before all options are parsed, because it changes their defaults.
    """
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    options.add_argument(f"--{name}", dest="value")
    options.add_argument("--config", action="append", default=[])
    known, _ = options.parse_known_args(arguments)
    if known.value is not None:
        return str(known.value)
    for given in reversed(known.config):
        try:
            is_file = Path(given).is_file()
            content = yaml.safe_load(Path(given).read_text(encoding="utf-8") if is_file else given)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue  # the parser of all options will say what is wrong with the file
        if isinstance(content, dict) and content.get(name) is not None:
            return str(content[name])
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycle-train`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    interrupted = "run the same command again, with --resume if training had begun"
    return run_command("recycle-train", lambda: _train(given), interrupted)


def _train(arguments: Sequence[str]) -> int:
    command = parse_command(arguments)
    Trainer(command.config).fit(resume=command.resume, overwrite=command.overwrite)
    return 0
