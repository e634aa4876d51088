"""Operators that choose which completions to compare, and which comparisons to learn from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from tandem.data.record import Group, Preference
from tandem.operators.columns import Scores, check_choice, check_share, largest_cluster, scores_of
from tandem.rng import Seed

Pairing = Literal["first-round", "tournament", "all", "best-worst"]
BY_SCORES = "scores"
BY_CLUSTERS = "clusters"


@dataclass(frozen=True)
class rank_pairs:
    """Compare completions by their scores: the preferred one comes first in each pair.

    `first-round` (RSO's default): shuffle, n // 2 disjoint pairs. `tournament`: winners meet
    again, n - 1 pairs. `all`: every pair. `best-worst`: one pair, the extremes. Equal scores make
    a tie (p = .5); `clean_pairs` drops those. Preferences that were there are replaced.

    Attributes:
        pairing: which completions meet.
        soft: p = sigmoid(score difference) instead of 1.
    """

    pairing: Pairing = "first-round"
    soft: bool = False

    def __post_init__(self) -> None:
        check_choice("rank_pairs", "pairing", self.pairing, get_args(Pairing))

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group of two or more completions with preferences written."""
        for group in groups:
            scores = scores_of(group, "rank_pairs")
            if len(scores) < 2:
                continue
            order = seed.at("rank_pairs", group.id).rng().permutation(len(scores)).tolist()
            pairs = [
                (i, j) if scores[i] >= scores[j] else (j, i) for i, j in self._meet(scores, order)
            ]
            yield replace(
                group,
                preferences=tuple(
                    Preference(i, j, self._p(float(scores[i] - scores[j])), by=BY_SCORES)
                    for i, j in pairs
                ),
            )

    def _p(self, difference: float) -> float:
        if difference == 0:
            return 0.5
        return 1 / (1 + math.exp(-difference)) if self.soft else 1.0

    def _meet(self, scores: Scores, order: list[int]) -> list[tuple[int, int]]:
        if self.pairing == "all":
            return list(itertools.combinations(range(len(order)), 2))
        if self.pairing == "best-worst":
            ranked = np.argsort(-scores, kind="stable")
            return [(int(ranked[0]), int(ranked[-1]))]
        met: list[tuple[int, int]] = []
        while len(order) > 1:
            now = list(zip(order[::2], order[1::2], strict=False))
            met += now
            resting = order[len(now) * 2 :]
            order = [max(pair, key=lambda i: scores[i]) for pair in now] + resting
            if self.pairing == "first-round":
                break
        return met


@dataclass(frozen=True)
class synthetic_pairs:
    """Prefer a completion that many agree with to one that they do not (RLP-SPG, arXiv:2403.19279).

    The largest cluster g of the n completions, kept if |g| / n reaches gamma and somebody is
    outside it; y_w in g, y_l uniform outside g. Ties between clusters go to the higher mean
    score, then to the cluster seen first.

    Attributes:
        gamma: confidence asked for.
        confidence: `>=` as the paper writes; the slide's `>` differs when |g| = gamma n.
        winner: y_w is the best-scored member of g (the paper) or a uniform one (the slide).
    """

    gamma: float = 0.5
    confidence: Literal[">=", ">"] = ">="
    winner: Literal["argmax_reward", "uniform"] = "argmax_reward"

    def __post_init__(self) -> None:
        check_share("synthetic_pairs", "gamma", self.gamma)
        check_choice("synthetic_pairs", "confidence", self.confidence, (">=", ">"))
        check_choice("synthetic_pairs", "winner", self.winner, ("argmax_reward", "uniform"))

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield one pair for each prompt that is kept: completion 0 is preferred to 1."""
        for group in groups:
            inside = largest_cluster(group, "synthetic_pairs")
            outside = sorted(set(range(len(group))) - set(inside))
            share = len(inside) / max(1, len(group))
            confident = share > self.gamma or (self.confidence == ">=" and share == self.gamma)
            if not (confident and inside and outside):
                continue
            rng = seed.at("synthetic_pairs", group.id).rng()
            loser = outside[int(rng.integers(len(outside)))]
            if self.winner == "uniform":
                chosen = inside[int(rng.integers(len(inside)))]
            else:
                scores = scores_of(group, "synthetic_pairs")
                chosen = max(inside, key=lambda i, s=scores: float(s[i]))
            pair = replace(group, preferences=()).keep([chosen, loser])
            yield replace(pair, preferences=(Preference(0, 1, by=BY_CLUSTERS),))


@dataclass(frozen=True)
class shuffled_clusters:
    """Deal a group's cluster numbers to its completions at random: sizes stay, meaning goes.

    The control of SPG: the same prompts are kept, the same number of pairs is made.
    """

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group with its clusters in another order."""
        for group in groups:
            largest_cluster(group, "shuffled_clusters")
            order = seed.at("shuffled_clusters", group.id).rng().permutation(len(group))
            assert group.clusters is not None
            yield replace(group, clusters=group.clusters[order])


@dataclass(frozen=True)
class clean_pairs:
    """Drop pairs that teach nothing: equal texts, ties, and scores closer than `gap`.

    A group without a pair left is left out. Completions stay.
    """

    gap: float = 0.0

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group with the pairs that are worth learning from."""
        for group in groups:
            scores = scores_of(group, "clean_pairs") if self.gap > 0 else None
            kept = tuple(p for p in group.preferences if self._teaches(group, p, scores))
            if kept:
                yield replace(group, preferences=kept)

    def _teaches(self, group: Group, pair: Preference, scores: Scores | None) -> bool:
        different = group.completions[pair.i].text != group.completions[pair.j].text
        apart = scores is None or abs(float(scores[pair.i] - scores[pair.j])) >= self.gap
        return different and apart and pair.p != 0.5
