"""Questions with one checkable answer: prompt formats, and how an answer is read from a text.

    read = StatedAnswer(("####", "answer is"))      # text -> answer, "" where none is stated
    wording.ask(prompt, wording.form("answer"))     # the same question in another form
    wording.ask_with_hint(prompt)                          # with the answer given away (STaR)

Judges, operators, methods and evaluation all read answers with the task's one `StatedAnswer`.
The answer key is `prompt.meta["answer"]`; `key` alone reads it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Literal, Protocol

from tandem.data.record import Prompt
from tandem.errors import ConfigError, DataError, nearest_name

NUMBER = (
    r"[-\u2212\u2013]?\s?[$€£]?\s?(?:(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?|\.\d{1,40})"
    r"(?:/0*[1-9]\d{0,40})?(?!\d)"
)
SIGNS = re.compile(r"[\s,$€£]")


class AnswerParser(Protocol):
    """text -> the answer it arrives at, in one spelling; "" where it states none."""

    def __call__(self, text: str) -> str:
        """Read the answer of a text."""
        ...


@dataclass(frozen=True)
class StatedAnswer:
    """Reads the number behind the last mark of a text, in one spelling.

    "#### 1,234.50", "the answer is $1234.5." and "answer is 1234.5 miles" are all "1234.5"; -0 is
    "0", 1/3 stays "1/3". A number without a mark before it is no answer: the last number of a
    chain of thought is often one of its steps.

    Attributes:
        marks: what announces an answer, in any case of letters.
        lead: regular expression of what may stand between mark and number.
    """

    marks: tuple[str, ...] = ("####", "answer is", "answer:", "\\boxed{")
    lead: str = r"[\s:*]*"

    def __call__(self, text: str) -> str:
        """Return the answer, or "" where the text states none."""
        found = _pattern(self.marks, self.lead).findall(text)
        return spell_number(found[-1]) if found else ""


@functools.cache
def _pattern(marks: tuple[str, ...], lead: str) -> re.Pattern[str]:
    return re.compile(f"(?:{'|'.join(map(re.escape, marks))}){lead}({NUMBER})", re.IGNORECASE)


def spell_number(number: str) -> str:
    """Return a number in one spelling: no commas, currency, or zeros behind the point."""
    value = Fraction(SIGNS.sub("", re.sub("[\u2212\u2013]", "-", number)))
    decimal = Decimal(value.numerator) / value.denominator
    if Fraction(decimal) != value:
        return str(value)
    return f"{decimal.normalize():f}" if value else "0"


@dataclass(frozen=True)
class PromptStyle:
    """One way to put a question, and what is answered to it.

    Attributes:
        name: of the form.
        suffix: words behind the question.
        shots: worked examples before it, (question, answer).
        target: the whole path to the answer, or the answer alone.
    """

    name: str
    suffix: str = ""
    shots: tuple[tuple[str, str], ...] = ()
    target: Literal["path", "answer"] = "path"


@dataclass(frozen=True)
class QuestionFormat:
    """How a task asks, hints and reads.

    Attributes:
        read: how an answer is read from a text.
        forms: ways to put a question; the first is the one that is sampled from and examined.
        layout: a question as plain text, for models without a chat template.
        hint: what is put behind a question to give its answer away.
        statement: an answer alone.
    """

    read: AnswerParser
    forms: tuple[PromptStyle, ...]
    layout: str = "Q: {question}\nA:"
    hint: str = " (the answer is {answer})"
    statement: str = "The answer is {answer}."

    def form(self, name: str) -> PromptStyle:
        """Return the form of this name.

        Raises:
            ConfigError: there is none.
        """
        found = {form.name: form for form in self.forms}
        if name not in found:
            raise ConfigError(
                f"there is no form {name!r}.{nearest_name(name, found)}",
                "a question is put in one of the task's forms",
                f"name some of: {', '.join(found)}",
            )
        return found[name]

    def asking(self, target: Literal["path", "answer"]) -> PromptStyle:
        """Return the first form that asks for a path to the answer, or for the answer alone.

        Raises:
            ConfigError: there is none.
        """
        for form in self.forms:
            if form.target == target:
                return form
        raise ConfigError(
            f"no form asks for the {target}",
            f"there are {', '.join(f.name for f in self.forms) or 'none'}",
            "add such a form to the task's wording",
        )

    def ask(self, prompt: Prompt, form: PromptStyle, *, hint: str = "") -> Prompt:
        """Return the prompt with its question in this form; `meta` is carried along unread."""
        said = question_text(prompt) + form.suffix + hint
        examples = "".join(f"{self.layout.format(question=q)} {a}\n\n" for q, a in form.shots)
        text = examples + self.layout.format(question=said)
        if prompt.messages is None:
            return replace(prompt, text=text)
        shown = tuple(
            {"role": role, "content": words}
            for shot in form.shots
            for role, words in zip(("user", "assistant"), shot, strict=True)
        )
        last = {"role": "user", "content": said}
        return replace(prompt, text=text, messages=(*prompt.messages[:-1], *shown, last))

    def ask_with_hint(self, prompt: Prompt, form: PromptStyle) -> Prompt:
        """Return the question with its answer given away."""
        return self.ask(prompt, form, hint=self.hint.format(answer=answer_key(prompt)))

    def state(self, answer: str) -> str:
        """Return a text that gives this answer and no path to it."""
        return self.statement.format(answer=answer)


def question_text(prompt: Prompt) -> str:
    """Return what is asked: the last turn, or the whole text where there are no turns."""
    return prompt.text if prompt.messages is None else str(prompt.messages[-1]["content"])


def answer_key(prompt: Prompt) -> str:
    """Return the answer key of a prompt, in the one spelling.

    Raises:
        DataError: the prompt has no key.
    """
    if "answer" not in prompt.meta:
        raise DataError(
            f"prompt `{prompt.id}` has no answer key in `prompt.meta`",
            "whether an answer is right is said by the task's key",
            "use a task or a data file with answers (`#### 42`), or a method that needs none: lmsi",
        )
    given = str(prompt.meta["answer"])
    return spell_number(given) if re.fullmatch(NUMBER, given) else given


def without_answer(prompt: Prompt) -> Prompt:
    """Return the question alone: a copy that holds no `meta`, and so no answer key."""
    return Prompt(prompt.id, prompt.text, prompt.messages)
