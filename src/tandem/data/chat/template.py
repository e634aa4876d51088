"""A chat template, and what it does with tools, calls and dates: measured by rendering."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any, Literal, cast

from tandem.data.chat.clock import stop_clock, template_date
from tandem.data.chat.template_limits import rendering_deadline
from tandem.data.chat.transcripts import common_prefix_length
from tandem.data.record import Message, Prompt
from tandem.errors import ModelError

_ASKED: Message = {"role": "user", "content": "What is there?"}
_NAME, _KEY, _VALUE = "look_around", "place", "harbour7"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Look.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string"}}},
    },
}
_BROKEN = ("TemplateSyntaxError", "TemplateNotFound", "SecurityError")
"""What Jinja raises for a template that takes no conversation at all."""
_DAYS = (date(2001, 2, 3), date(1999, 12, 31))


class TemplateRefused(Exception):
    """The template does not take this conversation; the reason is its own message."""


@dataclass(frozen=True)
class ChatTemplate:
    """The template of a tokenizer at one date.

    Attributes:
        tokenizer: a Hugging Face tokenizer with a chat template.
        date: the date that the template writes where it asks for one.
    """

    tokenizer: Any
    date: date = field(default_factory=template_date)

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Any] = (), ask: bool = False
    ) -> str:
        """Return a conversation as text.

        Args:
            messages: the conversation.
            tools: function schemas that the assistant may call.
            ask: open the assistant's turn at the end.

        Raises:
            TemplateRefused: the template does not take it, or writes no calls.
            ModelError: the template does not parse, fails, or takes more than ten seconds.
        """
        if any("tool_calls" in m for m in messages):
            if self.call_form is None:
                raise TemplateRefused("the chat template writes no tool calls")
            messages = [_with_arguments(m, self.call_form) for m in messages]
        text = self._apply(messages, tools, ask, self.date)
        return text if ask or not self.finale else text.removesuffix(self.finale)

    @cached_property
    def finale(self) -> str:
        """What is written once, behind the last turn, although each turn is closed by itself.

        Some templates (Phi-3's) end a conversation in EOS behind the end of its last turn. It
        belongs to no turn: a conversation that goes on does not have it, so `render` leaves it out.
        """
        said = {"role": "assistant", "content": _VALUE}
        try:
            last, inner = (
                text[text.rfind(_VALUE) + len(_VALUE) :]
                for text in (
                    self._apply([_ASKED, said, *more], (), False, self.date)
                    for more in ((), ({"role": "user", "content": "And there?"},))
                )
            )
        except (TemplateRefused, ModelError):
            return ""
        names = self._special_names
        for start in range(common_prefix_length(last, inner), 0, -1):  # they may share a "<"
            behind = last[start:]
            closed = any(name in last[:start] for name in names)
            own = not inner[start:].startswith(behind.rstrip())
            if closed and own and _consists_of(behind, names):
                return behind
        return ""

    @cached_property
    def _special_names(self) -> tuple[str, ...]:
        added = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        return tuple(filter(None, {*added, *self.tokenizer.all_special_tokens}))

    @cached_property
    def takes_tools(self) -> bool:
        """True if the prompt changes when tools are given."""
        try:
            return self._apply([_ASKED], [_TOOL], True, self.date) != self._apply(
                [_ASKED], (), True, self.date
            )
        except TemplateRefused:
            return False

    @cached_property
    def call_form(self) -> Literal["object", "text"] | None:
        """How the template wants the arguments of a call, or None where it writes none.

        One call is rendered both ways. Right is what holds the value, and neither a Python
        dictionary nor JSON inside a JSON string.
        """
        forms: tuple[Literal["object", "text"], ...] = ("object", "text")
        for form in forms:
            for content in ("", None):
                text = self._call(form, content)
                if _NAME in text and _VALUE in text and not _is_mangled(text):
                    return form
        return None

    @cached_property
    def reads_clock(self) -> bool:
        """True if the text depends on the date."""
        try:
            first, second = (self._apply([_ASKED], (), True, day) for day in _DAYS)
        except (TemplateRefused, ModelError):
            return False
        return first != second

    def _call(self, form: Literal["object", "text"], content: str | None) -> str:
        call = {"name": _NAME, "arguments": {_KEY: _VALUE}}
        turn = {"role": "assistant", "content": content}
        turn |= {"tool_calls": [{"id": "abcdefgh1", "type": "function", "function": call}]}
        try:
            return self._apply([_ASKED, _with_arguments(turn, form)], [_TOOL], False, self.date)
        except (TemplateRefused, ModelError):
            return ""

    def _stopped(self, day: date) -> str | None:
        """Return the template with its clock stopped; None for the tokenizer's own."""
        own = self.tokenizer.chat_template
        return stop_clock(own, day) if isinstance(own, str) and "strftime_now" in own else None

    def _apply(
        self, messages: Sequence[Message], tools: Sequence[Any], ask: bool, day: date
    ) -> str:
        template = self._stopped(day)
        try:
            with rendering_deadline():
                return self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=list(tools) or None,
                    tokenize=False,
                    add_generation_prompt=ask,
                    chat_template=template,
                )
        except ModelError:
            raise
        except Exception as error:
            name = type(error).__name__
            inside = type(error).__module__.startswith("jinja2") and name not in _BROKEN
            unusual = bool(tools) or not all(map(_is_plain, messages))
            if inside or (unusual and isinstance(error, TypeError | AttributeError)):
                raise TemplateRefused(f"the chat template refuses it: {error}") from error
            fails = "does not parse" if name == "TemplateSyntaxError" else f"fails with {name}"
            raise ModelError(
                f"the chat template {fails}: {str(error)[:300]}",
                "it is a Jinja template, and messages cannot be rendered without it",
                "mend tokenizer.chat_template, or the file chat_template.jinja beside the model",
            ) from error


def tools_of(prompt: Prompt) -> list[Any]:
    """Return the function schemas that a prompt offers."""
    tools = prompt.meta.get("tools")
    known = cast("list[Any]", tools) if isinstance(tools, list) else []
    return known if all(isinstance(tool, dict) for tool in known) else []


def _consists_of(text: str, names: Sequence[str]) -> bool:
    """True for one or more special tokens and nothing else."""
    left = text
    for name in sorted(names, key=len, reverse=True):
        left = left.replace(name, "")
    return bool(text) and not left.strip()


def _is_plain(message: Message) -> bool:
    """True for a text without calls, which every template has to take."""
    return isinstance(message.get("content"), str) and "tool_calls" not in message


def _is_mangled(text: str) -> bool:
    return f"'{_KEY}'" in text or f'\\"{_KEY}\\"' in text


def _with_arguments(message: Message, form: Literal["object", "text"]) -> Message:
    """Return a message whose calls have their arguments as an object, or as JSON text."""
    if "tool_calls" not in message:
        return message
    calls: list[Any] = []
    for call in message["tool_calls"]:
        function = call["function"]
        arguments = function.get("arguments", {})
        if form == "text" and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        if form == "object" and isinstance(arguments, str):
            arguments = json.loads(arguments)
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return {**message, "tool_calls": calls}
