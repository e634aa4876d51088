"""One message of a conversation, from the ways in which files write it.

A message is `{"role": ..., "content": ...}`, or ShareGPT's `{"from": ..., "value": ...}`. Content
is a text, or a list of text parts, which are joined. Keys that are null are absent keys, at any
depth: Arrow adds them where another row has such a key. A tool call is kept with its arguments as
an object; `tandem.data.chat` writes them in the form that a template takes.
"""

from __future__ import annotations

from typing import Any, cast

from tandem.data.formats.structured_text import RepeatedKey, parse_json
from tandem.data.record import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
CALLS = "calls"
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant",
    "system": "system", "developer": "developer", "observation": "tool", "tool": "tool",
    "function": "tool", "ipython": "tool", "function_response": "tool", "tool_response": "tool",
    "function_call": CALLS, "tool_call": CALLS,
}  # fmt: skip
"""Who speaks, by the names that files use: in a chat template's words, or calls alone."""

_TEXT_PARTS = ("text", "input_text", "output_text")


class WrongMessage(Exception):
    """A message that cannot be read: where in it, the value, and the rule."""

    def __init__(self, place: str, value: Any, rule: str) -> None:
        super().__init__(place, value, rule)
        self.place, self.value, self.rule = place, value, rule


def is_message(value: Any) -> bool:
    """True for an object that says who speaks."""
    return isinstance(value, dict) and ("role" in value or "from" in value)


def is_part(value: Any) -> bool:
    """True for a part of a content: an object of some type, and nobody who speaks."""
    return isinstance(value, dict) and "type" in value and not is_message(cast("Any", value))


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
    turn = _with_usual_names(without_nulls(cast("dict[str, Any]", turn)))
    if turn.get("tool_calls") == []:
        del turn["tool_calls"]
    if isinstance(turn.get("content"), list) or is_part(turn.get("content")):
        turn["content"] = join_text_parts(turn["content"])
    content = turn.get("content")
    if not isinstance(content, str) and not (content is None and "tool_calls" in turn):
        raise WrongMessage(".content", content, "the content of a message is text")
    if "tool_calls" in turn:
        turn["tool_calls"] = _read_calls(turn["tool_calls"])
    if turn.get("weight", 1) not in (0, 1):
        raise WrongMessage(".weight", turn["weight"], "a turn is trained on (1) or not (0)")
    return turn


def without_nulls(value: Any) -> Any:
    """Return a structure without keys whose value is null, at any depth."""
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return {k: without_nulls(v) for k, v in pairs if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in cast("list[Any]", value)]
    return value


def join_text_parts(content: Any) -> str:
    """Join the text parts of one content; one part may stand alone.

    Raises:
        WrongMessage: a part is no text; pictures and sounds are named.
    """
    texts: list[str] = []
    parts = cast("list[Any]", content) if isinstance(content, list) else [content]
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


def _with_usual_names(turn: dict[str, Any]) -> Message:
    """Return a message with `role`, `content` and `tool_calls`, whatever the file calls them."""
    place = "role" if "role" in turn or "from" not in turn else "from"
    who = turn.pop(place, None)
    role = SPEAKERS.get(who.strip().lower()) if isinstance(who, str) else None
    if role is None:
        rule = f"a role is one of {', '.join(ROLES)}"
        known = f"who speaks is one of {', '.join(SPEAKERS)}"
        raise WrongMessage(f".{place}", who, rule if place == "role" else known)
    if "value" in turn and "content" not in turn:
        turn["content"] = turn.pop("value")
    if "function_call" in turn and "tool_calls" not in turn:
        turn["tool_calls"] = [turn.pop("function_call")]
    if role == CALLS:
        role, turn["tool_calls"] = "assistant", turn.pop("content", None)
    return {"role": role, **turn}


def _read_calls(calls: Any) -> list[Any]:
    calls = _parsed(calls, ".tool_calls")
    known: list[Any] = cast("list[Any]", calls) if isinstance(calls, list) else [calls]
    known = [_parsed(call, f".tool_calls[{k}]") for k, call in enumerate(known)]
    if not all(isinstance(call, dict) for call in known):
        raise WrongMessage(".tool_calls", calls, "tool calls are a list of objects")
    return [_read_call(call, k) for k, call in enumerate(known)]


def _read_call(call: dict[str, Any], k: int) -> dict[str, Any]:
    """Return a call as `{"type": "function", "function": {"name", "arguments": object}}`."""
    place = f".tool_calls[{k}].function"
    own = ("name", "arguments", "parameters")
    bare = {key: call[key] for key in own if key in call}
    function = object_of(_parsed(call.get("function", bare), place))
    if not isinstance(function.get("name"), str):
        raise WrongMessage(place, call.get("function"), "a tool call has a function with a name")
    given = function.get("arguments", function.get("parameters", {}))
    arguments = without_nulls(_parsed(given, f"{place}.arguments"))
    if not isinstance(arguments, dict):
        raise WrongMessage(f"{place}.arguments", given, "the arguments of a call are an object")
    kept = {key: v for key, v in function.items() if key != "parameters"}
    rest = {key: v for key, v in call.items() if key not in ("function", *own)}
    return {"type": "function", **rest, "function": {**kept, "arguments": arguments}}


def _parsed(value: Any, place: str) -> Any:
    """Return what JSON text spells, also where it was written as text twice."""
    for _ in range(2):
        if not isinstance(value, str):
            break
        try:
            value = parse_json(value) if value.strip() else {}
        except RepeatedKey as error:
            raise WrongMessage(place, value, f"the key `{error}` is there twice") from error
        except (ValueError, RecursionError) as error:
            raise WrongMessage(place, value, f"as text it must be JSON ({error})") from error
    return value
