"""A group as text: one prompt, and each completion cut into pieces that are trained on or not.

With a chat template the whole conversation is rendered once, and the start and the end of every
assistant turn are found in it as verified prefixes. Without one, messages are read as a
Human/Assistant transcript and other texts as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.data.chat.template_limits import rendering_deadline
from tandem.data.chat.tokens import TokenizerTraits
from tandem.data.chat.transcripts import answer_segments, common_prefix_length
from tandem.data.record import Completion, Group, Message
from tandem.errors import ModelError


class TemplateRefused(Exception):
    """The template does not take this conversation; the reason is its own message."""


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
    if group.prompt.messages is None or not tokens.templated:
        return group.prompt.text
    return _render(tokens, group.prompt.messages, ask=True)


def answer_text(
    group: Group, completion: Completion, prompt: str, tokens: TokenizerTraits
) -> AnswerText:
    """Return a completion as the model writes it behind `prompt`, the text of its prompt.

    Raises:
        Refused: the template does not take this conversation.
        ModelError: the template is not prefix-preserving.
    """
    if group.prompt.messages is None:
        return AnswerText(((completion.text, True),), False)
    if tokens.templated:
        return _templated(group.prompt.messages, completion, prompt, tokens)
    if completion.turns is not None:
        return AnswerText(tuple(answer_segments(completion.turns)), False)
    spaced = completion.text if completion.text[:1].isspace() else f" {completion.text}"
    return AnswerText(((spaced, True),), False)


def _templated(
    asked: Sequence[Message], completion: Completion, prompt: str, tokens: TokenizerTraits
) -> AnswerText:
    content = completion.text.removeprefix(" ")
    messages = [*asked, *(completion.turns or ({"role": "assistant", "content": content},))]
    whole = _render(tokens, messages)
    _verify(prompt, whole, len(asked), len(messages))
    pieces: list[tuple[str, bool]] = []
    place = len(prompt)
    for k in range(len(asked), len(messages)):
        if messages[k]["role"] != "assistant":
            continue
        start = place if k == len(asked) else _end_of(messages, k, whole, tokens, ask=True)
        end = _end_of(messages, k + 1, whole, tokens, ask=False)
        body = whole[start:end].rstrip()
        pieces += [(whole[place:start], False), (body, True)]
        place = start + len(body)
    return _closed([p for p in pieces if p[0]], completion.stopped, tokens)


def _closed(pieces: list[tuple[str, bool]], stopped: bool, tokens: TokenizerTraits) -> AnswerText:
    if not pieces:
        return AnswerText((), False)
    text, trained = pieces[-1]
    end = next((s for s in tokens.specials if text.endswith(s)), None)
    if end is None or stopped:
        return AnswerText(tuple(pieces), end is not None)
    return AnswerText((*pieces[:-1], (text.removesuffix(end), trained)), False)


def _end_of(
    messages: Sequence[Message], count: int, whole: str, tokens: TokenizerTraits, *, ask: bool
) -> int:
    """Return where the first `count` messages end in the whole conversation."""
    if count == len(messages):
        return len(whole)
    text = _render(tokens, messages[:count], ask=ask)
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


def _render(tokens: TokenizerTraits, messages: Sequence[Message], *, ask: bool = False) -> str:
    try:
        with rendering_deadline():
            return tokens.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=ask
            )
    except ModelError:
        raise
    except Exception as error:
        name = type(error).__name__
        known = type(error).__module__.startswith("jinja2")
        if not known or name in ("TemplateSyntaxError", "TemplateNotFound", "SecurityError"):
            fails = "does not parse" if name == "TemplateSyntaxError" else f"fails with {name}"
            raise ModelError(
                f"the chat template {fails}: {str(error)[:300]}",
                "it is a Jinja template, and messages cannot be rendered without it",
                "mend tokenizer.chat_template, or the file chat_template.jinja beside the model",
            ) from error
        raise TemplateRefused(f"the chat template refuses it: {error}") from error
