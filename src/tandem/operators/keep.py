"""Operators that choose which completions of a group to keep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tandem.data.record import Group
from tandem.errors import ConfigError, DataError
from tandem.operators.columns import (
    Scores,
    check_choice,
    check_count,
    check_share,
    largest_cluster,
    scores_of,
)
from tandem.rng import Seed

Scope = Literal["global", "per_prompt"]


@dataclass(frozen=True)
class best:
    """Keep the n completions of each prompt with the highest scores, best first.

    n = 1 is best-of-n's answer and RAFT's local ranking (arXiv:2304.06767); ties go to the
    earlier completion, which for independent samples shares the mass as the policy does.
    """

    n: int = 1

    def __post_init__(self) -> None:
        check_count("best", "n", self.n)

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group with its n best completions."""
        for group in groups:
            order = np.argsort(-scores_of(group, "best"), kind="stable")
            yield group.keep(order[: self.n].tolist())


@dataclass(frozen=True)
class above:
    """Keep completions whose score is strictly above a threshold (ReST, arXiv:2308.08998).

    Attributes:
        tau: threshold on the scores as they are; or
        quantile: keep what lies above this quantile of the scores in scope.
        scope: whose quantile: of the whole collection (the paper) or of each prompt's own scores.
        unit: tau is on scores rescaled to [0, 1] over the scope (the paper's .7, .8, .9, ...).

    A global scope reads the collection twice. Raises DataError when nothing at all survives.
    """

    tau: float | None = None
    quantile: float | None = None
    scope: Scope = "global"
    unit: bool = False

    def __post_init__(self) -> None:
        check_choice("above", "scope", self.scope, get_args(Scope))
        if (self.tau is None) == (self.quantile is None):
            raise ConfigError(
                f"`above` has tau = {self.tau} and quantile = {self.quantile}",
                "a threshold is either a score or a quantile of the scores",
                "give exactly one of the two",
            )
        if self.quantile is not None and not 0 <= self.quantile < 1:
            raise ConfigError(
                f"`above` has quantile = {self.quantile}",
                "nothing lies above the largest score",
                "give 0 <= quantile < 1",
            )
        if self.tau is not None and self.scope == "per_prompt" and not self.unit:
            raise ConfigError(
                f"`above` has tau = {self.tau} with scope = 'per_prompt'",
                "a threshold on raw scores is the same number for every prompt",
                "give a quantile, or unit=True to rescale each prompt's scores to [0, 1]",
            )

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group with the completions above the threshold."""
        if self.scope == "per_prompt":
            cut = None
        elif self.tau is not None and not self.unit:
            cut = self.tau
        else:
            groups = readable_twice(groups)
            cut = self.cut(np.concatenate([np.empty(0), *(scores_of(g, "above") for g in groups)]))
        survived, seen, top = 0, 0, -math.inf
        for group in groups:
            scores = scores_of(group, "above")
            kept = np.flatnonzero(scores > (self.cut(scores) if cut is None else cut))
            seen, top = seen + 1, max(top, float(scores.max()))
            if len(kept):
                survived += 1
                yield group.keep(kept.tolist())
        if seen and not survived:
            raise DataError(
                f"`{self!r}` keeps no completion of {seen} groups; the highest score is {top:.4g}",
                "training on nothing would leave the policy as it is and call it an improvement",
                "lower the threshold, or sample more completions per prompt",
            )

    def cut(self, scores: Scores) -> float:
        """Return the threshold, in raw scores, given the scores that are in scope."""
        if self.tau is not None and not self.unit:
            return self.tau
        if not len(scores):
            return 0.0
        if self.quantile is not None:
            rank = math.ceil(round(self.quantile * len(scores), 9))
            return float(np.sort(scores)[rank - 1]) if rank else -math.inf
        low, high = float(scores.min()), float(scores.max())
        assert self.tau is not None
        return low + self.tau * (high - low)


@dataclass(frozen=True)
class top_share:
    """Keep the given share of all completions, whichever prompts they answer (RAFT, global).

    Exactly floor(share * all completions) remain, at least one; ties at the cut are drawn by lot.
    Hard prompts starve: their best answers may score below easy prompts' worst. It is
    `above(quantile=1 - share)` where no scores are equal. Reads the collection twice.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(
                f"`top_share` has share = {self.share}",
                "it is the part of all completions that is kept",
                "give 0 < share <= 1; RAFT keeps 1 / K",
            )

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group with its completions that are in the global top."""
        groups = readable_twice(groups)
        rows = [scores_of(group, "top_share") for group in groups]
        if not rows:
            return
        scores = np.sort(np.concatenate(rows))[::-1]
        room = max(1, math.floor(round(self.share * len(scores), 9)))
        cut = float(scores[room - 1])
        tied = [
            (seed.at("top_share", group.id, i).value, group.id, i)
            for group, row in zip(groups, rows, strict=True)
            for i in np.flatnonzero(row == cut).tolist()
        ]
        lucky = {key[1:] for key in sorted(tied)[: room - int((scores > cut).sum())]}
        for group, row in zip(groups, rows, strict=True):
            kept = [i for i in range(len(row)) if row[i] > cut or (group.id, i) in lucky]
            if kept:
                yield group.keep(kept)


@dataclass(frozen=True)
class rejection:
    """Keep completions so that what is kept follows pi_sft exp(r / beta) / Z.

    RSO's statistical rejection sampling (arXiv:2309.06657, Algorithm 1), on candidates drawn
    from pi_sft. Each keeps its multiplicity: the paper's routine keys candidates by text, which
    loses it (on a small space that puts .87 on the best answer where .67 is right).

    `pool` (the paper): in rounds over those not yet accepted, accept each in order with
    probability exp((r - max r left) / beta), until `keep` are accepted; always returns
    min(keep, n). beta = 0 keeps the top by score, beta = inf the first. It leans towards
    pi_sft as keep / n grows.
    `iid`: one pass with a known bound on r; what is accepted is exactly independent draws of
    the tilted law. It may accept fewer than `keep`; a group with none accepted is left out.

    Attributes:
        beta: temperature of the tilt, in units of the scores.
        keep: completions to accept per prompt.
        mode: `pool` or `iid`.
        bound: `iid` only: an upper bound on the score.
        dedupe: drop repeated texts before sampling (changes the law; may return fewer).
        unit: beta is in units of the `score`, or of the `spread` (standard deviation) of each
            prompt's own scores, which makes it mean the same for every prompt and reward model.
    """

    beta: float
    keep: int
    mode: Literal["pool", "iid"] = "pool"
    bound: float | None = None
    dedupe: bool = False
    unit: Literal["score", "spread"] = "score"

    def __post_init__(self) -> None:
        check_count("rejection", "keep", self.keep)
        check_choice("rejection", "mode", self.mode, ("pool", "iid"))
        check_choice("rejection", "unit", self.unit, ("score", "spread"))
        if not self.beta >= 0:
            raise ConfigError(
                f"`rejection` has beta = {self.beta}",
                "the samples follow pi_sft exp(r / beta)",
                "give beta >= 0: 0 is the top by score, infinity plain samples, the paper .5",
            )
        if (self.mode == "iid") != (self.bound is not None):
            raise ConfigError(
                f"`rejection` has mode = {self.mode!r} and bound = {self.bound}",
                "independent draws need a bound on the score that holds for every completion, "
                "while the pool finds its own",
                "give mode='iid' and a bound together, or neither",
            )
        if self.mode == "iid" and self.unit == "spread":
            raise ConfigError(
                "`rejection` has mode = 'iid' and unit = 'spread'",
                "a bound on the score says nothing in units of each prompt's own spread",
                "give unit='score', or mode='pool'",
            )

    def scale(self, group: Group) -> float:
        """Return the unit of `beta`: 1, or the spread of the scores where there is one."""
        return float(scores_of(group, "rejection").std()) or 1.0 if self.unit == "spread" else 1.0

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group with its accepted completions, in the order of acceptance."""
        for group in groups:
            scores = scores_of(group, "rejection") / self.scale(group)
            rng = seed.at("rejection", group.id).rng()
            pool = self.candidates(group)
            accept = self._rounds if self.mode == "pool" else self._pass
            if kept := accept(group, scores, pool, rng):
                yield group.keep(kept)

    def candidates(self, group: Group) -> list[int]:
        """Return which completions may be accepted."""
        return _unique_texts(group) if self.dedupe else list(range(len(group)))

    def _rounds(
        self, group: Group, scores: Scores, pool: list[int], rng: np.random.Generator
    ) -> list[int]:
        accepted: list[int] = []
        while pool and len(accepted) < self.keep:
            chances = _tilt(scores[pool], float(scores[pool].max()), self.beta)
            lucky = rng.random(len(pool)) < chances
            accepted += [i for i, yes in zip(pool, lucky, strict=True) if yes]
            pool = [i for i, yes in zip(pool, lucky, strict=True) if not yes]
        return accepted[: self.keep]

    def _pass(
        self, group: Group, scores: Scores, pool: list[int], rng: np.random.Generator
    ) -> list[int]:
        assert self.bound is not None
        if float(scores.max()) > self.bound:
            raise DataError(
                f"group `{group.id}` has a score of {float(scores.max()):.6g}, above "
                f"bound = {self.bound}",
                "a probability of acceptance above 1 would bend the law",
                "raise the bound, or use mode='pool', which needs none",
            )
        lucky = rng.random(len(pool)) < _tilt(scores[pool], self.bound, self.beta)
        return [i for i, yes in zip(pool, lucky, strict=True) if yes][: self.keep]


