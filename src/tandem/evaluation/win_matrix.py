"""Every policy against every other: how often it is preferred, with intervals, as one matrix.

A ranking cannot say that A beats B, B beats C and C beats A; the matrix can. Read as a game, it
says which mixture of the policies nobody beats, and how far each is from that.

Shapes: S seeds, P prompts, R policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from tandem.errors import DataError
from tandem.evaluation.tables import Table, join_parts
from tandem.statistics import Estimate, holm, share_of
from tandem.statistics.crossed import ALPHA
from tandem.statistics.games import (
    PreferenceMatrix,
    cyclic_triples,
    nash_equilibrium,
    top_cycle,
)


@dataclass(frozen=True)
class WinMatrix:
    """How often each policy is preferred to each other.

    Attributes:
        names: the R policies.
        cells: (row, column) -> P(row is preferred to column) above one half or below, every pair
            once, the earlier name first.
    """

    names: tuple[str, ...]
    cells: Mapping[tuple[str, str], Estimate]

    def win(self, a: str, b: str) -> float:
        """Return P(a is preferred to b)."""
        if a == b:
            return 0.5
        return self.cells[a, b].mean if (a, b) in self.cells else 1 - self.cells[b, a].mean

    def is_resolved(self, a: str, b: str) -> bool:
        """True where a pair differs from one half, by a test over all pairs."""
        if a == b:
            return False
        adjusted = self.adjusted_p()
        return (adjusted[a, b] if (a, b) in adjusted else adjusted[b, a]) < ALPHA

    def adjusted_p(self) -> dict[tuple[str, str], float]:
        """Return Holm's p-value of one half for every pair, over all pairs."""
        adjusted = holm([cell.p_value for cell in self.cells.values()]).tolist()
        return dict(zip(self.cells, adjusted, strict=True))

    def matrix(self) -> PreferenceMatrix:
        """Return the means as a game."""
        p = [[self.win(a, b) for b in self.names] for a in self.names]
        return PreferenceMatrix(self.names, p)

    def losses(self) -> dict[str, tuple[float, str]]:
        """Return what each policy loses to the strongest of the others, and to whom."""
        found: dict[str, tuple[float, str]] = {}
        for name in self.names:
            rivals = [(self.win(other, name) - 0.5, other) for other in self.names if other != name]
            found[name] = max(rivals)
        return found

    def table(self) -> Table:
        """Return the matrix in percent; a star stands where a pair `is_resolved`."""
        rows = tuple(
            (a, *(f"{self.win(a, b):.1%}{'*' * self.is_resolved(a, b)}" for b in self.names))
            for a in self.names
        )
        first = next(iter(self.cells.values()))
        over = f"{first.n} prompts" + (f", {first.seeds} seeds" if first.seeds > 1 else "")
        title = f"{over}; * is resolved (Holm over {len(self.cells)} pairs)"
        return Table(("row beats column", *self.names), rows, title)

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        game, equilibrium = self.matrix(), nash_equilibrium(self.matrix())
        adjusted = self.adjusted_p()
        return {
            "names": list(self.names),
            "p": game.p.tolist(),
            "cells": [
                {"a": a, "b": b, **e.as_dict(), "adjusted_p": adjusted[a, b]}
                for (a, b), e in self.cells.items()
            ],
            "losses": {k: {"to": to, "by": by} for k, (by, to) in self.losses().items()},
            "equilibrium": dict(zip(self.names, equilibrium.policy.tolist(), strict=True)),
            "cyclic_triples": list(cyclic_triples(game)),
            "top_cycle": list(top_cycle(game)),
        }

    def __str__(self) -> str:
        game = self.matrix()
        circles, triples = cyclic_triples(game)
        mass = zip(self.names, nash_equilibrium(game).policy, strict=True)
        played = ", ".join(f"{name} {x:.0%}" for name, x in mass if x > 0.005)
        lines = (
            f"of {triples} triples {circles} go in a circle; on top: {', '.join(top_cycle(game))}",
            f"the mixture that none of these beats: {played}",
        )
        return join_parts((self.table(), "\n".join(lines)))


def policy_win_matrix(wins: Mapping[tuple[str, str], npt.ArrayLike]) -> WinMatrix:
    """Make the matrix of all policies.

    Args:
        wins: (a, b) -> [P] or [S, P] how likely a's answers beat b's; every pair once.

    Raises:
        DataError: a pair is missing, or stands twice, or a number is outside [0, 1].
    """
    names = tuple(dict.fromkeys(name for pair in wins for name in pair))
    needed = {frozenset((a, b)) for k, a in enumerate(names) for b in names[k + 1 :]}
    given = [frozenset(pair) for pair in wins]
    if set(given) != needed or len(given) != len(needed):
        raise DataError(
            f"{len(given)} comparisons of {len(names)} policies",
            f"the matrix needs each of their {len(needed)} pairs once",
            "compare every policy with every other",
        )
    return WinMatrix(names, {pair: share_of(x, null=0.5) for pair, x in wins.items()})
