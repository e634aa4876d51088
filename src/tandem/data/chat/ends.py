"""The tokens that end an answer: one set for training, sampling, checks and saved models.

    what closes the assistant's turn in the chat template, measured by rendering one
    the tokenizer's end of sequence
    every end that the model's generation settings name

A model is trained to write what closes the turn. A sampler that does not stop there goes on with
the next turn, and everything that is measured is then about run-on text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tandem.data.chat.template import ChatTemplate, TemplateRefused
from tandem.data.record import Message
from tandem.errors import ModelError

_ASKED: Message = {"role": "user", "content": "What is there?"}
_SAID = "harbour7"
_CALL: Message = {
    "id": "abcdefgh1",
    "type": "function",
    "function": {"name": "look_around", "arguments": {"place": _SAID}},
}
_TURNS: tuple[Message, ...] = (
    {"role": "assistant", "content": _SAID},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
)


def closing_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens with which the chat template closes an answer and a tool call.

    Args:
        tokenizer: a Hugging Face tokenizer.

    Returns:
        none where there is no template, or where it closes turns with plain text.
    """
    if not tokenizer.chat_template:
        return ()
    template, found = ChatTemplate(tokenizer), list[int]()
    added = {t.content: int(i) for i, t in tokenizer.added_tokens_decoder.items()}
    names = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
    for turn in _TURNS:
        try:
            text = template.render([_ASKED, turn])
        except (TemplateRefused, ModelError):
            continue
        text = text.rstrip()
        behind = text[text.rfind(_SAID) + len(_SAID) :]
        name = next((n for n in names if n and text.endswith(n) and behind.endswith(n)), None)
        if name is not None:
            found.append(added[name] if name in added else tokenizer.convert_tokens_to_ids(name))
    return tuple(dict.fromkeys(found))


def end_tokens(tokenizer: Any, named: Iterable[int | None] = ()) -> frozenset[int]:
    """Return every token that ends an answer.

    Args:
        tokenizer: a Hugging Face tokenizer.
        named: the ends that the model's generation settings name.

    Example:
        >>> from vocabularies import CHATML, byte_bpe
        >>> tokenizer = byte_bpe(CHATML)
        >>> sorted(tokenizer.convert_ids_to_tokens(sorted(end_tokens(tokenizer))))
        ['</s>', '<|im_end|>']
    """
    ends: list[Any] = [*named, tokenizer.eos_token_id, *closing_tokens(tokenizer)]
    return frozenset(int(end) for end in ends if end is not None)


def named_ends(settings: Any) -> tuple[int, ...]:
    """Return the ends that a generation config, or a model's config, names."""
    named: Any = getattr(settings, "eos_token_id", None)
    several: list[Any] = [*named] if isinstance(named, list | tuple) else [named]
    return tuple(int(end) for end in several if end is not None and int(end) >= 0)
