"""Exams: the stages that measure a reward model or some policies on prompts nobody trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tandem.artifacts import Checkpoint
from tandem.evaluation import (
    kl_column,
    learning_table,
    length_column,
    policy_evaluation,
    reward_evaluation,
    score_column,
    shuffled,
)
from tandem.groups import Group, Groups
from tandem.judges import Judge
from tandem.machine import Machine
from tandem.rng import Seed
from tandem.stages import judge, merge, reference
from tandem.statistics import outcomes_of

Answers = Mapping[str, Groups]


def examine_reward(
    model: Judge,
    held_out: Groups,
    *,
    members: tuple[Judge, ...] = (),
    seed: Seed,
    machine: Machine,
) -> dict[str, Any]:
    """Evaluate a reward on held-out judgments (METHODS section 2).

    Args:
        model: a scoring judge.
        held_out: groups with human preferences, of prompts that are not in its training data.
        members: the judges of an ensemble, to measure their disagreement.
        seed: presentation orders and resamples.

    Returns:
        `text`, the tables, and `numbers`, the same for JSON.
    """
    scored = Groups.of(judge(held_out, model, machine=machine))
    found = reward_evaluation(
        scored,
        members=[list(judge(held_out, m, machine=machine)) for m in members],
        other_prompts=judge(Groups.of(shuffled(scored)), model, machine=machine),
        seed=seed,
    )
    return {"text": str(found), "numbers": found.as_dict()}


def examine_curve(
    models: tuple[tuple[int, str, Judge], ...], held_out: Groups, *, seed: Seed, machine: Machine
) -> dict[str, Any]:
    """Lay a reward's quality against the number of labels and the size of the model.

    Args:
        models: (labels it was fitted to, its size by name, the scoring judge).
        held_out: groups with human preferences.

    Returns:
        `text`, the table and the fitted error a + b n^-c of each size, and `numbers`.
    """
    points = [
        (n, size, reward_evaluation(judge(held_out, model, machine=machine), seed=seed))
        for n, size, model in models
    ]
    table, curves = learning_table(points)
    fits = [f"{size}: error {c.a:.3f} + {c.b:.3g} n^-{c.c:.2f}" for size, c in curves.items()]
    return {"text": "\n".join([str(table), *fits]), "numbers": table.as_dicts()}


def examine_policies(
    answers: Answers,
    policies: Mapping[str, Checkpoint],
    *,
    judges: Mapping[str, Judge],
    opponents: tuple[str, ...],
    annotator: Judge | None = None,
    machine: Machine,
) -> dict[str, Any]:
    """Compare policies by their answers to the same prompts, paired by prompt.

    Args:
        answers: policy -> one or more answers to each evaluation prompt.
        policies: those of the authors that are models; their KL is measured to the main
            opponent, both log-probabilities by the kernel, because a sampler's differ in bf16.
        judges: column -> scoring judge: `truth`, `gold_rm`, `proxy`; the first decides who wins.
        opponents: policies that the others are compared with, the main one first.
        annotator: who compares each policy's first answer with the main opponent's, or None.

    Returns:
        `text`, the table and verdicts, and `numbers`, the same for JSON.
    """
    main = opponents[0]
    humans = {} if annotator is None else {"annotator": annotator}
    columns = {
        name: examine_answers(
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
    found = policy_evaluation(columns, opponents=opponents, judge=next(iter(judges)))
    return {"text": str(found), "numbers": found.as_dict()}


def examine_answers(
    answers: Groups,
    against: Groups,
    *,
    judges: Mapping[str, Judge],
    comparers: Mapping[str, Judge],
    policy: Checkpoint | None = None,
    opponent: Checkpoint | None = None,
    machine: Machine,
) -> dict[str, list[float]]:
    """Measure one policy's answers, beside an opponent's answers to the same prompts.

    Args:
        answers: one or more answers to each evaluation prompt.
        against: the opponent's answers, in the same order.
        judges: column -> scoring judge.
        comparers: column -> who compares the first answers of both.
        policy: the policy, where it is a model; its KL is measured to the opponent, both
            log-probabilities by the kernel, because a sampler's differ in bf16.
        opponent: the opponent's model.

    Returns:
        [P] numbers by column: each judge's score, length, KL, and for each comparer `X_win`, the
        outcome against the opponent.
    """
    columns: dict[str, np.ndarray] = {}
    for name, who in judges.items():
        columns[name] = score_column(judge(answers, who, machine=machine))
    columns["length"] = length_column(answers)
    if policy is not None and opponent is not None:
        columns["kl"] = kl_column(
            reference(policy, answers, machine=machine),
            reference(opponent, answers, machine=machine),
        )
    for name, who in comparers.items():
        columns[f"{name}_win"] = wins(answers, against, who, machine)
    return {name: [float(x) for x in column] for name, column in columns.items()}


def wins(mine: Groups, theirs: Groups, who: Judge, machine: Machine) -> np.ndarray:
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
