"""All that can be said of a game at once: equilibria, exploitability, cycles, Bradley-Terry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from tandem.statistics.games.bradley_terry import RewardFit, WrongPair, fit_rewards, wrong_pairs
from tandem.statistics.games.cycles import (
    Decomposition,
    cyclic_triples,
    decompose,
    top_cycle,
)
from tandem.statistics.games.equilibrium import (
    Equilibrium,
    nash_equilibrium,
    regularised_equilibria,
)
from tandem.statistics.games.exploitability import (
    duality_gap,
    exploitability,
    strongest_opponent,
)
from tandem.statistics.games.matrix import PreferenceMatrix
from tandem.statistics.games.votes import Votes
from tandem.statistics.numerics import Floats

TAUS = (1.0, 0.5, 0.2, 0.1, 0.05)
"""Prices of a nat of KL that are looked at unless others are named."""


@dataclass(frozen=True, eq=False)
class PolicyLoss:
    """What an opponent who knows a policy gains against it.

    Attributes:
        name: what the policy is.
        policy: [n] its probabilities.
        exploitability: max_y P(y beats policy) - 1/2.
        duality_gap: twice that, since both sides play it.
        opponent: the action that beats it most often.
        win_rate: how often that one does.
    """

    name: str
    policy: Floats
    exploitability: float
    duality_gap: float
    opponent: str
    win_rate: float


@dataclass(frozen=True, eq=False)
class GameProfile:
    """All that can be said of a game.

    Attributes:
        matrix: the game.
        reference: [n] what the regularised equilibria stay near.
        equilibrium: of the game as it is.
        regularised: for each tau, largest first.
        losses: of the uniform policy, Bradley-Terry's best, the equilibria.
        fit: Bradley-Terry's rewards.
        wrong: the pairs on which it is wrong, the worst first.
        log_odds: cyclic part of the log-odds; None where a preference is certain.
        difference: cyclic part of p - 1/2.
        triples: how many triples are cycles, and how many there are.
        top: the smallest set of names that beat all others.
    """

    matrix: PreferenceMatrix
    reference: Floats
    equilibrium: Equilibrium
    regularised: tuple[Equilibrium, ...]
    losses: tuple[PolicyLoss, ...]
    fit: RewardFit
    wrong: tuple[WrongPair, ...]
    log_odds: Decomposition | None
    difference: Decomposition
    triples: tuple[int, int]
    top: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON, with policies as lists in the order of `names`."""
        return {
            "names": list(self.matrix.names),
            "p": self.matrix.p.tolist(),
            "reference": self.reference.tolist(),
            "value": 0.5,
            "equilibrium": _told(self.equilibrium),
            "regularised": [_told(e) for e in self.regularised],
            "policies": [
                {
                    "name": loss.name,
                    "policy": loss.policy.tolist(),
                    "exploitability": loss.exploitability,
                    "duality_gap": loss.duality_gap,
                    "strongest_opponent": loss.opponent,
                    "its_win_rate": loss.win_rate,
                }
                for loss in self.losses
            ],
            "bradley_terry": {
                "rewards": self.fit.rewards.tolist(),
                "ranking": list(self.fit.ranking),
                "is_finite": self.fit.is_finite,
                "predicted": self.fit.predicted.tolist(),
                "wrong_pairs": [
                    {
                        "winner": w.winner,
                        "loser": w.loser,
                        "preference": w.preference,
                        "predicted": w.predicted,
                    }
                    for w in self.wrong
                ],
            },
            "cyclic_share": {
                "log_odds": None if self.log_odds is None else self.log_odds.share,
                "difference": self.difference.share,
            },
            "cyclic_triples": {"cyclic": self.triples[0], "all": self.triples[1]},
            "top_cycle": list(self.top),
        }


def profile_game(
    matrix: PreferenceMatrix,
    taus: Sequence[float] = TAUS,
    reference: npt.ArrayLike | None = None,
    votes: Votes | None = None,
) -> GameProfile:
    """Work out all that can be said of a game.

    Args:
        matrix: the game.
        taus: prices of a nat of KL.
        reference: [n] mu; uniform if not given.
        votes: those that the matrix was counted from. Bradley-Terry is then fitted to as many of
            each pair, else to every pair once; and log-odds are finite.

    Raises:
        ConfigError: a tau is too small.
        DataError: the reference is no policy, or leaves an action out.
    """
    mu = matrix.uniform() if reference is None else matrix.check_policy(reference, positive=True)
    regularised = regularised_equilibria(matrix, sorted(set(taus), reverse=True), mu)
    fit = fit_rewards(matrix, None if votes is None else votes.counts)
    equilibrium = nash_equilibrium(matrix)
    policies = {
        "uniform": matrix.uniform(),
        "Bradley-Terry's best": fit.best_policy,
        "equilibrium": equilibrium.policy,
    } | {f"equilibrium at tau = {e.tau:g}": e.policy for e in regularised}
    if reference is not None:
        policies["reference"] = mu
    certain = bool(((matrix.p == 0) | (matrix.p == 1)).any())
    by_odds = votes.decomposition() if votes else None if certain else decompose(matrix)
    return GameProfile(
        matrix=matrix,
        reference=mu,
        equilibrium=equilibrium,
        regularised=tuple(regularised),
        losses=tuple(policy_loss(matrix, name, policy) for name, policy in policies.items()),
        fit=fit,
        wrong=wrong_pairs(matrix, fit),
        log_odds=by_odds,
        difference=decompose(matrix, "difference"),
        triples=cyclic_triples(matrix),
        top=top_cycle(matrix),
    )


def policy_loss(matrix: PreferenceMatrix, name: str, policy: npt.ArrayLike) -> PolicyLoss:
    """Work out what an opponent who knows a policy gains against it.

    Args:
        matrix: the game.
        name: what to call the policy.
        policy: [n] probabilities.
    """
    values = matrix.check_policy(policy)
    opponent, rate = strongest_opponent(matrix, values)
    loss = exploitability(matrix, values)
    return PolicyLoss(name, values, loss, duality_gap(matrix, values), opponent, rate)


def _told(e: Equilibrium) -> dict[str, Any]:
    return {
        "tau": e.tau,
        "policy": e.policy.tolist(),
        "residual": e.residual,
        "exploitability": e.exploitability,
        "is_unique": e.is_unique,
    }
