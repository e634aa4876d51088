"""What a run tells while it works: `events.jsonl` for machines, a few lines for people.

One JSON object a line, appended in one write, so that a killed process leaves at most one broken
last line, which readers skip. Every line has `time` (seconds since 1970) and `kind`; lines of a
stage have `stage`. Only rank 0 writes and shows.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, cast

from tandem.runs.display import Display
from tandem.runs.interrupts import raise_if_interrupted

Number = SupportsFloat | str | list[float] | None

PROGRESS_SECONDS = 1.0
WINDOW_SECONDS = 30.0


class Events(Protocol):
    """A stage's log: progress, numbers, notices. Numbers are floats, ints, strings, 0-d tensors,
    or a list of floats."""

    def log(self, kind: str, **numbers: Number) -> None:
        """Record one event: a training step, an evaluation; `text` is also shown to people."""
        ...

    def progress(self, done: int, total: int | None, unit: str, **numbers: Number) -> None:
        """Show the stage's progress; cheap, call it every step.

        Args:
            done: units finished.
            total: units in all, or None when unknown.
            unit: "steps", "prompts", "episodes"...
            numbers: what is shown beside the bar (loss, gold, proxy); `tokens` is the count of
                tokens processed so far, shown as tokens/s.
        """
        ...


class Follower(Protocol):
    """Who reads along as events are written: see `trackers`."""

    def follow(self, event: Mapping[str, Any]) -> None:
        """Take one event, as its line of the file holds it."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class Silent:
    """Events that are dropped: for functions called outside of a run."""

    def log(self, kind: str, **numbers: Number) -> None:
        """Do nothing."""

    def progress(self, done: int, total: int | None, unit: str, **numbers: Number) -> None:
        """Do nothing."""


class Log:
    """An append-only file of events, and the display that follows it.

    Args:
        path: the file.
        display: who shows it.
        clock: seconds since 1970.
        followers: who reads along; a follower that fails is an error of the run.
        waits: keep events in memory until `release`, for a command that may be refused.
    """

    def __init__(
        self,
        path: Path,
        display: Display,
        clock: Callable[[], float] = time.time,
        followers: Iterable[Follower] = (),
        *,
        waits: bool = False,
    ) -> None:
        self.path, self.display, self.clock = path, display, clock
        self.followers = list(followers)
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o644)
        self._waiting: list[dict[str, Any]] | None = [] if waits else None
        self._begun = False
        self.is_open = True

    def release(self) -> None:
        """Write what has waited, and what comes from now on at once."""
        waiting, self._waiting = self._waiting or (), None
        for event in waiting:
            self._append(event)

    def _end_broken_line(self) -> None:
        self._begun = True
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def forget(self) -> None:
        """Drop what has waited: the command was refused."""
        if self._waiting is not None:
            self._waiting = []
            self.is_open = False

    def write(self, kind: str, numbers: Mapping[str, object]) -> None:
        """Append one line in one system call; before the first release it waits."""
        event = {"time": round(self.clock(), 3), "kind": kind}
        event |= {name: _plain(value) for name, value in numbers.items()}
        if self._waiting is None:
            self._append(event)
        else:
            self._waiting.append(event)

    def _append(self, event: Mapping[str, Any]) -> None:
        if not self._begun:
            self._end_broken_line()
        line = json.dumps(event, ensure_ascii=False) + "\n"
        os.write(self._file, line.encode("utf-8", "replace"))
        for follower in self.followers:
            follower.follow(event)

    def close(self) -> None:
        """Close the file, and let the followers finish."""
        os.close(self._file)
        for follower in self.followers:
            follower.close()


class StageEvents:
    """The events of one stage."""

    def __init__(self, log: Log, stage: str) -> None:
        self._log, self._stage, self._window = log, stage, Window()
        self._written = -math.inf

    def log(self, kind: str, **numbers: Number) -> None:
        """Record one event, and show its text."""
        self._log.write(kind, {"stage": self._stage, **numbers})
        if isinstance(text := numbers.get("text"), str):
            self._log.display.say(f"{self._stage}  {text}".strip())

    def progress(self, done: int, total: int | None, unit: str, **numbers: Number) -> None:
        """Show, and record at most once a second."""
        raise_if_interrupted()
        now = self._log.clock()
        shown = {name: _plain(value) for name, value in numbers.items()}
        rates = self._window.add(now, done, total, shown.pop("tokens", None))
        self._log.display.progress(self._stage, done, total, unit, shown | rates)
        if now - self._written >= PROGRESS_SECONDS or done == total:
            self._written = now
            place = {"stage": self._stage, "done": done, "total": total, "unit": unit}
            self._log.write("progress", {**place, **shown, **rates})


class Window:
    """Speed over the last half minute, so that a slow start does not spoil the estimate."""

    def __init__(self, seconds: float = WINDOW_SECONDS) -> None:
        self._seconds = seconds
        self._points: deque[tuple[float, int, float]] = deque()

    def add(self, now: float, done: int, total: int | None, tokens: object) -> dict[str, float]:
        """Return `eta` in seconds and `tokens_per_s`, as far as they can be known."""
        count = float(tokens) if isinstance(tokens, int | float) else math.nan
        self._points.append((now, done, count))
        while len(self._points) > 2 and now - self._points[0][0] > self._seconds:
            self._points.popleft()
        then, before, counted = self._points[0]
        rates: dict[str, float] = {}
        if now > then and done > before and total is not None:
            rates["eta"] = (total - done) * (now - then) / (done - before)
        if now > then and count > counted:
            rates["tokens_per_s"] = (count - counted) / (now - then)
        return rates


DONE_AGAIN = ("redo", "discarded")
"""Kinds of event after which what a stage had told before is no longer true."""


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a file, without the lines that a killed process broke."""
    with path.open("rb") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield cast("dict[str, Any]", event)


def _plain(value: object) -> Any:
    """JSON has no NaN: a number that is not finite becomes its name."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast("list[object]", value)]
    number = float(cast("SupportsFloat", value))
    return number if math.isfinite(number) else str(number)
