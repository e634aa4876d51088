"""Conversations as plain text: the transcripts of Anthropic's HH data (arXiv:2204.05862).

    \\n\\nHuman: a question\\n\\nAssistant: an answer

This is how a tokenizer without a chat template reads messages, and how HH files are written.
The one space behind the colon separates; it belongs to neither prompt nor answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Message, Prompt

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLE_NAMES = {"user": "Human", "assistant": "Assistant", "system": "System", "tool": "Tool"}
_ROLES = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"\n\n(Human|Assistant):")
WHOLE_TEXT, SHOWN = "whole_text", 60
"""Where `meta` keeps what tells whole texts apart, and characters of one that are shown."""


def is_transcript(text: str) -> bool:
    """True for text that opens with a human turn and holds an assistant turn."""
    return text.startswith(HUMAN) and ASSISTANT in text


def parse_transcript(text: str) -> tuple[Message, ...]:
    """Split a transcript into messages; an open `Assistant:` at the end is no message."""
    pieces = _TURN.split(text)[1:]
    turns = [
        {"role": _ROLES[name], "content": content.removeprefix(" ")}
        for name, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    if turns and turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    return tuple(turns)


def render_transcript(messages: Sequence[Message], *, open_end: bool = False) -> str:
    """Write messages as a transcript; `open_end` adds the `Assistant:` that asks for an answer."""
    said = "".join(
        f"\n\n{ROLE_NAMES.get(m['role'], m['role'].title())}: {turn_text(m)}" for m in messages
    )
    return said + (ASSISTANT if open_end else "")


def fits_transcript(messages: Sequence[Message]) -> bool:
    """True where a transcript of these messages is read as what they were.

    Example:
        >>> fits_transcript([{"role": "system", "content": "Be brief."}])
        False
    """
    roles = [m["role"] for m in messages]
    plain = all(
        isinstance(m.get("content"), str) and not _TURN.search(m["content"]) for m in messages
    )
    return plain and set(roles) <= {"user", "assistant"} and roles[:1] == ["user"]


def answer_segments(turns: Sequence[Message]) -> list[tuple[str, bool]]:
    """Cut the answer turns of a conversation into (text, written by the assistant).

    The pieces follow a prompt that ends in `Assistant:`, so the first is the first answer.
    """
    pieces: list[tuple[str, bool]] = []
    for k, turn in enumerate(turns):
        name = ROLE_NAMES.get(turn["role"], turn["role"].title())
        answer = is_trained_on(turn)
        if k:
            pieces.append((f"\n\n{name}:", False))
        pieces.append((f" {turn_text(turn)}", answer))
    return pieces


def is_trained_on(turn: Message) -> bool:
    """True for an assistant's turn that no `weight` of 0 and no `train: false` takes out.

    Example:
        >>> is_trained_on({"role": "assistant", "content": "no", "weight": 0})
        False
    """
    kept = turn.get("weight", 1) != 0 and turn.get("train") is not False
    return turn["role"] == "assistant" and kept and turn.get("training") is not False


def turn_text(turn: Message) -> str:
    """Return what a turn says: its content, and below it the calls that it makes, as JSON.

    Example:
        >>> function = {"name": "look", "arguments": {"at": "sea"}}
        >>> turn_text({"role": "assistant", "tool_calls": [{"function": function}]})
        '{"name": "look", "arguments": {"at": "sea"}}'
    """
    said = [turn["content"]] if turn.get("content") else []
    for call in turn.get("tool_calls") or ():
        function = call.get("function", call)
        named = {key: function.get(key) for key in ("name", "arguments")}
        said.append(json.dumps(named, ensure_ascii=False))
    return "\n".join(said)


def split_transcripts(chosen: str, rejected: str) -> int | None:
    """Length of the prompt of an HH pair: the common prefix cut back to the last assistant turn."""
    shared = common_prefix_length(chosen, rejected)
    turn = chosen.rfind(ASSISTANT, 0, shared)
    return None if turn < 0 else turn + len(ASSISTANT)


def common_prefix_length(a: str, b: str) -> int:
    """Length of the common prefix of two strings."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def prompt_of(messages: Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """Return (plain text, messages) of a prompt given as messages."""
    return render_transcript(messages, open_end=True), tuple(messages)


def answer_of(turns: Sequence[Message]) -> Completion:
    """Make a completion of the turns that answer a prompt.

    One plain answer is its text alone; one that begins with a space keeps its turn too, because
    a text's first space is taken for a transcript's separator.
    """
    content = turns[0].get("content")
    plain = len(turns) == 1 and set(turns[0]) == {"role", "content"}
    if plain and isinstance(content, str) and not content.startswith(" "):
        return Completion(content)
    text = "".join(piece for piece, _ in answer_segments(turns)).removeprefix(" ")
    return Completion(text, turns=tuple(turns))


def prompt_key(prompt: Prompt) -> str:
    """Return the text by which two prompts are the same, however each was written down.

    Whole texts have no prompt; their beginnings and a hash tell them apart.
    """
    if prompt.messages is None:
        return str(prompt.meta[WHOLE_TEXT]) if is_whole_text(prompt) else prompt.text
    if len(prompt.messages) == 1 and prompt.messages[0]["role"] == "user":
        return str(prompt.messages[0].get("content"))
    return render_transcript(prompt.messages)


def group_whole_text(text: str) -> Group:
    """Return a text without a prompt as a group: all of it is trained on.

    Example:
        >>> prompt_key(group_whole_text("Barges float on rivers.").prompt)
        'Barges float on rivers. (8b5d...)'
    """
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    shown = " ".join(text[:SHOWN].split())
    more = "..." if len(text) > SHOWN else ""
    return Group(
        Prompt("", "", meta={WHOLE_TEXT: f"{shown}{more} ({digest})"}), (Completion(text),)
    )


def is_whole_text(prompt: Prompt) -> bool:
    """True for what stands in place of a prompt where a text has none."""
    return not prompt.text and prompt.messages is None and WHOLE_TEXT in prompt.meta


def groups_as_chat(groups: Groups) -> Groups:
    """Read every plain prompt as one user message, so that a chat template applies to it."""

    def change(group: Group) -> Group:
        if group.prompt.messages is not None:
            return group
        text, messages = prompt_of([{"role": "user", "content": group.prompt.text}])
        return replace(group, prompt=replace(group.prompt, text=text, messages=messages))

    return groups.map(change)
