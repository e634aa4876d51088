"""One message of a conversation, from the ways in which files write it.

A message is `{"role": ..., "content": ...}`, or ShareGPT's `{"from": ..., "value": ...}`. Content
is a text, or a list of text parts, which are joined. Keys that are null are absent keys, at any
depth: Arrow adds them where another row has such a key. The arguments of a tool call are kept as
an object; `tandem.data.chat` writes them in the form that a template takes.
"""

from __future__ import annotations

import json
from typing import Any, cast

from tandem.data.record import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "system": "system", "observation": "tool", "tool": "tool",
    "function_call": "assistant",
}  # fmt: skip
"""ShareGPT's `from`: who it is in a chat template's words."""

_TEXT_PARTS = ("text", "input_text", "output_text")


class WrongMessage(Exception):
    """A message that cannot be read: where in it, the value, and the rule."""

    def __init__(self, place: str, value: Any, rule: str) -> None:
        super().__init__(place, value, rule)
        self.place, self.value, self.rule = place, value, rule


def is_message(value: Any) -> bool:
    """True for an object that says who speaks."""
    return isinstance(value, dict) and ("role" in value or "from" in value)


def object_of(value: Any) -> dict[str, Any]:
    """Return an object's names and values; nothing for what is no object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def read_message(turn: Any) -> Message:
    """Return one message with `role`, `content` and what else it has.

    Raises:
        WrongMessage: it is no message, its role is unknown, or its content is no text.
    """
    if not isinstance(turn, dict):
        raise WrongMessage("", turn, "a message is an object with `role` and `content`")
    turn = without_nulls(cast("dict[str, Any]", turn))
    if "role" not in turn and "from" in turn:
        turn = _from_sharegpt(turn)
    if turn.get("role") not in ROLES:
        raise WrongMessage(".role", turn.get("role"), f"a role is one of {', '.join(ROLES)}")
    if turn.get("tool_calls") == []:
        del turn["tool_calls"]
    if isinstance(turn.get("content"), list):
        turn["content"] = join_text_parts(turn["content"])
    content = turn.get("content")
    if not isinstance(content, str) and not (content is None and "tool_calls" in turn):
        raise WrongMessage(".content", content, "the content of a message is text")
    if "tool_calls" in turn:
        turn["tool_calls"] = _read_calls(turn["tool_calls"])
    return turn


def without_nulls(value: Any) -> Any:
    """Return a structure without keys whose value is null, at any depth."""
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return {k: without_nulls(v) for k, v in pairs if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in cast("list[Any]", value)]
    return value


def join_text_parts(parts: list[Any]) -> str:
    """Join the text parts of one content.

    Raises:
        WrongMessage: a part is no text; pictures and sounds are named.
    """
    texts: list[str] = []
    for k, part in enumerate(parts):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = str(object_of(part).get("type", "text" if isinstance(part, dict) else type(part)))
        text = object_of(part).get("text")
        if kind not in _TEXT_PARTS or not isinstance(text, str):
            raise WrongMessage(f".content[{k}]", part, _refusal(kind))
        texts.append(text)
    return "".join(texts)


def _refusal(kind: str) -> str:
    for sort, words in (("image", "pictures"), ("audio", "sounds"), ("video", "films")):
        if sort in kind:
            return f"a part of the kind `{kind}` holds no text: {words} are not read"
    return f"a part of the kind `{kind}` is not read: a content is text, or a list of text parts"


def _from_sharegpt(turn: dict[str, Any]) -> Message:
    who, said = turn.pop("from"), turn.pop("value", None)
    if not isinstance(who, str) or who not in SPEAKERS:
        raise WrongMessage(".from", who, f"who speaks is one of {', '.join(SPEAKERS)}")
    if who != "function_call":
        return {"role": SPEAKERS[who], "content": said, **turn}
    call = _parsed(said, ".value")
    calls = cast("list[Any]", call) if isinstance(call, list) else [call]
    return {"role": "assistant", "tool_calls": calls, **turn}


def _read_calls(calls: Any) -> list[Any]:
    known: list[Any] = cast("list[Any]", calls) if isinstance(calls, list) else [None]
    if not all(isinstance(call, dict) for call in known):
        raise WrongMessage(".tool_calls", calls, "tool calls are a list of objects")
    return [_read_call(call, k) for k, call in enumerate(known)]


def _read_call(call: dict[str, Any], k: int) -> dict[str, Any]:
    """Return a call as `{"type": "function", "function": {"name", "arguments": object}}`."""
    place = f".tool_calls[{k}].function"
    bare = {key: call[key] for key in ("name", "arguments") if key in call}
    function = object_of(call.get("function", bare))
    if not isinstance(function.get("name"), str):
        raise WrongMessage(place, call.get("function"), "a tool call has a function with a name")
    given = function.get("arguments", {})
    arguments = without_nulls(_parsed(given, f"{place}.arguments"))
    if not isinstance(arguments, dict):
        raise WrongMessage(f"{place}.arguments", given, "the arguments of a call are an object")
    rest = {key: v for key, v in call.items() if key not in ("function", "name", "arguments")}
    return {"type": "function", **rest, "function": {**function, "arguments": arguments}}


def _parsed(value: Any, place: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else {}
    except (ValueError, RecursionError) as error:
        raise WrongMessage(place, value, f"as text it must be JSON ({error})") from error
