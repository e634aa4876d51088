"""What the task `constraints` promises, measured: the numbers behind `tandem tasks check`.

Every function is pure: it takes prompts or answers, and returns numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.tasks.constraints import HELD_OUT_KINDS, TRAINED_KINDS, kept_by_kind
from tandem.tasks.constraints.annotators import constraints_of, true_shares
from tandem.tasks.constraints.checkers import KINDS, Constraint
from tandem.tasks.constraints.scoring import share_kept
from tandem.tasks.constraints.witness import write_witness
from tandem.tasks.micro.gates import Gate

LEAST_GAP = 0.1
_CHAT = (
    "many people in the town like to walk along the river when the weather is good and they often "
    "meet their friends there to talk about the day and drink some tea before they go home to cook"
)
EMPTY_ANSWERS = {
    "one letter": "a",
    "nine words and a question mark": "we like it very much and so on, right?",
    "forty words in small letters": f"{_CHAT}?",
    "the same with four bold words": f"**we** **like** **this** **one** {_CHAT}?",
    "120 words of prose": " ".join([f"{_CHAT.capitalize()}."] * 3),
}
"""Answers that fit no instruction: what they keep is what the truth gives for nothing."""
MOST_FOR_NOTHING = 0.4


def prompt_gates(splits: Mapping[str, Groups]) -> list[Gate]:
    """Check prompts by split: they can be kept, and evaluation is new in two ways."""
    every = [constraints_of(g) for groups in splits.values() for g in groups]
    kinds = {name: {c.kind for g in gs for c in constraints_of(g)} for name, gs in splits.items()}
    asked = {name: {g.prompt.meta["instruction"] for g in gs} for name, gs in splits.items()}
    training = [name for name in splits if name != "evaluation"]
    trained_kinds = set[str]().union(*(kinds[name] for name in training))
    trained = set[str]().union(*(asked[name] for name in training))
    both = [_has_both_sorts(g) for g in splits["evaluation"]]
    keepable = [share_kept(asked_, write_witness(asked_)) for asked_ in every]
    most = max(all_ for all_, _, _ in empty_shares(splits["evaluation"]).values())
    return [
        Gate("prompts that one answer can keep whole", float(np.mean(keepable)), 1, 1),
        Gate("kinds that training meets", len(trained_kinds), len(TRAINED_KINDS), len(KINDS)),
        Gate("new kinds that training meets", len(trained_kinds & set(HELD_OUT_KINDS)), 0, 0),
        Gate("evaluation's instructions in training", len(trained & asked["evaluation"]), 0, 0),
        Gate("evaluation prompts with both sorts", float(np.mean(both)), 1, 1),
        Gate("share kept by answers that say nothing", most, 0, MOST_FOR_NOTHING),
    ]


def empty_shares(prompts: Iterable[Group]) -> dict[str, tuple[float, float, float]]:
    """The share of evaluation's constraints that each of `EMPTY_ANSWERS` keeps.

    Returns:
        name -> share of all constraints, of trained kinds, and of new ones.
    """
    asked = [constraints_of(g) for g in prompts]
    sorts = [
        [[c for c in each if c.kind in kinds] for each in asked]
        for kinds in (KINDS, TRAINED_KINDS, HELD_OUT_KINDS)
    ]
    return {
        name: (_kept(sorts[0], text), _kept(sorts[1], text), _kept(sorts[2], text))
        for name, text in EMPTY_ANSWERS.items()
    }


def _kept(asked: Sequence[Sequence[Constraint]], text: str) -> float:
    return float(np.mean([share_kept(each, text) for each in asked if each]))


def empty_answer_lines(prompts: Iterable[Group]) -> Iterator[str]:
    """Yield a table of what answers that say nothing keep."""
    yield f"{'an answer that says nothing':32s} {'all':>7s} {'trained':>8s} {'new':>7s}"
    for name, (every, trained, new) in empty_shares(prompts).items():
        yield f"{name:32s} {every:7.2f} {trained:8.2f} {new:7.2f}"


def _has_both_sorts(group: Group) -> bool:
    kinds = {c.kind for c in constraints_of(group)}
    return bool(kinds & set(TRAINED_KINDS)) and bool(kinds & set(HELD_OUT_KINDS))


def answer_gates(judged: Sequence[Group], flips: float) -> list[Gate]:
    """Check a model's answers, with an annotator's preferences: is there something to learn?

    Args:
        judged: several answers to each prompt, compared two by two.
        flips: how often the annotator errs.
    """
    true = [np.array(true_shares(g)) for g in judged]
    gain = [t.max() - t.mean() for t in true]
    agrees = [
        float((t[p.i] > t[p.j]) == (p.p > 0.5))
        for g, t in zip(judged, true, strict=True)
        for p in g.preferences
        if abs(t[p.i] - t[p.j]) > LEAST_GAP and p.p != 0.5
    ]
    differ = float(np.mean([t.max() - t.min() > LEAST_GAP for t in true]))
    right = float(np.mean(agrees)) if agrees else float("nan")
    return [
        Gate("share of constraints kept", float(np.mean([t.mean() for t in true])), 0.1, 0.9),
        Gate("prompts whose answers differ in truth", differ, 0.2, 1),
        Gate("best of a prompt's answers over their mean", float(np.mean(gain)), 0.05, 1),
        Gate("annotator right where answers differ", right, 0.85 - flips, 1),
    ]


def kind_lines(answers: Sequence[Group]) -> Iterator[str]:
    """Yield a table: the share kept of each kind, strictly and loosely, and how often asked."""
    strict, loose = kept_by_kind(answers), kept_by_kind(answers, loose=True)
    yield f"{'kind':20s} {'group':8s} {'sort':8s} {'strict':>7s} {'loose':>7s} {'asked':>7s}"
    for kind, (share, n) in strict.items():
        sort = "new" if kind in HELD_OUT_KINDS else "trained"
        about = f"{kind:20s} {KINDS[kind].group:8s} {sort:8s}"
        yield f"{about} {share:7.2f} {loose[kind][0]:7.2f} {n:7d}"
    for name, kinds in (("trained kinds", TRAINED_KINDS), ("new kinds", HELD_OUT_KINDS)):
        yield f"{name:38s} {_mean(strict, kinds):7.2f} {_mean(loose, kinds):7.2f}"


def _mean(shares: Mapping[str, tuple[float, int]], kinds: Sequence[str]) -> float:
    """The share kept over all constraints of some kinds."""
    told = [shares[kind] for kind in kinds if kind in shares]
    asked = sum(n for _, n in told)
    return sum(share * n for share, n in told) / asked if asked else float("nan")
