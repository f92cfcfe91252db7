"""`recycle-train`: train a segmentation network on a data set or on the built-in phantom."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from rich.console import Console

from recycleseg.cli._arguments import (
    Guide,
    about_unknown,
    checked_arguments,
    is_group,
    named_as_options,
    setting_of,
)
from recycleseg.cli._common import new_parser, parse_checked, run_command
from recycleseg.cli._help import Values, answer_if_asked
from recycleseg.cli._paths import check_exists
from recycleseg.data.layout import read_dataset
from recycleseg.data.patients import is_table
from recycleseg.data.phantom import phantom_name
from recycleseg.files import FileError, as_json
from recycleseg.planning.data import plan_for_data
from recycleseg.planning.description import plan_yaml
from recycleseg.planning.draft import num_levels
from recycleseg.planning.planner import PLANNED, TrainingPlan
from recycleseg.planning.resources import parse_memory
from recycleseg.processes import ALONE, Processes, joined
from recycleseg.progress import plain_console, print_text
from recycleseg.run.config import (
    TrainConfig,
    add_config_arguments,
    config_from,
    load_config,
    preset_file,
    preset_names,
)
from recycleseg.run.folder import RunFolder, inputs_of_run, run_root
from recycleseg.run.options import PhantomConfig
from recycleseg.run.settings import Setting, fitted_settings, nested, settings_of
from recycleseg.run.yaml_file import read_yaml
from recycleseg.training.trainer import Trainer

PHANTOM_PRESET = "tiny"
GUIDE = Guide(
    "recycle-train --data Dataset123_Name --time 2h --out runs/first",
    loose=("--data",),
    basic=(
        *("data", "out", "time", "memory", "preset", "config", "resume", "overwrite"),
        *("strategy", "init_from", "seed", "fold", "optim.steps", "optim.batch_size"),
        *("patch.size", "model.channels", "sampling.num_steps", "runtime.device", "quiet"),
    ),
)
_SETTINGS = dict(settings_of(TrainConfig))
# Options by their names in files -> in the spelling of a command line.
OPTION_NAMES = {name: f"--{name.replace('_', '-')}" for name in ("memory", *_SETTINGS)}


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
    parser = new_parser(
        "recycle-train",
        "Train a diffusion model for medical image segmentation by recycling. With --data, patch, "
        "network and all else are planned from the data, the memory and --time. Without --data it "
        "trains on a built-in phantom.",
    )
    add = parser.add_argument
    add("--preset", choices=preset_names(), help="settings that replace those of the plan")
    add(
        "--config",
        action=ActionConfigFile,
        metavar="FILE",
        help="YAML file that changes settings; may stand more than once",
    )
    add("--memory", type=str, help="memory that the plan may use, such as 8G; else 3/4 of the free")
    add("--resume", action="store_true", help="continue the run in --out")
    add("--overwrite", action="store_true", help="delete the run in --out first")
    add_config_arguments(parser)
    return parser


def parse_command(
    arguments: Sequence[str], base: str | None = None, instead: Mapping[str, bool] | None = None
) -> Command:
    """Parse the arguments of the command line.

    Settings come from the base, then from the preset, then, with --init-from, the model of that
    run, then from files and options in their order; later ones win. A run that is resumed has its
    own settings as base, and neither preset nor first run change them again.

    Args:
        arguments: the command line.
        base: YAML of the plan, or of the run to resume; None takes what is right without data.
        instead: what replaces --resume and --overwrite, wherever they stand.

    Raises:
        ValueError: an option is unknown (the message suggests a similar one), or a value is wrong.
    """
    own = {**_given(arguments), **(instead or {})}
    if own.get("resume") and own.get("overwrite"):
        raise ValueError("--resume, --overwrite: expected at most one of them, got both")
    if own.get("memory") is not None and own.get("data") is None:
        raise ValueError("--memory: expected --data with it, because only data are planned for")
    values = _parse(arguments, own, base)
    resume, overwrite = (bool(own.get(option)) for option in ("resume", "overwrite"))
    return Command(config_from({n: values[n] for n in _SETTINGS}), resume, overwrite)


def plan_command(
    arguments: Sequence[str],
    console: Console,
    processes: Processes = ALONE,
    *,
    with_notes: bool = False,
) -> tuple[TrainingPlan, str]:
    """Plan the run of a command line with --data.

    Args:
        arguments: the command line.
        console: where progress and warnings are shown.
        processes: those of the run.
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
    plan = plan_for_data(given, console, processes, with_notes=with_notes)
    return plan, plan_yaml(plan, f"Plan for {given['data']}")


