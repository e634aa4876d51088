"""Facts that a data check counts: lengths, ties, duplicates, contradictions, empty answers."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.groups import Groups
from tandem.data.record import Group

BINS, BAR = 10, 40
ROUNDING = 1e-9
"""Floats are cut to whole numbers: 3.9999999999 is 4."""


@dataclass(frozen=True)
class DataFacts:
    """Counts over the groups.

    Attributes:
        groups: groups.
        completions: completions.
        preferences: preferences, ties included.
        scored: groups with scores.
        largest: completions of the largest group.
        binary: True if all scores are 0 or 1.
        duplicates: groups that repeat an earlier group's prompt and answers.
        contradictory: preferences that an earlier one of the same two answers contradicts.
        ties: preferences with p = 1/2.
        decided: preferences with a winner.
        chosen_longer: share of the decided in which the winner has more characters.
        longest_wins: accuracy of "the longest answer wins" on the decided; equal lengths half.
    """

    groups: int = 0
    completions: int = 0
    preferences: int = 0
    scored: int = 0
    largest: int = 0
    binary: bool = True
    duplicates: int = 0
    contradictory: int = 0
    ties: int = 0
    decided: int = 0
    chosen_longer: float | None = None
    longest_wins: float | None = None


@dataclass(frozen=True)
class Lengths:
    """Lengths of prompt + completion.

    Attributes:
        unit: `tokens` or `characters`.
        limit: the context asked about, in tokens.
        quantiles: minimum, median, 95 %, maximum.
        edges: [BINS + 1] borders of the histogram.
        counts: [BINS] completions in each bin.
        too_long: completions longer than the limit.
        groups_dropped: groups that truncation `drop` would leave out.
        ends: last token -> completions that end in it, the five most frequent.
        double_bos: prompts that begin with two BOS tokens.
        inner_eos: completions that hold an end before their end, because the text spells it.
        endless: completions that end in a token which ends no sampling.
        stops: the tokens at which sampling ends, by name.
        plain: groups of plain text although the tokenizer has a chat template.
        transcripts: groups of messages read as transcripts, for want of a template.
        refused: reason -> groups that could not be rendered.
    """

    unit: str
    limit: int | None
    quantiles: tuple[int, int, int, int]
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    too_long: int = 0
    groups_dropped: int = 0
    ends: dict[str, int] = field(default_factory=dict[str, int])
    double_bos: int = 0
    inner_eos: int = 0
    endless: int = 0
    stops: tuple[str, ...] = ()
    plain: int = 0
    transcripts: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def truncated(self) -> float:
        """Share of completions that do not fit."""
        return self.too_long / max(1, sum(self.counts))

    @classmethod
    def of(cls, sizes: Counter[int], unit: str, limit: int | None = None) -> Lengths:
        """Put counted sizes (size -> how often) into a histogram; quantiles are interpolated."""
        values = np.array(sorted(sizes), np.int64)
        often = np.array([sizes[int(v)] for v in values], np.int64)
        counts, edges = np.histogram(values, bins=BINS, weights=often)
        low, middle, high, top = (_quantile(values, often, q) for q in (0, 0.5, 0.95, 1))
        return cls(
            unit,
            limit,
            (low, middle, high, top),
            tuple(int(x) for x in np.ceil(edges)),
            tuple(int(x) for x in counts),
            0 if limit is None else int(often[values > limit].sum()),
        )


def _quantile(values: Any, often: Any, q: float) -> int:
    """Return a quantile of counted values, between two of them by a straight line."""
    ends = np.cumsum(often)
    at = q * (int(ends[-1]) - 1)
    below, above = (
        values[np.searchsorted(ends, k, side="right")] for k in (int(at), int(np.ceil(at)))
    )
    return int(below + (above - below) * (at - int(at)) + ROUNDING)


class _Votes:
    """Decided preferences by the pair that they are about, to count contradictions at the end."""

    def __init__(self) -> None:
        self.pairs, self.first = array("Q"), array("B")

    def add(self, group: Group) -> None:
        """Note the decided preferences of a group."""
        asked = prompt_key(group.prompt)
        for vote in group.preferences:
            if vote.p == 0.5:
                continue
            better, worse = group.completions[vote.winner].text, group.completions[vote.loser].text
            self.pairs.append(hash_texts([asked, *sorted((better, worse))]))
            self.first.append(better < worse)

    def contradictions(self) -> int:
        """Return how many differ from the first about the same pair."""
        if not self.pairs:
            return 0
        first = np.array(self.first)
        _, start, which = np.unique(self.pairs, return_index=True, return_inverse=True)
        return int((first != first[start[which]]).sum())


def count_facts(groups: Groups) -> DataFacts:
    """Count duplicates, contradictions and the length baseline in one pass.

    Of every group and of every decided preference 8 or 9 bytes are kept.
    """
    n = dict.fromkeys(("completions", "preferences", "scored"), 0)
    seen, votes = array("Q"), _Votes()
    longer = Counter[int]()
    largest, binary = 0, True
    for group in groups:
        seen.append(
            hash_texts([prompt_key(group.prompt), *sorted(c.text for c in group.completions)])
        )
        n["completions"] += len(group)
        n["preferences"] += len(group.preferences)
        n["scored"] += group.scores is not None
        votes.add(group)
        largest = max(largest, len(group))
        if group.scores is not None:
            binary = binary and bool(np.isin(group.scores, (0, 1)).all())
        longer.update(_signs(group))
    decided = longer.total()
    wins, even = longer[1], longer[0]
    return DataFacts(
        groups=len(groups),
        largest=largest,
        binary=binary,
        duplicates=len(seen) - len(np.unique(seen)),
        contradictory=votes.contradictions(),
        ties=n["preferences"] - decided,
        decided=decided,
        chosen_longer=wins / decided if decided else None,
        longest_wins=(wins + 0.5 * even) / decided if decided else None,
        **n,
    )


def _signs(group: Group) -> list[int]:
    """Whether the winner of each decided preference is longer (1), as long (0) or shorter (-1)."""
    sizes = [len(c.text) for c in group.completions]
    gaps = (sizes[v.winner] - sizes[v.loser] for v in group.preferences if v.p != 0.5)
    return [(gap > 0) - (gap < 0) for gap in gaps]


def hash_texts(texts: Iterable[str]) -> int:
    """Return 64 bits of some texts, each with its length."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")
