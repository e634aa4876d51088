"""Marks that an answer carries: a title, bold phrases, placeholders, a postscript.

Answers are hostile text: every pattern here takes time that grows with its length, no faster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tandem.tasks.constraints.checkers import counting
from tandem.tasks.constraints.checkers.constraint import Constraint

_TITLE = re.compile(r"<<([^<>\n]+)>>")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_PLACEHOLDER = re.compile(r"\[([^\[\]\n]+)\]")


@dataclass(frozen=True)
class Title(Constraint):
    """A title in double angle brackets, anywhere, on one line."""

    kind, group = "title", "marks"
    wordings = (
        "Give your answer a title in double angle brackets, such as <<my title>>.",
        "Add a title, written between << and >>.",
    )

    def is_kept(self, text: str) -> bool:
        """Look for a pair of brackets with a letter or digit inside, but the example's."""
        return find_title(text) not in (None, "my title")


@dataclass(frozen=True)
class BoldPhrases(Constraint):
    """At least n phrases between double asterisks."""

    n: int
    kind, group = "bold_phrases", "marks"
    wordings = (
        "Put at least {n} phrases in bold, **like this**.",
        "Highlight {n} or more phrases with double asterisks: **phrase**.",
    )

    def is_kept(self, text: str) -> bool:
        """Count phrases that are bold in Markdown, each within a line."""
        return count_bold_phrases(text) >= self.n


@dataclass(frozen=True)
class Placeholders(Constraint):
    """At least n placeholders in square brackets."""

    n: int
    kind, group = "placeholders", "marks"
    wordings = (
        "Leave at least {n} placeholders in square brackets, such as [name].",
        "Use {n} or more placeholders to be filled in later, written like [date].",
    )

    def is_kept(self, text: str) -> bool:
        """Count pairs of brackets with a letter or digit inside."""
        return count_placeholders(text) >= self.n


@dataclass(frozen=True)
class Postscript(Constraint):
    """A postscript: in the last block but not first in the text, with words behind its mark."""

    mark: str
    kind, group = "postscript", "marks"
    wordings = (
        'Add a postscript at the end that begins with "{mark}".',
        'Finish with a postscript; its line must begin with "{mark}".',
    )

    def is_kept(self, text: str) -> bool:
        """Look at the lines of the last block."""
        blocks = counting.split_paragraphs(text)
        lines = [line.strip() for line in (blocks[-1] if blocks else "").splitlines()]
        later = lines if len(blocks) > 1 else lines[1:]
        after = (line.removeprefix(self.mark) for line in later if line.startswith(self.mark))
        return any(counting.split_words(rest) for rest in after if rest[:1] in " \t:,")


def find_title(text: str) -> str | None:
    """The first title in double angle brackets, or None.

    >>> find_title("<<Two boats>> Once upon a time ...")
    'Two boats'
    """
    return next((m.strip() for m in _TITLE.findall(text) if counting.split_words(m)), None)


def count_bold_phrases(text: str) -> int:
    """How many phrases but the examples stand between double asterisks, each within a line."""
    found = (m.strip().lower() for m in _BOLD.findall(text))
    return sum(bool(counting.split_words(m)) for m in found if m not in ("like this", "phrase"))


def count_placeholders(text: str) -> int:
    """How many placeholders in square brackets there are."""
    return sum(bool(counting.split_words(m)) for m in _PLACEHOLDER.findall(text))
