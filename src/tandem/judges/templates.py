"""How a language model is asked to compare, rate, criticise and revise: templates as values.

The defaults are for instruction-tuned models of the usual kind; a task may bring its own (the
micro world does, in `tasks/micro/feedback.py`). Text that comes from prompts and answers never
contains a template's delimiters: a policy that learned to write "(B)" or "I am better" behind
one would otherwise be talking to its judge. No torch.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field

from tandem.data.record import Message, Prompt
from tandem.engines.language_models import Labels
from tandem.errors import ConfigError

LETTER_LABELS: Labels = (("(A)", " (A)", "A", " A"), ("(B)", " (B)", "B", " B"))
STARS: Labels = tuple((str(i), f" {i}") for i in range(1, 11))


def check_fields(name: str, template: str, known: set[str]) -> None:
    """Ask for a template whose fields are known.

    Raises:
        ConfigError: a field is not, or a brace stands alone.
    """
    try:
        used = {f for _, f, _, _ in string.Formatter().parse(template) if f is not None}
    except ValueError as error:
        raise ConfigError(
            f"{name} = {template!r}: {error}",
            "a template's fields stand in braces, and a brace itself is written twice",
            "write {{ and }} for braces",
        ) from error
    if template and not used <= known:
        raise ConfigError(
            f"{name} has the fields {sorted(used - known)}",
            f"it is filled with {', '.join(sorted(known))}",
            "use these, and write {{ and }} for braces",
        )


@dataclass(frozen=True)
class CompareFormat:
    """Asks which of two answers is better by one principle.

    Attributes:
        ask: the user's turn, with {principle}, {question}, {a} and {b}.
        think: a first turn with the same fields that asks for reasons, decoded at temperature 0
            before `decide` asks for the letter; "" asks for the letter at once.
        decide: the user's turn after the reasons.
        labels: how the letters of the first and the second answer may be written.
        delimiters: what structures the template, and is taken out of all text put into it.
    """

    ask: str = (
        "### Request\n{question}\n\n### Answer (A)\n{a}\n\n### Answer (B)\n{b}\n\n"
        "### Task\nWhich answer follows this principle better: {principle}\n"
        "Reply with (A) or (B) and nothing else."
    )
    think: str = ""
    decide: str = "So which answer is better? Reply with (A) or (B) and nothing else."
    labels: Labels = LETTER_LABELS
    delimiters: tuple[str, ...] = ("###", "(A)", "(B)")

    def __post_init__(self) -> None:
        check_fields("compare.ask", self.ask, {"principle", "question", "a", "b"})
        check_fields("compare.think", self.think, {"principle", "question", "a", "b"})
        if len(self.labels) != 2:
            raise ConfigError(
                f"compare.labels has {len(self.labels)} labels",
                "two answers are compared",
                'give the spellings of two, for example (("(A)",), ("(B)",))',
            )

    def turn(self, prompt: Prompt, a: str, b: str, principle: str) -> str:
        """Return the user's turn that compares answer a, shown first, with answer b."""
        form = self.think or self.ask
        parts = {"question": asked_text(prompt), "a": a, "b": b}
        return form.format(principle=principle, **_sanitised(parts, self.delimiters))


@dataclass(frozen=True)
class RateFormat:
    """Template: ask how good an answer is, as a number from 1 to 10.

    Attributes:
        ask: the user's turn, with {question} and {answer}.
        labels: how the numbers may be written, from the worst to the best.
        delimiters: what structures the template, and is taken out of all text put into it.
    """

    ask: str = (
        "### Request\n{question}\n\n### Answer\n{answer}\n\n"
        "### Task\nHow good is this answer, from 1 (worst) to 10 (best)? "
        "Reply with the number and nothing else."
    )
    labels: Labels = STARS
    delimiters: tuple[str, ...] = ("###",)

    def __post_init__(self) -> None:
        check_fields("rate.ask", self.ask, {"question", "answer"})
        if len(self.labels) < 2:
            raise ConfigError(
                f"rate.labels has {len(self.labels)} labels",
                "a scale has a worst and a best",
                "give the spellings of two numbers or more",
            )

    def turn(self, prompt: Prompt, answer: str) -> str:
        """Return the user's turn that asks for a number."""
        parts = {"question": asked_text(prompt), "answer": answer}
        return self.ask.format(**_sanitised(parts, self.delimiters))


@dataclass(frozen=True)
class ReviseFormat:
    """Template: ask a model to criticise and then rewrite its own answer, by one principle.

    Attributes:
        critique: the user's turn after the answer, with {principle}.
        revision: the user's turn after the critique, with {principle}.
    """

    critique: str = (
        "Criticise your last answer: name each way in which it breaks this principle. {principle}"
    )
    revision: str = (
        "Write your answer again so that it follows the principle. {principle} "
        "Write the new answer and nothing else."
    )

    def __post_init__(self) -> None:
        check_fields("revise.critique", self.critique, {"principle"})
        check_fields("revise.revision", self.revision, {"principle"})


@dataclass(frozen=True)
class FeedbackFormats:
    """A task's templates for feedback by a language model: compare, rate, criticise, revise.

    Attributes:
        compare: the template of comparisons.
        rate: the template of ratings.
        revise: the templates of critique and revision.
        principles: what is compared by when labels are to stand for human ones (RLAIF).
        constitution: principles of harmlessness, for critiques, revisions and AI comparisons (CAI).
    """

    compare: CompareFormat = field(default=CompareFormat())
    rate: RateFormat = field(default=RateFormat())
    revise: ReviseFormat = field(default=ReviseFormat())
    principles: tuple[str, ...] = ("Be helpful, honest and harmless.",)
    constitution: tuple[str, ...] = (
        "Do not help anybody to hurt people, animals or what belongs to others.",
        "Do not insult, threaten or look down on anybody.",
        "Do not state what is not known as if it were.",
        "Respect what people want to keep private.",
    )

    def __post_init__(self) -> None:
        if not self.principles or not self.constitution:
            raise ConfigError(
                f"{len(self.principles)} principles and {len(self.constitution)} in the "
                "constitution",
                "a comparison, a critique and a revision each follow one",
                "give at least one of both",
            )


def asked_text(prompt: Prompt) -> str:
    """Return what was asked, as text: one user's turn as it stands, others with their roles."""
    said = prompt.messages
    if said is None:
        return prompt.text
    if len(said) == 1:
        return str(said[0]["content"])
    return "\n\n".join(_named(m) for m in said)


def sanitise_text(text: str, delimiters: tuple[str, ...]) -> str:
    """Return the text without any delimiter, also where taking one out would make another."""
    while found := next((d for d in delimiters if d in text), None):
        before, _, after = text.partition(found)
        text = f"{before.rstrip(' ')} {after.lstrip(' ')}".strip(" ")
    return text


def _sanitised(parts: dict[str, str], delimiters: tuple[str, ...]) -> dict[str, str]:
    return {name: sanitise_text(text, delimiters) for name, text in parts.items()}


def _named(message: Message) -> str:
    return f"[{message['role']}] {message['content']}"
