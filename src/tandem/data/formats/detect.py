"""Which format a file is in, and why: a table of column names, looked through in order."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.data.formats.fields import DataRow
from tandem.data.formats.prompt_context import CONTEXT
from tandem.data.formats.registry import FORMATS
from tandem.errors import ConfigError, DataError, nearest_name

PEEK = 64
"""Rows that are looked at before the format is decided."""

UNJUDGED = ("prompt-completion", "messages", "sharegpt", "alpaca", "gsm8k", "prompt")
JUDGMENTS = {"chosen", "rejected", "completions", "ranks", "scores", "output_1", "output_2",
             "preference", "label", "kto_tag", "helpfulness", "overall_preference",
             "preferred_output", "non_preferred_output"}  # fmt: skip
QUESTIONS = ("question", "instruction", "input", "query", "system", "history", "conversations",
             "conversation", "messages", "context", "problem", "user", "human")  # fmt: skip
"""Columns that hold a prompt or a part of it."""
WORDS_OF_A_PROMPT = 3


def detect_format(rows: Sequence[DataRow], name: str, asked: str | None = None) -> tuple[str, str]:
    """Return (name of the format, one sentence that says why).

    Raises:
        ConfigError: the format asked for is unknown.
        DataError: the columns fit no format, or not the one asked for.
    """
    columns = {column for row in rows for column in row.values}
    if asked is not None:
        return _asked(asked, columns, name)
    fitting = [
        key
        for key, form in FORMATS.items()
        if columns.issuperset(form.needs) and (form.fits is None or form.fits(rows))
    ]
    if not fitting:
        raise DataError(
            f"{name}: the columns {_quoted(sorted(columns))} fit no format",
            f"a format is known by its columns: {_list_formats()}",
            f"say which columns hold what: {_suggestion(columns)}",
        )
    if fitting[0] == "implicit-prompt":
        _refuse_guess(rows, name)
    chosen = FORMATS[fitting[0]]
    why = f"it has {_quoted(chosen.needs)}: {chosen.means}"
    others = [k for k in fitting[1:] if not set(FORMATS[k].needs) <= set(chosen.needs)]
    if others:
        why += f" (its columns also fit {_quoted(others)}; say --format NAME to choose)"
    return fitting[0], why


def unread_columns(name: str, rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return columns that look like judgments, or like a prompt, and that the format leaves."""
    left = left_over(name, rows)
    words = QUESTIONS if name not in UNJUDGED else (*QUESTIONS, *JUDGMENTS)
    return tuple(column for column in left if column.lower() in words)


def left_over(name: str, rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return the columns that the format does not read; they are kept beside the prompt."""
    form = FORMATS[name]
    columns = {c for row in rows for c, value in row.values.items() if value is not None}
    read = {*form.needs, *form.uses, *CONTEXT, *(form.reads(rows[0]) if form.reads else ())}
    return tuple(sorted(columns - read))


def _refuse_guess(rows: Sequence[DataRow], name: str) -> None:
    """Refuse to take the words that two answers begin with for a prompt that a column may hold."""
    if all(row.is_list("chosen") and row.is_list("rejected") for row in rows):
        return
    columns = dict.fromkeys(c for row in rows for c in row.values)
    maybe = [c for c in columns if c not in FORMATS["implicit-prompt"].needs and _asks(c, rows)]
    if not maybe:
        return
    raise DataError(
        f"{name}: `chosen` and `rejected` without `prompt`, and {_quoted(maybe)} unread",
        "the words that both answers begin with are taken for the prompt only where no other "
        "column could hold it; else a model would be trained on a prompt that nobody wrote",
        f"say which one holds it: --columns prompt={maybe[0]}; or, if the answers do begin with "
        "their prompt, --format implicit-prompt",
    )


def _asks(column: str, rows: Sequence[DataRow]) -> bool:
    """True for a column that could hold the prompt: by its name, or by texts like questions."""
    values = [row.values[column] for row in rows if row.has(column)]
    if column.lower() in QUESTIONS:
        return bool(values)
    texts = [v for v in values if isinstance(v, str)]
    if not texts or len(set(texts)) <= len(texts) / 2 or len(texts) < len(rows) / 2:
        return False
    inside = sum(
        str(v) in str(row.values.get("chosen")) for row, v in zip(rows, values, strict=False)
    )
    words = sorted(len(text.split()) for text in texts)
    return words[len(words) // 2] >= WORDS_OF_A_PROMPT and inside < len(texts)


def _asked(asked: str, columns: set[str], name: str) -> tuple[str, str]:
    if asked not in FORMATS:
        raise ConfigError(
            f"format = {asked!r}",
            f"the formats are {', '.join(FORMATS)}.{nearest_name(asked, FORMATS)}",
            "give one of them as --format NAME, or leave it out and let the columns decide",
        )
    missing = [c for c in FORMATS[asked].needs if c not in columns]
    if missing:
        raise DataError(
            f"{name}: {_quoted(missing)} missing for format `{asked}`; "
            f"there are {_quoted(sorted(columns))}",
            f"`{asked}` is {FORMATS[asked].means}",
            f"say which columns hold what: {_suggestion(columns)}",
        )
    return asked, f"it was asked for: {FORMATS[asked].means}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names) or "none"


def _list_formats() -> str:
    return "; ".join(f"{key} ({', '.join(form.needs)})" for key, form in FORMATS.items())


def _suggestion(columns: set[str]) -> str:
    usual = {
        "prompt": ("question", "query", "instruction", "input", "text", "problem"),
        "completion": ("answer", "response", "output", "solution"),
        "messages": ("conversation", "dialog", "dialogue", "turns"),
        "chosen": ("preferred", "better", "win", "accepted"),
        "rejected": ("dispreferred", "worse", "lose"),
    }
    lower = {c.lower(): c for c in columns}
    found = {
        role: next(lower[n] for n in names if n in lower)
        for role, names in usual.items()
        if any(n in lower for n in names)
    }
    pairs = ",".join(f"{ours}={theirs}" for ours, theirs in found.items())
    return f"--columns {pairs or 'prompt=COLUMN'}"
