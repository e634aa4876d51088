"""Which letters and signs an answer is written in."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from tandem.tasks.constraints.checkers import counting
from tandem.tasks.constraints.checkers.constraint import Constraint

ALPHABETS = {"Latin": "English", "Cyrillic": "Russian", "Greek": "Greek"}
"""Alphabets, and a language that is written in each."""


@dataclass(frozen=True)
class Uppercase(Constraint):
    """Letters, and all of them capitals."""

    kind, group = "uppercase", "letters"
    wordings = ("Write everything in capital letters.", "Use capital letters only.")

    def is_kept(self, text: str) -> bool:
        """Look for a small letter."""
        return text.isupper()


@dataclass(frozen=True)
class Lowercase(Constraint):
    """Letters, and none of them a capital."""

    kind, group = "lowercase", "letters"
    wordings = ("Write everything in small letters, without capitals.", "Use no capital letters.")

    def is_kept(self, text: str) -> bool:
        """Look for a capital."""
        return text.islower()


@dataclass(frozen=True)
class NoComma(Constraint):
    """No comma."""

    kind, group = "no_comma", "letters"
    wordings = ("Do not use any commas.", "Write without commas.")

    def is_kept(self, text: str) -> bool:
        """Look for the sign."""
        return "," not in text


@dataclass(frozen=True)
class NoDigits(Constraint):
    """No digit of any script."""

    kind, group = "no_digits", "letters"
    wordings = ("Do not use any digits.", "Spell out all numbers; digits are not allowed.")

    def is_kept(self, text: str) -> bool:
        """Look for a digit."""
        return not any(c.isdigit() for c in text)


@dataclass(frozen=True)
class Alphabet(Constraint):
    """Letters, and all of them of one alphabet; signs and digits are free."""

    alphabet: str
    kind, group = "alphabet", "letters"
    wordings = (
        "Answer in {language}, in {alphabet} letters only.",
        "Your whole answer must be in {language}; use no letters but {alphabet} ones.",
    )

    def is_kept(self, text: str) -> bool:
        """Look up the Unicode name of every letter."""
        letters = {c for c in unicodedata.normalize("NFKC", text) if c.isalpha()}
        prefix = self.alphabet.upper()
        return bool(letters) and all(unicodedata.name(c, "").startswith(prefix) for c in letters)

    def _named(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet, "language": ALPHABETS[self.alphabet]}


@dataclass(frozen=True)
class CapitalWords(Constraint):
    """At least n words of two letters or more, all of them capitals."""

    n: int
    kind, group = "capital_words", "letters"
    wordings = (
        "Write at least {n} words entirely in capital letters.",
        "Stress {n} or more words by writing them in ALL CAPITALS.",
    )

    def is_kept(self, text: str) -> bool:
        """Count words with two letters and no small one."""
        found = (w for w in counting.split_words(text) if sum(c.isalpha() for c in w) > 1)
        return sum(w.isupper() for w in found) >= self.n
