"""How good is a policy: win rates, rewards, KL and length, paired by prompt.

Words: `truth` is a task's programmatic judge, `gold_rm` a reward fitted to human data that the
proxy never saw, `proxy` the reward that was optimised. A gap that opens between proxy and the other
two is reward hacking.

Shapes: S seeds, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.tables import Table, join_parts
from tandem.statistics import (
    Estimate,
    bounded_win_rate,
    holm,
    mean_of,
    outcomes_of,
    paired_difference,
    verdict_line,
)
from tandem.statistics.numerics import Floats

PromptColumn = npt.NDArray[np.floating[Any]]
PromptColumns = Mapping[str, PromptColumn]
Outcomes = Mapping[tuple[str, str], PromptColumn]
WON = "_win"
"""Columns with this ending are outcomes in [0, 1]."""
MEANS = ("truth", "gold_rm", "proxy", "kl", "length", "invented")


@dataclass(frozen=True)
class PolicyRow:
    """One policy.

    Attributes:
        name: of the policy.
        wins: win rate against each opponent.
        ties: share of ties against each opponent.
        gain: paired difference of the judge's score to the first opponent; None when outcomes
            came from a pairwise judge alone.
        means: each column's mean.
        adjusted_p: Holm-adjusted p-value of the win rate against the first opponent.
    """

    name: str
    wins: dict[str, Estimate]
    ties: dict[str, float]
    gain: Estimate | None
    means: dict[str, Estimate]
    adjusted_p: float | None


@dataclass(frozen=True)
class PolicyEvaluation:
    """What `policy_evaluation` found."""

    rows: tuple[PolicyRow, ...]
    opponents: tuple[str, ...]
    judge: str

    def table(self) -> Table:
        """Return one row a policy; columns that no policy has are left out."""
        means = [m for m in MEANS if any(m in row.means for row in self.rows)]
        means += sorted({m for row in self.rows for m in row.means} - set(means))
        columns = (
            "policy",
            *(f"win vs {o}" for o in self.opponents),
            *(f"ties vs {o}" for o in self.opponents),
            f"{self.judge} gain",
            "Holm p",
            *means,
        )
        rows = tuple(
            (
                row.name,
                *(row.wins.get(o) for o in self.opponents),
                *(row.ties.get(o) for o in self.opponents),
                row.gain,
                row.adjusted_p,
                *(row.means.get(m) for m in means),
            )
            for row in self.rows
        )
        return Table(columns, rows, f"judged by {self.judge}, paired by prompt, 95 % intervals")

    def verdicts(self) -> tuple[str, ...]:
        """Say of each policy whether it beats the first opponent, and whether that is resolved."""
        first = self.opponents[0]
        return tuple(
            verdict_line(row.wins[first], row.name, first) for row in self.rows if first in row.wins
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "judge": self.judge,
            "opponents": list(self.opponents),
            "policies": self.table().as_dicts(),
            "verdicts": list(self.verdicts()),
        }

    def __str__(self) -> str:
        return join_parts((self.table(), "\n".join(self.verdicts())))


def policy_evaluation(
    policies: Mapping[str, PromptColumns],
    *,
    opponents: Sequence[str] = ("sft", "reference"),
    judge: str = "truth",
    outcomes: Outcomes | None = None,
) -> PolicyEvaluation:
    """Compare policies on the same prompts.

    Args:
        policies: name -> column name -> [P] or [S, P] numbers, every policy on the same prompts
            in the same order; `score_column`, `length_column` and `kl_column` make them. Columns
            whose name ends with `_win` are outcomes: 1 won, .5 tied, 0 lost.
        opponents: policies that the others are compared with, the main one first.
        judge: the column whose higher number wins.
        outcomes: (policy, opponent) -> [P] or [S, P] outcomes of a pairwise judge, 1 won, .5 tied,
            used instead of the judge's column where given.

    Raises:
        DataError: an unknown opponent, or columns of different lengths.
    """
    known = tuple(o for o in opponents if o in policies)
    given = {pair[1] for pair in outcomes or {}}
    if missing := [o for o in opponents if o not in policies and o not in given]:
        raise DataError(
            f"no policy `{missing[0]}` to compare with",
            f"there are {', '.join(policies) or 'none'}",
            "evaluate it on the same prompts, or leave it out of `opponents`",
        )
    rows = [
        _row(name, policies, tuple(opponents), known, judge, outcomes or {}) for name in policies
    ]
    main = opponents[0]
    tested = [row.name for row in rows if main in row.wins]
    adjusted = holm([row.wins[main].p_value for row in rows if main in row.wins])
    p_values = dict(zip(tested, adjusted.tolist(), strict=True))
    return PolicyEvaluation(
        tuple(
            PolicyRow(r.name, r.wins, r.ties, r.gain, r.means, p_values.get(r.name)) for r in rows
        ),
        tuple(opponents),
        judge,
    )


def _row(
    name: str,
    policies: Mapping[str, PromptColumns],
    opponents: tuple[str, ...],
    known: tuple[str, ...],
    judge: str,
    outcomes: Outcomes,
) -> PolicyRow:
    mine = policies[name]
    played: dict[str, Floats] = {}
    for other in opponents:
        if other == name:
            continue
        if (name, other) in outcomes:
            played[other] = np.asarray(outcomes[name, other], np.float64)
        elif other in known and judge in mine and judge in policies[other]:
            played[other] = outcomes_of(*_aligned(name, mine[judge], other, policies[other][judge]))
    main, gain = opponents[0], None
    if main in known and main != name and judge in mine and judge in policies[main]:
        gain = paired_difference(*_aligned(name, mine[judge], main, policies[main][judge]))
    return PolicyRow(
        name=name,
        wins={other: bounded_win_rate(x) for other, x in played.items()},
        ties={other: float((x == 0.5).mean()) for other, x in played.items()},
        gain=gain,
        means={k: bounded_win_rate(x) if k.endswith(WON) else mean_of(x) for k, x in mine.items()},
        adjusted_p=None,
    )


def _aligned(a_name: str, a: PromptColumn, b_name: str, b: PromptColumn) -> tuple[Floats, Floats]:
    """Give both [S, P]; a policy with one seed meets every seed of the other."""
    first, second = np.atleast_2d(a), np.atleast_2d(b)
    if first.shape[1] != second.shape[1] or (
        first.shape[0] != second.shape[0] and 1 not in (first.shape[0], second.shape[0])
    ):
        raise DataError(
            f"`{a_name}` has numbers of shape {np.shape(a)} and `{b_name}` of {np.shape(b)}",
            "policies are compared on the same prompts and the same seeds",
            "evaluate both on the same prompts, in the same order",
        )
    x, y = np.broadcast_arrays(first, second)
    return np.asarray(x, np.float64), np.asarray(y, np.float64)


def score_column(groups: Iterable[Group]) -> Floats:
    """Return [P] each prompt's mean score over its completions.

    Raises:
        DataError: a group has no scores.
    """
    means: list[float] = []
    for group in groups:
        if group.scores is None or not len(group):
            raise DataError(
                f"group `{group.id}` has no scores",
                "a policy is evaluated by what a judge wrote about its answers",
                "judge the samples first",
            )
        means.append(float(group.scores.mean()))
    return np.array(means)


def length_column(groups: Iterable[Group]) -> Floats:
    """Return [P] the mean number of tokens of each prompt's completions."""
    return np.array([np.mean([len(c.tokens) for c in g.completions]) for g in groups])


def kl_column(drawn: Iterable[Group], reference: Iterable[Group]) -> Floats:
    """Return [P] estimates of KL(policy, reference) in nats, summed over the completion.

    Args:
        drawn: the policy's samples with its own log-probabilities.
        reference: the same completions with the reference's log-probabilities.

    Raises:
        DataError: log-probabilities are missing, or the two are not the same completions.
    """
    values: list[float] = []
    for a, b in zip(drawn, reference, strict=True):
        if a.id != b.id or len(a) != len(b):
            raise DataError(
                f"`{a.id}` with {len(a)} completions meets `{b.id}` with {len(b)}",
                "KL compares two log-probabilities of the same completion",
                "annotate the policy's own samples with the reference",
            )
        values.append(float(np.mean(_log_probability(a) - _log_probability(b))))
    return np.array(values)


def _log_probability(group: Group) -> Floats:
    rows = [c.logp for c in group.completions]
    if any(row is None for row in rows):
        raise DataError(
            f"group `{group.id}` has a completion without log-probabilities",
            "KL is the mean of their difference",
            "annotate the samples with the policy and with the reference",
        )
    return np.array([np.sum(row, dtype=np.float64) for row in rows if row is not None])
