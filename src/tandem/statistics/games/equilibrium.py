# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The policies that nobody can exploit, with and without a price for leaving the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from tandem.errors import ConfigError, DataError
from tandem.statistics.games.exploitability import exploitability, softmax
from tandem.statistics.games.matrix import PreferenceMatrix
from tandem.statistics.numerics import Floats

RESIDUAL = 1e-12
"""A regularised equilibrium satisfies its equation to this, in every probability."""

SMALLEST_TAU = 1e-4
"""Below this, P / tau has too few digits left in double precision."""

_NEWTON_STEPS = 200
_LP = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass(frozen=True, eq=False)
class Equilibrium:
    """A policy that is a best response to itself.

    Attributes:
        policy: [n] probabilities of the actions.
        tau: price of a nat of KL to the reference; 0 for the game as it is.
        residual: largest error in its own equation: of a probability where tau > 0, of the
            win rate of the strongest opponent where tau = 0.
        exploitability: max_y P(y beats policy) - 1/2 in the game as it is.
        is_unique: whether no other policy is one; always so for tau > 0.
    """

    policy: Floats
    tau: float
    residual: float
    exploitability: float
    is_unique: bool = True


def regularised_equilibrium(
    matrix: PreferenceMatrix, tau: float, reference: npt.ArrayLike | None = None
) -> Equilibrium:
    """Return the one policy with pi(y) proportional to mu(y) exp(P(y beats pi) / tau).

    Newton's method on the logits, from a large tau down. Its Jacobian is the identity minus a
    product of an antisymmetric and a positive matrix, so it is never singular, and there is one
    solution for every tau > 0 (Munos et al., arXiv:2312.00886).

    Args:
        matrix: the game.
        tau: price of a nat of KL to the reference, from `SMALLEST_TAU` up.
        reference: [n] mu, all of it above 0; uniform if not given.

    Raises:
        ConfigError: tau is too small.
        DataError: the reference is no policy, or leaves an action out.

    Example:
        >>> rps = PreferenceMatrix("RPS", [[.5, .1, .9], [.9, .5, .1], [.1, .9, .5]])
        >>> regularised_equilibrium(rps, 0.5, [.6, .3, .1]).policy.round(4).tolist()
        [0.4799, 0.4213, 0.0988]
    """
    return regularised_equilibria(matrix, [tau], reference)[0]


def regularised_equilibria(
    matrix: PreferenceMatrix, taus: Sequence[float], reference: npt.ArrayLike | None = None
) -> list[Equilibrium]:
    """Return the regularised equilibrium of each tau, in their order.

    Args:
        matrix: the game.
        taus: prices of a nat of KL, from `SMALLEST_TAU` up.
        reference: [n] mu, all of it above 0; uniform if not given.

    Raises:
        ConfigError: a tau is too small.
        DataError: the reference is no policy, or leaves an action out.
    """
    for tau in taus:
        if not SMALLEST_TAU <= tau < np.inf:
            raise ConfigError(
                f"tau is {tau:g}",
                f"P / tau keeps too few digits below {SMALLEST_TAU:g}; the game without a price "
                "has an equilibrium of its own",
                f"give a tau of {SMALLEST_TAU:g} or more",
            )
    mu = matrix.uniform() if reference is None else matrix.check_policy(reference, positive=True)
    prior, advantage = np.log(mu), matrix.advantage
    found: dict[float, Equilibrium] = {}
    logits, now = prior, max(1.0, *taus)
    for tau in sorted(set(taus), reverse=True):
        while now > tau:
            logits = _newton(logits, prior, advantage / now)
            now = max(tau, now / 2)
        logits = _newton(logits, prior, advantage / tau)
        policy = softmax(logits)
        residual = float(np.abs(softmax(prior + advantage @ policy / tau) - policy).max())
        found[tau] = Equilibrium(policy, tau, residual, exploitability(matrix, policy))
    return [found[tau] for tau in taus]


def nash_equilibrium(matrix: PreferenceMatrix) -> Equilibrium:
    """Return a policy that no opponent beats more than half of the time, by linear programming.

    It maximises the win rate against the worst opponent, which is one half at the optimum. Where
    several policies are equilibria, it is one of them, and `is_unique` is False.

    Args:
        matrix: the game.

    Raises:
        DataError: the solver gave up.

    Example:
        >>> rps = PreferenceMatrix("RPS", [[.5, .1, .9], [.9, .5, .1], [.1, .9, .5]])
        >>> nash_equilibrium(rps).policy.round(4).tolist()
        [0.3333, 0.3333, 0.3333]
    """
    policy = equilibrium_by_lp(matrix)
    loss = exploitability(matrix, policy)
    return Equilibrium(policy, 0.0, loss, loss, _is_unique(matrix, policy))


