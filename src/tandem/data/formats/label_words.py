"""Labels of single answers: good or bad, in the words and numbers in which files give them.

Where a file says bad by -1, its 0 is neither: see `LabelScale`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tandem.errors import DataError

GOOD = frozenset(
    "true 1 1.0 +1 yes y t good 👍 up thumbsup thumbup positive desirable like liked accept "
    "accepted correct right pass passed chosen preferred ✅ ✔".split()
)
BAD = frozenset(
    "false 0 0.0 -1 -1.0 no n f bad 👎 down thumbsdown thumbdown negative undesirable dislike "
    "disliked reject rejected incorrect wrong fail failed dispreferred ❌ ✘".split()
)
_MARKS = re.compile("[\\s_\\-\ufe0f\U0001f3fb-\U0001f3ff]+")
"""Spaces, and what only changes how a thumb looks."""


def read_label(value: Any) -> bool | None:
    """Return whether a label says good; None where it says neither.

    >>> list(map(read_label, (True, 0.0, "Thumbs up", "bad", -1, 0.5)))
    [True, False, True, False, False, None]
    """
    if isinstance(value, str):
        word = value.strip().lower()
        word = _MARKS.sub("", word) if not word.startswith(("-", "+")) else word
        return True if word in GOOD else False if word in BAD else None
    if not isinstance(value, bool | int | float | Decimal) or value not in (-1, 0, 1):
        return None
    return value == 1


def label_number(value: Any) -> int | None:
    """Return the number that a label spells, -1, 0 or 1; None for words, True and False.

    >>> list(map(label_number, (-1, "0", 1.0, True, "good")))
    [-1, 0, 1, None, None]
    """
    if isinstance(value, str):
        return {"-1": -1, "-1.0": -1, "0": 0, "0.0": 0, "1": 1, "1.0": 1}.get(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return int(value) if value in (-1, 0, 1) else None


@dataclass
class LabelScale:
    """Refuses a file whose labels are -1, 0 and 1: its 0 says neither good nor bad.

    Attributes:
        column: that holds the labels.
        first: number -> place of the first row that has it.
    """

    column: str
    first: dict[int, str] = field(default_factory=dict[int, str])

    def note_label(self, value: Any, place: str) -> None:
        """Note a row's label.

        Raises:
            DataError: the file has both -1 and 0.
        """
        number = label_number(value)
        if number is not None:
            self.first.setdefault(number, place)
        if {-1, 0} <= self.first.keys():
            raise DataError(
                f"{self.first[0]}: `{self.column}` is 0, and at {self.first[-1]} it is -1",
                "where -1 says bad, 0 says neither good nor bad; read as bad, it would be trained "
                "against",
                "leave the rows with 0 out, or write good and bad in place of the numbers",
            )
