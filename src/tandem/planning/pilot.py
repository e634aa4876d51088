"""A world made of the first labels of one's own: a plan is tried before the rest is bought.

A linear Bradley-Terry reward is fitted to the pilot's comparisons, on the last layer of the model
that wrote (or will write) the answers. What the labels leave open is its posterior; each simulated
world draws another truth from it. The reference policy is the model's own samples, equally likely.

What it assumes: tastes are linear in those features. Where they are not, a reward goes wrong in
the tail, and no pilot of a few hundred labels can show that: lay the advice of `--world narrow`
beside it.

Shapes: N comparisons, P prompts, K answers, d features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.groups import Groups
from tandem.errors import DataError
from tandem.machine import Machine
from tandem.planning.budget import WorldSource
from tandem.planning.tabular_world import TabularWorld, fit_linear_reward
from tandem.runs.checkpoint import Checkpoint
from tandem.stages.pair_pool import main_directions, read_answers
from tandem.statistics.numerics import Floats, logistic

FEWEST = 30
"""Comparisons below which a posterior says hardly more than the prior."""
FOLDS = 5
"""Parts of the prompts; each is predicted from the others, so there are as many prompts or more."""
FLIPS = tuple(np.arange(0, 0.45, 0.05).tolist())
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, eq=False)
class Pilot:
    """What a pilot's labels say.

    Attributes:
        answers: [P, K, d] features of the model's own answers.
        weights: [d] the posterior mean of the linear reward.
        root: [d, d] a root of its covariance.
        flips: share of labels that nothing explains, by cross-validation.
        accuracy: how often the reward is right on labels of prompts that it was not fitted to.
        labels: N.
    """

    answers: Floats
    weights: Floats
    root: Floats
    flips: float
    accuracy: float
    labels: int

    def worlds(self, beta: float = 0.3, seed: int = 0) -> WorldSource:
        """Return worlds whose truth is drawn from the posterior."""
        share = np.full(self.answers.shape[:2], 1 / self.answers.shape[1])

        def world(number: int) -> TabularWorld:
            rng = np.random.default_rng([seed, number, 2])
            w = self.weights + self.root @ rng.normal(size=len(self.weights))
            return TabularWorld(self.answers, self.answers @ w, share, beta, self.flips)

        return world

    def __str__(self) -> str:
        prompts, answers, size = self.answers.shape
        return (
            f"pilot of {self.labels} comparisons: a linear reward on {size} features is right on "
            f"{self.accuracy:.0%} of labels of other prompts; {self.flips:.0%} of the labels "
            f"are noise; simulated on {answers} answers to each of {prompts} prompts"
        )


def read_pilot(
    judged: Groups, answers: Groups, model: Checkpoint, machine: Machine, size: int = 16
) -> Pilot:
    """Fit a pilot's labels, and read the model's answers in the same features.

    Args:
        judged: the pilot: groups with preferences.
        answers: prompts with the same number of answers each, of the policy to be improved.
        model: gives the features.
        machine: where it runs.
        size: d, features that are kept.

    Raises:
        DataError: there are too few comparisons, or too few prompts.
    """
    require_comparisons(judged)
    seen, _ = read_answers(judged, model, machine)
    rows = [
        (seen[g][p.i] - seen[g][p.j], p.p, prompt_key(group.prompt))
        for g, group in enumerate(judged)
        for p in group.preferences
    ]
    differences, labels, prompts = zip(*rows, strict=True)
    pairs, axes = main_directions(np.stack(differences), size)
    told = np.stack(read_answers(answers, model, machine)[0]) @ axes
    centred = told - told.mean(axis=1, keepdims=True)
    return fit_pilot(pairs, np.array(labels), prompts, centred)


def require_comparisons(judged: Groups) -> None:
    """Refuse a pilot that says too little, before a model is asked.

    Raises:
        DataError: there are too few comparisons, or too few prompts.
    """
    count = sum(len(group.preferences) for group in judged)
    if count < FEWEST:
        raise DataError(
            f"the pilot has {count} comparisons",
            f"below {FEWEST} they say hardly more than nothing does",
            "label some more, or leave --pilot out and plan with a simulated world",
        )
    prompts = len({prompt_key(group.prompt) for group in judged if group.preferences})
    if prompts < FOLDS:
        raise DataError(
            f"the pilot's {count} comparisons are about {prompts} prompts",
            f"a reward is tried on prompts it was not fitted to, so there are {FOLDS} or more",
            "label answers to more prompts, or leave --pilot out and plan with a simulated world",
        )


def fit_pilot(pairs: Floats, labels: Floats, prompts: Sequence[str], answers: Floats) -> Pilot:
    """Fit the reward, the prior and the noise to a pilot's comparisons.

    Args:
        pairs: [N, d] differences of features.
        labels: [N] P(first is better).
        prompts: [N] which prompt each is about: comparisons of one prompt are in one fold.
        answers: [P, K, d] features of the answers that are simulated.
    """
    names, owner = np.unique(np.array(prompts), return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(names)) % FOLDS)[owner]
    best = (np.inf, 1.0, 0.0, 0.5)
    for ridge, flips in itertools.product(RIDGES, FLIPS):
        z = np.empty(len(labels))
        for k in range(FOLDS):
            w, _ = fit_linear_reward(pairs[fold != k], labels[fold != k], ridge=ridge, flips=flips)
            z[fold == k] = pairs[fold == k] @ w
        right = float(np.mean(np.where(labels == 0.5, 0.5, (z > 0) == (labels > 0.5))))
        p = np.clip(flips + (1 - 2 * flips) * logistic(z), 1e-9, 1 - 1e-9)
        loss = float(-np.mean(labels * np.log(p) + (1 - labels) * np.log1p(-p)))
        best = min(best, (loss, ridge, flips, right))
    _, ridge, flips, right = best
    weights, covariance = fit_linear_reward(pairs, labels, ridge=ridge, flips=flips)
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(weights)))
    return Pilot(answers, weights, root, flips, right, len(labels))
