"""How an answer begins and ends."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.tasks.constraints.checkers.constraint import Constraint

QUOTES = (('"', '"'), ("“", "”"))


@dataclass(frozen=True)
class StartsWith(Constraint):
    """These words first, in any case; space before them does not count."""

    phrase: str
    kind, group = "starts_with", "edges"
    wordings = (
        'Begin your answer with these words: "{phrase}".',
        'The first words of your answer must be "{phrase}".',
    )

    def is_kept(self, text: str) -> bool:
        """Compare the beginning."""
        return text.lstrip().lower().startswith(self.phrase.lower())


@dataclass(frozen=True)
class EndsWith(Constraint):
    """These words last, in any case, with their own full stop; nothing but space behind them."""

    phrase: str
    kind, group = "ends_with", "edges"
    wordings = (
        'End your answer with the exact sentence "{phrase}"',
        'Finish with the words "{phrase}" and write nothing after them.',
    )

    def is_kept(self, text: str) -> bool:
        """Compare the end."""
        return text.rstrip().lower().endswith(self.phrase.lower())


@dataclass(frozen=True)
class Quoted(Constraint):
    """The whole answer between double quotation marks, straight or curved."""

    kind, group = "quoted", "edges"
    wordings = (
        "Put your whole answer in double quotation marks.",
        "The answer must begin and end with a double quotation mark.",
    )

    def is_kept(self, text: str) -> bool:
        """Compare both ends; something must stand between."""
        own = text.strip()
        return len(own) > 2 and any(own[0] == a and own[-1] == b for a, b in QUOTES)


@dataclass(frozen=True)
class QuestionEnd(Constraint):
    """A question mark as the last sign."""

    kind, group = "question_end", "edges"
    wordings = ("End with a question.", "The last sentence must be a question.")

    def is_kept(self, text: str) -> bool:
        """Compare the last sign that is no space."""
        return text.rstrip().endswith("?")
