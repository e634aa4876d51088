"""The answer of a chat server, checked whole before anything is made of it.

What comes back from a server is a stranger's data. `read_answer` returns a new table that holds
what Tandem reads and nothing else, each value of its own type and range; or it says what is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

LARGEST_BODY = 16 << 20
"""Bytes of an answer above which it is none."""
MOST_TOKENS = 10**9
SURPLUS = 0.05
"""By so much the probabilities of one place may add up to more than 1: servers round."""


class InvalidAnswer(ValueError):
    """What a server sent is no chat completion."""


class UnlabelledAnswer(InvalidAnswer):
    """It is one, without the log-probabilities that were asked for; asking again is no use."""


def read_answer(text: str, *, labelled: bool, redact: Callable[[str], str] = str) -> dict[str, Any]:
    """Return the checked parts of an answer.

    Args:
        text: the body of the response.
        labelled: log-probabilities were asked for, and must be there.
        redact: takes secrets out of a text.

    Raises:
        InvalidAnswer: it is not what the protocol promises.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidAnswer(f"no JSON ({str(error)[:80]}): {redact(text[:80])!r}") from None
    choices = _table(body, "the answer").get("choices")
    if not isinstance(choices, list) or not choices:
        raise InvalidAnswer(f"no `choices`: {redact(text[:80])!r}")
    choice = _table(choices[0], "`choices[0]`")
    message = _table(choice.get("message"), "`message`")
    said = _content(message.get("content"))
    ended = choice.get("finish_reason")
    checked: dict[str, Any] = {
        "message": {"role": "assistant", "content": _text(said or "", "`content`", redact)},
        "finish_reason": None if ended is None else _text(ended, "`finish_reason`", redact)[:40],
    }
    if labelled:
        checked["logprobs"] = {"content": _places(choice.get("logprobs"), said, redact)}
    return {"choices": [checked], "usage": _usage(_table(body, "").get("usage"))}


def _content(given: Any) -> Any:
    """Return what was said; of parts, the texts joined: thoughts are no part of an answer."""
    if not isinstance(given, list):
        return given
    parts = [_table(part, "a part of `content`") for part in cast("list[Any]", given)]
    return "".join(
        _text(part.get("text"), "`text`", str) for part in parts if part.get("type") == "text"
    )


def _places(given: Any, said: Any, redact: Callable[[str], str]) -> list[dict[str, Any]]:
    content = _table(given, "`logprobs`").get("content") if given is not None else None
    if not isinstance(content, list) or not content:
        shown = redact(str(said))[:40]
        raise UnlabelledAnswer(f"the server names no log-probabilities with its answer {shown!r}")
    places: list[dict[str, Any]] = []
    for place in cast("list[Any]", content):
        taken = _alternative(_table(place, "a place of `logprobs`"), redact)
        named = place.get("top_logprobs")
        if not isinstance(named, list) or (not named and not places):
            raise UnlabelledAnswer("the server names no log-probabilities: `top_logprobs` is empty")
        rows = [_table(n, "`top_logprobs`") for n in cast("list[Any]", named)]
        others = [_alternative(row, redact) for row in rows if row.get("logprob") != -math.inf]
        mass = sum(math.exp(o["logprob"]) for o in others)
        if mass > 1 + SURPLUS:
            raise InvalidAnswer(f"the probabilities of one place add up to {mass:.3g}")
        places.append({**taken, "top_logprobs": others})
    return places


def _alternative(row: Mapping[str, Any], redact: Callable[[str], str]) -> dict[str, Any]:
    logprob = row.get("logprob")
    if isinstance(logprob, bool) or not isinstance(logprob, int | float):
        raise InvalidAnswer(f"`logprob` is {str(logprob)[:40]!r}, no number")
    try:
        number = float(logprob)
    except OverflowError:
        number = math.nan
    if not -math.inf < number <= SURPLUS:
        raise InvalidAnswer(f"`logprob` is {str(logprob)[:40]}, not the log of a probability")
    return {"token": _text(row.get("token"), "`token`", redact), "logprob": min(number, 0.0)}


def _usage(given: Any) -> dict[str, int]:
    if given is None:
        return {"prompt_tokens": 0, "completion_tokens": 0}
    table = _table(given, "`usage`")
    counts = {name: table.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")}
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_TOKENS:
            raise InvalidAnswer(f"`usage.{name}` is {str(count)[:40]}, no count of tokens")
    return counts


def _table(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidAnswer(f"{what} is a {type(value).__name__}, no table")
    return cast("dict[str, Any]", value)


def _text(value: Any, what: str, redact: Callable[[str], str]) -> str:
    if not isinstance(value, str):
        raise InvalidAnswer(f"{what} is a {type(value).__name__}, no text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidAnswer(f"{what} holds half a character") from None
    return redact(value)
