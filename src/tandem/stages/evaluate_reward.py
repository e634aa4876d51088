"""Stages that evaluate a reward on held-out judgments: accuracy, calibration, learning curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.evaluation import (
    learning_table,
    pairwise_evaluation,
    reward_evaluation,
    with_other_prompts,
)
from tandem.judges import Judge
from tandem.machine import Machine
from tandem.rng import Seed
from tandem.stages.judging import judge

EPSILON = float(np.finfo(np.float64).eps)
"""As near to 0 and 1 as a probability can be told from them."""


def evaluate_reward(
    model: Judge,
    held_out: Groups,
    *,
    members: tuple[Judge, ...] = (),
    seed: Seed,
    machine: Machine,
) -> dict[str, Any]:
    """Evaluate a reward on held-out judgments.

    See docs/theory/reward_models.md#evaluation-on-held-out-judgments.

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
        other_prompts=judge(Groups.of(with_other_prompts(scored)), model, machine=machine),
        seed=seed,
    )
    return {"text": str(found), "numbers": found.as_dict()}


def evaluate_learning_curve(
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


def evaluate_preferences(
    models: Mapping[str, Judge], held_out: Groups, *, seed: Seed, machine: Machine
) -> dict[str, Any]:
    """Compare judges of pairs on held-out judgments, paired: does a reward lose anything?

    Args:
        models: name -> a judge that writes preferences or scores, the one of interest first.
        held_out: groups with human preferences, of prompts that are in nobody's training data.

    Returns:
        `text`, a row a judge and the differences to the first, and `numbers`, the same for JSON.
    """
    apart = Groups.of(one for group in held_out for one in judge_singly(group))
    opinions = {
        name: [
            replace(with_score_margins(said), preferences=asked.preferences)
            for asked, said in zip(
                apart, judge(without_preferences(apart), who, machine=machine), strict=True
            )
        ]
        for name, who in models.items()
    }
    found = pairwise_evaluation(opinions, seed=seed)
    return {"text": str(found), "numbers": found.as_dict()}


def judge_singly(group: Group) -> Iterator[Group]:
    """Yield a group for each judged pair of a group, under the same prompt."""
    for vote in group.preferences:
        yield replace(group, scores=None, preferences=(vote,)).keep([vote.i, vote.j])


def without_preferences(groups: Groups) -> Groups:
    """Return the groups without anybody's preferences."""
    return groups.map(lambda g: replace(g, preferences=()))


def with_score_margins(group: Group) -> Group:
    """Return a judged pair with scores that differ by its judge's log-odds."""
    if group.scores is not None:
        return group
    (vote,) = group.preferences
    p = float(np.clip(vote.p, EPSILON, 1 - EPSILON))
    half = 0.5 * float(np.log(p) - np.log1p(-p))
    return replace(group, scores=np.array([half, -half]))
