"""Several judges of pairs on the same held-out judgments: a row each, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.comparisons import lay_out_comparisons
from tandem.evaluation.reward_tables import RewardEvaluation, pair_losses, reward_evaluation
from tandem.evaluation.tables import Table, join_parts
from tandem.rng import Seed
from tandem.statistics import Estimate, by_prompt

METRIC_COLUMNS = ("accuracy", "log-loss", "Brier", "ECE", "temperature")


@dataclass(frozen=True)
class PairwiseEvaluation:
    """What `pairwise_evaluation` found.

    Attributes:
        judges: each judge's numbers, the one of interest first.
        gains: other judge -> (accuracy, log-loss) of the first less those of the other, paired
            by judgment with intervals over prompts; more accuracy and less log-loss are better.
    """

    judges: Mapping[str, RewardEvaluation]
    gains: Mapping[str, tuple[Estimate, Estimate]]

    def table(self) -> Table:
        """Return a row a judge."""
        rows = tuple(
            (name, e.accuracy, e.log_loss, e.brier, e.ece, e.temperature)
            for name, e in self.judges.items()
        )
        first = next(iter(self.judges.values()))
        title = f"{first.judgments} held-out judgments ({first.ties} ties), 95 % intervals"
        return Table(("judge", *METRIC_COLUMNS), rows, title)

    def gain_table(self) -> Table:
        """Return a row a difference."""
        first = next(iter(self.judges))
        rows = tuple((f"{first} less {name}", *gain) for name, gain in self.gains.items())
        return Table(("paired difference", "accuracy", "log-loss"), rows)

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {"judges": self.table().as_dicts(), "gains": self.gain_table().as_dicts()}

    def __str__(self) -> str:
        return join_parts((self.table(), self.gain_table()) if self.gains else (self.table(),))


def pairwise_evaluation(
    opinions: Mapping[str, Iterable[Group]], *, seed: Seed | None = None
) -> PairwiseEvaluation:
    """Evaluate judges of pairs on the same judgments.

    Args:
        opinions: judge -> groups whose `preferences` are the judgments, and whose `scores` differ
            by the judge's log-odds; all judges have the same groups in the same order.
        seed: draws presentation orders, the calibration half and the resamples.

    Raises:
        DataError: no judge, no judgments, or other groups for one judge than for another.
    """
    if not opinions:
        raise DataError(
            "no judge to evaluate",
            "judges are compared on the same judgments",
            "give the groups that one judge or more have scored",
        )
    seed = seed or Seed()
    groups = {name: list(said) for name, said in opinions.items()}
    first, *others = groups
    rows = {name: lay_out_comparisons(said, seed=seed) for name, said in groups.items()}
    for name in others:
        if rows[name].prompt.tolist() != rows[first].prompt.tolist():
            raise DataError(
                f"`{name}` judged other groups than `{first}`",
                "differences are paired by judgment",
                "let every judge see the same groups, in the same order",
            )
    found = {name: reward_evaluation(said, seed=seed) for name, said in groups.items()}
    decided = {name: table.decided for name, table in rows.items()}
    gains = {
        name: (
            by_prompt(decided[first].credit - decided[name].credit, decided[first].prompt),
            by_prompt(pair_losses(rows[first]) - pair_losses(rows[name]), rows[first].prompt),
        )
        for name in others
    }
    return PairwiseEvaluation(found, gains)
