"""The date that chat templates write: one for a whole run, whatever day it is resumed on.

Templates such as Llama's write today's date into the system turn. Tokens would then depend on the
day: a run that is resumed tomorrow would mix two prompts. `frozen_date` fixes the date.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime, time

from tandem.errors import ConfigError

_frozen: ContextVar[date | None] = ContextVar("template_date", default=None)


def template_date() -> date:
    """Return the date that templates write: the frozen one, or today's."""
    return _frozen.get() or date.today()


@contextmanager
def frozen_date(day: date | None) -> Generator[None]:
    """Let templates write this date inside the block; None leaves what holds outside."""
    token = _frozen.set(day or _frozen.get())
    try:
        yield
    finally:
        _frozen.reset(token)


def parse_date(text: str) -> date:
    """Return the date that `2026-03-01` spells.

    Raises:
        ConfigError: it spells none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"data.date = {text!r}: {error}",
            "a date is a year, a month and a day",
            "write it as 2026-03-01: --data.date 2026-03-01",
        ) from error


def clock(day: date) -> Callable[[str], str]:
    """Return what a template knows as `strftime_now`, standing still at noon of a day."""
    return datetime.combine(day, time(12)).strftime
