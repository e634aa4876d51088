"""Operators for unpaired data: preferences taken apart, and answers set beside other prompts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tandem.data.record import BoolArray, Group
from tandem.errors import ConfigError, DataError
from tandem.operators.columns import preferences_of, scores_of
from tandem.rng import Seed


@dataclass(frozen=True)
class unpair:
    """Turn preferences into single completions scored 1 (preferred) and 0, for KTO.

    Beware: this says that every preferred answer is good and every other one bad, although the
    winner of two bad answers is still bad. Use it to try KTO on pairs; collect thumbs up and
    down if you mean to rely on it. A completion in several pairs gets the side it is on more
    often; one that wins as often as it loses is left out. Ids become `<prompt id>/<index>`.
    """

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield one group for each completion that won or lost."""
        for group in groups:
            balance = np.zeros(len(group))
            for pair in preferences_of(group, "unpair"):
                balance[pair.i] += pair.p - 0.5
                balance[pair.j] -= pair.p - 0.5
            for i in np.flatnonzero(balance).tolist():
                single = replace(group, preferences=(), scores=None).keep([i])
                yield replace(
                    single,
                    prompt=replace(group.prompt, id=f"{group.id}/{i}"),
                    scores=np.array([float(balance[i] > 0)]),
                )


@dataclass(frozen=True)
class mismatch:
    """Set an answer to another prompt beside each group's own, for KTO's z0.

    z0 is the mean log-ratio of answers to prompts that they do not answer. Group i of n
    completions comes out with 2 n: its own, then as many of the group before it (the first one
    takes the last one's; repeated as needed). A mismatched completion keeps the neighbour's
    tokens and has weight 0 (no loss), score nan (nobody judged it there) and no log-probabilities
    (they belong to the other prompt). This is TRL 1.16's pairing, x_i with y_{i-1}; a neighbour
    with the same prompt is passed over for the one before it.

    Attributes:
        block: neighbours are taken, cyclically, within consecutive blocks of this many groups
            (TRL's per-device batch); None is the whole collection.
    """

    block: int | None = None

    def __post_init__(self) -> None:
        if self.block is not None and self.block < 2:
            raise ConfigError(
                f"`mismatch` has block = {self.block}",
                "an answer to another prompt needs another prompt",
                "give a block of 2 or more, or None for the whole collection",
            )

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield each group with its neighbour's completions added."""
        stream = iter(groups)
        while block := list(itertools.islice(stream, self.block)):
            for i, group in enumerate(block):
                yield _beside(group, _neighbour(block, i))


def is_mismatched(group: Group) -> BoolArray:
    """Return [n] True for completions that `mismatch` added."""
    return np.array([c.weight == 0 for c in group.completions], np.bool_) & np.isnan(
        np.zeros(len(group)) if group.scores is None else group.scores
    )


def _beside(group: Group, other: Group) -> Group:
    scores = scores_of(group, "mismatch")
    added = tuple(
        replace(c, weight=0.0, logp=None)
        for c in itertools.islice(itertools.cycle(other.completions), len(group))
    )
    return replace(
        group,
        completions=(*group.completions, *added),
        scores=np.concatenate([scores, np.full(len(added), np.nan)]),
        clusters=None,
    )


def _neighbour(block: list[Group], i: int) -> Group:
    for back in range(1, len(block)):
        other = block[i - back]
        if other.prompt.text != block[i].prompt.text and len(other):
            return other
    raise DataError(
        f"`mismatch` finds no other prompt for group `{block[i].id}` among {len(block)} groups",
        "KTO's z0 is measured on answers to other prompts",
        "give data with at least two different prompts, or a larger block",
    )
