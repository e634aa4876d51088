"""The date that chat templates write: one for a whole run, whatever day it is resumed on.

Templates such as Llama's write today's date into the system turn. Tokens would then depend on the
day: a run that is resumed tomorrow would mix two prompts. `frozen_date` fixes the date.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime, time

from tandem.errors import ConfigError

DIRECTIVES = "aAwdbBmyYHIpMSfjUWcxXGuVeDF"
"""The letters that a date's format may have behind `%`."""

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


def stop_clock(template: str, day: date) -> str:
    """Return a template for which it is always noon of a day.

    Templates ask `strftime_now(format)`. A macro of that name, put before the template, answers
    with the day's own numbers and names.
    """
    if "strftime_now" not in template:
        return template
    noon = datetime.combine(day, time(12))
    short = {f"%-{c}": noon.strftime(f"%{c}").lstrip("0") or "0" for c in "dmHIMSjyUW"}
    answers = {**short, **{f"%{c}": noon.strftime(f"%{c}") for c in DIRECTIVES}, "%%": "%"}
    replaced = "".join(f" | replace({k!r}, {v!r})" for k, v in answers.items())
    return f"{{%- macro strftime_now(f) -%}}{{{{ f{replaced} }}}}{{%- endmacro %}}\n{template}"
