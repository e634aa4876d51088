"""Rows of several chosen and several rejected answers: every chosen beats every rejected one."""

from __future__ import annotations

import itertools

from tandem.data.chat import transcripts
from tandem.data.formats.fields import DataRow, SkipRow
from tandem.data.record import Group, Message, Preference, Prompt

SIDES = ("chosen", "rejected")


def has_several(row: DataRow) -> bool:
    """True where `chosen` or `rejected` is a list of answers; the other may be a text alone."""
    return any(row.is_several(name) for name in SIDES)


def build_best_of(row: DataRow, text: str, messages: tuple[Message, ...] | None) -> Group:
    """Make a group of all answers; empty ones, and rejected ones that are chosen too, are left out.

    Raises:
        SkipRow: nothing is chosen, or nothing is rejected.
    """
    good, bad = ([a for a in row.several(name) if a is not None] for name in SIDES)
    if not good or not bad:
        raise SkipRow("no answer is chosen, or none is rejected")
    chosen = {a.text for a in good}
    bad = [b for b in bad if b.text not in chosen]
    if not bad:
        raise SkipRow("identical answers")
    if messages is None and any(a.turns for a in (*good, *bad)):
        text, messages = transcripts.prompt_of([{"role": "user", "content": text}])
    several = range(len(good)), range(len(good), len(good) + len(bad))
    votes = tuple(Preference(i, j) for i, j in itertools.product(*several))
    return Group(Prompt("", text, messages), (*good, *bad), preferences=votes)


def read_best_of(row: DataRow) -> Group:
    """`prompt`, `chosen: [...]`, `rejected: [...]`."""
    return build_best_of(row, *row.prompt())


def count_left_out(row: DataRow) -> dict[str, int]:
    """Count the answers of a row that `build_best_of` leaves out, by reason."""
    if not has_several(row):
        return {}
    good, bad = (row.several(name) for name in SIDES)
    chosen = {a.text for a in good if a is not None}
    counts = {
        "empty answer": sum(a is None for a in (*good, *bad)),
        "rejected answer that is chosen too": sum(a is not None and a.text in chosen for a in bad),
    }
    return {why: n for why, n in counts.items() if n}
