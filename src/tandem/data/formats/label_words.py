"""Labels of single answers: good or bad, in the words and numbers in which files give them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

GOOD = frozenset(
    "true 1 1.0 yes y t good 👍 up thumbsup thumbup positive desirable like liked accept accepted "
    "correct right pass passed chosen preferred ✅ ✔".split()
)
BAD = frozenset(
    "false 0 0.0 no n f bad 👎 down thumbsdown thumbdown negative undesirable dislike disliked "
    "reject rejected incorrect wrong fail failed dispreferred ❌ ✘".split()
)
_MARKS = re.compile("[\\s_\\-\ufe0f\U0001f3fb-\U0001f3ff]+")
"""Spaces, and what only changes how a thumb looks."""


def read_label(value: Any) -> bool | None:
    """Return whether a label says good; None where it says neither.

    >>> list(map(read_label, (True, 0.0, "Thumbs up", "bad", 0.5)))
    [True, False, True, False, None]
    """
    if isinstance(value, str):
        word = value.strip().lower()
        word = _MARKS.sub("", word) if not word.startswith(("-", "+")) else word
        return True if word in GOOD else False if word in BAD else None
    if not isinstance(value, bool | int | float | Decimal) or value not in (0, 1):
        return None
    return bool(value)
