"""The entry `recycleseg`, help, version, completion and the quiet mode."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from recycleseg.cli import data, ensemble, evaluate, predict, train
from recycleseg.cli._arguments import about_unknown
from recycleseg.cli._foreign import foreign_words
from recycleseg.cli.data import VERBS
from recycleseg.cli.main import main
from recycleseg.data.phantom import write_phantom

COMMANDS = [
    "train",
    "predict",
    "ensemble",
    "evaluate",
    "study",
    *(f"data {verb}" for verb in VERBS.help),
]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


@pytest.mark.parametrize("command", ["", *COMMANDS, "data"])
@pytest.mark.parametrize("word", ["-h", "--help", "--help-all", "--help_all"])
def test_help_is_made_for_a_screen(
    command: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, *command.split(), word).splitlines()
    assert lines[0].startswith(f"usage: {'recycle-' if command else 'recycleseg'}{command}")
    assert "all" in word or len(lines) <= 40
    assert "all" in word or max(map(len, lines)) <= 80
    whole = "\n".join(lines)
    for leak in ("Union", "Literal", "type:", "lambda", "<class", "SUPPRESS", "None", "CONFIG."):
        assert leak not in whole
    options = [word for word in whole.split() if word.startswith("--")]
    assert not any("_" in option for option in options)


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    version = metadata.version("recycleseg")
    assert printed(capsys, word) == f"recycleseg {version}\n"
    assert printed(capsys, "train", word) == f"recycle-train {version}\n"
    assert printed(capsys, "data", word) == f"recycle-data {version}\n"


def test_a_command_may_have_its_long_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "recycle-predict", "-h") == printed(capsys, "predict", "-h")


@pytest.mark.parametrize("command", ["", "train", "data", "evaluate"])
def test_completion_knows_the_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    script = printed(capsys, *command.split(), "--print-completion", "bash")
    option = {"train": "--optim.batch-size", "data": "--group-by"}.get(command, "--tolerance-mm")
    assert option in script
    assert "--optim.batch_size" not in script


def test_completion_for_an_unknown_shell(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["train", "--print-completion", "fish!"]) == 2
    assert "--print-completion: expected one of bash, " in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_prints_errors_alone(
    quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_phantom(tmp_path / "set", spatial_dims=2, num_cases=(2, 1, 1))
    option = ["--quiet"] if quiet else []
    assert main(["data", "check", str(root), *option]) == 0
    said = capsys.readouterr()
    assert (said.out == "") == quiet
    assert said.err == ""
    assert main(["data", "check", str(root), "--workers", "0", *option]) == 2
    assert capsys.readouterr().err.count("\n") == 1


PARSERS = {
    **{f"recycle-data {verb}": module.build_parser for verb, module in data._MODULES.items()},
    "recycle-train": train.build_parser,
    "recycle-predict": predict.build_parser,
    "recycle-ensemble": ensemble.build_parser,
    "recycle-evaluate": evaluate.build_parser,
}


@pytest.mark.parametrize("prog", PARSERS)
def test_words_of_other_tools_are_no_options_and_lead_to_options(prog: str) -> None:
    parser = PARSERS[prog]()
    options = {name.replace("_", "-") for a in parser._actions for name in a.option_strings}
    words = foreign_words(prog)
    assert words
    for word, answer in words.items():
        assert not {f"-{word}", f"--{word}"} & options - {"-o"}, word
        for name in answer.split(", "):
            if name.startswith("--") and " " not in name:
                assert name in options, (word, name)
        assert about_unknown(f"--{word}", parser).startswith(f"unknown option --{word}; ")
