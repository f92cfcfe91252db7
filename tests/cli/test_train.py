"""`recycle-train`: presets, options, errors."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import yaml

from recycleseg.cli._arguments import option_name
from recycleseg.cli.train import build_parser, main, parse_command
from recycleseg.data.phantom import write_phantom
from recycleseg.data.splits import SplitRule
from recycleseg.run.config import load_preset, preset_names


def test_every_preset_is_a_configuration() -> None:
    assert {"tiny", "paper", "imgx", "hippocampus", "fetal_head"} <= set(preset_names())
    for name in preset_names():
        config = parse_command(["--preset", name]).config
        assert config == load_preset(name)
        assert load_preset(name, seed=5).seed == 5


def test_presets_of_the_paper() -> None:
    paper = parse_command(["--preset", "paper"]).config
    imgx = parse_command(["--preset", "imgx"]).config
    for config in (paper, imgx):
        assert config.diffusion.num_timesteps == 1001
        assert config.sampling.num_steps == 5
        assert config.model.channels == (32, 64, 128, 256)
        assert config.model.num_res_blocks == 2
        assert config.optim.steps == 10_000
        assert config.loss.dice == 1.0
    assert (paper.loss.focal, imgx.loss.focal) == (20.0, 1.0)
    assert (paper.model.dropout, imgx.model.dropout) == (0.0, 0.1)


def test_options_win_over_files_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {steps: 7, batch_size: 3}\n")
    options = ["--config", str(file), "--strategy", "standard"]
    config = parse_command([*options, "--optim.batch_size=6", "--preset=paper"]).config
    assert (config.optim.steps, config.optim.batch_size) == (7, 6)
    assert config.strategy == "standard"
    assert config.model.channels == (32, 64, 128, 256)


def test_tuples_and_unions() -> None:
    arguments = ["--patch.size", "[40, 56, 40]", "--preprocess.spacing", "[1, 1, 2.5]"]
    arguments += ["--model.scales", "[[2,2,1],2]", "--model.kernels", "[[3, 3, 1], 3, 3]"]
    config = parse_command(arguments).config
    assert config.patch.size == (40, 56, 40)
    assert config.preprocess.spacing == (1.0, 1.0, 2.5)
    assert config.model.scales == ((2, 2, 1), 2)
    assert config.model.kernels == ((3, 3, 1), 3, 3)


@pytest.mark.parametrize(("given", "fold"), [("3", 3), ("all", "all"), ("null", None)])
def test_split_options(given: str, fold: object) -> None:
    arguments = ["--fold", given, "--group_by", "^p([0-9]+)", "--split_file", "x.json"]
    rule = parse_command([*arguments, "--seed", "4"]).config.split_rule
    assert rule == SplitRule(Path("x.json"), fold, "^p([0-9]+)", 4)


def test_print_config_is_a_configuration_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--preset", "paper", "--optim.steps", "9", "--print_config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["optim"]["steps"] == 9
    file = tmp_path / "printed.yaml"
    file.write_text(printed)
    expected = parse_command(["--preset", "paper", "--optim.steps", "9"])
    assert parse_command(["--config", str(file)]) == expected


def test_print_config_shows_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_phantom(tmp_path / "set", spatial_dims=2, num_cases=(4, 1, 1))
    with pytest.raises(SystemExit) as stopped:
        main(["--data", str(root), "--time", "30m", "--memory", "2G", "--print-config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["optim"]["steps"] == 0
    assert printed["optim"]["batch_size"] == 8


def test_memory_is_for_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--memory", "8G"]) == 2
    assert "--memory: expected --data with it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        ([], "imgx"),
        (["--preset", "paper"], "paper"),
        (["--preset=hippocampus"], "hippocampus"),
    ],
)
def test_preset_named_in_a_file(tmp_path: Path, arguments: list[str], preset: str) -> None:
    file, later = tmp_path / "mine.yaml", tmp_path / "later.yaml"
    file.write_text("preset: imgx\noptim: {steps: 7}\n")
    later.write_text("seed: 5\n")
    own = parse_command(["--preset", preset, "--optim.steps", "7", "--seed", "5"])
    assert parse_command(["--config", str(file), *arguments, f"--config={later}"]) == own


def test_unknown_preset_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: huge\n")
    assert main(["--config", str(file)]) == 2
    assert "mine.yaml: preset: expected fetal_head," in capsys.readouterr().err


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_documents_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "--help-all")
    for action in build_parser()._actions:
        if getattr(action, "_typehint", None) is not None:
            assert f"  {option_name(action)} " in text
    assert "optimiser steps of the run; 0 takes as many as fit" in " ".join(text.split())


def test_help_shows_the_values_that_will_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*arguments: str) -> dict[str, str]:
        text = " ".join(help_of(capsys, "--help", *arguments).split())
        return dict(re.findall(r"--([\w.-]+) [^\[\]\n]*? \[([^]]*)\]", text.replace(" --", "\n--")))

    assert shown()["optim.steps"] == "340"
    for preset in preset_names():
        assert len(help_of(capsys, "--preset", preset, "-h").splitlines()) <= 40
    hippocampus = shown("--preset", "hippocampus")
    assert (hippocampus["optim.steps"], hippocampus["patch.size"]) == ("2400", "32,48,32")
    file = tmp_path / "mine.yaml"
    file.write_text("model: {channels: [8, 16]}\n")
    planned = shown("--data", "x", "--config", str(file), "--optim.batch_size", "3")
    assert planned["model.channels"] == "8,16"
    assert planned["optim.batch-size"] == "3"
    assert planned["patch.size"] == planned["optim.steps"] == "planned"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.stps", "3"], "unknown option --optim.stps; did you mean --optim.steps?"),
        (["--strategi", "standard"], "unknown option --strategi; did you mean --strategy?"),
        (["--preset", "tinny"], "--preset: expected fetal_head, "),
        (["--optim.steps", "many"], "optim.steps"),
        (["--optim.steps", "-1"], "optim.steps: expected at least 0, got -1"),
        (
            ["--time", "soon"],
            "--time: expected a time with its unit, such as 90s, 30m, 2h or",
        ),
        (["--sampling.num_steps", "0"], "--sampling.num-steps: expected 1 to"),
        (["--strategy", "recycle"], "strategy"),
        (["--resume", "--overwrite"], "expected at most one of them, got both"),
        (["--augment.rotation", "-5"], "augment.rotation: expected"),
        (["--fold", "-1"], "fold: expected all or at least 0, got -1"),
        (["--fold", "last"], "fold"),
        (["--preprocess.spacing", "[1, -1]"], "preprocess.spacing: expected positive mm"),
        (["--sampling.eta", "2"], "sampling.eta: expected 0 to 1, got 2.0"),
        (["--preset"], "--preset: expected fetal_head, "),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_options_end_with_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("recycle-train: error: ")
    assert message in error
    assert "Traceback" not in error


def test_print_config_with_data_prints_the_plan_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_phantom(tmp_path / "set", spatial_dims=2, num_cases=(3, 1, 1))
    arguments = ["--data", str(data), "--time", "1m", "--memory", "2G", "--optim.steps", "7"]
    with pytest.raises(SystemExit):
        main([*arguments, "--print_config"])
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    config = parse_command(["--config", str(file)]).config
    assert config.patch.size is not None
    assert (config.optim.steps, config.time) == (7, "1m")
    assert config.loss.focal == 0  # of the plan


def test_an_occupied_run_folder_is_told_before_images_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_phantom(tmp_path / "set", spatial_dims=2, num_cases=(3, 1, 1))
    for file in (data / "labelsTr").iterdir():
        file.write_text("no image")
    arguments = ["--data", str(data), "--out", str(data)]
    for option, message in (([], "is not empty"), (["--overwrite"], "apart from --data")):
        assert main([*arguments, *option]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_unknown_key_in_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {stps: 7}\n")
    assert main(["--config", str(file)]) == 2
    assert "unknown option optim.stps; did you mean optim.steps?" in capsys.readouterr().err


def test_unwritable_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / "cache")
    arguments = ["--out", str(tmp_path / "file" / "run"), "--runtime.cache", cache]
    assert main([*arguments, "--phantom.spatial_dims", "2"]) == 2
    assert "recycle-train: error: " in capsys.readouterr().err


def test_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recycleseg.cli.train.Trainer", interrupted)
    assert main([]) == 130
    error = capsys.readouterr().err
    assert error.startswith("recycle-train: interrupted; run the same command again")
    assert "--resume" in error


def test_sigterm_before_the_training_ends_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("recycleseg.cli.train.Trainer", stop)
    before = signal.getsignal(signal.SIGTERM)
    assert main([]) == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert "recycle-train: interrupted; run the same command again" in capsys.readouterr().err


def write_run(root: Path, **model: object) -> Path:
    root.mkdir()
    (root / "config.yaml").write_text(yaml.safe_dump({"model": model, "optim": {"steps": 99}}))
    return root


def test_init_from_takes_over_the_network(tmp_path: Path) -> None:
    run = write_run(tmp_path / "first", channels=[4, 8], num_heads=2, dropout=0.3)
    file = tmp_path / "mine.yaml"
    file.write_text(f"init_from: {run}\noptim: {{steps: 7}}\n")
    for arguments in (["--init-from", str(run)], [f"--init_from={run}"], ["--config", str(file)]):
        config = parse_command(arguments).config
        assert config.init_from == str(run)
        assert (config.model.channels, config.model.num_heads) == ((4, 8), 2)
        assert config.model.dropout == 0.3
        assert config.optim.steps != 99  # the network alone is taken over
    changed = parse_command(["--model.dropout", "0.1", "--init-from", str(run)]).config
    assert (changed.model.channels, changed.model.dropout) == ((4, 8), 0.1)


def test_a_resumed_run_does_not_need_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, gone = write_run(tmp_path / "second", channels=[4, 8]), str(tmp_path / "gone")
    command = ["--init-from", gone, "--out", str(out)]
    config = parse_command([*command, "--resume"], str(out / "config.yaml")).config
    assert config.model.channels == (4, 8)
    assert parse_command(["--init-from", gone, "--resume"]).config.init_from == gone
    assert main(command) == 2
    assert (
        f"--init-from: expected a run folder, got {gone}, which does not exist"
        in capsys.readouterr().err
    )


def test_dashes_in_options(capsys: pytest.CaptureFixture[str]) -> None:
    config = parse_command(["--final-split", "val", "--optim.batch-size=3"]).config
    assert (config.final_split, config.optim.batch_size) == ("val", 3)
    assert parse_command(["--out", "my-run"]).config.out == "my-run"
    assert main(["--init-form", "x"]) == 2
    assert "unknown option --init-form; did you mean --init-from?" in capsys.readouterr().err
