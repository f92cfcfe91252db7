"""What a command shows while it works on cases."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.console import Console

from recycleseg.files import shortened
from recycleseg.prediction.folder import PredictionFolder
from recycleseg.prediction.process import Outcome
from recycleseg.progress import Bar, format_duration, print_line, stages


def open_folder(folder: PredictionFolder, console: Console, *, overwrite: bool) -> list[str]:
    """Open a folder of predictions, and print its notes; see `PredictionFolder.open`."""
    with stages(console, "reading", brief=True) as progress:
        left = folder.open(overwrite=overwrite, progress=progress)
    for note in folder.notes:
        print_line(console, note)
    return left


class CaseProgress:
    """On a terminal a bar with the time left; elsewhere a line for a case now and then.

    A line comes after each tenth of the cases, or half a minute after the last one.

    Args:
        console: where to print.
        verb: what happens to the cases.
        total: number of cases.
    """

    def __init__(self, console: Console, verb: str, total: int) -> None:
        self._console = console
        self._bar = Bar(console, verb, total, lines=False)
        self._total = total
        self._done = self._told = 0
        self._waited = False
        self._start = self._last_time = time.monotonic()

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
        note = f"{case_id}: {seconds:.1f} s"
        self._bar.reach(self._done)
        self._bar.note(note)
        if failure is not None:
            print_line(self._console, f"failed: {failure}")
        elif not self._console.is_terminal:
            self._tell(note)

    def _tell(self, note: str) -> None:
        now = time.monotonic()
        many = 10 * (self._done - self._told) >= self._total
        if not many and now - self._last_time < 30 and self._done < self._total:
            return
        self._told, self._last_time = self._done, now
        left = (now - self._start) / self._done * (self._total - self._done)
        rest = f", about {format_duration(left)} left" if self._done < self._total else ""
        print_line(self._console, f"[{self._done}/{self._total}] {note}{rest}")

    def waiting(self, case_ids: Sequence[str]) -> None:
        """Say, when it begins, that the cases which are left are those of other processes."""
        if not self._waited:
            names = shortened(case_ids)
            print_line(self._console, f"waiting for cases of other processes: {names}")
        self._waited = True

    def follow(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        """Show each case when it is done, and return how all of them went."""
        seen = []
        for outcome in outcomes:
            self.case_done(outcome.case_id, outcome.seconds, outcome.failure)
            seen.append(outcome)
        return seen


def failures_of(outcomes: Iterable[Outcome]) -> list[str]:
    """Why cases failed."""
    return [outcome.failure for outcome in outcomes if outcome.failure is not None]
