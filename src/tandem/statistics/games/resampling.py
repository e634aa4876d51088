"""How sure a game counted from votes is: intervals, and what votes would show by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tandem.errors import ConfigError
from tandem.rng import Seed
from tandem.statistics.games.bradley_terry import fit_rewards
from tandem.statistics.games.cycles import decompose, top_cycle
from tandem.statistics.games.equilibrium import equilibrium_by_lp
from tandem.statistics.games.exploitability import exploitability
from tandem.statistics.games.votes import Votes
from tandem.statistics.intervals import Estimate
from tandem.statistics.numerics import Floats

TAIL = 0.025
FEWEST_DRAWS = 20


@dataclass(frozen=True)
class GameIntervals:
    """What resampling the votes says of a game's numbers.

    Attributes:
        numbers: `exploitability of uniform`, `exploitability of Bradley-Terry's best`,
            `cyclic share` (of log-odds) and `cyclic share of p - 1/2`.
        equilibrium: for each name its probability at the equilibrium.
        rewards: for each name its Bradley-Terry reward.
        same_top: share of the resamples in which the same names beat all others.
        same_best: share in which Bradley-Terry's best is the same.
        draws: number of resamples.
    """

    numbers: dict[str, Estimate]
    equilibrium: dict[str, Estimate]
    rewards: dict[str, Estimate]
    same_top: float
    same_best: float
    draws: int

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""

        def told(estimates: dict[str, Estimate]) -> dict[str, Any]:
            return {k: {"mean": e.mean, "low": e.low, "high": e.high} for k, e in estimates.items()}

        return {
            "numbers": told(self.numbers),
            "equilibrium": told(self.equilibrium),
            "rewards": told(self.rewards),
            "same_top_cycle": self.same_top,
            "same_bradley_terry_best": self.same_best,
            "draws": self.draws,
        }


@dataclass(frozen=True, slots=True)
class CycleTest:
    """Whether the votes go round in circles more than chance makes them.

    Attributes:
        share: cyclic share of the log-odds of the votes.
        expected: its mean over votes simulated from Bradley-Terry, where the truth has none.
        high: what 95 % of these stay below.
        p_value: how often they reach `share`; never below 1 / (draws + 1).
        draws: number of simulations.
    """

    share: float
    expected: float
    high: float
    p_value: float
    draws: int

    @property
    def is_resolved(self) -> bool:
        """True when Bradley-Terry would rarely show as much: p < .05."""
        return self.p_value < 0.05


def resample_votes(votes: Votes, draws: int = 500, seed: Seed | None = None) -> GameIntervals:
    """Estimate a game's numbers with 95 % intervals by drawing each pair's votes again.

    A vote counts on its own: votes of one annotator, or on one prompt, are less sure than this
    says. Noise makes preferences look cyclic, in the votes and again in the resamples. So the
    cyclic shares are lowered by the rise from votes to resamples, and their percentiles by twice
    that; none goes below 0. Percentiles of exploitability are moved by the rise once, those of
    probabilities and rewards stay. In simulations of four names, two games and 120 files each, the
    interval of exploitability held the truth in 83 to 94 % with 20 votes a pair.

    Args:
        votes: the votes.
        draws: number of resamples, 20 or more.
        seed: where the draws start.

    Raises:
        ConfigError: too few draws.
        DataError: some pair has no vote.
    """
    _check_draws(draws)
    rng = (seed or Seed()).at("resampled votes").rng()
    numbers, equilibrium, rewards, top, best = _measured(votes)
    names = list(numbers)
    drawn = [_measured(votes.resampled(rng)) for _ in range(draws)]
    table = np.array([[d[0][name] for name in names] for d in drawn])
    policies, fitted = (np.array([d[k] for d in drawn]) for k in (1, 2))
    n, labels = votes.total, votes.names
    return GameIntervals(
        {
            name: _lowered(numbers[name], table[:, k], n, name.startswith("cyclic"))
            for k, name in enumerate(names)
        },
        {x: _percentiles(equilibrium[k], policies[:, k], n) for k, x in enumerate(labels)},
        {x: _percentiles(rewards[k], fitted[:, k], n) for k, x in enumerate(labels)},
        same_top=float(np.mean([d[3] == top for d in drawn])),
        same_best=float(np.mean([d[4] == best for d in drawn])),
        draws=draws,
    )


def check_transitivity(votes: Votes, draws: int = 500, seed: Seed | None = None) -> CycleTest:
    """Compare the cyclic share of votes with that of votes that Bradley-Terry would have given.

    Few votes go round in circles by chance. Here Bradley-Terry is fitted, as many votes for each
    pair are simulated from it, and the share of those is what chance gives.

    Args:
        votes: the votes.
        draws: number of simulations, 20 or more.
        seed: where the draws start.

    Raises:
        ConfigError: too few draws.
        DataError: some pair has no vote.
    """
    _check_draws(draws)
    rng = (seed or Seed()).at("transitive votes").rng()
    fit = fit_rewards(votes.matrix(), votes.counts)
    share = votes.decomposition().share
    chance = np.array(
        [votes.simulated(fit.predicted, rng).decomposition().share for _ in range(draws)]
    )
    reached = float((chance >= share).sum() + 1) / (draws + 1)
    return CycleTest(share, float(chance.mean()), float(np.quantile(chance, 0.95)), reached, draws)


def _measured(votes: Votes) -> tuple[dict[str, float], Floats, Floats, tuple[str, ...], str]:
    matrix = votes.matrix()
    fit = fit_rewards(matrix, votes.counts)
    numbers = {
        "exploitability of uniform": exploitability(matrix, matrix.uniform()),
        "exploitability of Bradley-Terry's best": exploitability(matrix, fit.best_policy),
        "cyclic share": votes.decomposition().share,
        "cyclic share of p - 1/2": decompose(matrix, "difference").share,
    }
    return numbers, equilibrium_by_lp(matrix), fit.rewards, top_cycle(matrix), fit.ranking[0]


def _lowered(value: float, drawn: Floats, n: int, is_share: bool) -> Estimate:
    rise = float(drawn.mean()) - value
    ends = np.quantile(drawn, [TAIL, 1 - TAIL]) - (2 if is_share else 1) * rise
    low, high = (max(0.0, float(end)) for end in ends)
    middle = max(0.0, value - rise) if is_share else value
    return _estimate(middle, low, high, n, drawn, "percentiles moved by their rise")


def _percentiles(value: float, drawn: Floats, n: int) -> Estimate:
    low, high = (float(q) for q in np.quantile(drawn, [TAIL, 1 - TAIL]))
    return _estimate(float(value), low, high, n, drawn, "percentiles")


def _estimate(
    value: float, low: float, high: float, n: int, drawn: Floats, method: str
) -> Estimate:
    words = f"votes of each pair resampled {len(drawn)} times, {method}"
    return Estimate(value, low, high, n, float("nan"), words, float(drawn.std(ddof=1)))


def _check_draws(draws: int) -> None:
    if draws < FEWEST_DRAWS:
        raise ConfigError(
            f"{draws} draws",
            f"the ends of a 95 % interval need {FEWEST_DRAWS} or more",
            "give 500",
        )
