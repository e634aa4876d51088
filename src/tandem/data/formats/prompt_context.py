"""What stands beside a prompt in columns of its own: the system turn, earlier turns, tools.

system, system_prompt, system_message   a text: the first turn of the conversation
history                                 pairs of question and answer, or messages: earlier turns
tools, functions                        function schemas, as objects or as JSON text

Pictures, sounds and films beside a prompt are refused: without them an answer teaches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

from tandem.data.chat import transcripts
from tandem.data.formats.fields import DataRow
from tandem.data.formats.messages import is_message, object_of, without_nulls
from tandem.data.formats.structured_text import parse_structure
from tandem.data.record import Group, Message, Prompt

SYSTEM = ("system", "systemprompt", "systemmessage", "systeminstruction", "sysprompt", "sys")
HISTORY = ("history",)
TOOLS = ("tools", "functions")
PICTURES = ("image", "images", "video", "videos", "audio", "audios")
_ASKING = ("user", "human", "question", "prompt", "instruction", "query", "input")
_ANSWERING = ("assistant", "gpt", "bot", "ai", "model", "answer", "response", "output", "reply")
_NOTHING = ("", "null", "none", "[]", "{}")


def add_context(row: DataRow, group: Group, used: Sequence[str] = ()) -> Group:
    """Return the group with the row's system turn, earlier turns and tools in its prompt.

    Args:
        row: what the group was made of.
        group: with the prompt that the format read.
        used: columns that the format itself reads.

    Raises:
        DataError: one of these columns is no such thing, or contradicts the prompt; or the prompt
            has pictures.
    """
    _refuse_pictures(row, used)
    prompt = group.prompt
    columns = {c: _kind(c) for c in context_columns(row.values) if c not in used}
    by_kind = {kind: column for column, kind in columns.items()}
    system = _system(row, by_kind.get("system"))
    history = _history(row, by_kind.get("history"))
    tools = _tools(row, by_kind.get("tools"))
    if system or history or (tools and prompt.messages is None):  # a template writes all of them
        prompt = _with_turns(row, prompt, system, history, by_kind.get("system", "system"))
    if tools:
        prompt = replace(prompt, meta={**prompt.meta, "tools": tools})
    return group if prompt is group.prompt else replace(group, prompt=prompt)


def context_columns(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of a row that `add_context` reads something from."""
    return tuple(c for c, value in values.items() if _holds(_kind(c), value))


def says_nothing(value: Any) -> bool:
    """True for null, and for what is empty or spells it, such as the text `[]`."""
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    return value is None or value in ([], {}, ())


@lru_cache(maxsize=1024)
def plain_name(column: str) -> str:
    """Return a column's name in small letters and digits alone: `System Prompt` is systemprompt."""
    return "".join(c for c in column.lower() if c.isalnum())


@lru_cache(maxsize=1024)
def _kind(column: str) -> str:
    kinds = {"system": SYSTEM, "history": HISTORY, "tools": TOOLS}
    plain = plain_name(column)
    return next((kind for kind, names in kinds.items() if plain in names), "")


def _holds(kind: str, value: Any) -> bool:
    """True for a value that says something of this kind."""
    if not kind or says_nothing(value):
        return False
    return not isinstance(value, str) or kind != "tools" or value.strip().startswith(("[", "{"))


def _refuse_pictures(row: DataRow, used: Sequence[str]) -> None:
    for column, value in row.values.items():
        if plain_name(column) not in PICTURES or column in used or says_nothing(value):
            continue
        if isinstance(value, list) and not any(cast("list[Any]", value)):
            continue
        row.wrong(
            column,
            value,
            "a row with pictures, sounds or films beside its text is not read: only texts are",
            f"leave such rows out; or, where the answers do not hang on it, the column `{column}`",
        )


def _system(row: DataRow, column: str | None) -> str:
    if column is None:
        return ""
    if row.is_list(column):
        return "\n\n".join(str(turn.get("content") or "") for turn in row.messages(column))
    return row.text(column)


def _history(row: DataRow, column: str | None) -> list[Message]:
    if column is None:
        return []
    given = row.values[column]
    items = _spelt(row, column, given) if isinstance(given, str) else given
    if is_message(items):
        items = [items]
    if not isinstance(items, list):
        row.wrong(column, given, "earlier turns are a list: pairs of texts, or messages")
    items = cast("list[Any]", items)
    if all(is_message(item) for item in items):
        return list(replace(row, values={column: items}).messages(column))
    turns: list[Message] = []
    for k, item in enumerate(items):
        turns += _pair(row, f"{column}[{k}]", item)
    return turns


def _pair(row: DataRow, name: str, item: Any) -> list[Message]:
    """Return a question and its answer: a pair of texts, or an object that names both."""
    said = cast("list[Any]", item) if isinstance(item, list) else []
    known = {plain_name(key): value for key, value in object_of(item).items()}
    if len(known) == 2:
        said = [known.get(next((w for w in words if w in known), ""))
                for words in (_ASKING, _ANSWERING)]  # fmt: skip
    if len(said) != 2 or not all(isinstance(text, str) for text in said):
        row.wrong(name, item, "earlier turns are pairs of a question and an answer, or messages")
    return [{"role": "user", "content": said[0]}, {"role": "assistant", "content": said[1]}]


def _tools(row: DataRow, column: str | None) -> list[Any]:
    if column is None:
        return []
    given = row.values[column]
    value = _spelt(row, column, given) if isinstance(given, str) else given
    known = cast("list[Any]", value) if isinstance(value, list) else [value]
    tools = [_spelt(row, column, v) if isinstance(v, str) else v for v in known]
    if not all(isinstance(v, dict) for v in tools):
        row.wrong(column, given, "tools are a list of function schemas, as objects or as JSON")
    return cast("list[Any]", without_nulls(tools))


def _spelt(row: DataRow, column: str, text: str) -> Any:
    try:
        return parse_structure(text)
    except ValueError:
        row.wrong(column, text, "as text it is JSON")


def _with_turns(
    row: DataRow, prompt: Prompt, system: str, history: Sequence[Message], column: str
) -> Prompt:
    turns = list(prompt.messages or ({"role": "user", "content": prompt.text},))
    own = turns[0] if turns[0]["role"] in ("system", "developer") else None
    if own is not None and system and str(own["content"]).strip() != system.strip():
        row.wrong(column, system, "the prompt begins with another system turn")
    if own is not None:
        turns = turns[1:]
    first = [own] if own is not None else [{"role": "system", "content": system}] if system else []
    if history and turns[: len(history)] == list(history):
        history = ()
    text, messages = transcripts.prompt_of([*first, *history, *turns])
    return replace(prompt, text=text, messages=messages)
