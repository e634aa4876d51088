"""Policies compared on the same prompts, by every judge that there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.evaluation import (
    kl_column,
    length_column,
    policy_evaluation,
    score_column,
)
from tandem.judges import Judge
from tandem.machine import Machine
from tandem.runs.checkpoint import Checkpoint
from tandem.stages.combining import merge
from tandem.stages.judging import judge, logprobs
from tandem.stages.sampling import BestOf, Policy
from tandem.statistics import outcomes_of
from tandem.statistics.best_of import kl_bound

GroupsByPolicy = Mapping[str, Groups]


def evaluate_policies(
    answers: GroupsByPolicy,
    policies: Mapping[str, Policy],
    *,
    judges: Mapping[str, Judge],
    opponents: tuple[str, ...],
    annotator: Judge | None = None,
    machine: Machine,
) -> dict[str, Any]:
    """Compare policies by their answers to the same prompts, paired by prompt.

    Args:
        answers: policy -> one or more answers to each evaluation prompt.
        policies: those of the authors that are policies; their KL is measured to the main
            opponent, both log-probabilities by the kernel, because a sampler's differ in bf16.
            That of `BestOf` the main opponent is its bound.
        judges: column -> scoring judge: `truth`, `gold_rm`, `proxy`; the first decides who wins.
        opponents: policies that the others are compared with, the main one first.
        annotator: who compares each policy's first answer with the main opponent's, or None.

    Returns:
        `text`, the table and verdicts, and `numbers`, the same for JSON.
    """
    main = opponents[0]
    humans = {} if annotator is None else {"annotator": annotator}
    columns = {
        name: evaluate_answers(
            groups,
            answers[main],
            judges=judges,
            comparers={} if name == main else humans,
            policy=policies.get(name),
            opponent=policies.get(main),
            machine=machine,
        )
        for name, groups in answers.items()
    }
    for column in list(judges)[1:]:
        for name in answers.keys() - {main}:
            won = outcomes_of(columns[name][column], columns[main][column])
            columns[name][f"{column}_win"] = won.tolist()
    arrays = {name: {k: np.array(v) for k, v in own.items()} for name, own in columns.items()}
    found = policy_evaluation(arrays, opponents=opponents, judge=next(iter(judges)))
    return {"text": "\n".join([str(found), *_caveats(policies)]), "numbers": found.as_dict()}


def _kl(
    mine: Policy | None, main: Policy | None, groups: Groups, machine: Machine
) -> np.ndarray | None:
    """Return [P] log-ratios of the answers, the bound for best-of-n, or None if nobody knows."""
    if isinstance(mine, Checkpoint) and isinstance(main, Checkpoint):
        two = (logprobs(policy, groups, machine=machine) for policy in (mine, main))
        return kl_column(*two)
    if isinstance(mine, BestOf) and mine.policy == main:
        return np.full(len(groups), kl_bound(mine.n))
    return None


def _caveats(policies: Mapping[str, Policy]) -> list[str]:
    return [
        f"{name}: KL <= log n - (n - 1)/n at n = {p.n}; equal where no two answers tie in score"
        for name, p in policies.items()
        if isinstance(p, BestOf)
    ]


def evaluate_answers(
    answers: Groups,
    against: Groups,
    *,
    judges: Mapping[str, Judge],
    comparers: Mapping[str, Judge],
    policy: Policy | None = None,
    opponent: Policy | None = None,
    machine: Machine,
) -> dict[str, list[float]]:
    """Measure one policy's answers, beside an opponent's answers to the same prompts.

    Args:
        answers: one or more answers to each evaluation prompt.
        against: the opponent's answers, in the same order.
        judges: column -> scoring judge.
        comparers: column -> who compares the first answers of both.
        policy: who answered, where that is known; a model's KL is measured to the opponent,
            both log-probabilities by the kernel, because a sampler's differ in bf16.
        opponent: the opponent.

    Returns:
        [P] numbers by column: each judge's score, length, KL, and for each comparer `X_win`, the
        outcome against the opponent.
    """
    columns: dict[str, np.ndarray] = {}
    for name, who in judges.items():
        columns[name] = score_column(judge(answers, who, machine=machine))
    columns["length"] = length_column(answers)
    if (kl := _kl(policy, opponent, answers, machine)) is not None:
        columns["kl"] = kl
    for name, who in comparers.items():
        columns[f"{name}_win"] = win_credit(answers, against, who, machine)
    return {name: [float(x) for x in column] for name, column in columns.items()}


def win_credit(mine: Groups, theirs: Groups, who: Judge, machine: Machine) -> np.ndarray:
    """Return [P] how much of each prompt's first comparison goes to `mine`: 1, .5 or 0."""
    first = (Groups.of(_first(g) for g in groups) for groups in (mine, theirs))
    both = Groups.of(merge(*first))
    return np.array([_share(g) for g in judge(both, who, machine=machine)])


def _first(group: Group) -> Group:
    return group.keep([0])


def _share(group: Group) -> float:
    if not group.preferences:
        return 0.5
    vote = group.preferences[0]
    return vote.p if vote.i == 0 else 1 - vote.p
