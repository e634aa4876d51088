"""Which words and letters an answer uses, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.tasks.constraints.checkers import counting
from tandem.tasks.constraints.checkers.constraint import Constraint


@dataclass(frozen=True)
class IncludeWords(Constraint):
    """Every one of these words, whole and in any case."""

    words: tuple[str, ...]
    kind, group = "include_words", "words"
    wordings = ("Include {words}.", "Make sure to use {words}.")

    def is_kept(self, text: str) -> bool:
        """Look for each word."""
        return all(counting.count_occurrences(text, word) for word in self.words)


@dataclass(frozen=True)
class AvoidWords(Constraint):
    """None of these words, whole and in any case; longer words that hold one are allowed."""

    words: tuple[str, ...]
    kind, group = "avoid_words", "words"
    wordings = ("Do not use {words}.", "Avoid {words} altogether.")

    def is_kept(self, text: str) -> bool:
        """Look for each word."""
        return not any(counting.count_occurrences(text, word) for word in self.words)


@dataclass(frozen=True)
class RepeatWord(Constraint):
    """One word n times or more."""

    word: str
    n: int
    kind, group = "repeat_word", "words"
    wordings = ('Use the word "{word}" at least {times}.', 'Say "{word}" {times} or more.')

    def is_kept(self, text: str) -> bool:
        """Count the word, whole and in any case."""
        return counting.count_occurrences(text, self.word) >= self.n


@dataclass(frozen=True)
class LimitWord(Constraint):
    """One word once at least, and n times at most."""

    word: str
    n: int
    kind, group = "limit_word", "words"
    wordings = (
        'Use the word "{word}", but at most {times}.',
        'The word "{word}" must occur, but not more than {times}.',
    )

    def is_kept(self, text: str) -> bool:
        """Count the word, whole and in any case."""
        return 1 <= counting.count_occurrences(text, self.word) <= self.n


@dataclass(frozen=True)
class AvoidLetter(Constraint):
    """One letter nowhere, small or capital."""

    letter: str
    kind, group = "avoid_letter", "words"
    wordings = (
        'Do not use the letter "{letter}" anywhere.',
        'Write without a single letter "{letter}".',
    )

    def is_kept(self, text: str) -> bool:
        """Look for the letter in any case."""
        return self.letter.lower() not in text.lower()
