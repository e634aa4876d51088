"""Stages that evaluate a reward on answers of the policies that were trained on it.

What RLP claims is about the reward: its accuracy should rise on samples of the policies that are
trained on it, and stay on those of pi_sft. See docs/theory/rlp.md#measuring-the-claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.comparisons import Comparisons, lay_out_comparisons
from tandem.evaluation.reward_tables import BINS, pair_losses
from tandem.evaluation.tables import Table
from tandem.judges import Judge
from tandem.machine import Machine
from tandem.operators import rank_pairs
from tandem.rng import Seed
from tandem.stages.judging import judge
from tandem.statistics import (
    Estimate,
    by_prompt,
    ece,
    rate_by_prompt,
    temperature_scale,
    win_probability_of,
)


def evaluate_reward_shift(
    rewards: Mapping[str, Judge],
    fresh: Mapping[str, Groups],
    truth: Judge,
    *,
    seed: Seed,
    machine: Machine,
) -> dict[str, Any]:
    """Lay the accuracy and the calibration of rewards against the policies that wrote the pairs.

    Args:
        rewards: scoring judges by name, the one that others are compared with first: r_phi.
        fresh: policy -> two or more of its samples for prompts that nobody trained on.
        truth: a scoring judge whose order is the label.
        seed: presentation orders.

    Returns:
        `text`, the table, and `numbers`, the same for JSON, about pairs that the truth decides.
        `gain` is the difference in accuracy to the first reward on the same pairs; `temperature`
        is fitted to all of them; `spread` is the standard deviation of the difference of two
        rewards; ECE is None below 15 pairs. `credits`: policy -> the pairs' prompts, and each
        reward's credit for them, for means over several seeds.
    """
    rows: list[tuple[Any, ...]] = []
    credit: dict[str, dict[str, list[Any]]] = {}
    for policy, groups in fresh.items():
        gold = label_by_truth(groups, truth, seed, machine)
        credits: dict[str, Comparisons] = {}
        for name, reward in rewards.items():
            scored = judge(gold, reward, machine=machine)
            credits[name] = lay_out_comparisons(scored, seed=seed).decided
            gain = _gain(credits[name], next(iter(credits.values()))) if len(credits) > 1 else None
            rows.append((policy, name, len(credits[name]), *_numbers(credits[name], gain)))
        prompt = next(iter(credits.values())).prompt.tolist()
        credit[policy] = {"prompt": prompt} | {n: c.credit.tolist() for n, c in credits.items()}
    columns = (
        "pairs of", "reward", "pairs", "accuracy", "gain", "log-loss", "ECE", "temperature",
        "spread",
    )  # fmt: skip
    table = Table(columns, tuple(rows), "rewards on fresh pairs, labelled by the truth")
    return {"text": str(table), "numbers": table.as_dicts(), "credits": credit}


def evaluate_pseudo_labels(
    pairs: Mapping[str, Groups], truth: Judge, *, seed: Seed, machine: Machine
) -> dict[str, Any]:
    """Measure how often pseudo-labels agree with the truth, and how much longer winners are.

    Args:
        pairs: name -> judged pairs, for example D_hat; ties of the truth are left out.
        truth: a scoring judge.

    Returns:
        `text`, the table, and `numbers`, the same for JSON.
    """
    rows = [(name, len(groups), *_labels(groups, truth, machine)) for name, groups in pairs.items()]
    columns = ("labels", "pairs", "right", "winner longer by")
    table = Table(columns, tuple(rows), "labels beside the truth")
    return {"text": str(table), "numbers": table.as_dicts()}


def label_by_truth(groups: Iterable[Group], truth: Judge, seed: Seed, machine: Machine) -> Groups:
    """Compare all answers to each prompt by the truth; equal worth is a tie."""
    true = judge(Groups.of(groups), truth, machine=machine)
    return Groups.of(replace(g, scores=None) for g in rank_pairs("all")(true, seed))


def _numbers(table: Comparisons, gain: Estimate | None) -> tuple[Any, ...]:
    return (
        rate_by_prompt(table.credit, table.prompt),
        gain,
        by_prompt(pair_losses(table), table.prompt),
        ece(win_probability_of(table.difference), table.y, BINS) if len(table) >= BINS else None,
        temperature_scale(table.difference, table.y),
        float(table.difference.std()),
    )


def _gain(mine: Comparisons, first: Comparisons) -> Estimate:
    return by_prompt(mine.credit - first.credit, mine.prompt)


def _labels(
    groups: Groups, truth: Judge, machine: Machine
) -> tuple[Estimate | None, Estimate | None]:
    prompt: list[str] = []
    right: list[float] = []
    longer: list[float] = []
    for group in judge(groups, truth, machine=machine):
        if group.scores is None:
            raise DataError(
                f"the truth wrote no scores for group `{group.id}`",
                "a label is right if the preferred answer is worth more",
                "give a scoring judge",
            )
        for pair in group.preferences:
            gap = float(group.scores[pair.winner] - group.scores[pair.loser])
            if gap == 0 or pair.p == 0.5:
                continue
            a, b = (group.completions[k] for k in (pair.winner, pair.loser))
            prompt.append(group.id)
            right.append(float(np.sign(gap) + 1) / 2)
            longer.append(float(len(a.text.split()) - len(b.text.split())))
    if not prompt:
        return None, None
    return rate_by_prompt(right, prompt), by_prompt(longer, prompt)
