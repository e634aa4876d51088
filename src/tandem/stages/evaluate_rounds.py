"""Rounds on one axis: labels, the reward's accuracy where, gold, proxy, KL, and Elo above SFT."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation import kl_column, score_column
from tandem.evaluation.tables import CellValue, Table
from tandem.judges import Judge
from tandem.machine import Machine
from tandem.runs.checkpoint import Checkpoint
from tandem.stages.judging import judge, logprobs
from tandem.statistics import Estimate, fit_bradley_terry, mean_of, rate_by_prompt


def meet_policies(answers: Sequence[Groups]) -> Iterator[Group]:
    """Pair the answers of two policies on each prompt, every two policies equally often.

    Which of the two stands first changes from meeting to meeting; pairs of equal answers are left
    out, as nobody could say anything of them.

    Args:
        answers: one answer of each policy to the same prompts.
    """
    meetings = list(itertools.combinations(range(len(answers)), 2))
    for k, groups in enumerate(zip(*answers, strict=True)):
        turn, which = divmod(k, len(meetings))
        i, j = meetings[which] if turn % 2 == 0 else meetings[which][::-1]
        a, b = groups[i].completions[0], groups[j].completions[0]
        if a.text != b.text:
            yield Group(groups[i].prompt, (a, b))


def evaluate_rounds(
    policies: Sequence[Checkpoint],
    rewards: Sequence[Judge],
    tranches: Sequence[Groups],
    held_out: Sequence[Groups],
    answers: Sequence[Groups],
    met: Groups | None,
    truth: Judge | None,
    *,
    temperature: float | None = 1.0,
    machine: Machine,
) -> dict[str, Any]:
    """Lay out what each round of iterated RLHF brought.

    Args:
        policies: the start, then each round's.
        rewards: each round's reward.
        tranches: the comparisons that each round had more than the one before.
        held_out: of each tranche, those that no reward was fitted to.
        answers: one answer of each policy to the same new prompts.
        met: two policies' answers, compared; None leaves Elo out.
        truth: a scoring judge, or None.
        temperature: at which answers were sampled and policies are read for the KL; None leaves
            the KL out, see `kl_temperature`.

    Returns:
        `text`, a table with a row a round, and `numbers`, the same for JSON.
    """
    names = [str(pi) for pi in policies]
    elo = elo_of(met, names) if met is not None else {}
    accuracies = [[accuracy_on(r, part, machine) for part in held_out] for r in rewards]
    start = None
    rows: list[tuple[CellValue, ...]] = []
    for t, (name, said) in enumerate(zip(names, answers, strict=True)):
        gold = None if truth is None else score_column(judge(said, truth, machine=machine))
        start = gold if t == 0 else start
        rows.append(
            (
                t,
                name,
                sum(_labels(part) for part in tranches[:t]),
                *(accuracies[t - 1] if t else [None] * len(held_out)),
                None if gold is None else mean_of(gold),
                _gain(gold, start) if t else None,
                _proxy(rewards[t - 1], said, machine) if t else None,
                _kl(policies[t], policies[0], said, temperature, machine) if t else None,
                elo.get(name),
            )
        )
    held = tuple(f"right on {k}" for k in range(len(held_out)))
    columns = ("round", "policy", "labels", *held, "gold", "gain", "proxy", "KL", "Elo")
    title = f"{len(policies) - 1} rounds; `right on k`: the reward on held-out labels of tranche k"
    table = Table(columns, tuple(rows), title)
    return {"text": str(table), "numbers": table.as_dicts()}


def _labels(tranche: Groups) -> int:
    return sum(int(g.prompt.meta.get("votes", len(g.preferences))) for g in tranche)


def _gain(gold: Any, start: Any) -> Estimate | None:
    return None if gold is None else mean_of(gold - start)


def _proxy(reward: Judge, answers: Groups, machine: Machine) -> Estimate:
    return mean_of(score_column(judge(answers, reward, machine=machine)))


def _kl(
    policy: Checkpoint,
    start: Checkpoint,
    answers: Groups,
    temperature: float | None,
    machine: Machine,
) -> Estimate | None:
    if temperature is None:
        return None
    given = {"temperature": temperature, "machine": machine}
    return mean_of(kl_column(*(logprobs(pi, answers, **given) for pi in (policy, start))))


def accuracy_on(reward: Judge, judged: Groups, machine: Machine) -> Estimate | None:
    """Estimate how often a reward agrees with decided comparisons; None where there are none."""
    decided = Groups.of(g for g in judged if any(p.p != 0.5 for p in g.preferences))
    if not len(decided):
        return None
    right: list[float] = []
    where: list[str] = []
    bare = decided.map(lambda g: replace(g, scores=None))
    for group in judge(bare, reward, machine=machine):
        assert group.scores is not None
        for vote in group.preferences:
            if vote.p != 0.5:
                gap = float(group.scores[vote.winner] - group.scores[vote.loser])
                right.append(0.5 * (1 + float(np.sign(gap))))
                where.append(group.prompt.text)
    return rate_by_prompt(right, where)


def elo_of(met: Groups, names: Sequence[str]) -> dict[str, Estimate | str]:
    """Place policies by Elo above the first of them; empty where the votes do not connect them."""
    first, second, wins, where = [], [], [], []
    for group in met:
        for vote in group.preferences:
            first.append(group.completions[vote.i].author)
            second.append(group.completions[vote.j].author)
            wins.append(vote.p)
            where.append(group.prompt.text)
    if not first or names[0] not in {*first, *second}:
        return {}
    try:
        fitted = fit_bradley_terry(first, second, wins, where)
    except DataError:
        return {}
    return dict(fitted.elo(names[0]))
