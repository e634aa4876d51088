"""Which format a file is in, and why: a table of column names, looked through in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tandem.data.chat import transcripts
from tandem.data.formats import conversations, judged
from tandem.data.formats.fields import DataRow
from tandem.data.record import Group
from tandem.errors import ConfigError, DataError, nearest_name

PEEK = 64
"""Rows that are looked at before the format is decided."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing data down.

    Attributes:
        needs: columns that must be there.
        means: what a row is, for the printed reason.
        parse: one row -> one group, without its id.
        uses: optional columns that are read; what is left over goes to `prompt.meta`.
        fits: a further look at the first rows, or None.
    """

    needs: tuple[str, ...]
    means: str
    parse: Callable[[DataRow], Group]
    uses: tuple[str, ...] = ()
    fits: Callable[[Sequence[DataRow]], bool] | None = None


def _entries_are_objects(rows: Sequence[DataRow]) -> bool:
    values = [row.values.get("completions") for row in rows]
    entries = [x for v in values if isinstance(v, list) for x in cast("list[Any]", v)]
    return all(isinstance(v, list) for v in values) and all(isinstance(x, dict) for x in entries)


def _transcripts(rows: Sequence[DataRow]) -> bool:
    texts = [row.values.get(name) for row in rows for name in ("chosen", "rejected")]
    return all(isinstance(t, str) and transcripts.is_transcript(t) for t in texts)


def _worked(rows: Sequence[DataRow]) -> bool:
    texts = [row.values.get("answer") for row in rows]
    return all(isinstance(t, str) and "####" in t for t in texts)


_WEIGHTS = ("margin", "p_chosen")
FORMATS: dict[str, Format] = {
    "alpacaeval-groups": Format(
        ("prompt", "completions"),
        "a prompt with completions by several systems, each with its probability of beating "
        "the reference; pairs are graded p_i(1-p_j) / (p_i(1-p_j) + p_j(1-p_i))",
        judged.read_alpacaeval,
        fits=_entries_are_objects,
    ),
    "ranked": Format(
        ("prompt", "completions", "ranks"),
        "a prompt with ranked completions, 1 the best; two of different rank are a preference",
        judged.read_ranked,
    ),
    "scored": Format(
        ("prompt", "completions", "scores"),
        "a prompt with scored completions; two of different score are a preference "
        "whose margin is the difference",
        judged.read_scored,
    ),
    "alpaca-comparison": Format(
        ("instruction", "output_1", "output_2", "preference"),
        "AlpacaFarm or AlpacaEval: an instruction, two outputs, and the better one (1, 2, 1.5 tie)",
        judged.read_alpaca,
        ("input", "generator_1", "generator_2"),
    ),
    "llmbar": Format(
        ("input", "output_1", "output_2", "label"),
        "LLMBar: an instruction, two outputs, and the label of the better one (1 or 2)",
        judged.read_llmbar,
    ),
    "hh": Format(
        ("chosen", "rejected"),
        "two transcripts of `\\n\\nHuman:` and `\\n\\nAssistant:` turns; the prompt is their "
        "common prefix cut back to the last assistant turn",
        conversations.read_hh,
        _WEIGHTS,
        fits=_transcripts,
    ),
    "preference": Format(
        ("prompt", "chosen", "rejected"),
        "a prompt with a chosen and a rejected answer",
        conversations.read_preference,
        _WEIGHTS,
    ),
    "implicit-prompt": Format(
        ("chosen", "rejected"),
        "two texts that each hold the prompt; the prompt is what they have in common at the start",
        conversations.read_implicit_prompt,
        _WEIGHTS,
    ),
    "unpaired": Format(
        ("prompt", "completion", "label"),
        "a prompt with one completion and a label, good or bad; labels become scores 1 and 0",
        conversations.read_unpaired,
    ),
    "prompt-completion": Format(
        ("prompt", "completion"),
        "demonstrations: a prompt with its completion",
        conversations.read_demonstration,
    ),
    "messages": Format(
        ("messages",),
        "demonstrations: conversations, trained on every assistant turn",
        conversations.read_conversation,
    ),
    "alpaca": Format(
        ("instruction", "output"),
        "demonstrations: an instruction with its output",
        conversations.read_instruction,
        ("input",),
    ),
    "gsm8k": Format(
        ("question", "answer"),
        "questions with worked solutions that end in `#### 42`, the answer key",
        conversations.read_worked_solution,
        fits=_worked,
    ),
    "prompt": Format(("prompt",), "prompts alone", conversations.read_prompt),
}

UNJUDGED = ("prompt-completion", "messages", "alpaca", "gsm8k", "prompt")
JUDGMENTS = {"chosen", "rejected", "completions", "ranks", "scores", "output_1", "output_2",
             "preference", "label"}  # fmt: skip


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
            f"a format is known by its columns: {_table()}",
            f"rename them: {_suggestion(columns)}",
        )
    chosen = FORMATS[fitting[0]]
    why = f"it has {_quoted(chosen.needs)}: {chosen.means}"
    others = [k for k in fitting[1:] if not set(FORMATS[k].needs) <= set(chosen.needs)]
    if others:
        why += f" (its columns also fit {_quoted(others)}; say format=... to choose)"
    return fitting[0], why


def unread_columns(name: str, rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return columns that look like judgments and that the format does not read."""
    if name not in UNJUDGED:
        return ()
    columns = {column for row in rows for column in row.values}
    read = {*FORMATS[name].needs, *FORMATS[name].uses}
    return tuple(sorted((columns & JUDGMENTS) - read))


def _asked(asked: str, columns: set[str], name: str) -> tuple[str, str]:
    if asked not in FORMATS:
        raise ConfigError(
            f"format = {asked!r}",
            f"the formats are {', '.join(FORMATS)}.{nearest_name(asked, FORMATS)}",
            "give one of them, or leave it out and let the columns decide",
        )
    missing = [c for c in FORMATS[asked].needs if c not in columns]
    if missing:
        raise DataError(
            f"{name}: {_quoted(missing)} missing for format `{asked}`; "
            f"there are {_quoted(sorted(columns))}",
            f"`{asked}` is {FORMATS[asked].means}",
            f"rename columns: {_suggestion(columns)}",
        )
    return asked, f"it was asked for: {FORMATS[asked].means}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{n}`" for n in names) or "none"


def _table() -> str:
    return "; ".join(f"{key} ({', '.join(form.needs)})" for key, form in FORMATS.items())


def _suggestion(columns: set[str]) -> str:
    usual = {
        "prompt": ("question", "query", "instruction", "input", "text", "problem"),
        "completion": ("answer", "response", "output", "solution"),
        "messages": ("conversations", "conversation", "dialog", "turns"),
        "chosen": ("preferred", "better", "win", "accepted"),
        "rejected": ("dispreferred", "worse", "lose"),
    }
    lower = {c.lower(): c for c in columns}
    found = {
        role: next(lower[n] for n in names if n in lower)
        for role, names in usual.items()
        if any(n in lower for n in names)
    }
    return f"columns={found or {'prompt': 'your column'}}"