@dataclass(frozen=True)
class distinct:
    """Keep each answer to a prompt once: of completions with equal text, the first.

    Preferences follow. One between two equal answers is dropped; of two about the same texts both
    stay. Scores and clusters are the first one's.
    """

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group with different answers."""
        for group in groups:
            first = {group.completions[i].text: i for i in _unique_texts(group)}
            same = [first[c.text] for c in group.completions]
            votes = tuple(
                replace(vote, i=same[vote.i], j=same[vote.j])
                for vote in group.preferences
                if same[vote.i] != same[vote.j]
            )
            yield replace(group, preferences=votes).keep(list(first.values()))


@dataclass(frozen=True)
class majority:
    """Keep the completions of the largest cluster: self-consistency (LMSI, arXiv:2210.11610).

    Ties go to the higher mean score where there are scores, then to the cluster seen first. A
    negative cluster means "no answer found": it counts in n and is never the majority.

    Attributes:
        floor: least share of the n completions that the cluster must hold.
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        check_share("majority", "floor", self.floor)

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each confident group with the completions that agree."""
        for group in groups:
            inside = largest_cluster(group, "majority")
            if inside and len(inside) / len(group) >= self.floor:
                yield group.keep(inside)


@dataclass(frozen=True)
class correct:
    """Keep the completions that the answer key marked right, score 1 of {0, 1} (STaR)."""

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group with its right completions; one without any is left out."""
        for group in groups:
            scores = scores_of(group, "correct")
            if not np.isin(scores, (0.0, 1.0)).all():
                raise DataError(
                    f"`correct` needs scores of 0 and 1; group `{group.id}` has {scores.tolist()}",
                    "an answer is right or wrong; a reward has no such line",
                    "judge with an answer key, or select with `above(tau)`",
                )
            if scores.any():
                yield group.keep(np.flatnonzero(scores).tolist())


@dataclass(frozen=True)
class incorrect:
    """Keep the groups in which nothing is right: what STaR gives a second try, with a hint.

    Completions stay. With one completion a group, `correct` and `incorrect` part a collection.
    """

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group without a right completion."""
        for group in groups:
            if not scores_of(group, "incorrect").any():
                yield group


def _tilt(scores: Scores, top: float, beta: float) -> npt.NDArray[Any]:
    """Return exp((scores - top) / beta); at beta = 0 that is 1 for the top and 0 elsewhere."""
    if beta == 0:
        return (scores >= top).astype(np.float64)
    return np.exp((scores - top) / beta)


def _unique_texts(group: Group) -> list[int]:
    first: dict[str, int] = {}
    for i, completion in enumerate(group.completions):
        first.setdefault(completion.text, i)
    return list(first.values())


def readable_twice(groups: Iterable[Group]) -> Iterable[Group]:
    """Return something that can be read twice."""
    return list(groups) if isinstance(groups, Iterator) else groups
