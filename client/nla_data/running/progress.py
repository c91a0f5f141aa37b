"""How a run tells what it has done: a bar, lines for a log, JSON lines, or nothing. All go to stderr."""

import sys
import time
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nla_data.asking.totals import Totals

Mode = Literal["auto", "bar", "log", "json", "quiet"]
EVERY_S: Final = 10.0


class Reporter(Protocol):
    """Is told the totals again and again."""

    def start(self, total: int | None, done: Totals) -> None:
        """A run begins, or goes on after `done`; `total` rows are to be done in all, where that is known."""

    def update(self, totals: Totals, rate: float) -> None:
        """So much is done, at so many rows a second."""

    def warn(self, text: str) -> None:
        """Something looks wrong, but the run goes on."""

    def close(self) -> None:
        """The run has ended."""


class Quiet:
    """Says nothing."""

    def start(self, total: int | None, done: Totals) -> None:
        """Nothing."""

    def update(self, totals: Totals, rate: float) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Even so: results may be worth nothing."""
        sys.stderr.write(f"{_warning(text)}\n")

    def close(self) -> None:
        """Nothing."""


class Bar:
    """A bar on a terminal."""

    def __init__(self) -> None:
        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=None)

    def start(self, total: int | None, done: Totals) -> None:
        """Show the bar."""
        self._progress.update(self._task, total=total, completed=done.rows)
        self._progress.start()

    def update(self, totals: Totals, rate: float) -> None:
        """Move it."""
        total = self._progress.tasks[0].total
        text = sentence(totals, None if total is None else int(total), rate)
        self._progress.update(self._task, completed=totals.rows, description=text)

    def warn(self, text: str) -> None:
        """Above the bar."""
        self._progress.console.print(_warning(text), markup=False, highlight=False)

    def close(self) -> None:
        """Leave it as it is."""
        self._progress.stop()


class Lines:
    """A line every ten seconds, made by `form`; warnings by `form_warning`."""

    def __init__(self, form: Callable[[Totals, int | None, float], str], form_warning: Callable[[str], str]) -> None:
        self._form, self._form_warning = form, form_warning
        self._total: int | None = None
        self._last = time.monotonic()

    def start(self, total: int | None, done: Totals) -> None:
        """Note how many rows there are."""
        self._total = total
        self.write(done, 0.0)

    def update(self, totals: Totals, rate: float) -> None:
        """Write a line, if it is time."""
        if time.monotonic() - self._last >= EVERY_S:
            self.write(totals, rate)

    def write(self, totals: Totals, rate: float) -> None:
        """Write a line."""
        self._last = time.monotonic()
        sys.stderr.write(self._form(totals, self._total, rate) + "\n")
        sys.stderr.flush()

    def warn(self, text: str) -> None:
        """A line of its own."""
        sys.stderr.write(self._form_warning(text) + "\n")

    def close(self) -> None:
        """Nothing is left to do."""


def sentence(totals: Totals, total: int | None, rate: float) -> str:
    """Progress in words."""
    rows = f"{totals.rows:,}" if total is None else f"{totals.rows:,} of {total:,}"
    parts = [f"{rows} rows", f"{rate:.1f} rows/s"]
    parts += [f"{totals.written:,} written"] if totals.more else []
    if total is not None and rate:
        parts.append(f"{_duration((total - totals.rows) / rate)} left")
    parts += [f"{totals.incomplete:,} incomplete"] if totals.incomplete else []
    parts += [f"{totals.failed:,} failed"] if totals.failed else []
    parts += [f"mean fve {totals.mean_fve:.3f}"] if totals.mean_fve is not None else []
    return ", ".join(parts)


def as_json(totals: Totals, total: int | None, rate: float) -> str:
    """Progress as one JSON object."""
    left = (total - totals.rows) / rate if total is not None and rate else None
    fields: dict[str, Any] = {"rows": totals.rows, "total": total, "rows_per_s": round(rate, 2)}
    fields |= {"written": totals.written} if totals.more else {}
    fields |= {"eta_s": left and round(left), "incomplete": totals.incomplete, "failed": totals.failed}
    return orjson.dumps(fields | {"mean_fve": totals.mean_fve}).decode()


def reporter(mode: Mode) -> Reporter:
    """Make the reporter of a mode; `auto` is a bar on a terminal and lines elsewhere."""
    if mode == "auto":
        mode = "bar" if sys.stderr.isatty() else "log"
    if mode == "bar":
        return Bar()
    return {"log": Lines(sentence, _warning), "json": Lines(as_json, _json_warning)}.get(mode, Quiet())


def _warning(text: str) -> str:
    return f"warning: {text}"


def _json_warning(text: str) -> str:
    return orjson.dumps({"warning": text}).decode()


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return (
        f"{hours} h {minutes % 60} min"
        if hours
        else f"{minutes} min {int(seconds) % 60} s"
        if minutes
        else f"{int(seconds)} s"
    )
