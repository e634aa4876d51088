"""What a way of learning did in a game, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError
from tandem.statistics.games.matrix import PreferenceMatrix
from tandem.statistics.numerics import Floats, Ints

MOST_STEPS = 1_000_000

Update = Callable[[int, Floats, Floats], Floats]
"""From the step's number, log pi and the average policy: the next log pi, not normalised."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The policies that a dynamic went through, and how exploitable they were.

    K recorded moments, n actions. The first is the start, the last the end.

    Attributes:
        name: the dynamic.
        names: n actions.
        steps: [K] number of steps done.
        policies: [K, n] the policy after these steps: the last iterate at that moment.
        averages: [K, n] mean of all policies from the start to there.
        gaps: [K] duality gap of the policy against itself, 2 E.
        average_gaps: [K] duality gap of the average.
    """

    name: str
    names: tuple[str, ...]
    steps: Ints
    policies: Floats
    averages: Floats
    gaps: Floats
    average_gaps: Floats

    @property
    def last(self) -> Floats:
        """The last iterate, [n]."""
        return self.policies[-1]

    @property
    def average(self) -> Floats:
        """The average of all iterates, [n]."""
        return self.averages[-1]

    @property
    def exploitability(self) -> float:
        """E of the last iterate: half of its duality gap."""
        return float(self.gaps[-1]) / 2

    @property
    def average_exploitability(self) -> float:
        """E of the average of all iterates."""
        return float(self.average_gaps[-1]) / 2

    def as_dict(self, moments: int = 100) -> dict[str, Any]:
        """Return everything for JSON.

        Args:
            moments: how many of the recorded ones, spread evenly on the scale of logarithms.
        """
        spread = np.geomspace(1, len(self.steps), min(moments, len(self.steps)))
        kept = np.unique(spread.round().astype(np.int64)) - 1
        return {
            "name": self.name,
            "exploitability": self.exploitability,
            "average_exploitability": self.average_exploitability,
            "steps": self.steps[kept].tolist(),
            "gaps": self.gaps[kept].tolist(),
            "average_gaps": self.average_gaps[kept].tolist(),
            "policies": self.policies[kept].tolist(),
            "averages": self.averages[kept].tolist(),
        }

    def at(self, step: int) -> Floats:
        """Return the policy after so many steps, [n].

        Raises:
            ConfigError: it was not recorded.
        """
        where = np.flatnonzero(self.steps == step)
        if not len(where):
            raise ConfigError(
                f"step {step} of {self.name}",
                f"{len(self.steps)} moments from step {self.steps[0]} to {self.steps[-1]} were "
                "recorded, and this is none of them",
                "follow the dynamic with every=1",
            )
        return self.policies[where[0]]


def follow(
    name: str,
    matrix: PreferenceMatrix,
    update: Update,
    start: npt.ArrayLike,
    steps: int,
    every: int = 1,
) -> Trajectory:
    """Apply an update again and again, and record what it does.

    Args:
        name: how to call it.
        matrix: the game.
        update: one step.
        start: [n] the first policy, all of it above 0.
        steps: how many.
        every: record the start, each so-many-th step, and the last.

    Raises:
        ConfigError: steps or every out of range.
        DataError: the start is no policy, or leaves an action out.
    """
    if not 1 <= steps <= MOST_STEPS or every < 1:
        raise ConfigError(
            f"{steps} steps, recorded every {every}",
            f"a trajectory has 1 to {MOST_STEPS:,} steps and a record every 1 or more",
            "give steps=2000 and every=1",
        )
    log_pi = np.log(matrix.check_policy(start, positive=True))
    average = np.exp(log_pi)
    moments, policies, averages = [0], [average], [average]
    for t in range(steps):
        log_pi = normalised(update(t, log_pi, average))
        policy = np.exp(log_pi)
        average = average + (policy - average) / (t + 2)
        if (t + 1) % every == 0 or t + 1 == steps:
            moments.append(t + 1)
            policies.append(policy)
            averages.append(average)
    kept, means = np.array(policies), np.array(averages)
    return Trajectory(
        name,
        matrix.names,
        np.array(moments),
        kept,
        means,
        _gaps(matrix, kept),
        _gaps(matrix, means),
    )


def normalised(log_pi: Floats) -> Floats:
    """Return log pi with probabilities that add up to 1, [n]."""
    shifted = log_pi - log_pi.max()
    return shifted - np.log(np.exp(shifted).sum())


def _gaps(matrix: PreferenceMatrix, policies: Floats) -> Floats:
    return 2 * np.maximum(0.0, (policies @ matrix.advantage.T).max(1))
