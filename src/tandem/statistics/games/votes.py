"""Votes between two, as an arena or a labelling page exports them, counted into a game."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.errors import DataError
from tandem.statistics.games.cycles import Decomposition, decompose_flow
from tandem.statistics.games.matrix import PreferenceMatrix, check_names
from tandem.statistics.numerics import Floats, Ints

MOST_COUNTED = 5_000
"""Names above which votes are not counted: each table has the square of it."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Who won how often against whom.

    Attributes:
        names: n names.
        wins: [n, n] wins[i, j] is how often i won against j.
        ties: [n, n] symmetric: how often they tied.
    """

    names: tuple[str, ...]
    wins: Ints
    ties: Ints

    @property
    def counts(self) -> Ints:
        """How often each pair was compared, [n, n]."""
        return self.wins + self.wins.T + self.ties

    @property
    def total(self) -> int:
        """The number of votes."""
        return int(self.wins.sum() + self.ties.sum() // 2)

    def matrix(self, least: int = 1) -> PreferenceMatrix:
        """Return how often each is preferred to each other; a tie counts half for both.

        Args:
            least: votes that every pair needs.

        Raises:
            DataError: a pair has fewer; the message names the largest group found that has not.
        """
        counts = self.counts
        few = (counts < least) & ~np.eye(len(self.names), dtype=np.bool_)
        if few.any():
            raise self._too_few(few, least)
        share = (self.wins + self.ties / 2) / np.maximum(counts, 1)
        np.fill_diagonal(share, 0.5)
        return PreferenceMatrix(self.names, share)

    def log_odds(self) -> Floats:
        """Return empirical log-odds of winning, [n, n]: half a vote added to each side.

        So they are finite where one side won everything (Haldane, Anscombe).
        """
        won = self.wins + self.ties / 2 + 0.5
        return np.log(won) - np.log(won.T)

    def decomposition(self) -> Decomposition:
        """Split the empirical log-odds into a ranking and a cyclic rest."""
        return decompose_flow(self.names, self.log_odds(), "log-odds")

    def keep(self, names: Sequence[str]) -> Votes:
        """Return the votes between these names alone.

        Raises:
            DataError: nobody voted on one of them.
        """
        check_names(names)
        for name in names:
            if name not in self.names:
                raise DataError(
                    f"no vote is about `{name}`",
                    f"there are votes about {', '.join(self.names[:12])}",
                    "give names that the votes have",
                )
        rows = [self.names.index(name) for name in names]
        at = np.ix_(rows, rows)
        return Votes(tuple(names), self.wins[at], self.ties[at])

    def resampled(self, rng: np.random.Generator) -> Votes:
        """Draw as many votes again, with replacement, from those of each pair."""
        return self._drawn(rng, self.wins * 1.0, self.ties * 1.0, self.wins.T * 1.0)

    def simulated(self, expected: Floats, rng: np.random.Generator) -> Votes:
        """Draw as many votes for each pair, with as many ties, as if `expected` were the truth.

        Args:
            expected: [n, n] how often each is preferred to each other, ties counted half.
            rng: where the draws come from.
        """
        share = self.ties / np.maximum(self.counts, 1)
        return self._drawn(
            rng,
            np.maximum(expected - share / 2, 0.0),
            share,
            np.maximum(expected.T - share / 2, 0.0),
        )

    def _drawn(self, rng: np.random.Generator, won: Floats, tied: Floats, lost: Floats) -> Votes:
        i, j = np.triu_indices(len(self.names), 1)
        chances = np.stack([won[i, j], tied[i, j], lost[i, j]], 1).astype(np.float64)
        sums = chances.sum(1)[:, None]
        chances = np.where(sums > 0, chances / np.where(sums > 0, sums, 1), 1 / 3)
        drawn = rng.multinomial(self.counts[i, j], chances)
        wins, ties = np.zeros_like(self.wins), np.zeros_like(self.ties)
        wins[i, j], wins[j, i] = drawn[:, 0], drawn[:, 2]
        ties[i, j] = ties[j, i] = drawn[:, 1]
        return Votes(self.names, wins, ties)

    def _too_few(self, few: npt.NDArray[np.bool_], least: int) -> DataError:
        i, j = (int(k) for k in np.argwhere(few)[0])
        n = int(self.counts[i, j])
        kept = self._compared(few)
        action = (
            f"keep those that met: --names {shlex.quote(','.join(kept))}"
            if len(kept) >= 2
            else "collect votes on the pairs that have none"
        )
        return DataError(
            f"`{self.names[i]}` and `{self.names[j]}` have {n} vote{'' if n == 1 else 's'}, and "
            f"{int(few.sum()) // 2} of {len(few) * (len(few) - 1) // 2} pairs have fewer than "
            f"{least}",
            "a game needs to know who is preferred in every pair, and too few votes say nothing",
            action,
        )

    def _compared(self, few: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        """Return names that all met often enough: drop who lacks most until nobody lacks any."""
        kept = list(range(len(self.names)))
        while len(kept) > 1:
            lacking = few[np.ix_(kept, kept)].sum(1)
            if not lacking.any():
                break
            del kept[int(lacking.argmax())]
        return tuple(self.names[k] for k in kept)


def count_votes(votes: Iterable[tuple[str, str, str]]) -> Votes:
    """Count votes.

    Args:
        votes: for each the two names and the winner: `a` the first, `b` the second, or `tie`.

    Raises:
        DataError: there is none, a winner is unknown, both sides are the same, or there are too
            many names.

    Example:
        >>> count_votes([("x", "y", "a"), ("y", "x", "tie")]).matrix().preference("x", "y")
        0.75
    """
    tally: dict[tuple[str, str, str], int] = {}
    names: dict[str, int] = {}
    for k, (a, b, winner) in enumerate(votes, 1):
        if a == b:
            raise DataError(
                f"vote {k} is between `{a}` and itself",
                "it says nothing about a preference",
                "leave this vote out",
            )
        if winner not in ("a", "b", "tie"):
            raise DataError(
                f"vote {k} was won by `{winner}`",
                "a vote is won by `a`, the first, by `b`, the second, or is a `tie`",
                "correct the winner",
            )
        names.setdefault(a, len(names))
        names.setdefault(b, len(names))
        if len(names) > MOST_COUNTED:
            raise DataError(
                f"vote {k} brings the {len(names):,}th name, `{b}`",
                f"a table has a cell for every two names, and is made of {MOST_COUNTED:,} at most",
                "give the votes between those that you want to compare",
            )
        tally[a, b, winner] = tally.get((a, b, winner), 0) + 1
    if not names:
        raise DataError("no votes", "a game is counted from votes", "give at least one")
    wins = np.zeros((len(names), len(names)), np.int64)
    ties = np.zeros_like(wins)
    for (a, b, winner), n in tally.items():
        i, j = names[a], names[b]
        if winner == "tie":
            ties[i, j] += n
            ties[j, i] += n
        else:
            wins[(i, j) if winner == "a" else (j, i)] += n
    return Votes(tuple(names), wins, ties)
