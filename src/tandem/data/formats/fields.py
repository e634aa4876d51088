"""One row of a file, read field by field; a wrong field is an error that names row and value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NoReturn, cast

from tandem.data.chat import transcripts
from tandem.data.formats import messages
from tandem.data.formats.label_words import read_label
from tandem.data.formats.structured_text import parse_structure, spells_turns
from tandem.data.record import Completion, Message
from tandem.errors import DataError


class SkipRow(Exception):
    """A row that carries nothing: it is dropped and counted under this reason."""


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row.

    Attributes:
        place: where it stands, as `file:line` or `dataset[index]`.
        values: column -> value; absent and null are the same.
        strings: True where every value is a string (CSV), so that numbers must be parsed.
        gathered: places of the rows, where several rows of the file were made one.
    """

    place: str
    values: Mapping[str, Any]
    strings: bool = False
    gathered: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """True if the column is there and not null."""
        value = self.values.get(name)
        return value is not None and not (self.strings and value == "")

    def text(self, name: str) -> str:
        """Return a string column, or its text parts joined; raises DataError on anything else."""
        value = self._need(name)
        if not isinstance(value, str) and (messages.is_part(value) or self._holds_parts(value)):
            value = self._joined(name, value)
        if not isinstance(value, str):
            self.wrong(name, value, "it must be a string")
        return self.sound(name, value)

    def number(self, name: str) -> float:
        """Return a finite number; raises DataError on anything else."""
        return self._finite(name, self._need(name))

    def label(self, name: str) -> bool:
        """Return True or False from a boolean, 0 or 1, or their words; see `read_label`.

        Raises:
            SkipRow: nobody gave one.
            DataError: it says neither.
        """
        if not self.has(name):
            raise SkipRow("no label given")
        value = self._need(name)
        found = read_label(value)
        if found is None:
            self.wrong(
                name, value, "a label says good (true, 1, good, ...) or bad (false, 0, bad, ...)"
            )
        return found

    def numbers(self, name: str) -> list[float]:
        """Return a list of finite numbers; raises DataError on anything else."""
        return [self._finite(f"{name}[{k}]", x) for k, x in enumerate(self.items(name))]

    def items(self, name: str) -> list[Any]:
        """Return a list column; where cells are text it is written as JSON."""
        value = self._need(name)
        if isinstance(value, str) and (self.strings or spells_turns(value)):
            try:
                value = parse_structure(value)
            except ValueError:
                self.wrong(name, value, "a list in a cell of text is written as JSON")
        if not isinstance(value, list):
            self.wrong(name, value, "it must be a list")
        return cast("list[Any]", value)

    def entries(self, name: str) -> list[DataRow]:
        """Return a list of objects as rows of their own; raises DataError on anything else."""
        rows: list[DataRow] = []
        for k, entry in enumerate(self.items(name)):
            if not isinstance(entry, dict):
                self.wrong(f"{name}[{k}]", entry, "it must be an object with names and values")
            rows.append(DataRow(f"{self.place} {name}[{k}]", cast("dict[str, Any]", entry)))
        return rows

    def is_list(self, name: str) -> bool:
        """True if the column holds messages, a list or one alone, rather than a text."""
        value = self.values.get(name)
        if isinstance(value, str):
            begins = spells_turns(value) or (self.strings and value.startswith('[{"'))
            return begins and (value.lstrip().startswith("[") or self._spoken(value) is not None)
        if self._holds_parts(value):
            return False
        return isinstance(value, list) or messages.is_message(value)

    def is_several(self, name: str) -> bool:
        """True if the column holds a list of answers: texts, or conversations."""
        value = self.values.get(name)
        if self.strings and isinstance(value, str) and value.startswith(('["', "['", "[[")):
            try:
                value = parse_structure(value)
            except ValueError:
                return False
        answers = cast("list[Any]", value) if isinstance(value, list) else []
        known = [isinstance(v, str | list | int | float) for v in answers if v is not None]
        return bool(known) and all(known)

    def several(self, name: str) -> list[Completion | None]:
        """Return a list of answers, or one answer alone; None for those that hold nothing."""
        texts = self.items(name) if self.is_several(name) else [self._need(name)]
        rows = [replace(self, values={f"{name}[{k}]": v}) for k, v in enumerate(texts)]
        return [row._answer_or_none(f"{name}[{k}]") for k, row in enumerate(rows)]

    def messages(self, name: str) -> tuple[Message, ...]:
        """Return a conversation, in the shape that chat templates take; see `read_message`."""
        value = self.values.get(name)
        if isinstance(value, str):
            value = self._spoken(value)
        turns = [value] if messages.is_message(value) else self.items(name)
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
        open_end = text.rstrip()
        if transcripts.is_transcript(text) and open_end.endswith(transcripts.ASSISTANT):
            return open_end, transcripts.parse_transcript(open_end)
        return text, None

    def answer(self, name: str) -> Completion:
        """Return a completion in either form; raises Skip when it is empty."""
        if not self.is_list(name):
            return require_text(Completion(self.text(name)))
        turns = self.messages(name)
        if turns[0]["role"] != "assistant":
            self.wrong(name, turns[0], "a completion starts with an assistant message")
        return require_answer(turns)

    def wrong(self, name: str, value: Any, rule: str, do: str = "") -> NoReturn:
        """Raise a DataError about one value; what to do, where mending the row is not all."""
        raise DataError(
            f"{self._place(name)}: `{name}` is {shorten_text(value)} ({type(value).__name__})",
            f"{rule}; reading on would train on something that the file does not say",
            do or "mend that row, or leave it out",
        )

    def _place(self, name: str) -> str:
        """Return where a value stands: of gathered rows, the one whose number it has."""
        number = name.partition("[")[2].partition("]")[0]
        return self.gathered[int(number)] if self.gathered and number.isdigit() else self.place

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
        if self.strings and isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                self.wrong(name, value, "it must be a number")
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            self.wrong(name, value, "it must be a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.wrong(name, value, "it must be a finite number, below 1.8e308")
        return number

    def sound(self, name: str, text: str) -> str:
        """Return a text that is Unicode; raises DataError on a lone surrogate."""
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                self.wrong(name, text, "it holds a lone surrogate, which is not Unicode text")
        return text

    def _holds_parts(self, value: Any) -> bool:
        parts = cast("list[Any]", value) if isinstance(value, list) else []
        return bool(parts) and all(messages.is_part(part) for part in parts)

    def _joined(self, name: str, value: Any) -> str:
        try:
            return messages.join_text_parts(messages.without_nulls(value))
        except messages.WrongMessage as wrong:
            self.wrong(f"{name}{wrong.place}", wrong.value, wrong.rule)

    def _answer_or_none(self, name: str) -> Completion | None:
        try:
            return None if self.values[name] in (None, "") else self.answer(name)
        except SkipRow:
            return None

    def _spoken(self, cell: str) -> Any:
        """Return the one message that a cell spells, or None."""
        if not cell.lstrip().startswith("{"):
            return None
        try:
            value = parse_structure(cell)
        except ValueError:
            return None
        who = messages.object_of(value).get("role", messages.object_of(value).get("from"))
        known = str(who).strip().lower() in messages.SPEAKERS
        return value if messages.is_message(value) and (self.strings or known) else None

    def _message(self, name: str, turn: Any) -> Message:
        try:
            message = messages.read_message(turn)
        except messages.WrongMessage as wrong:
            self.wrong(f"{name}{wrong.place}", wrong.value, wrong.rule)
        self.sound(f"{name}.content", message.get("content") or "")
        return message


TEXTS = frozenset({"prompt", "chosen", "rejected", "completion", "instruction", "output", "text"})
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


def quote_names(names: Sequence[str]) -> str:
    """Return names as an error shows them: `one`, `two`."""
    return ", ".join(f"`{name}`" for name in names) or "none"


def shorten_text(value: Any, limit: int = 80) -> str:
    """Return a value as one line of at most `limit` characters."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1000:
        return f"an integer of about {int(value.bit_length() * math.log10(2)) + 1} digits"
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except ValueError:  # a list that holds an integer of more digits than Python prints
        return f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= limit else text[: limit - 3] + "..."
