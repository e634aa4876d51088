"""How an answer is laid out: lists, sections, JSON, two versions.

Answers are hostile text: every rule here takes time that grows with its length, no faster.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tandem.tasks.constraints.checkers import counting
from tandem.tasks.constraints.checkers.constraint import Constraint

FENCE = "```"


@dataclass(frozen=True)
class NumberedList(Constraint):
    """Exactly n lines that begin with 1., 2., ... in order; other lines are free."""

    n: int
    kind, group = "numbered_list", "layout"
    wordings = (
        "Give a numbered list of exactly {n} items (1., 2., ...).",
        "Answer with {n} numbered points, each on its own line: 1., 2. and so on.",
    )

    def is_kept(self, text: str) -> bool:
        """Read the numbers at the beginning of lines."""
        return counting.item_numbers(text) == list(range(1, self.n + 1))


@dataclass(frozen=True)
class BulletList(Constraint):
    """Exactly n lines that begin with a bullet: -, * or •."""

    n: int
    kind, group = "bullet_list", "layout"
    wordings = (
        'Give exactly {n} bullet points, each on a line that begins with "- ".',
        'Answer with a list of {n} bullets; begin each line of it with "- ".',
    )

    def is_kept(self, text: str) -> bool:
        """Count lines with a bullet, a space and a text."""
        return counting.count_bullets(text) == self.n


@dataclass(frozen=True)
class JSONObject(Constraint):
    """One JSON object with exactly these keys, and nothing else but a Markdown fence around it."""

    keys: tuple[str, ...]
    kind, group = "json_object", "layout"
    wordings = (
        "Answer with a single JSON object with exactly the keys {keys}, and nothing else.",
        "The whole answer must be valid JSON: one object whose keys are {keys}.",
    )

    def is_kept(self, text: str) -> bool:
        """Parse the answer; values may be anything."""
        found = parse_json_object(text)
        return found is not None and set(found) == set(self.keys)


@dataclass(frozen=True)
class Headings(Constraint):
    """Exactly n headings: lines that begin with two number signs and a space."""

    n: int
    kind, group = "headings", "layout"
    wordings = (
        'Divide your answer into {n} sections, each under a heading line that begins with "## ".',
        'Use exactly {n} headings, each on its own line that begins with "## ".',
    )

    def is_kept(self, text: str) -> bool:
        """Count heading lines with a text."""
        return count_headings(text) == self.n


@dataclass(frozen=True)
class TwoAnswers(Constraint):
    """Two different texts with one line of the separator, and nothing else on it, between them."""

    separator: str
    kind, group = "two_answers", "layout"
    wordings = (
        'Give two different answers. Separate them by a line that holds only "{separator}".',
        'Write two versions. Between them put a line with "{separator}" and nothing else.',
    )

    def is_kept(self, text: str) -> bool:
        """Compare what stands before and after the only line of the separator."""
        return is_separated(text, self.separator)


def count_headings(text: str) -> int:
    """How many lines begin with `## ` and a text."""
    return sum(
        line.startswith("## ") and bool(counting.split_words(line)) for line in text.splitlines()
    )


def is_separated(text: str, separator: str) -> bool:
    """Say whether exactly one line holds the separator alone, between two different texts."""
    lines = [line.strip() for line in text.splitlines()]
    if lines.count(separator) != 1:
        return False
    where = lines.index(separator)
    before, after = (" ".join(part).split() for part in (lines[:where], lines[where + 1 :]))
    return bool(before) and bool(after) and before != after


def parse_json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that the whole text is, or None; one Markdown fence around it is allowed.

    >>> parse_json_object('```json\\n{"a": 1}\\n```')
    {'a': 1}
    """
    own = text.strip()
    if own.startswith(FENCE) and own.endswith(FENCE) and len(own) > 2 * len(FENCE):
        own = own.removeprefix(FENCE).removesuffix(FENCE).removeprefix("json")
    try:
        found = json.loads(own)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