def equilibrium_by_lp(matrix: PreferenceMatrix) -> Floats:
    """Return an equilibrium's policy alone, [n], without looking whether it is the only one."""
    n = len(matrix)
    cost = np.zeros(n + 1)
    cost[-1] = -1
    bounded = np.hstack([-matrix.advantage.T, np.ones((n, 1))])
    total = np.append(np.ones(n), 0.0)[None]
    limits = [(0.0, None)] * n + [(None, None)]
    x = _solve(cost, bounded, np.zeros(n), total, limits)
    policy = np.maximum(x[:n], 0.0)
    return policy / policy.sum()


def limit_equilibrium(matrix: PreferenceMatrix) -> Equilibrium:
    """Return the equilibrium that the regularised ones approach as tau goes to 0.

    A second way to the game's equilibrium. It follows tau down with a uniform reference until
    the actions that keep their mass are known, and solves their linear equations.

    Args:
        matrix: the game.

    Raises:
        DataError: no set of actions is right down to the smallest tau: the game is so near to
            one with several equilibria that double precision cannot tell.
    """
    prior, tau = np.log(matrix.uniform()), 1.0
    logits = prior
    while tau >= 1e-9:
        logits = _newton(logits, prior, matrix.advantage / tau)
        policy = _on_support(matrix, softmax(logits) > tau**0.5 / len(matrix) ** 2)
        if policy is not None:
            loss = exploitability(matrix, policy)
            return Equilibrium(policy, 0.0, loss, loss, _is_unique(matrix, policy))
        tau /= 2
    raise DataError(
        f"the regularised equilibria of {len(matrix)} actions settle on no set of them",
        "several equilibria are nearly as good, and their difference is lost in rounding",
        "use `nash_equilibrium`, which returns one of them",
    )


def _newton(logits: Floats, prior: Floats, pull: Floats) -> Floats:
    """Solve z = prior + pull softmax(z); pull is antisymmetric, [n, n]."""

    def error(z: Floats) -> Floats:
        return z - prior - pull @ softmax(z)

    f = error(logits)
    for _ in range(_NEWTON_STEPS):
        pi = softmax(logits)
        jacobian = np.eye(len(pi)) - (pull * pi - np.outer(pull @ pi, pi))
        step, size, norm = np.linalg.solve(jacobian, f), 1.0, np.linalg.norm(f)
        while np.linalg.norm(error(logits - size * step)) >= norm and size > 1e-6:
            size /= 2
        if size <= 1e-6:
            break
        logits = logits - size * step
        f = error(logits)
    return logits


def _on_support(matrix: PreferenceMatrix, played: npt.NDArray[np.bool_]) -> Floats | None:
    """Return the policy on these actions that makes all of them tie, if nobody beats it."""
    if not played.any():
        return None
    inside = matrix.advantage[np.ix_(played, played)]
    equations = np.vstack([inside, np.ones(len(inside))])
    right = np.append(np.zeros(len(inside)), 1.0)
    mass = np.linalg.lstsq(equations, right, rcond=None)[0]
    policy = np.zeros(len(matrix))
    policy[played] = mass
    if mass.min() < 0 or abs(policy.sum() - 1) > RESIDUAL:
        return None
    return policy if exploitability(matrix, policy) <= RESIDUAL else None


def _is_unique(matrix: PreferenceMatrix, policy: Floats) -> bool:
    """Tell whether an equilibrium is the only one.

    Every equilibrium makes the actions of this one tie, and plays only what ties with it. Where
    these equations have one solution it is the only one. Else the equilibria's two ends in a
    random direction are compared.
    """
    played, tied = policy > 1e-9, matrix.advantage @ policy > -1e-9
    inside = matrix.advantage[np.ix_(played, tied)]
    equations = np.vstack([inside, np.ones((1, inside.shape[1]))])
    if np.linalg.matrix_rank(equations, tol=1e-9) == inside.shape[1]:
        return True
    n = len(matrix)
    direction = np.random.default_rng(n).normal(size=n)
    total, limits = np.ones((1, n)), [(0.0, None)] * n
    slack = np.full(n, 1e-9)
    ends = [_solve(s * direction, matrix.advantage, slack, total, limits) for s in (1.0, -1.0)]
    return float(np.abs(ends[0] - ends[1]).max()) < 1e-5


def _solve(cost: Floats, bounded: Floats, most: Floats, total: Floats, limits: Any) -> Floats:
    found = linprog(
        cost, bounded, most, total, np.ones(1), limits, method="highs-ds", options=dict(_LP)
    )
    if found.status != 0:
        raise DataError(
            f"the linear program of {len(most)} actions was not solved: {found.message}",
            "every symmetric game has an equilibrium, so the numbers are too badly scaled",
            "round the probabilities to six digits",
        )
    return np.asarray(found.x, np.float64)
