"""Rows of several completions: with ranks, scores, win probabilities, labels 1 or 2, or bare."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tandem.data.chat import transcripts
from tandem.data.formats import conversations
from tandem.data.formats.fields import DataRow, SkipRow, require_answer, require_text
from tandem.data.record import Completion, Group, Preference, Prompt

LAST_DIGIT = 1e-4


def read_unjudged(row: DataRow) -> Group:
    """`prompt`, `completions`: several answers that nobody has judged yet."""
    group, _ = _answers(row)
    return group


def read_ranked(row: DataRow) -> Group:
    """`prompt`, `completions`, `ranks`: rank 1 is the best, equal ranks are no preference."""
    group, ranks = _several(row, "ranks")
    votes = [
        Preference(i, j)
        for i, j in itertools.permutations(range(len(ranks)), 2)
        if ranks[i] < ranks[j]
    ]
    return Group(group.prompt, group.completions, preferences=tuple(votes))


def read_scored(row: DataRow) -> Group:
    """`prompt`, `completions`, `scores`: the higher the better; the margin is the difference."""
    return score_group(*_several(row, "scores"))


def score_group(group: Group, scores: Sequence[float]) -> Group:
    """Return the group with scores, and with a preference for every two that differ.

    Args:
        group: its answers.
        scores: one an answer, the higher the better; the margin is the difference.
    """
    votes = [
        Preference(i, j, margin=scores[i] - scores[j])
        for i, j in itertools.permutations(range(len(scores)), 2)
        if scores[i] > scores[j]
    ]
    return replace(group, scores=np.array(scores), preferences=tuple(votes))


def read_alpacaeval(row: DataRow) -> Group:
    """`prompt`, `completions: [{system, text, win_prob}]`: AlpacaEval's graded feedback.

    win_prob is P(completion beats the reference), which is kept in `prompt.meta`. Pairs compare
    two completions through the reference, as a Bradley-Terry model does: P(i beats j) =
    p_i (1 - p_j) / (p_i (1 - p_j) + p_j (1 - p_i)).
    """
    text, messages = row.prompt()
    if messages is None:
        text, messages = transcripts.prompt_of([{"role": "user", "content": text}])
    kept = [e for e in row.entries("completions") if e.text("text").strip()]
    if not kept:
        raise SkipRow("empty answer")
    answers = [
        Completion(e.text("text"), author=e.text("system") if e.has("system") else "") for e in kept
    ]
    wins = [_probability(e) for e in kept]
    votes = [
        Preference(i, j, read_through_reference(wins[i], wins[j]))
        for i, j in itertools.permutations(range(len(wins)), 2)
        if wins[i] > wins[j]
    ]
    return Group(Prompt("", text, messages), tuple(answers), np.array(wins), tuple(votes))


def read_through_reference(p: float, q: float) -> float:
    """P(i beats j) from P(i beats the reference) = p and P(j beats the reference) = q.

    The probabilities are published with four digits, so 0 and 1 stand for what rounds to them:
    they are read as half of the last digit, lest 0.0001 against 0 become a certainty.
    """
    p, q = (min(max(x, LAST_DIGIT / 2), 1 - LAST_DIGIT / 2) for x in (p, q))
    win, loss = p * (1 - q), q * (1 - p)
    return win / (win + loss)


def read_alpaca(row: DataRow) -> Group:
    """`instruction`, `output_1`, `output_2`, `preference`: 1, 2, between them, or 0 for a tie."""
    if not row.has("preference"):
        raise SkipRow("no preference given")
    value = row.number("preference")
    if value != 0 and not 1 <= value <= 2:
        row.wrong("preference", value, "it lies between 1 (output_1) and 2 (output_2); 0 is a tie")
    p = 0.5 if value == 0 else 2 - value
    return conversations.pair_group(row, conversations.instruction_prompt(row), p)


def read_llmbar(row: DataRow) -> Group:
    """`input`, `output_1`, `output_2`, `label`: 1 or 2, the better output."""
    label = row.number("label")
    if label not in (1, 2):
        row.wrong("label", label, "it is the number of the better output, 1 or 2")
    return conversations.pair_group(
        row, conversations.instruction_prompt(row, "input"), 2.0 - label
    )


def _probability(entry: DataRow) -> float:
    p = entry.number("win_prob")
    if not 0 <= p <= 1:
        entry.wrong("win_prob", p, "a probability lies between 0 and 1")
    return p


def _several(row: DataRow, name: str) -> tuple[Group, Sequence[float]]:
    entries, numbers = row.items("completions"), row.numbers(name)
    if len(entries) != len(numbers):
        row.wrong(
            name, numbers, f"{len(entries)} completions need as many {name}, not {len(numbers)}"
        )
    group, full_ones = _answers(row)
    return group, [numbers[k] for k in full_ones]


def _answers(row: DataRow) -> tuple[Group, list[int]]:
    """Return the answers that are not empty, and which of the row's they are."""
    text, messages = row.prompt()
    entries = row.items("completions")
    if messages is None and any(isinstance(e, list) for e in entries):
        text, messages = transcripts.prompt_of([{"role": "user", "content": text}])
    answers = [_entry(row, k) for k in range(len(entries))]
    full_ones = [k for k, a in enumerate(answers) if a is not None]
    if not full_ones:
        raise SkipRow("empty answer")
    completions = tuple(a for a in answers if a is not None)
    return Group(Prompt("", text, messages), completions), full_ones


def _entry(row: DataRow, k: int) -> Completion | None:
    value = row.items("completions")[k]
    name = f"completions[{k}]"
    one = DataRow(row.place, {name: value})
    try:
        return (
            require_answer(one.messages(name))
            if isinstance(value, list)
            else require_text(Completion(one.text(name)))
        )
    except SkipRow:
        return None
