"""What is seen while a command goes through cases."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console

from recycleseg.prediction.folder import Outcome
from recycleseg.progress import Bar, format_duration


class CaseProgress:
    """A bar with the time left on a terminal, elsewhere a line for each case."""

    def __init__(self, console: Console, verb: str, total: int) -> None:
        self._console = console
        self._bar = Bar(console, verb, total, shown=console.is_terminal)
        self._total = total
        self._done = 0
        self._start = time.perf_counter()

    def __enter__(self) -> CaseProgress:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def within_case(self, done: int, total: int) -> None:
        """How much is done of the case at hand."""
        self._bar.reach(self._done + done / max(total, 1))

    def case_done(self, case_id: str, seconds: float, failure: str | None = None) -> None:
        """One more case; failure: what is said of it, in one line."""
        self._done += 1
        note = f"{case_id}: {seconds:.1f} s"
        self._bar.reach(self._done)
        self._bar.note(note)
        if failure is not None:
            self._say(f"failed: {failure}")
        elif not self._console.is_terminal:
            left = (time.perf_counter() - self._start) / self._done * (self._total - self._done)
            rest = f", about {format_duration(left)} left" if self._done < self._total else ""
            self._say(f"[{self._done}/{self._total}] {note}{rest}")

    def follow(self, outcomes: Iterable[Outcome]) -> list[str]:
        """Show each case when it is done; gives the failures."""
        failures = []
        for outcome in outcomes:
            self.case_done(outcome.case_id, outcome.seconds, outcome.failure)
            if outcome.failure is not None:
                failures.append(outcome.failure)
        return failures

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
