"""Begins runs, each killed at another change of its folder, and says what is possible afterwards.

Runs alone: python begin_and_kill.py PACKAGE FOLDER, where PACKAGE is the folder of recycleseg. It
does without the package's __init__, which imports torch, so that it can fork often and fast.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path

# Changes of files: what `sys.addaudithook` calls them, and which argument is the path.
CHANGES = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "open": 0}


def begin(root: Path, *, overwrite: bool) -> None:
    """The changes of a folder by the start of a run, up to its first logged line."""
    from recycleseg.files import write_text
    from recycleseg.locks import locked
    from recycleseg.run.folder import RunFolder
    from recycleseg.run.metrics_log import open_metrics

    folder = RunFolder(root)
    with locked(root):
        folder.open(resume=False, overwrite=overwrite)
        for path in (folder.plan, folder.config, folder.dataset, folder.environment):
            write_text(path, "new")
        write_text(folder.last, "new")
        folder.tensorboard.mkdir(exist_ok=True)
        (folder.tensorboard / "events.out.tfevents.1").write_text("new")
        with open_metrics(folder.metrics, 0) as file:
            file.write('{"step": 1}\n')
        for path in (folder.best, folder.pictures / "validation-000001.png", folder.summary):
            write_text(path, "new")


def evaluate(root: Path, *, overwrite: bool) -> None:
    """The changes of a folder by an evaluation."""
    from recycleseg.files import write_text
    from recycleseg.folders import OwnFolder
    from recycleseg.locks import locked

    with locked(root):
        folder = OwnFolder(root, "an evaluation", {".": ("summary.json", "metrics.csv")})
        if overwrite:
            folder.check_overwrite({})
        elif folder.files():
            raise ValueError("not empty")
        folder.mark()
        folder.delete(folder.files())
        write_text(root / "summary.json", "new")
        write_text(root / "metrics.csv", "new")


def killed_at(change: int, root: Path, work: Callable[[], None]) -> bool:
    """Do the work in another process and kill it before a change; whether it came so far."""
    process = os.fork()
    if process == 0:
        left = change

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event not in CHANGES or str(root) not in str(arguments[CHANGES[event]]):
                return
            if event == "open" and not int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR):
                return
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def possible(work: Callable[[], None]) -> bool:
    try:
        work()
    except ValueError:
        return False
    return True


def main(package: Path, root: Path) -> None:
    """Print a JSON list with the state after each kill."""
    module = types.ModuleType("recycleseg")
    module.__path__ = [str(package)]
    sys.modules["recycleseg"] = module
    from recycleseg.run.folder import RunFolder

    found = []
    works = {"start": (begin, False), "overwrite": (begin, True), "evaluation": (evaluate, True)}
    for name, (do, overwrite) in works.items():
        change, came = 0, True
        while came:
            shutil.rmtree(root, ignore_errors=True)
            if overwrite:
                do(root, overwrite=False)
                for path in root.rglob("*"):
                    if path.is_file() and not path.name.startswith("."):
                        path.write_text(path.read_text().replace("new", "old"))
                (root / "thesis.txt").write_text("precious")
            came = killed_at(change, root, lambda: do(root, overwrite=overwrite))  # noqa: B023
            state = {"work": name, "change": change}
            if do is begin:
                folder = RunFolder(root)
                state["resume"] = possible(lambda: folder.check(resume=True, overwrite=False))  # noqa: B023
                parts = (folder.config, folder.dataset, folder.last, folder.best, folder.metrics)
                state["parts"] = [p.read_text() if p.is_file() else "" for p in parts]
            # Each of them on what the kill left.
            copy = root.with_name("copy")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(root, copy) if root.exists() else None
            state["start"] = possible(lambda: do(copy, overwrite=False))  # noqa: B023
            state["overwrite"] = possible(lambda: do(root, overwrite=True))  # noqa: B023
            files = [path for path in root.rglob("*") if path.is_file()]
            state["files"] = sorted(str(path.relative_to(root)) for path in files)
            found.append(state)
            change += 1
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
