"""The task `constraints`: real instructions for any chat model, with a truth on its text.

    task = Constraints()
    prompts = task.prompts("preference", 400, Seed(0))     # chat messages; the model is yours
    humans = task.annotator(flips=0.25)                    # Groups in, Groups with preferences out
    scored = task.truth()(answers)                         # share of the constraints kept

Each prompt is an instruction with one to three constraints that a program can check. The base
model writes its own demonstrations: of several answers a rater's favourite is kept. No part of
this package loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.rng import Seed
from tandem.tasks.constraints.annotators import (
    START,
    ConstraintAnnotator,
    ConstraintRater,
    ConstraintTruth,
    constraints_of,
    true_shares,
)
from tandem.tasks.constraints.checkers import KINDS, read_constraint
from tandem.tasks.constraints.scoring import check_answer, share_kept
from tandem.tasks.constraints.splits import HELD_OUT_KINDS, TRAINED_KINDS, draw_constraint_prompts

__all__ = [
    "HELD_OUT_KINDS",
    "KINDS",
    "TRAINED_KINDS",
    "ConstraintAnnotator",
    "ConstraintRater",
    "ConstraintTruth",
    "Constraints",
    "check_answer",
    "constraints_of",
    "kept_by_kind",
    "read_constraint",
    "share_kept",
    "true_shares",
]


@dataclass(frozen=True)
class Constraints:
    """The task: prompts by split, the truth, and who judges by it with noise."""

    name: str = "constraints"

    def prompts(self, split: str, n: int, seed: Seed) -> Groups:
        """Prompts without completions, all different.

        Args:
            split: "sft", "preference", "unlabelled" or "evaluation"; see `splits`.
            n: how many.
            seed: where the draws start.

        Raises:
            DataError: no such split, or it does not hold that many prompts.
        """
        return Groups.of(draw_constraint_prompts(split, n, seed))

    def truth(self, *, loose: bool = False) -> ConstraintTruth:
        """The judge that writes the share of constraints kept to `scores`."""
        return ConstraintTruth("truth, loose" if loose else "truth", loose)

    def annotator(self, flips: float = 0.25, seed: Seed = START) -> ConstraintAnnotator:
        """Somebody who compares completions (0, 1), (2, 3), ... and errs at this rate."""
        return ConstraintAnnotator(flips=flips, seed=seed)

    def rater(self, seed: Seed = START) -> ConstraintRater:
        """Somebody whose favourites among a model's own answers are its demonstrations."""
        return ConstraintRater(seed=seed)

    def tallies(self) -> dict[str, Callable[[Group], float]]:
        """What is counted beside the truth: column -> the group's mean.

        `all kept` is the share of answers that keep every constraint, `loose` the truth read
        loosely, `trained kinds` and `new kinds` the share kept of either sort of constraint.
        """
        return {
            "all kept": lambda g: float(np.mean([t == 1 for t in true_shares(g)])),
            "loose": lambda g: float(np.mean(true_shares(g, loose=True))),
            "trained kinds": lambda g: _share_of(g, TRAINED_KINDS),
            "new kinds": lambda g: _share_of(g, HELD_OUT_KINDS),
        }


def kept_by_kind(groups: Iterable[Group], *, loose: bool = False) -> dict[str, tuple[float, int]]:
    """The share kept of each kind of constraint, and how often it was asked; kinds in order."""
    told: dict[str, list[bool]] = {}
    for group in groups:
        asked = constraints_of(group)
        for completion in group.completions:
            for constraint, holds in zip(
                asked, check_answer(asked, completion.text, loose=loose), strict=True
            ):
                told.setdefault(constraint.kind, []).append(holds)
    return {k: (float(np.mean(told[k])), len(told[k])) for k in KINDS if k in told}


def _share_of(group: Group, kinds: tuple[str, ...]) -> float:
    """The mean share kept of some kinds; evaluation prompts have both sorts."""
    asked = [c for c in constraints_of(group) if c.kind in kinds]
    if not asked:
        return float("nan")
    return float(np.mean([share_kept(asked, c.text) for c in group.completions]))
