"""What policies make of held-out answers, from log-probabilities alone: no judge, no sampling.

    loss       mean of -log pi(y | x) over the tokens of the better answer, in nats
    better     log pi(y | x) - log pi_0(y | x) of the better answer, summed over its tokens
    worse      the same of the worse answer
    accuracy   share of pairs in which `better` is above `worse`: the policy's own reward

pi_0 is the policy that training started from. Preference methods often lower both answers and the
worse one more; `better` far below 0 is a warning that the loss does not give.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.tables import CellValue, Table
from tandem.statistics import by_prompt, rate_by_prompt
from tandem.statistics.numerics import Floats


def held_out_table(readings: Mapping[str, Sequence[Group]], start: str) -> Table:
    """Lay policies out by what they make of the same held-out answers.

    Args:
        readings: policy -> the same groups in the same order, with its log-probabilities.
        start: the policy among them that training started from.

    Raises:
        DataError: a group has no answer, or no log-probabilities.
    """
    first = [_summed(group) for group in readings[start]]
    compared = any(group.preferences for group in readings[start])
    rows: list[tuple[CellValue, ...]] = []
    for name, groups in readings.items():
        keys = [prompt_key(group.prompt) for group in groups]
        loss = by_prompt([_loss(group) for group in groups], keys)
        row: tuple[CellValue, ...] = (name, loss)
        if compared:
            row += (None,) * 3 if name == start else _ratios(groups, first)
        rows.append(row)
    columns = ("policy", "loss of the better answer")
    if compared:
        columns += ("own reward right", "better answer", "worse answer")
    n = len({prompt_key(group.prompt) for group in readings[start]})
    title = f"{n} held-out prompts; nats, answers against `{start}`; 95 % intervals over prompts"
    return Table(columns, tuple(rows), title)


def better_answer(group: Group) -> int:
    """Return which completion was preferred: by wins, else by score, else the first."""
    if group.preferences:
        wins = np.zeros(len(group))
        for vote in group.preferences:
            wins[vote.i] += vote.p
            wins[vote.j] += 1 - vote.p
        return int(np.argmax(wins))
    return 0 if group.scores is None else int(np.argmax(group.scores))


def _ratios(groups: Iterable[Group], first: Sequence[Floats]) -> tuple[CellValue, ...]:
    prompt: list[str] = []
    right: list[float] = []
    better: list[float] = []
    worse: list[float] = []
    for group, before in zip(groups, first, strict=True):
        ratio = _summed(group) - before
        for vote in group.preferences:
            if vote.p == 0.5:
                continue
            prompt.append(prompt_key(group.prompt))
            better.append(float(ratio[vote.winner]))
            worse.append(float(ratio[vote.loser]))
            right.append(0.5 + 0.5 * float(np.sign(better[-1] - worse[-1])))
    if not prompt:
        return None, None, None
    return rate_by_prompt(right, prompt), by_prompt(better, prompt), by_prompt(worse, prompt)


def _loss(group: Group) -> float:
    logp = _logprobs(group)[better_answer(group)]
    return float(-np.mean(logp, dtype=np.float64))


def _summed(group: Group) -> Floats:
    return np.array([np.sum(row, dtype=np.float64) for row in _logprobs(group)])


def _logprobs(group: Group) -> list[Floats]:
    rows = [c.logp for c in group.completions]
    if not rows or any(row is None for row in rows):
        raise DataError(
            f"group `{group.id}` has {len(group)} answers, not all with log-probabilities",
            "held-out losses are read from what a policy says of given answers",
            "read the groups with `logprobs` first",
        )
    return [np.asarray(row, np.float64) for row in rows if row is not None]
