"""What stands beside a prompt in columns of its own: the system turn, earlier turns, tools.

system, system_prompt   a text: the first turn of the conversation
history                 [[question, answer], ...]: the turns before the last question
tools                   function schemas, as objects or as JSON text: `prompt.meta["tools"]`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tandem.data.chat import transcripts
from tandem.data.formats.fields import DataRow
from tandem.data.formats.messages import without_nulls
from tandem.data.record import Group, Message, Prompt

SYSTEM = ("system", "system_prompt")
CONTEXT = (*SYSTEM, "history", "tools")
"""Columns that are read beside every format's own."""


def add_context(row: DataRow, group: Group) -> Group:
    """Return the group with the row's system turn, earlier turns and tools in its prompt.

    Raises:
        DataError: one of these columns is no such thing, or contradicts the prompt.
    """
    prompt = group.prompt
    system, history, tools = _system(row), _history(row), _tools(row)
    if system or history:
        prompt = _with_turns(row, prompt, system, history)
    if tools:
        prompt = replace(prompt, meta={**prompt.meta, "tools": tools})
    return group if prompt is group.prompt else replace(group, prompt=prompt)


def context_columns(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of a row that `add_context` reads something from."""
    return tuple(c for c in CONTEXT if _holds(c, values.get(c)))


def _holds(column: str, value: Any) -> bool:
    if column == "tools" and isinstance(value, str):
        return value.lstrip().startswith(("[", "{"))
    return value not in (None, "", [], ())


def _system(row: DataRow) -> str:
    there = [c for c in SYSTEM if row.has(c)]
    return row.text(there[0]).strip() and row.text(there[0]) if there else ""


def _history(row: DataRow) -> list[Message]:
    if not row.has("history"):
        return []
    turns: list[Message] = []
    for k, pair in enumerate(row.items("history")):
        said = cast("list[Any]", pair) if isinstance(pair, list) else []
        if len(said) != 2 or not all(isinstance(text, str) for text in said):
            row.wrong(f"history[{k}]", pair, "earlier turns are pairs of a question and an answer")
        turns += [{"role": "user", "content": said[0]}, {"role": "assistant", "content": said[1]}]
    return turns


def _tools(row: DataRow) -> list[Any]:
    value = row.values.get("tools")
    if not _holds("tools", value):
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            row.wrong("tools", value, "tools as text are JSON: a list of function schemas")
    value = without_nulls([value] if isinstance(value, dict) else value)
    if not isinstance(value, list) or not all(
        isinstance(v, dict) for v in cast("list[Any]", value)
    ):
        row.wrong("tools", value, "tools are a list of function schemas")
    return cast("list[Any]", value)


def _with_turns(row: DataRow, prompt: Prompt, system: str, history: Sequence[Message]) -> Prompt:
    turns = list(prompt.messages or ({"role": "user", "content": prompt.text},))
    own = turns[0] if turns[0]["role"] in ("system", "developer") else None
    if own is not None and system and own["content"] != system:
        row.wrong("system", system, "the prompt begins with another system turn")
    if own is not None:
        turns = turns[1:]
    first = [own] if own is not None else [{"role": "system", "content": system}] if system else []
    text, messages = transcripts.prompt_of([*first, *history, *turns])
    return replace(prompt, text=text, messages=messages)
