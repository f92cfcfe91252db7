"""SIGKILL at any moment of any command: nothing is lost, and nothing half-written is trusted."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.reliability.commands import (
    Result,
    Server,
    bits_of_run,
    train_arguments,
    train_to_the_end,
)

from recycleseg.data.identity import content_hash

# How many kills, over all commands.
KILLS = int(os.environ.get("RECYCLESEG_KILLS", "6"))


class Work(NamedTuple):
    """A command that may be killed.

    Attributes:
        start: begins it in a folder; seconds after which it is killed, or 0.
        go_on: what the user does after that.
        results: what it leaves.
        made: what is deleted before the next kill.
    """

    start: Callable[[float], Result]
    go_on: Callable[[], Result]
    results: Callable[[], dict[str, Any]]
    made: tuple[Path, ...]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs commands."""
    with Server(tmp_path_factory.mktemp("server")) as started:
        yield started


def files_of(folder: Path) -> dict[str, str]:
    """The hash of every file but the records, which tell times."""
    return {
        str(path.relative_to(folder)): content_hash(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "predict.json" and not path.name.startswith(".")
    }


def repeated(
    server: Server, command: str, arguments: list[object], out: Path, again: tuple[str, ...] = ()
) -> Work:
    """A command that goes on if it is given once more, with options that it may need then."""

    def go_on() -> Result:
        begun = out.is_dir() and any(out.iterdir())
        return server.run(command, [*arguments, *(again if begun else ())])

    return Work(
        lambda seconds: server.run(command, arguments, kill_after=seconds),
        go_on,
        lambda: files_of(out),
        (out,),
    )


def works(server: Server, data: Path, folder: Path) -> dict[str, Work]:
    """All commands that write folders; each needs what those before it have written."""
    run, images, labels = folder / "run", data / "imagesTr", data / "labelsTr"
    copy = folder / "Dataset002_Copy"
    convert: list[object] = ["convert", images, labels, copy]
    predict: list[object] = ["-i", images, "--save-probabilities", "--save-uncertainty", "-m", run]
    one, two, both = folder / "one", folder / "two", folder / "both"
    train = train_arguments(data, folder)
    return {
        "train": Work(
            lambda seconds: server.run("train", train, kill_after=seconds),
            lambda: train_to_the_end(server, data, folder),
            lambda: bits_of_run(folder),
            (run, folder / "cache"),
        ),
        "predict": repeated(server, "predict", [*predict, "-o", one], one),
        "predict again": repeated(server, "predict", [*predict, "--seed", 1, "-o", two], two),
        "ensemble": repeated(
            server, "ensemble", ["-i", one, two, "-o", both, "--save-probabilities"], both
        ),
        "evaluate": repeated(
            server,
            "evaluate",
            ["-p", both, "-r", labels, "--images", images, "--workers", 1, "-o", folder / "scores"],
            folder / "scores",
            ("--overwrite",),
        ),
        "data convert": Work(
            lambda seconds: server.run("data", convert, kill_after=seconds),
            # The data set appears whole or not at all, and a whole one is not written again.
            lambda: server.run("data", ["check", copy] if copy.exists() else convert),
            lambda: files_of(copy),
            (copy,),
        ),
    }


def test_sigkill_at_random_moments(
    discs: Path, server: Server, tmp_path: Path, count: Callable[[str], None]
) -> None:
    rng = random.Random(0)
    of_each = works(server, discs, tmp_path)
    whole, seconds = {}, {}
    for name, work in of_each.items():
        done = work.start(0.0)
        assert done.code == 0, f"{name}: {done.text}"
        whole[name], seconds[name] = work.results(), done.seconds
    killed, wrong, tries = dict.fromkeys(of_each, 0), [], 0
    while sum(killed.values()) < KILLS and tries < 3 * KILLS:
        # Training takes the longest and has the most to lose.
        name = "train" if tries % 3 == 0 else rng.choice(list(of_each))
        tries += 1
        work = of_each[name]
        for made in work.made:
            shutil.rmtree(made, ignore_errors=True)
        moment = rng.uniform(0.0, 1.0) * seconds[name]
        first = work.start(max(moment, 1e-3))
        killed[name] += first.code == -9
        if first.code not in (0, -9):
            wrong.append(f"{name}: exit code {first.code} before the kill: {first.text[-2000:]}")
        if first.code != 0:
            second = work.go_on()
            if second.code != 0:
                wrong.append(f"{name}, killed after {moment:.2f} s: {second.text[-2000:]}")
                continue
        if work.results() != whole[name]:
            wrong.append(f"{name}, killed after {moment:.2f} s: other results")
    kinds = ", ".join(f"{name} {number}" for name, number in killed.items() if number)
    count(f"{sum(killed.values())} SIGKILLs ({kinds}) in {tries} tries: {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert sum(killed.values()) == KILLS
