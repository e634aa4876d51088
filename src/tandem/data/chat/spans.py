"""A group as text: one prompt, and each completion cut into pieces that are trained on or not.

With a chat template the whole conversation is rendered once, and the start and the end of every
assistant turn are found in it as verified prefixes. Without one, messages are read as a
Human/Assistant transcript and other texts as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tandem.data.chat.template import TemplateRefused, tools_of
from tandem.data.chat.tokens import TokenizerTraits
from tandem.data.chat.transcripts import answer_segments, common_prefix_length, is_trained_on
from tandem.data.record import Completion, Group, Message, Prompt
from tandem.errors import ModelError


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A completion as text.

    Attributes:
        pieces: (text, trained on) in order; the first follows the prompt.
        closed: True if the text ends in the template's own end of turn.
    """

    pieces: tuple[tuple[str, bool], ...]
    closed: bool

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(text for text, _ in self.pieces)


def prompt_text(group: Group, tokens: TokenizerTraits) -> str:
    """Return the prompt as the model reads it; raises Refused."""
    messages = group.prompt.messages
    if messages is None:
        return group.prompt.text
    if tokens.templated:
        return tokens.template.render(messages, tools=tools_of(group.prompt), ask=True)
    turns = [*messages, *(t for c in group.completions for t in c.turns or ())]
    if any("tool_calls" in turn for turn in turns):
        raise TemplateRefused("tool calls need a chat template, and the tokenizer has none")
    return group.prompt.text


def answer_text(
    group: Group, completion: Completion, prompt: str, tokens: TokenizerTraits
) -> AnswerText:
    """Return a completion as the model writes it behind `prompt`, the text of its prompt.

    Raises:
        Refused: the template does not take this conversation.
        ModelError: the template is not prefix-preserving.
    """
    if group.prompt.messages is None:
        return _plain(completion, tokens)
    if tokens.templated:
        return _templated(group.prompt, completion, prompt, tokens)
    if completion.turns is not None:
        return AnswerText(tuple(answer_segments(completion.turns)), False)
    spaced = completion.text if completion.text[:1].isspace() else f" {completion.text}"
    return AnswerText(((spaced, True),), False)


def _plain(completion: Completion, tokens: TokenizerTraits) -> AnswerText:
    """A text as it stands; one that was rendered with its end of turn is closed there."""
    body = completion.text.rstrip()
    if completion.stopped and any(body.endswith(end) for end in tokens.closings):
        return AnswerText(((body, True),), True)
    return AnswerText(((completion.text, True),), False)


def _templated(
    asking: Prompt, completion: Completion, prompt: str, tokens: TokenizerTraits
) -> AnswerText:
    asked, tools = asking.messages or (), tools_of(asking)
    content = completion.text.removeprefix(" ")
    messages = [*asked, *(completion.turns or ({"role": "assistant", "content": content},))]
    whole = tokens.template.render(messages, tools=tools)
    _verify(prompt, whole, len(asked), len(messages))
    pieces: list[tuple[str, bool]] = []
    place = len(prompt)
    for k in range(len(asked), len(messages)):
        if messages[k]["role"] != "assistant":
            continue
        start = place if k == len(asked) else _end_of(messages, tools, k, whole, tokens, ask=True)
        end = _end_of(messages, tools, k + 1, whole, tokens)
        body = whole[start:end].rstrip()
        pieces += [(whole[place:start], False), (body, is_trained_on(messages[k]))]
        place = start + len(body)
    return _closed([p for p in pieces if p[0]], completion.stopped, tokens)


def _closed(pieces: list[tuple[str, bool]], stopped: bool, tokens: TokenizerTraits) -> AnswerText:
    if not pieces:
        return AnswerText((), False)
    text, trained = pieces[-1]
    ends = (*tokens.specials, *tokens.closings)  # a turn may be closed by a token not so marked
    end = next((s for s in ends if text.endswith(s)), None)
    if end is None or stopped:
        return AnswerText(tuple(pieces), end is not None)
    return AnswerText((*pieces[:-1], (text.removesuffix(end), trained)), False)


def _end_of(
    messages: Sequence[Message],
    tools: Sequence[Any],
    count: int,
    whole: str,
    tokens: TokenizerTraits,
    *,
    ask: bool = False,
) -> int:
    """Return where the first `count` messages end in the whole conversation."""
    if count == len(messages):
        return len(whole)
    text = tokens.template.render(messages[:count], tools=tools, ask=ask)
    _verify(text, whole, count, len(messages))
    return len(text)


def _verify(text: str, whole: str, count: int, total: int) -> None:
    if whole.startswith(text):
        return
    same = common_prefix_length(text, whole)
    raise ModelError(
        f"the chat template is not prefix-preserving: the first {count} of {total} messages "
        f"render as ...{text[max(0, same - 20) : same + 30]!r}, in the whole conversation as "
        f"...{whole[max(0, same - 20) : same + 30]!r}",
        "the answer's tokens are those behind its prompt's; where an earlier turn changes when a "
        "later one is added, the loss would fall on the wrong tokens",
        "set a template for training whose turns do not look at what follows them (no `loop.last`, "
        "no dropping of earlier reasoning, and a generation prompt that answers begin with): "
        "tokenizer.chat_template = ...",
    )
