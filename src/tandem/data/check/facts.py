"""Facts that a data check counts: lengths, ties, duplicates, contradictions, empty answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tandem.data.chat.transcripts import prompt_key
from tandem.data.groups import Groups
from tandem.data.record import Group

if TYPE_CHECKING:
    pass

BINS, BAR = 10, 40


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
    def of(cls, sizes: Sequence[int], unit: str, limit: int | None = None) -> Lengths:
        """Count sizes into a histogram."""
        counts, edges = np.histogram(sizes, bins=BINS)
        low, middle, high, top = (int(np.quantile(sizes, q)) for q in (0, 0.5, 0.95, 1))
        return cls(
            unit,
            limit,
            (low, middle, high, top),
            tuple(int(x) for x in np.ceil(edges)),
            tuple(int(x) for x in counts),
            0 if limit is None else sum(s > limit for s in sizes),
        )


def count_facts(groups: Groups) -> DataFacts:
    """Count duplicates, contradictions and the length baseline in one pass."""
    n = dict.fromkeys(("completions", "preferences", "scored", "duplicates", "contradictory"), 0)
    seen: set[bytes] = set()
    winners: dict[bytes, bool] = {}
    gaps: list[int] = []
    largest, binary = 0, True
    for group in groups:
        key = _hash([prompt_key(group.prompt), *sorted(c.text for c in group.completions)])
        n["duplicates"] += key in seen
        seen.add(key)
        n["completions"] += len(group)
        n["preferences"] += len(group.preferences)
        n["scored"] += group.scores is not None
        n["contradictory"] += _contradictions(group, winners)
        largest = max(largest, len(group))
        if group.scores is not None:
            binary = binary and bool(np.isin(group.scores, (0, 1)).all())
        gaps += _gaps(group)
    signs = np.sign(gaps)
    return DataFacts(
        groups=len(groups),
        largest=largest,
        binary=binary,
        ties=n["preferences"] - len(gaps),
        decided=len(gaps),
        chosen_longer=float((signs > 0).mean()) if gaps else None,
        longest_wins=float((signs > 0).mean() + 0.5 * (signs == 0).mean()) if gaps else None,
        **n,
    )


def _gaps(group: Group) -> list[int]:
    """Characters by which the winner of each decided preference is longer."""
    sizes = [len(c.text) for c in group.completions]
    return [sizes[v.winner] - sizes[v.loser] for v in group.preferences if v.p != 0.5]


def _contradictions(group: Group, winners: dict[bytes, bool]) -> int:
    found = 0
    prompt = prompt_key(group.prompt)
    for vote in group.preferences:
        if vote.p == 0.5:
            continue
        better, worse = group.completions[vote.winner].text, group.completions[vote.loser].text
        first = better < worse
        key = _hash([prompt, *sorted((better, worse))])
        found += winners.setdefault(key, first) != first
    return found


def _hash(texts: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=12)
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