def _options_to_fit(arguments: Sequence[str]) -> dict[str, Any]:
    """What a plan has to fit to: all options but the base's, by their dotted names."""
    own = _without_printing(arguments)
    return dict(_parse(own, _given(own), None, defaults=False).items())


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of the command line and of its files."""
    parser = build_parser()
    words = _checked(parser, _without_printing(arguments))
    return dict(parse_checked(parser, words, defaults=False).items())


def _parse(
    arguments: Sequence[str], own: Mapping[str, Any], base: str | None, *, defaults: bool = True
) -> Namespace:
    parser = build_parser()
    layers = [] if base is None else ["--config", base]
    with ExitStack() as stack:
        if not own.get("resume"):
            preset = own.get("preset") or (None if own.get("data") else PHANTOM_PRESET)
            if preset is not None:
                layers += ["--config", str(stack.enter_context(preset_file(preset)))]
            if defaults and "time" in own and "optim.steps" not in own:
                layers += ["--optim.steps", "0"]  # the preset's number is for another time
            if own.get("init_from") is not None:
                check_exists("--init-from", "a run folder", own["init_from"])
                model = load_config(RunFolder(Path(own["init_from"])).config).model
                layers += ["--config", yaml.safe_dump({"model": as_json(asdict(model))})]
        words = [*layers, *_checked(parser, arguments)]
        return parse_checked(parser, words, defaults=defaults)


def _checked(parser: ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """The words of a command line, with the content of each --config in place of its path."""
    return checked_arguments(parser, arguments, GUIDE, settings=_SETTINGS, read_file=_read_file)


def _read_file(path: str) -> dict[str, Any]:
    """The options in the file of --config."""
    check_exists("--config", "a YAML file", path)
    parser = build_parser()
    known = {
        action.dest: Setting(bool if action.nargs == 0 else setting_of(action).hint | None)
        for action in parser._actions
        if action.dest not in ("help", "config", "print_config") and not is_group(action, parser)
    }

    def about(name: str) -> str:
        # In a file an option has no dashes.
        told = about_unknown(f"--{name}", parser)
        return re.sub(r"(?<!\w)--([\w.-]+)", lambda found: found[1].replace("-", "_"), told)

    try:
        read = fitted_settings(read_yaml(Path(path)), known | _SETTINGS, about)
        read = {name: v for name, v in read.items() if name in _SETTINGS or v is not None}
    except FileError:
        raise
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    whole: dict[str, Any] = as_json(nested(read))
    return whole


def _without_printing(arguments: Sequence[str]) -> list[str]:
    """Without --print-config, which ends the program once all settings are known."""
    return [a for a in arguments if not a.replace("_", "-").startswith("--print-config")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `recycle-train`; gives the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    interrupted = "run the same command again, with --resume if training had begun"
    return run_command("recycle-train", lambda: _train_together(given), interrupted)


def _train_together(arguments: Sequence[str]) -> int:
    """Train in this process and those that torchrun has started with it."""
    with joined("recycle-train") as processes:
        goes_on = processes.share(lambda: processes.goes_on)
        return _train(arguments, processes, {"resume": True, "overwrite": False} if goes_on else {})


def _train(arguments: Sequence[str], processes: Processes, instead: Mapping[str, bool]) -> int:
    """Train; `instead` has what replaces options after a restart."""
    answer_if_asked(build_parser(), arguments, GUIDE, _values)
    with named_as_options(OPTION_NAMES):
        given = {**_options_to_fit(arguments), **instead}
        _check_early(given)
        # The printed configuration may go into a file, so nothing else goes there.
        printing = len(_without_printing(arguments)) < len(arguments)
        quiet = bool(given.get("quiet")) or not processes.is_main
        console = plain_console(stderr=printing, quiet=quiet)
        resume, overwrite = (bool(given.get(option)) for option in ("resume", "overwrite"))
        begins = given.get("data") is not None and not resume
        if not printing and (begins or (resume and not overwrite)):
            paths = (given.get(key) for key in ("data", "init_from", "runtime.cache"))
            folder, inputs = _folder_of(given), inputs_of_run(*paths)
            processes.share(lambda: folder.check(resume=resume, overwrite=overwrite, inputs=inputs))
        base, plan = processes.share(lambda: _run_to_resume(given)), None
        if begins:
            base = processes.share(lambda: plan_command(arguments, console, processes)[1])
            plan = base
            if not printing:
                print_text(console, plan)
        command = parse_command(arguments, base, instead)
        trainer = Trainer(command.config, console=console, plan=plan, processes=processes)
        trainer.fit(resume=command.resume, overwrite=command.overwrite)
    return 0


def _values(arguments: Sequence[str]) -> Values:
    """What the options of a command line will be, for its help."""
    given = _options_to_fit(arguments)
    base = _run_to_resume(given)
    known = dict(_parse(arguments, _given(arguments), base).items()) | {"config": None}
    if base is not None:
        return Values(known, note="In brackets: the values of the run that is resumed.")
    if given.get("data") is not None:
        return Values(
            known,
            PLANNED - given.keys(),
            "In brackets: the values that will be used; what is planned follows from the data, the "
            "memory and the time.",
        )
    preset = given.get("preset", PHANTOM_PRESET)
    note = f"In brackets: the values that will be used, here of the preset {preset}."
    return Values(known, note=f"{note} recycle-train --data DIR --help shows what is planned.")


def _run_to_resume(given: Mapping[str, Any]) -> str | None:
    """YAML of the configuration of the run to resume, if there is one."""
    if not given.get("resume"):
        return None
    file = _folder_of(given).config
    if not file.is_file():
        return None
    text: str = yaml.safe_dump(as_json(asdict(load_config(file))))
    return text


def _check_early(given: Mapping[str, Any]) -> None:
    """Refuse paths that do not exist, and other values that a plan would refuse much later."""
    if given.get("memory") is not None:
        parse_memory(given["memory"])
    expected = {"data": "a data set in the nnU-Net raw layout", "split_file": "a split file"}
    if given.get("group_by") is not None and is_table(given["group_by"]):
        expected["group_by"] = "a CSV file"
    for name, what in expected.items():
        if given.get(name) is not None:
            check_exists(f"--{name.replace('_', '-')}", what, given[name])


def _folder_of(given: Mapping[str, Any]) -> RunFolder:
    """The folder of the run."""
    if given.get("out"):
        return RunFolder(Path(given["out"]))
    if given.get("data") is None:
        name = phantom_name(given.get("phantom.spatial_dims", PhantomConfig.spatial_dims))
    else:
        name = read_dataset(given["data"], None).name  # the rule of the split does not matter
    return RunFolder(run_root(None, name, given.get("strategy", TrainConfig.strategy)))
