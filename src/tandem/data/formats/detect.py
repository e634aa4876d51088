"""Which format a file is in, and why: a table of column names, looked through in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem.data.formats.column_names import (
    answers_in,
    is_question,
    judgments_in,
    labels_in,
    parts_in,
    questions_in,
    spell_columns,
    suggest_columns,
)
from tandem.data.formats.conversations import are_whole
from tandem.data.formats.fields import DataRow, SkipRow, quote_names
from tandem.data.formats.prompt_context import context_columns, plain_name, says_nothing
from tandem.data.formats.registry import FORMATS
from tandem.errors import ConfigError, DataError, nearest_name

PEEK = 64
"""Rows that are looked at before the format is decided."""

UNJUDGED = ("prompt-completion", "messages", "sharegpt", "alpaca", "gsm8k", "answers",
            "prompt", "text")  # fmt: skip
NEAREST = 4
"""Formats that an error names, where no format fits."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a format would leave out, and how the error says it.

    Attributes:
        look: finds it among the columns that the format does not read.
        what: is read.
        why: nothing else may be there.
        alone: what to do with the format all the same.
    """

    look: Callable[[Sequence[str], Sequence[DataRow]], Sequence[str]]
    what: str
    why: str
    alone: str


LEFT_OUT = {
    "prompt": LeftOut(
        answers_in,
        "`prompt` alone is read",
        "prompts alone are read where no column could hold an answer; else what somebody wrote or "
        "judged would be lost without a word",
        "to read the prompts alone",
    ),
    "answers": LeftOut(
        judgments_in,
        "answers that nobody judged",
        "several answers to a prompt are judged by `scores` or by `ranks`, one for each",
        "to read the answers without it",
    ),
    "text": LeftOut(
        parts_in,
        "whole texts",
        "a text alone is trained on as it stands; what else somebody asked, wrote or judged would "
        "be lost without a word",
        "to train on the texts alone",
    ),
}
"""Formats that need little, and would fit files that hold more."""


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
            f"{name}: the columns {quote_names(sorted(columns))} fit no format",
            f"a format is known by its columns; the nearest are {_nearest_formats(columns)}",
            _say_columns(columns),
        )
    _refuse_guess(fitting[0], rows, name)
    chosen = FORMATS[fitting[0]]
    why = f"it has {quote_names(chosen.needs)}: {chosen.means}"
    others = [k for k in fitting[1:] if not set(FORMATS[k].needs) <= set(chosen.needs)]
    if others:
        why += f" (its columns also fit {quote_names(others)}; say --format NAME to choose)"
    return fitting[0], why


def unread_columns(name: str, rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return columns that look like judgments, or like a prompt, and that the format leaves."""
    left = left_over(name, rows)
    found = questions_in(left, rows)
    return (*found, *judgments_in(left, rows)) if name in UNJUDGED else found


def left_over(name: str, rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return the columns that the format does not read; they are kept beside the prompt."""
    form = FORMATS[name]
    columns = {c for row in rows for c, value in row.values.items() if not says_nothing(value)}
    read = {*form.needs, *form.uses, *(form.reads(rows[0]) if form.reads else ())}
    read |= {c for row in rows for c in context_columns(row.values)}
    return tuple(sorted(columns - read))


def _refuse_guess(found: str, rows: Sequence[DataRow], name: str) -> None:
    """Refuse a format that would leave out a prompt, an answer, or a judgment that a column holds.

    Raises:
        DataError: with the column, and the flags that say what it is.
    """
    if found == "implicit-prompt":
        _refuse_guessed_prompt(rows, name)
    elif found in LEFT_OUT:
        _refuse_unread(found, rows, name)
    elif found in UNJUDGED:
        _refuse_unread_labels(found, rows, name)


def _holds_prompts(row: DataRow) -> bool:
    """True where the answers hold their prompt, or hold nothing and are dropped later."""
    try:
        return are_whole(row)
    except SkipRow:
        return True


def _refuse_guessed_prompt(rows: Sequence[DataRow], name: str) -> None:
    if all(_holds_prompts(row) for row in rows if row.has("chosen") and row.has("rejected")):
        return
    columns = dict.fromkeys(c for row in rows for c in row.values)
    sides = FORMATS["implicit-prompt"].needs
    maybe = [c for c in columns if c not in sides and is_question(c, rows)]
    if not maybe:
        return
    hold = "; or, if the answers do begin with their prompt, --format implicit-prompt"
    apart = any(row.is_list(side) for row in rows for side in sides)
    raise DataError(
        f"{name}: `chosen` and `rejected` without `prompt`, and {quote_names(maybe)} unread",
        "the words that both answers begin with are taken for the prompt only where no other "
        "column could hold it; else a model would be trained on a prompt that nobody wrote",
        f"say which one holds it: --columns prompt={maybe[0]}{'' if apart else hold}",
    )


def _refuse_unread(found: str, rows: Sequence[DataRow], name: str) -> None:
    seen, left = LEFT_OUT[found], left_over(found, rows)
    unread = seen.look(left, rows)
    if not unread:
        return
    mapping = suggest_columns([*FORMATS[found].needs, *left])
    better = f"say which columns hold what: {spell_columns(mapping)}; or, " if mapping else ""
    raise DataError(
        f"{name}: {seen.what}, and {quote_names(unread)} would be left out",
        seen.why,
        f"{better}{seen.alone}, --format {found}",
    )


def _refuse_unread_labels(found: str, rows: Sequence[DataRow], name: str) -> None:
    labels = labels_in(left_over(found, rows), rows)
    if not labels:
        return
    ours = {"alpaca": "kto_tag", "sharegpt": "kto_tag"}.get(found, "label")
    raise DataError(
        f"{name}: demonstrations, and {quote_names(labels)} says good of some and bad of others",
        "a model would be trained to imitate the bad answers too",
        f"say that it is the label: --columns {ours}={labels[0]}; or, to imitate all of them, "
        f"--format {found}",
    )


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
            f"{name}: {quote_names(missing)} missing for format `{asked}`; "
            f"there are {quote_names(sorted(columns))}",
            f"`{asked}` is {FORMATS[asked].means}",
            _say_columns(columns),
        )
    return asked, f"it was asked for: {FORMATS[asked].means}"


def _nearest_formats(columns: set[str]) -> str:
    """Return the formats that share most columns with a file, with what each needs."""
    names = {plain_name(c) for c in columns}

    def missing(key: str) -> tuple[float, int]:
        needs = FORMATS[key].needs
        return -sum(plain_name(n) in names for n in needs) / len(needs), len(needs)

    nearest = sorted(FORMATS, key=missing)[:NEAREST]
    shown = "; ".join(f"{key} ({', '.join(FORMATS[key].needs)})" for key in nearest)
    return f"{shown}; docs/formats.md lists all"


def _say_columns(columns: set[str]) -> str:
    mapping = suggest_columns(columns)
    if mapping:
        return f"say which columns hold what: {spell_columns(mapping)}"
    return (
        "write each row with the columns of one of them, for example "
        '{"prompt": "...", "chosen": "...", "rejected": "..."}, a conversation as '
        '{"messages": [{"role": "user", "content": "..."}, ...]}, or a whole text as '
        '{"text": "..."}'
    )
