"""How a run shows itself to a person: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

from tandem.machine import process_rank

PLAIN_SECONDS = 10.0


class Display(Protocol):
    """Shows a run to a person."""

    def say(self, text: str) -> None:
        """Print one line."""
        ...

    def progress(
        self, stage: str, done: int, total: int | None, unit: str, numbers: Mapping[str, Any]
    ) -> None:
        """Show how far a stage is."""
        ...

    def beat(self, stage: str, describe: Callable[[], str]) -> None:
        """Show that a stage is at work, if nothing was shown of it for long."""
        ...

    def end(self, stage: str) -> None:
        """Take the stage's bar away."""
        ...


class Hidden:
    """Shows nothing: other ranks, and tests."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def progress(
        self, stage: str, done: int, total: int | None, unit: str, numbers: Mapping[str, Any]
    ) -> None:
        """Do nothing."""

    def beat(self, stage: str, describe: Callable[[], str]) -> None:
        """Do nothing."""

    def end(self, stage: str) -> None:
        """Do nothing."""


class Lines:
    """Plain lines, at most one every ten seconds a stage: for files and pipes."""

    def __init__(
        self, out: TextIO, clock: Callable[[], float] = time.monotonic, *, prefix: str = ""
    ) -> None:
        self._out, self._clock, self._prefix = out, clock, prefix
        self._last: dict[str, float] = {}
        self._spoken = clock()

    def say(self, text: str) -> None:
        """Print one line."""
        self._spoken = self._clock()
        print(f"{self._prefix}{text}", file=self._out, flush=True)

    def progress(
        self, stage: str, done: int, total: int | None, unit: str, numbers: Mapping[str, Any]
    ) -> None:
        """Print a line now and then, and at the end."""
        now = self._clock()
        if done == total or now - self._last.setdefault(stage, now) >= PLAIN_SECONDS:
            self._last[stage] = now
            self.say(
                f"{stage}  {spell_progress(done, total, unit)}  {spell_numbers(numbers)}".rstrip()
            )

    def beat(self, stage: str, describe: Callable[[], str]) -> None:
        """Print a line where none was printed for nearly ten seconds."""
        if self._clock() - self._spoken >= PLAIN_SECONDS - 2:
            self.say(f"{stage}  {describe()}")

    def end(self, stage: str) -> None:
        """Forget the stage."""
        self._last.pop(stage, None)


class Bars:
    """A rich progress bar: for terminals."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        text = (TextColumn("{task.fields[stage]}"), BarColumn(bar_width=24))
        more = (TextColumn("{task.description}"), TimeElapsedColumn())
        self._progress = Progress(
            SpinnerColumn(), *text, *more, console=Console(file=out), transient=True
        )
        self._tasks: dict[str, Any] = {}
        self._reported: set[str] = set()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)

    def progress(
        self, stage: str, done: int, total: int | None, unit: str, numbers: Mapping[str, Any]
    ) -> None:
        """Move the stage's bar."""
        self._reported.add(stage)
        if stage not in self._tasks:
            self._progress.start()
            self._tasks[stage] = self._progress.add_task("", total=total, stage=stage)
        line = f"{spell_progress(done, total, unit)}  {spell_numbers(numbers)}".rstrip()
        self._progress.update(self._tasks[stage], completed=done, total=total, description=line)

    def beat(self, stage: str, describe: Callable[[], str]) -> None:
        """Show a bar without an end for a stage that has reported nothing yet."""
        if stage not in self._reported:
            self.progress(stage, 0, None, describe(), {})
            self._reported.discard(stage)

    def end(self, stage: str) -> None:
        """Take the stage's bar away."""
        self._reported.discard(stage)
        if stage in self._tasks:
            self._progress.refresh()
            self._progress.remove_task(self._tasks.pop(stage))
        if not self._tasks:
            self._progress.stop()


def open_display(out: TextIO | None = None) -> Display:
    """Return bars on a terminal, lines elsewhere, nothing on ranks above 0."""
    stream: TextIO = out or sys.stderr
    if process_rank() != 0:
        return Hidden()
    return Bars(stream) if stream.isatty() else Lines(stream)


def spell_progress(done: int, total: int | None, unit: str) -> str:
    """Spell `120/400 steps`."""
    return f"{done} {unit}" if total is None else f"{done}/{total} {unit}"


def spell_numbers(numbers: Mapping[str, Any]) -> str:
    """Spell numbers for a line: `loss 0.532  12,345 tokens/s  ETA 1:05`."""
    parts: list[str] = []
    for name, value in numbers.items():
        if name == "eta":
            parts.append(f"ETA {spell_duration(value)}")
        elif name == "tokens_per_s":
            parts.append(f"{value:,.0f} tokens/s")
        elif isinstance(value, float):
            parts.append(f"{name} {value:.4g}")
        else:
            parts.append(f"{name} {value}")
    return "  ".join(parts)


def spell_duration(seconds: float) -> str:
    """Spell seconds as `0.4 s`, `1:05` or `2:03:04`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
