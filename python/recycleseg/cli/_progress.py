"""What a command shows while it works on cases."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from recycleseg.prediction.folder import Outcome, PredictionFolder
from recycleseg.progress import Bar, print_line, stages


def open_folder(folder: PredictionFolder, console: Console, *, overwrite: bool) -> list[str]:
    """Open a folder of predictions, and print its notes; see `PredictionFolder.open`."""
    with stages(console, "reading") as progress:
        left = folder.open(overwrite=overwrite, progress=progress)
    for note in folder.notes:
        print_line(console, note)
    return left


class CaseProgress:
    """How many cases are done, and which failed.

    Args:
        console: where to print.
        verb: what happens to the cases.
        total: number of cases.
    """

    def __init__(self, console: Console, verb: str, total: int) -> None:
        self._console = console
        self._bar = Bar(console, verb, total)
        self._done = 0

    def __enter__(self) -> CaseProgress:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def within_case(self, done: int, total: int) -> None:
        """Show how much of the current case is done."""
        self._bar.reach(self._done + done / max(total, 1))

    def case_done(self, case_id: str, seconds: float, failure: str | None = None) -> None:
        """Show that one more case is done; `failure` says in one line why it failed."""
        self._done += 1
        if failure is not None:
            print_line(self._console, f"failed: {failure}")
        self._bar.note(f"{case_id}: {seconds:.1f} s")
        self._bar.reach(self._done)

    def follow(self, outcomes: Iterable[Outcome]) -> list[str]:
        """Show each case when it is done, and return why cases failed."""
        failures = []
        for outcome in outcomes:
            self.case_done(outcome.case_id, outcome.seconds, outcome.failure)
            if outcome.failure is not None:
                failures.append(outcome.failure)
        return failures
