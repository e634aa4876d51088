"""What operators read: columns that judges wrote, checked, and the settings' own checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tandem.data.record import Group, IntArray, Preference
from tandem.errors import ConfigError, DataError
from tandem.rng import Seed

Scores = npt.NDArray[np.float64]


class Operator(Protocol):
    """(groups, seed) -> groups."""

    def __call__(self, groups: Iterable[Group], seed: Seed) -> Iterator[Group]:
        """Yield the selected groups, in order; a group of which nothing is left is left out."""
        ...


def scores_of(group: Group, operator: str) -> Scores:
    """Read the scores of a group: one finite number a completion.

    Raises:
        DataError: scores are missing, or one is not finite.
    """
    if group.scores is None or len(group.scores) != len(group):
        judges = sorted({p.by for p in group.preferences if p.by})
        by = f" (judge `{'`, `'.join(judges)}`)" if judges else ""
        has = f"preferences only{by}" if group.preferences else "none"
        raise DataError(
            f"`{operator}` needs a score on every completion; group `{group.id}` has {has}",
            "it orders completions by the `scores` column, which a pairwise judge does not write",
            "use a scoring judge: RewardModel, Rater, or Pointwise for a preference model",
        )
    scores = np.asarray(group.scores, np.float64)
    if not np.isfinite(scores).all() or not len(scores):
        bad = "no completion" if not len(scores) else f"scores {scores.tolist()}"
        raise DataError(
            f"`{operator}` needs finite scores; group `{group.id}` has {bad}",
            "a missing or infinite score has no place in an order",
            "drop the group, or repair the judge that wrote it",
        )
    return scores


def preferences_of(group: Group, operator: str) -> tuple[Preference, ...]:
    """Read the preferences of a group, of which there must be some."""
    if group.preferences:
        return group.preferences
    raise DataError(
        f"`{operator}` needs preferences; group `{group.id}` has none",
        "it reads which completion a judge preferred",
        "judge the groups with a pairwise judge, or `rank_pairs()` them by their scores",
    )


def largest_cluster(group: Group, operator: str) -> list[int]:
    """Return the members of the largest cluster; empty when no completion has an answer."""
    if group.clusters is None:
        raise DataError(
            f"`{operator}` needs clusters; group `{group.id}` has none",
            "it counts how many completions say the same",
            "judge the groups with `Agreement(...)` first",
        )
    clusters: IntArray = group.clusters
    members = [np.flatnonzero(clusters == c).tolist() for c in dict.fromkeys(clusters.tolist())]
    answered = [m for m in members if clusters[m[0]] >= 0]
    if len(answered) < 2:
        return answered[0] if answered else []
    size = max(map(len, answered))
    tied = [m for m in answered if len(m) == size]
    if group.scores is None or len(tied) == 1:
        return tied[0]
    scores = scores_of(group, operator)
    return max(tied, key=lambda m: float(scores[m].mean()))


def cluster_share(group: Group) -> float:
    """Return the share of a group's completions that say what most of them say.

    Raises:
        DataError: nobody clustered the group.
    """
    return len(largest_cluster(group, "confidence")) / max(1, len(group))


def check_count(operator: str, name: str, value: int) -> None:
    """Ask for value >= 1."""
    if value < 1:
        raise ConfigError(
            f"`{operator}` has {name} = {value}", "it would keep nothing", f"give {name} >= 1"
        )


def check_share(operator: str, name: str, value: float) -> None:
    """Ask for 0 <= value <= 1."""
    if not 0 <= value <= 1:
        raise ConfigError(
            f"`{operator}` has {name} = {value}",
            "it is a share of the completions",
            f"give 0 <= {name} <= 1",
        )


def check_choice(operator: str, name: str, value: str, known: tuple[str, ...]) -> None:
    """Ask for one of the known values."""
    if value not in known:
        raise ConfigError(
            f"`{operator}` has {name} = {value!r}",
            "a choice that it does not know would be ignored in silence",
            f"give one of {', '.join(map(repr, known))}",
        )
