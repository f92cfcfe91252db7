"""One process works in a folder at a time, and an ended one does not stand in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recycleseg import locks
from recycleseg.locks import check_unlocked, is_lock, locked

# Without the package's __init__, which imports torch and takes seconds.
ALONE = (
    "import sys, types; from pathlib import Path; package = types.ModuleType('recycleseg'); "
    f"package.__path__ = [{str(Path(locks.__file__).parent)!r}]; "
    "sys.modules['recycleseg'] = package; "
    "from recycleseg.locks import locked; root = Path(sys.argv[1])\n"
)
HOLD = ALONE + "with locked(root):\n    print('in', flush=True)\n    sys.stdin.read()\n"
# Enters often, and notes whenever it was not alone.
CONTEND = (
    ALONE
    + """
inside, entered = Path(sys.argv[2]), 0
for _ in range(15):
    try:
        with locked(root):
            inside.touch(exist_ok=False)
            entered += 1
            inside.unlink()
    except ValueError:
        pass
print(entered)
"""
)


@contextmanager
def holder(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        try:
            yield process
        finally:
            process.kill()


def lock_files(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if is_lock(path.name))


def renamed(root: Path, **parts: str) -> Path:
    """The lock of a process that works, with other parts in its name."""
    with holder(root):
        (name,) = lock_files(root)
        host, place, pid, start = name.removeprefix(".lock-").rsplit("-", 3)
        given = {"host": host, "place": place, "pid": pid, "start": start, **parts}
    for left in lock_files(root):
        (root / left).unlink()
    path = root / ".lock-{host}-{place}-{pid}-{start}".format(**given)
    path.touch()
    return path


def test_a_folder_is_made_and_removed_if_it_stays_empty(tmp_path: Path) -> None:
    root = tmp_path / "runs/first"
    with locked(root):
        assert len(lock_files(root)) == 1
    assert list(tmp_path.iterdir()) == []
    with locked(root):
        (root / "x").touch()
    assert [path.name for path in root.iterdir()] == ["x"]
    with pytest.raises(RuntimeError), locked(tmp_path / "there/not"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="^--out: expected a folder, got the file"):
        with locked(tmp_path / "out"):
            pass


def test_a_link_to_nowhere_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError), locked(tmp_path / "out"):
        pass


def test_another_process_is_named(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        message = f"^{tmp_path}: expected .* got one in which process {process.pid} of this machine"
        with pytest.raises(ValueError, match=message):
            check_unlocked(tmp_path)
        with pytest.raises(ValueError, match=message):
            with locked(tmp_path):
                pass
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        assert lock_files(tmp_path) == []
    check_unlocked(tmp_path)
    check_unlocked(tmp_path / "missing")


def test_this_process_too(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(ValueError, match=f"process {os.getpid()} of this machine works"):
            with locked(tmp_path):
                pass
        assert len(lock_files(tmp_path)) == 1
        check_unlocked(tmp_path)  # its own lock is none of another process


def test_a_killed_holder_is_in_nobodys_way(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        # Nobody has waited for it yet, so the system still knows its number.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert len(lock_files(tmp_path)) == 1
        with locked(tmp_path):
            assert len(lock_files(tmp_path)) == 1
    assert lock_files(tmp_path) == []


@pytest.mark.parametrize("number", ["this", "4194304999999"])
def test_a_number_that_another_process_has_now(tmp_path: Path, number: str) -> None:
    old = renamed(
        tmp_path, pid=str(os.getpid()) if number == "this" else number, start="0123456789ab"
    )
    check_unlocked(tmp_path)
    assert not old.exists()


def test_a_process_of_another_user_is_not_taken_for_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system hides the processes of others (hidepid), only their numbers are known."""

    def not_ours(_: int, __: int) -> None:
        raise PermissionError

    read = locks._line
    with holder(tmp_path) as process, monkeypatch.context() as patched:
        patched.setattr(os, "kill", not_ours)
        hidden = f"/proc/{process.pid}/stat"
        patched.setattr(locks, "_line", lambda path: "" if path == hidden else read(path))
        with pytest.raises(ValueError, match=f"process {process.pid} of this machine"):
            check_unlocked(tmp_path)


def test_a_holder_on_another_host(tmp_path: Path) -> None:
    lock = renamed(tmp_path, host="gpu-07.ward", place="0badcafe", pid="42")
    message = (
        f"{tmp_path}: expected a folder in which nobody works, got one in which process 42 of "
        f"gpu-07.ward works; if it has ended there, delete {lock} and run the command again"
    )
    for attempt in (check_unlocked, lambda root: locked(root).__enter__()):
        with pytest.raises(ValueError) as error:
            attempt(tmp_path)
        assert str(error.value) == message
    lock.unlink()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("namespace", ["pid:[4026531836]", "pid:[4026532000]"])
def test_a_machine_that_was_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    """A machine is the same, so its locks are old; a container may be another one."""
    monkeypatch.setattr(os, "readlink", lambda _: namespace)
    own = locks.this_process().file(tmp_path, locks.ALONE)
    own.touch()
    monkeypatch.setattr(locks, "_boot", lambda: "another")
    if namespace == "pid:[4026531836]":
        check_unlocked(tmp_path)
        assert not own.exists()
    else:
        with pytest.raises(ValueError, match="if it has ended there, delete"):
            check_unlocked(tmp_path)


def test_processes_that_begin_together_never_work_together(tmp_path: Path) -> None:
    """Also where all of them find the lock of a killed one first."""
    root, inside = tmp_path / "run", tmp_path / "inside"
    root.mkdir()
    renamed(root, pid="4194304999999")
    command = [sys.executable, "-c", CONTEND, str(root), str(inside)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    entered = [int(process.communicate()[0]) for process in started]
    assert [process.returncode for process in started] == [0] * 4
    # How often each gets in depends on the scheduler; that somebody does, does not.
    assert sum(entered) >= 15
    assert lock_files(root) == []


def test_of_two_threads_one_works(tmp_path: Path) -> None:
    refused = []

    def work() -> None:
        try:
            with locked(tmp_path):
                pass
        except ValueError as error:
            refused.append(error)

    with locked(tmp_path):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(refused) == 1
