"""One row of a file, read field by field; a wrong field is an error that names row and value."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from tandem.data.chat import transcripts
from tandem.data.record import Completion, Message
from tandem.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")


class SkipRow(Exception):
    """A row that carries nothing: it is dropped and counted under this reason."""


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row.

    Attributes:
        place: where it stands, as `file:line` or `dataset[index]`.
        values: column -> value; absent and null are the same.
        strings: True where every value is a string (CSV), so that numbers must be parsed.
    """

    place: str
    values: Mapping[str, Any]
    strings: bool = False

    def has(self, name: str) -> bool:
        """True if the column is there and not null."""
        value = self.values.get(name)
        return value is not None and not (self.strings and value == "")

    def text(self, name: str) -> str:
        """Return a string column; raises DataError on anything else."""
        value = self._need(name)
        if not isinstance(value, str):
            self.wrong(name, value, "it must be a string")
        return self._sound(name, value)

    def number(self, name: str) -> float:
        """Return a finite number; raises DataError on anything else."""
        value = self._need(name)
        if self.strings and isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                self.wrong(name, value, "it must be a number")
        return self._finite(name, value)

    def label(self, name: str) -> bool:
        """Return True or False from a boolean, 0 or 1; raises DataError on anything else."""
        value = self._need(name)
        if self.strings and isinstance(value, str):
            value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
        if value not in (0, 1) or isinstance(value, str):
            self.wrong(name, value, "a label says good (true or 1) or bad (false or 0)")
        return bool(value)

    def numbers(self, name: str) -> list[float]:
        """Return a list of finite numbers; raises DataError on anything else."""
        return [self._finite(f"{name}[{k}]", x) for k, x in enumerate(self.items(name))]

    def items(self, name: str) -> list[Any]:
        """Return a list column; in CSV it is written as JSON."""
        value = self._need(name)
        if self.strings and isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                self.wrong(name, value, "in CSV a list is written as JSON")
        if not isinstance(value, list):
            self.wrong(name, value, "it must be a list")
        return cast("list[Any]", value)

    def is_list(self, name: str) -> bool:
        """True if the column holds a list of messages rather than a string."""
        value = self.values.get(name)
        if self.strings and isinstance(value, str):
            return value.startswith('[{"')
        return isinstance(value, list)

    def messages(self, name: str) -> tuple[Message, ...]:
        """Return a conversation: dictionaries with a known `role` and a string `content`."""
        turns = self.items(name)
        if not turns:
            raise SkipRow(f"`{name}` is an empty list")
        return tuple(self._message(f"{name}[{k}]", turn) for k, turn in enumerate(turns))

    def prompt(self, name: str = "prompt") -> tuple[str, tuple[Message, ...] | None]:
        """Return (plain text, messages or None) of a prompt in either form."""
        if self.is_list(name):
            messages = self.messages(name)
            if messages[-1]["role"] == "assistant":
                raise SkipRow("the prompt ends in an assistant turn")
            return transcripts.prompt_of(messages)
        text = self.text(name)
        if not text.strip():
            raise SkipRow("empty prompt")
        if transcripts.is_transcript(text) and text.endswith(transcripts.ASSISTANT):
            return text, transcripts.parse_transcript(text)
        return text, None

    def answer(self, name: str) -> Completion:
        """Return a completion in either form; raises Skip when it is empty."""
        if not self.is_list(name):
            return require_text(Completion(self.text(name)))
        turns = self.messages(name)
        if turns[0]["role"] != "assistant":
            self.wrong(name, turns[0], "a completion starts with an assistant message")
        return require_answer(turns)

    def wrong(self, name: str, value: Any, rule: str) -> NoReturn:
        """Raise a DataError about one value."""
        raise DataError(
            f"{self.place}: `{name}` is {shorten_text(value)} ({type(value).__name__})",
            f"{rule}; reading on would train on something that the file does not say",
            f"mend that row, or say which column holds it: columns={{{name.split('[')[0]!r}: ...}}",
        )

    def _need(self, name: str) -> Any:
        value = self.values.get(name)
        if value is None or (self.strings and value == "" and name not in TEXTS):
            raise DataError(
                f"{self.place}: `{name}` is missing or null; the row has "
                f"{', '.join(f'`{k}`' for k in self.values) or 'no columns'}",
                "every row of a file has the columns of its format",
                "mend or remove that row",
            )
        return value

    def _finite(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(name, value, "it must be a number")
        if not math.isfinite(value):
            self.wrong(name, value, "it must be a finite number")
        return float(value)

    def _sound(self, name: str, text: str) -> str:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                self.wrong(name, text, "it holds a lone surrogate, which is not Unicode text")
        return text

    def _message(self, name: str, turn: Any) -> Message:
        if not isinstance(turn, dict):
            self.wrong(name, turn, "a message is an object with `role` and `content`")
        turn = {k: v for k, v in cast("Message", turn).items() if v is not None}
        if turn.get("role") not in ROLES:
            self.wrong(f"{name}.role", turn.get("role"), f"a role is one of {', '.join(ROLES)}")
        content = turn.get("content")
        if not isinstance(content, str) and not (content is None and "tool_calls" in turn):
            self.wrong(f"{name}.content", content, "the content of a message is text")
        self._sound(f"{name}.content", content or "")
        return turn


TEXTS = frozenset({"prompt", "chosen", "rejected", "completion", "instruction", "output"})
"""Columns in which an empty CSV cell is an empty text, not a missing value."""


def require_answer(turns: tuple[Message, ...]) -> Completion:
    """Make a completion of turns that begin with the assistant's; raises Skip if unusable."""
    if turns[-1]["role"] != "assistant":
        raise SkipRow(f"the conversation ends in a {turns[-1]['role']} turn")
    if any(
        t["role"] == "assistant" and not (t.get("content") or "").strip() and "tool_calls" not in t
        for t in turns
    ):
        raise SkipRow("empty answer")
    return transcripts.answer_of(turns)


def require_text(completion: Completion) -> Completion:
    """Return the completion; raises Skip when there is nothing in it."""
    if not completion.text.strip():
        raise SkipRow("empty answer")
    return completion


def shorten_text(value: Any, limit: int = 80) -> str:
    """Return a value as one line of at most `limit` characters."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
