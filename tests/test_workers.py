"""Processes that work in one folder together: who is there, who has what, who has ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from recycleseg import locks, workers
from recycleseg.locks import ALONE, AMONG, Held, Holder, check_unlocked, is_lock, locked
from recycleseg.workers import SILENCE, Worker

# A process on another machine.
OTHER = Holder(Path(), "", "gpu-07", "0badcafe", 42, "0123456789ab")


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    found = Worker(tmp_path)
    found.begin()
    return found


def seen_ago(path: Path, seconds: float) -> Path:
    """The file of a process that showed itself so long ago."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def sibling(tmp_path: Path, kind: str = AMONG) -> Path:
    """The file of another process of this machine, which works."""
    parent = os.getppid()
    here = locks.this_process()._replace(pid=parent, start=locks._start_of(parent))
    path = here.file(tmp_path, kind)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def test_a_process_is_seen_until_it_ends(tmp_path: Path, worker: Worker) -> None:
    (name,) = [path.name for path in tmp_path.iterdir()]
    assert is_lock(name)
    assert worker.others() == []
    check_unlocked(tmp_path)  # which asks for other processes
    other = sibling(tmp_path)
    assert [holder.path for holder in worker.others()] == [other]
    for attempt in (check_unlocked, lambda root: locked(root).__enter__()):
        with pytest.raises(Held, match=f"process {os.getppid()} of this machine works"):
            attempt(tmp_path)
    with locked(tmp_path, kinds=(ALONE,)):
        pass
    worker.end()
    worker.end()
    assert list(tmp_path.iterdir()) == [other]


def test_a_process_shows_that_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PULSE", 0.01)
    worker = Worker(tmp_path)
    worker.begin()
    (own,) = tmp_path.iterdir()
    seen_ago(own, 1000)
    for _ in range(500):
        if time.time() - own.stat().st_mtime < 500:
            break
        time.sleep(0.01)
    else:
        pytest.fail("the time of the file is not renewed")
    worker.end()
    time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seconds", "works"), [(SILENCE - 60, True), (SILENCE + 60, False)])
def test_a_silent_process_of_another_machine_has_ended(
    tmp_path: Path, worker: Worker, seconds: float, works: bool
) -> None:
    seen_ago(OTHER.file(tmp_path, AMONG), seconds)
    assert bool(worker.others()) == works
    assert OTHER.file(tmp_path, AMONG).exists() == works


def test_times_are_those_of_the_disk(tmp_path: Path, worker: Worker) -> None:
    """Also if its clock differs from that of this machine."""
    own = locks.this_process().file(tmp_path, AMONG)
    seen_ago(own, 5000)
    seen_ago(OTHER.file(tmp_path, AMONG), 5010)
    assert len(worker.others()) == 1


@pytest.mark.parametrize("other", ["none", "works", "ended", "silent", "left", "sibling"])
def test_one_process_has_a_case(tmp_path: Path, worker: Worker, other: str) -> None:
    case = tmp_path / "case"
    if other != "none":
        seen_ago(OTHER.file(case, ALONE), 5000)
    if other in ("works", "silent"):
        seen_ago(OTHER.file(tmp_path, AMONG), 5 if other == "works" else SILENCE + 60)
    if other == "ended":  # of this machine
        OTHER.file(case, ALONE).rename(
            locks.this_process()._replace(start="0123456789ab").file(case, ALONE)
        )
    if other == "sibling":
        sibling(case, ALONE)
    with worker.claimed(case) as ours:
        assert ours == (other not in ("works", "sibling"))
        assert locks.this_process().file(case, ALONE).exists() == ours
    assert case.exists() == (not ours or other != "none")


def test_the_lock_goes_with_an_error(tmp_path: Path, worker: Worker) -> None:
    with pytest.raises(KeyboardInterrupt), worker.claimed(tmp_path / "case") as ours:
        assert ours
        raise KeyboardInterrupt
    assert not (tmp_path / "case").exists()


def test_a_process_that_others_took_for_ended_stops(tmp_path: Path, worker: Worker) -> None:
    locks.this_process().file(tmp_path, AMONG).unlink()
    with pytest.raises(ValueError, match="others took it for ended; run the same command again"):
        with worker.claimed(tmp_path / "case"):
            pass


def test_waiting_for_a_process_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sibling(tmp_path, ALONE)
    monkeypatch.setattr(time, "sleep", lambda _: other.unlink())
    with locked(tmp_path, patience=60):
        assert not other.exists()
