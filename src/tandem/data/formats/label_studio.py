"""Label Studio's exports of pairwise tasks: the whole one (JSON), the short one (JSON-MIN, CSV).

In the whole export a task has its `data` and its `annotations`, of which each is a vote or says
nothing (cancelled, empty). In the short one a column of its own says `left` or `right`.
"""

from __future__ import annotations

from typing import Any

from tandem.data.formats import conversations
from tandem.data.formats.compared_pairs import judged_pair
from tandem.data.formats.fields import DataRow, SkipRow
from tandem.data.formats.messages import object_of
from tandem.data.record import Group, Preference, Prompt

ANSWERS = (
    ("answer1", "answer2"), ("answer_1", "answer_2"), ("response1", "response2"),
    ("response_1", "response_2"), ("output_1", "output_2"), ("output1", "output2"),
    ("answer_a", "answer_b"), ("response_a", "response_b"), ("left", "right"),
)  # fmt: skip
"""What the left and the right answer of a labelling task are called in its data."""
ASKED = ("prompt", "question", "instruction", "query", "input", "text", "messages", "conversation")
SIDES = ("left", "right")


def read_label_studio(row: DataRow) -> Group:
    """A labelling task's data, and its annotations: `left` or `right` of a pair, one vote each."""
    given = row.items("annotations")
    votes = [(side, by) for side, by in map(_vote, given) if side]
    if not votes:
        left_out = annotations_left_out(row)
        raise SkipRow(" and ".join(f"{why}" for why in left_out) or "no annotation")
    question, (left, right) = labelled_columns(row)
    text, messages = conversations.ask_in_messages(*row.prompt(question))
    answers = row.answer(left), row.answer(right)
    conversations.refuse_equal(answers)
    pairs: dict[str, tuple[int, int]] = dict(zip(SIDES, ((0, 1), (1, 0)), strict=True))
    for side, _ in votes:
        if side not in pairs:
            row.wrong("annotations.selected", side, "a pairwise choice is `left` or `right`")
    preferences = tuple(
        Preference(*pairs[side], by=row.sound("annotations.completed_by", by)) for side, by in votes
    )
    return Group(Prompt("", text, messages), answers, preferences=preferences)


def annotations_left_out(row: DataRow) -> dict[str, int]:
    """Count the annotations of a labelling task that say nothing."""
    counts: dict[str, int] = {}
    for annotation in row.items("annotations"):
        cancelled = object_of(annotation).get("was_cancelled")
        if cancelled or not _vote(annotation)[0]:
            empty = "annotation without a pairwise choice"
            empty = empty if object_of(annotation).get("result") else "annotation empty"
            why = "annotation cancelled" if cancelled else empty
            counts[why] = counts.get(why, 0) + 1
    return counts


def label_studio_columns(row: DataRow) -> tuple[str, ...]:
    """Return the columns of a labelling task that are read."""
    question, answers = labelled_columns(row)
    return (question, *answers)


def labelled_columns(row: DataRow) -> tuple[str, tuple[str, str]]:
    """Return the columns of a task's question and of its left and right answer.

    Raises:
        DataError: its data has other names.
    """
    lower = {name.lower(): name for name in row.values}
    answers = next((pair for pair in ANSWERS if all(a in lower for a in pair)), None)
    question = next((q for q in ASKED if q in lower), None)
    if answers is None or question is None:
        row.wrong(
            "prompt" if question is None else "answer1",
            sorted(set(row.values) - {"annotations", "id"}),
            "a pairwise task has a prompt and two answers in its data, named as one of "
            f"{'; '.join(', '.join(pair) for pair in ANSWERS)}",
            "name them so in the export, for example `prompt`, `answer1`, `answer2`",
        )
    return lower[question], (lower[answers[0]], lower[answers[1]])


def _vote(annotation: Any) -> tuple[str, str]:
    """Return (side, who) of an annotation; the side is empty where it chooses nothing."""
    known = object_of(annotation)
    if known.get("was_cancelled"):
        return "", ""
    for part in map(object_of, known.get("result") or ()):
        side = object_of(part.get("value")).get("selected")
        if part.get("type") == "pairwise" and side:
            by = known.get("completed_by", "")
            by = object_of(by).get("id", "") if isinstance(by, dict) else by
            return str(side), "" if by is None else str(by)
    return "", ""


def read_side(row: DataRow) -> Group:
    """Label Studio's short export (JSON-MIN, CSV): a column of its own says `left` or `right`."""
    column = side_column(row)
    if not column:
        raise SkipRow("annotation empty")
    asked, answers = labelled_columns(row)
    return judged_pair(row, asked, answers, float(row.values[column] == "left"))


def side_column(row: DataRow) -> str:
    """Return the column that chooses a side; empty where none does."""
    chosen = (c for c, value in row.values.items() if value in SIDES)
    return next(chosen, "")


def side_columns(row: DataRow) -> tuple[str, ...]:
    """Return the columns that `read_side` reads."""
    asked, answers = labelled_columns(row)
    return (asked, *answers, *filter(None, [side_column(row)]))
