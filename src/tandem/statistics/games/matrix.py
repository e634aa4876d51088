"""A symmetric game between answers: who is preferred to whom, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.errors import DataError
from tandem.statistics.numerics import Floats

ROUNDING = 1e-6
"""How far P(a beats b) + P(b beats a) may be from 1: the rounding of a written file."""

NAME_LETTERS = 200


@dataclass(frozen=True, eq=False)
class PreferenceMatrix:
    """P(a beats b) for every pair of actions: answers, models, policies.

    A matrix that is right up to rounding (`ROUNDING`) is made exact on the way in, so that
    p + p.T is 1 and the diagonal one half, to the last bit.

    Attributes:
        names: n different names.
        p: [n, n] probabilities; p[i, j] is how often i is preferred to j.

    Raises:
        DataError: the shape, a name or a number does not make a game; the message has its place.

    Example:
        >>> rps = PreferenceMatrix(("R", "P", "S"), [[.5, .1, .9], [.9, .5, .1], [.1, .9, .5]])
        >>> rps.preference("P", "R")
        0.9
    """

    names: tuple[str, ...]
    p: Floats

    def __init__(self, names: Sequence[str], p: npt.ArrayLike) -> None:
        values = np.array(p, np.float64)
        check_names(names)
        if values.shape != (len(names), len(names)):
            raise DataError(
                f"{len(names)} names and probabilities of shape {values.shape}",
                "a game has one row and one column for each of its names",
                f"give a square of {len(names)} rows and {len(names)} columns",
            )
        _check_numbers(names, values)
        _check_pairs(names, values)
        exact = (values + 1 - values.T) / 2
        np.fill_diagonal(exact, 0.5)
        exact.setflags(write=False)
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "p", exact)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def advantage(self) -> Floats:
        """P - 1/2, [n, n]: antisymmetric, so that nobody has an advantage over himself."""
        return self.p - 0.5

    def preference(self, a: str, b: str) -> float:
        """Return P(a beats b) of two names."""
        return float(self.p[self.index(a), self.index(b)])

    def against(self, policy: npt.ArrayLike) -> Floats:
        """Return [n] how often each action beats a policy.

        Args:
            policy: [n] probabilities of the actions, in the order of the names.
        """
        return self.p @ self.check_policy(policy)

    def win_rate(self, policy: npt.ArrayLike, opponent: npt.ArrayLike) -> float:
        """Return how often a policy beats another; against itself it is one half.

        Args:
            policy: [n] probabilities.
            opponent: [n] probabilities.
        """
        return float(self.check_policy(policy) @ self.against(opponent))

    def index(self, name: str) -> int:
        """Return the row of a name.

        Raises:
            DataError: nobody has this name.
        """
        if name not in self.names:
            raise DataError(
                f"no action is called `{name}`",
                f"the game is between {_listed(self.names)}",
                "give one of these names",
            )
        return self.names.index(name)

    def uniform(self) -> Floats:
        """Return the policy that plays every action equally often, [n]."""
        return np.full(len(self), 1 / len(self))

    def pure(self, name: str) -> Floats:
        """Return the policy that plays one action always, [n]."""
        policy = np.zeros(len(self))
        policy[self.index(name)] = 1
        return policy

    def check_policy(self, policy: npt.ArrayLike, positive: bool = False) -> Floats:
        """Return a policy as [n] numbers.

        Args:
            policy: [n] probabilities of the actions.
            positive: refuse a policy that never plays some action.

        Raises:
            DataError: it has another length, is negative somewhere, or does not add up to 1.
        """
        values = np.asarray(policy, np.float64)
        if values.shape != (len(self),):
            raise DataError(
                f"a policy of shape {values.shape} in a game of {len(self)} actions",
                f"it needs one probability for each of {_listed(self.names)}",
                f"give {len(self)} numbers",
            )
        if not np.isfinite(values).all() or values.min() < 0 or abs(values.sum() - 1) > ROUNDING:
            raise DataError(
                f"a policy of {_listed([f'{x:g}' for x in values])}, in all {values.sum():g}",
                "probabilities are 0 or more and add up to 1",
                "divide each number by their sum",
            )
        if positive and values.min() == 0:
            name = self.names[int(values.argmin())]
            raise DataError(
                f"a policy that never plays `{name}`",
                "a reference or a start is multiplied, and what is 0 stays 0 for ever",
                f"give `{name}` a small probability, for example 0.001",
            )
        return values / values.sum()


def mix_rankings(
    rankings: Sequence[Sequence[str]], shares: Sequence[float] | None = None
) -> PreferenceMatrix:
    """Return the preferences of a population in which every type has a ranking of its own.

    Each type is perfectly transitive. The population need not be: three types, each with the
    ranking of the one before turned by one place, make a cycle (Condorcet).

    Args:
        rankings: for each type all names, best first.
        shares: for each type its share of the population; equal if not given.

    Raises:
        DataError: a ranking leaves a name out, or the shares are no shares.

    Example:
        >>> mix_rankings(["ABC", "BCA", "CAB"]).preference("A", "B").__round__(4)
        0.6667
    """
    names = tuple(sorted(rankings[0]))
    for ranking in rankings:
        if tuple(sorted(ranking)) != names:
            raise DataError(
                f"a ranking of {_listed(list(ranking))} beside one of {_listed(names)}",
                "every type of a population ranks the same names, each of them once",
                "complete the ranking",
            )
    weights = np.full(len(rankings), 1 / len(rankings)) if shares is None else np.array(shares)
    if len(weights) != len(rankings) or weights.min() < 0 or abs(weights.sum() - 1) > ROUNDING:
        raise DataError(
            f"shares {_listed([f'{w:g}' for w in weights])} for {len(rankings)} rankings",
            "there is one share for each ranking, none negative, and they add up to 1",
            "divide each share by their sum",
        )
    p = np.zeros((len(names), len(names)))
    for ranking, weight in zip(rankings, weights, strict=True):
        place = np.array([list(ranking).index(name) for name in names])
        p += weight * ((place[:, None] < place) + 0.5 * (place[:, None] == place))
    return PreferenceMatrix(names, p)


def check_names(names: Sequence[str]) -> None:
    """Ask that names are different, not empty, and printable.

    Raises:
        DataError: one is not.
    """
    if len(names) < 2:
        raise DataError(
            f"{len(names)} names" if len(names) != 1 else f"the single name `{names[0]}`",
            "a game is between two or more actions",
            "give the preferences of at least two",
        )
    seen: Mapping[str, Any] = {}
    for k, name in enumerate(names, 1):
        if not name or len(name) > NAME_LETTERS or not name.isprintable():
            shown = repr(name[:40]) + ("..." if len(name) > 40 else "")
            raise DataError(
                f"name {k} is {shown}, of {len(name)} characters",
                f"a name is printed: 1 to {NAME_LETTERS} printable characters",
                "give it a short name",
            )
        if name in seen:
            raise DataError(
                f"the name `{name}` stands twice, in places {seen[name]} and {k}",
                "a name that means two actions cannot be looked up",
                "rename one of the two",
            )
        seen = {**seen, name: k}


def _check_numbers(names: Sequence[str], values: Floats) -> None:
    wrong = ~np.isfinite(values) | (values < 0) | (values > 1)
    if wrong.any():
        i, j = (int(k) for k in np.argwhere(wrong)[0])
        percent = np.isfinite(values).all() and 1 < values.max() <= 100 and values.min() >= 0
        raise DataError(
            f"P({names[i]} beats {names[j]}) is {values[i, j]:g}",
            "a probability is a number from 0 to 1",
            "divide all cells by 100" if percent else "correct this cell",
        )


def _check_pairs(names: Sequence[str], values: Floats) -> None:
    off = np.abs(values + values.T - 1)
    if off.max() <= ROUNDING:
        return
    i, j = sorted(int(k) for k in np.unravel_index(int(off.argmax()), off.shape))
    if i == j:
        raise DataError(
            f"P({names[i]} beats {names[i]}) is {values[i, i]:g}",
            "against itself everybody wins half of the time",
            "write 0.5 on the diagonal, or leave it blank in a file",
        )
    raise DataError(
        f"P({names[i]} beats {names[j]}) = {values[i, j]:g} and P({names[j]} beats {names[i]}) = "
        f"{values[j, i]:g} add up to {values[i, j] + values[j, i]:g}",
        "one of the two is preferred, and a tie counts half for each, so they add up to 1",
        f"correct one of the two cells, for example the second to {1 - values[i, j]:g}",
    )


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
