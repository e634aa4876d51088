"""How much of what was asked an answer keeps: strict, and loose as in IFEval.

Strict reads the answer as it is. Loose forgives what chat models wrap around an answer: a
constraint is kept loosely if any of eight variants keeps it, without asterisks, without the first
line, without the last, and all combinations (arXiv:2311.07911, section 2.2).

An answer of fewer than `FEWEST` different words says nothing and keeps nothing, not even "no
commas". Otherwise a single letter would keep more than most models do.
"""

from __future__ import annotations

from collections.abc import Sequence

from tandem.tasks.constraints.checkers import Constraint, counting

FEWEST = 8
"""Different words that an answer has at least; what is shorter answers no instruction here."""


def check_answer(
    constraints: Sequence[Constraint], text: str, *, loose: bool = False
) -> list[bool]:
    """Say of each constraint whether an answer keeps it."""
    read = loose_variants(text) if loose else [text]
    read = [each for each in read if counting.count_different(each) >= FEWEST]
    return [any(map(constraint.is_kept, read)) for constraint in constraints]


def share_kept(constraints: Sequence[Constraint], text: str, *, loose: bool = False) -> float:
    """The share of the constraints that an answer keeps.

    >>> from tandem.tasks.constraints.checkers import NoComma, WordMaximum
    >>> share_kept([NoComma(), WordMaximum(9)], "Yes, of course one can do that by hand.")
    0.5
    """
    told = check_answer(constraints, text, loose=loose)
    return sum(told) / len(told)


def loose_variants(text: str) -> list[str]:
    """The eight texts that loose reading tries, the answer itself first."""
    lines = text.split("\n")
    cut = [lines, lines[1:], lines[:-1], lines[1:-1]]
    plain = ["\n".join(part).strip() for part in cut]
    return [text, *plain[1:], *(each.replace("*", "") for each in [text, *plain[1:]])]
