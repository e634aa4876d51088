"""Ways of learning to play a game, each as its exact update on a table of probabilities.

    name             update                                                comes to rest at
    nash_md          pi ~ m e^{eta P(. beats m)}, m the mixture with mu     pi*_tau, last iterate
    nash_ema         pi ~ m e^{eta P(. beats o)}, o the moving average      pi*_tau, last iterate
    self_play        pi ~ m e^{eta P(. beats pi)}                           pi*_tau, last iterate
    best response    pi ~ mu e^{P(. beats pi) / tau}                        may go round for ever
    fictitious_play  strongest action against the average of the past       equilibrium, average
    optimistic       pi ~ pi e^{eta (2 g_t - g_{t-1})}                      equilibrium, iterate
    SPPO             pi ~ pi e^{eta P(. beats pi)}                          equilibrium, average
    online_ipo       gradient of IPO's loss on pairs from pi                pi*_tau, last iterate

m is pi^{1 - eta tau} mu^{eta tau}, normalised, and pi*_tau the regularised equilibrium. Every
function returns a `Trajectory`. `reference` (mu) is uniform and `start` is mu where not given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError
from tandem.statistics.games.matrix import PreferenceMatrix
from tandem.statistics.games.trajectory import Trajectory, follow, normalised
from tandem.statistics.numerics import Floats

Policy = npt.ArrayLike


def nash_md(
    matrix: PreferenceMatrix,
    tau: float,
    steps: int = 1000,
    *,
    reference: Policy | None = None,
    start: Policy | None = None,
    step_size: float | None = None,
    every: int = 1,
) -> Trajectory:
    """Follow Nash-MD: a mirror step from, and against, the mixture with the reference.

    With the step sizes 2 / (tau (t + 2)) the last iterate goes to the regularised equilibrium,
    KL(pi* || pi_T) <= 8 / (tau^2 (T + 1)) (Munos et al., arXiv:2312.00886). With a constant one
    it goes elsewhere: its mixture becomes the equilibrium at tau / (1 - step_size tau).

    Args:
        matrix: the game.
        tau: price of a nat of KL to the reference.
        steps: how many.
        reference: [n] mu; uniform if not given.
        start: [n] first policy; mu if not given.
        step_size: a constant eta, at most 1 / tau, instead of the falling ones.
        every: record each so-many-th step.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a policy is none, or leaves an action out.

    Example:
        >>> rps = PreferenceMatrix("RPS", [[.5, .1, .9], [.9, .5, .1], [.1, .9, .5]])
        >>> nash_md(rps, tau=0.5, reference=[.6, .3, .1]).last.round(3).tolist()
        [0.48, 0.421, 0.099]
    """
    log_mu, first = _policies(matrix, tau, reference, start)
    _check_step("step_size", step_size, 1 / tau)

    def update(t: int, log_pi: Floats, _: Floats) -> Floats:
        eta = 2 / (tau * (t + 2)) if step_size is None else step_size
        mixture = normalised((1 - eta * tau) * log_pi + eta * tau * log_mu)
        return mixture + eta * (matrix.p @ np.exp(mixture))

    return follow("Nash-MD", matrix, update, first, steps, every)


def nash_ema(
    matrix: PreferenceMatrix,
    tau: float,
    steps: int = 1000,
    *,
    decay: float = 0.9,
    reference: Policy | None = None,
    start: Policy | None = None,
    step_size: float | None = None,
    every: int = 1,
) -> Trajectory:
    """Follow Nash-EMA: a mirror step against a moving average of the past, taken in logits.

    Args:
        matrix: the game.
        tau: price of a nat of KL to the reference.
        steps: how many.
        decay: from 0 (self-play) to 1 (the opponent stays at the start).
        reference: [n] mu; uniform if not given.
        start: [n] first policy; mu if not given.
        step_size: eta, at most 1 / tau; if not given `steady_step` of tau, times half of
            1 - decay where the opponent lags, because a late answer overshoots.
        every: record each so-many-th step.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a policy is none, or leaves an action out.
    """
    log_mu, first = _policies(matrix, tau, reference, start)
    _check_step("step_size", step_size, 1 / tau)
    _check_range("decay", decay, 0, 1)
    slower = (1 - decay) / 2 if 0 < decay < 1 else 1.0
    eta = slower * steady_step(tau) if step_size is None else step_size
    opponent = np.log(first)

    def update(_: int, log_pi: Floats, __: Floats) -> Floats:
        nonlocal opponent
        against = matrix.p @ np.exp(normalised(opponent))
        after = normalised((1 - eta * tau) * log_pi + eta * tau * log_mu + eta * against)
        opponent = decay * opponent + (1 - decay) * after
        return after

    return follow("Nash-EMA", matrix, update, first, steps, every)


def self_play(
    matrix: PreferenceMatrix,
    tau: float = 0.0,
    steps: int = 1000,
    *,
    reference: Policy | None = None,
    start: Policy | None = None,
    step_size: float | None = None,
    every: int = 1,
) -> Trajectory:
    """Follow self-play: a mirror step against oneself; multiplicative weights where tau is 0.

    With tau > 0 and a small step it goes to the regularised equilibrium. With tau = 0 the last
    iterate circles outwards in a cyclic game, and only the average goes to the equilibrium.

    Args:
        matrix: the game.
        tau: price of a nat of KL to the reference; 0 for none.
        steps: how many.
        reference: [n] mu; uniform if not given.
        start: [n] first policy; mu if not given.
        step_size: eta, at most 1 / tau; `steady_step` of tau, or .05 for tau = 0, if not given.
        every: record each so-many-th step.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a policy is none, or leaves an action out.
    """
    log_mu, first = _policies(matrix, tau, reference, start, zero=True)
    _check_step("step_size", step_size, 1 / tau if tau else np.inf)
    eta = (steady_step(tau) if tau else 0.05) if step_size is None else step_size

    def update(_: int, log_pi: Floats, __: Floats) -> Floats:
        held = (1 - eta * tau) * log_pi + eta * tau * log_mu
        return held + eta * (matrix.p @ np.exp(log_pi))

    return follow("self-play", matrix, update, first, steps, every)


def iterated_best_response(
    matrix: PreferenceMatrix,
    tau: float,
    steps: int = 1000,
    *,
    damping: float = 0.0,
    reference: Policy | None = None,
    start: Policy | None = None,
    every: int = 1,
) -> Trajectory:
    """Follow iterated best response: each policy answers the one before as if it would stay.

    At a small tau it jumps between nearly pure policies. Damping shortens the jumps.

    Args:
        matrix: the game.
        tau: price of a nat of KL to the reference.
        steps: how many.
        damping: from 0 (jump) to 1 (stay): share of the log-probabilities that is kept.
        reference: [n] mu; uniform if not given.
        start: [n] first policy; mu if not given.
        every: record each so-many-th step.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a policy is none, or leaves an action out.
    """
    log_mu, first = _policies(matrix, tau, reference, start)
    _check_range("damping", damping, 0, 1)

    def update(_: int, log_pi: Floats, __: Floats) -> Floats:
        answer = normalised(log_mu + matrix.p @ np.exp(log_pi) / tau)
        return answer if damping == 0 else damping * log_pi + (1 - damping) * answer

    return follow("best response", matrix, update, first, steps, every)


def fictitious_play(
    matrix: PreferenceMatrix,
    steps: int = 1000,
    *,
    start: Policy | None = None,
    every: int = 1,
) -> Trajectory:
    """Follow fictitious play: the strongest action against the average of all that was played.

    The average goes to an equilibrium (Robinson 1951), the last iterate is always one action.

    Args:
        matrix: the game.
        steps: how many.
        start: [n] first policy; uniform if not given.
        every: record each so-many-th step.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the start is no policy, or leaves an action out.
    """
    nowhere = np.full(len(matrix), -np.inf)

    def update(_: int, __: Floats, average: Floats) -> Floats:
        answer = nowhere.copy()
        answer[(matrix.p @ average).argmax()] = 0
        return answer

    first = matrix.uniform() if start is None else start
    return follow("fictitious play", matrix, update, first, steps, every)


def optimistic(
    matrix: PreferenceMatrix,
    steps: int = 1000,
    *,
    start: Policy | None = None,
    step_size: float = 0.1,
    every: int = 1,
) -> Trajectory:
    """Follow optimistic mirror descent: a step against what the opponent will probably do next.

    The guess 2 g_t - g_{t-1} turns the circles of self-play inwards, so that the last iterate
    goes to an equilibrium without any reference.

    Args:
        matrix: the game.
        steps: how many.
        start: [n] first policy; uniform if not given.
        step_size: eta.
        every: record each so-many-th step.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the start is no policy, or leaves an action out.
    """
    _check_step("step_size", step_size, np.inf)
    before: Floats | None = None

    def update(_: int, log_pi: Floats, __: Floats) -> Floats:
        nonlocal before
        now = matrix.p @ np.exp(log_pi)
        guess = now if before is None else 2 * now - before
        before = now
        return log_pi + step_size * guess

    first = matrix.uniform() if start is None else start
    return follow("optimistic mirror descent", matrix, update, first, steps, every)


def sppo_play(
    matrix: PreferenceMatrix,
    steps: int = 1000,
    *,
    start: Policy | None = None,
    step_size: float = 0.05,
    every: int = 1,
) -> Trajectory:
    """Follow SPPO: multiplicative weights, which its squared loss fits (arXiv:2405.00675).

    On a table it is `self_play` with tau = 0.

    Args:
        matrix: the game.
        steps: how many.
        start: [n] first policy; uniform if not given.
        step_size: eta.
        every: record each so-many-th step.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the start is no policy, or leaves an action out.
    """
    played = self_play(matrix, 0.0, steps, start=start, step_size=step_size, every=every)
    return replace(played, name="SPPO")


def online_ipo(
    matrix: PreferenceMatrix,
    tau: float,
    steps: int = 1000,
    *,
    reference: Policy | None = None,
    start: Policy | None = None,
    step_size: float | None = None,
    every: int = 1,
) -> Trajectory:
    """Follow online IPO: gradient steps on IPO's loss, on pairs drawn from the policy itself.

    With h = log(pi / mu), the loss is the mean of (h_w - h_l - 1 / (2 tau))^2 over pairs from pi,
    held fixed, that the preferences label. Its gradient in the logits is
    2 pi (h - mean h - (P(. beats pi) - 1/2) / tau), which is 0 at the regularised equilibrium
    (Calandriello et al., arXiv:2403.08635).

    Args:
        matrix: the game.
        tau: price of a nat of KL to the reference.
        steps: how many.
        reference: [n] mu; uniform if not given.
        start: [n] first policy; mu if not given.
        step_size: learning rate of the logits; 1 / (1 + 1 / (4 tau^2)) if not given.
        every: record each so-many-th step.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a policy is none, or leaves an action out.
    """
    log_mu, first = _policies(matrix, tau, reference, start)
    _check_step("step_size", step_size, np.inf)
    rate = 1 / (1 + 1 / (4 * tau**2)) if step_size is None else step_size

    def update(_: int, log_pi: Floats, __: Floats) -> Floats:
        pi, h = np.exp(log_pi), log_pi - log_mu
        advantage = matrix.p @ pi - 0.5
        return log_pi - rate * 2 * pi * (h - pi @ h - advantage / tau)

    return follow("online IPO", matrix, update, first, steps, every)


def steady_step(tau: float) -> float:
    """Return a mirror step that shrinks towards the regularised equilibrium: tau / (tau^2 + 1/4).

    Near it a step multiplies errors by at most |1 - eta tau + i eta / 2|, because preferences
    differ by no more than 1/2 from even; this eta makes that smallest.
    """
    return tau / (tau**2 + 0.25)


@dataclass(frozen=True, slots=True)
class Dynamic:
    """A dynamic by name: what it comes to rest at, and how to follow it.

    Attributes:
        name: as in the field.
        goal: `regularised` (the last iterate goes to pi*_tau), `last` (to an equilibrium),
            `average` (only the average does), or `none`.
        follow: from the game, tau, the reference, the start, steps and every.
    """

    name: str
    goal: str
    follow: Callable[[PreferenceMatrix, float, Floats, Floats, int, int], Trajectory]


DYNAMICS: dict[str, Dynamic] = {
    "nash_md": Dynamic("Nash-MD", "regularised", lambda m, t, r, s, k, e:
        nash_md(m, t, k, reference=r, start=s, every=e)),
    "nash_ema": Dynamic("Nash-EMA", "regularised", lambda m, t, r, s, k, e:
        nash_ema(m, t, k, reference=r, start=s, every=e)),
    "self_play": Dynamic("self-play", "regularised", lambda m, t, r, s, k, e:
        self_play(m, t, k, reference=r, start=s, every=e)),
    "best_response": Dynamic("best response", "none", lambda m, t, r, s, k, e:
        iterated_best_response(m, t, k, reference=r, start=s, every=e)),
    "fictitious_play": Dynamic("fictitious play", "average", lambda m, t, r, s, k, e:
        fictitious_play(m, k, start=s, every=e)),
    "optimistic": Dynamic("optimistic mirror descent", "last", lambda m, t, r, s, k, e:
        optimistic(m, k, start=s, every=e)),
    "sppo": Dynamic("SPPO", "average", lambda m, t, r, s, k, e:
        sppo_play(m, k, start=s, every=e)),
    "online_ipo": Dynamic("online IPO", "regularised", lambda m, t, r, s, k, e:
        online_ipo(m, t, k, reference=r, start=s, every=e)),
}  # fmt: skip
"""Every dynamic, by the name of its function."""


def _policies(
    matrix: PreferenceMatrix,
    tau: float,
    reference: Policy | None,
    start: Policy | None,
    zero: bool = False,
) -> tuple[Floats, Floats]:
    """Return log mu and the start, and check tau."""
    if not (tau > 0 or (zero and tau == 0)) or not np.isfinite(tau):
        raise ConfigError(
            f"tau is {tau:g}",
            "it is the price of a nat of KL to the reference",
            f"give a number {'of 0 or more' if zero else 'above 0'}",
        )
    mu = matrix.uniform() if reference is None else matrix.check_policy(reference, positive=True)
    return np.log(mu), mu if start is None else matrix.check_policy(start, positive=True)


def _check_step(name: str, value: float | None, most: float) -> None:
    if value is not None and not (0 < value <= most and np.isfinite(value)):
        limit = "" if np.isinf(most) else f" and at most 1 / tau = {most:g}"
        raise ConfigError(
            f"{name} is {value:g}",
            f"a step is above 0{limit}",
            f"give {name}={min(0.05, most):g}",
        )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(
            f"{name} is {value:g}",
            f"it is a share, from {low:g} to {high:g}",
            f"give {name}=0.9",
        )
