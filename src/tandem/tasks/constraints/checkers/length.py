"""How long an answer is: words, sentences, paragraphs."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.tasks.constraints.checkers import counting
from tandem.tasks.constraints.checkers.constraint import Constraint


@dataclass(frozen=True)
class WordMinimum(Constraint):
    """At least n words."""

    n: int
    kind, group = "word_minimum", "length"
    wordings = ("Use at least {n} words.", "Your answer must have {n} words or more.")

    def is_kept(self, text: str) -> bool:
        """Count words as `counting.split_words` does."""
        return len(counting.split_words(text)) >= self.n


@dataclass(frozen=True)
class WordMaximum(Constraint):
    """At most n words."""

    n: int
    kind, group = "word_maximum", "length"
    wordings = ("Use at most {n} words.", "Keep your answer to {n} words or fewer.")

    def is_kept(self, text: str) -> bool:
        """Count words as `counting.split_words` does."""
        return len(counting.split_words(text)) <= self.n


@dataclass(frozen=True)
class WordRange(Constraint):
    """From low to high words, both included."""

    low: int
    high: int
    kind, group = "word_range", "length"
    wordings = (
        "Use between {low} and {high} words.",
        "The answer must be {low} to {high} words long.",
    )

    def is_kept(self, text: str) -> bool:
        """Count words as `counting.split_words` does."""
        return self.low <= len(counting.split_words(text)) <= self.high


@dataclass(frozen=True)
class SentenceCount(Constraint):
    """Exactly n sentences."""

    n: int
    kind, group = "sentence_count", "length"
    wordings = ("Write exactly {n} sentences.", "Your answer must consist of {n} sentences.")

    def is_kept(self, text: str) -> bool:
        """Count sentences as `counting.split_sentences` does."""
        return len(counting.split_sentences(text)) == self.n


@dataclass(frozen=True)
class SentenceMaximum(Constraint):
    """At most n sentences."""

    n: int
    kind, group = "sentence_maximum", "length"
    wordings = ("Use no more than {n} sentences.", "Answer in {n} sentences or fewer.")

    def is_kept(self, text: str) -> bool:
        """Count sentences as `counting.split_sentences` does."""
        return len(counting.split_sentences(text)) <= self.n


@dataclass(frozen=True)
class ParagraphCount(Constraint):
    """Exactly n paragraphs."""

    n: int
    kind, group = "paragraph_count", "length"
    wordings = (
        "Write exactly {n} paragraphs, with an empty line between them.",
        "Divide your answer into {n} paragraphs that are separated by blank lines.",
    )

    def is_kept(self, text: str) -> bool:
        """Count blocks between blank lines."""
        return len(counting.split_paragraphs(text)) == self.n
