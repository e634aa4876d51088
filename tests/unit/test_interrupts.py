"""Ctrl-C that a library swallows still ends the run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tandem.data.groups import Groups
from tandem.runs.context import StageContext
from tandem.runs.interrupts import raise_if_interrupted, remember_interrupts
from tandem.runs.run import Run


@pytest.fixture(autouse=True)
def remembered() -> Iterator[None]:
    """Remember interrupts during a test, from a clean beginning."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    remember_interrupts()
    yield
    signal.signal(signal.SIGINT, before)
    remember_interrupts()


def swallow() -> None:
    """Lose an interrupt, as a bare `except` of a library does."""
    with suppress(BaseException):
        os.kill(os.getpid(), signal.SIGINT)


def test_what_was_swallowed_is_raised_once():
    swallow()
    with pytest.raises(KeyboardInterrupt):
        raise_if_interrupted()
    raise_if_interrupted()


def test_a_new_command_does_not_hear_the_last_ones_interrupt():
    swallow()
    remember_interrupts()
    raise_if_interrupted()


def test_a_stage_that_swallows_it_ends_at_its_next_step(tmp_path: Path):
    steps: list[int] = []

    def stage(*, ctx: StageContext) -> Groups:
        for step in range(5):
            steps.append(step)
            if step == 2:
                swallow()
            ctx.events.progress(step, 5, "steps")
        return Groups.of(())

    with Run(tmp_path / "run") as run, pytest.raises(KeyboardInterrupt):
        run("steps", stage)
    assert steps == [0, 1, 2]


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    remember_interrupts()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
