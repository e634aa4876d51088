"""How often is an answer right: by policy, decoder and part of the questions, with intervals.

Shapes: S seeds, P prompts. The prompt is the unit; differences are paired by prompt and seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.tables import CellValue, Table, join_parts
from tandem.operators.columns import largest_cluster
from tandem.statistics import Estimate, auroc, paired_difference, share_of
from tandem.statistics.numerics import Floats

QuestionParts = Mapping[str, npt.NDArray[np.bool_]]
Solved = Mapping[str, Mapping[str, Floats]]


@dataclass(frozen=True)
class AccuracyEvaluation:
    """What `accuracy_evaluation` found; keys are (policy, decoder), then the part.

    Attributes:
        accuracy: share of right answers.
        gain: paired difference to the opponent's accuracy with the same decoder.
        opponent: who the others are compared with.
        sizes: prompts in each part.
    """

    accuracy: dict[tuple[str, str], dict[str, Estimate | None]]
    gain: dict[tuple[str, str], dict[str, Estimate | None]]
    opponent: str
    sizes: dict[str, int]

    def tables(self) -> tuple[Table, Table]:
        """Return accuracies, and gains over the opponent, in percent."""
        heading = tuple(f"{part} ({n})" for part, n in self.sizes.items())
        titles = ("right answers, %", f"more than {self.opponent}, paired by prompt, points")
        both = (self.accuracy, self.gain)
        return tuple(  # type: ignore[return-value]
            Table(("policy", "decoder", *heading), _rows(cells), f"{title}; 95 % intervals")
            for cells, title in zip(both, titles, strict=True)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        accuracy, gain = self.tables()
        return {"accuracy": accuracy.as_dicts(), "gain": gain.as_dicts()}

    def __str__(self) -> str:
        return join_parts(self.tables())


def _rows(
    cells: Mapping[tuple[str, str], Mapping[str, Estimate | None]],
) -> tuple[tuple[CellValue, ...], ...]:
    return tuple(
        (*who, *(None if e is None else e.scale_by(100) for e in row.values()))
        for who, row in cells.items()
    )


def accuracy_evaluation(
    solved: Solved, parts: QuestionParts, *, opponent: str
) -> AccuracyEvaluation:
    """Lay out accuracies, and gains over one policy.

    Args:
        solved: policy -> decoder -> [P] or [S, P] shares of right answers, all policies on the
            same prompts in the same order.
        parts: name -> [P] True for the prompts in it; a part of too few has no interval.
        opponent: the policy that the others are compared with; one of its seeds meets all.

    Raises:
        DataError: the opponent is no policy.
    """
    if opponent not in solved:
        raise DataError(
            f"no policy `{opponent}` to compare with",
            f"there are {', '.join(solved) or 'none'}",
            "examine it on the same questions",
        )
    accuracy: dict[tuple[str, str], dict[str, Estimate | None]] = {}
    gain: dict[tuple[str, str], dict[str, Estimate | None]] = {}
    for name, decoders in solved.items():
        for decoder, values in decoders.items():
            accuracy[name, decoder] = {p: _mean(values, inside) for p, inside in parts.items()}
            if name != opponent and decoder in solved[opponent]:
                other = solved[opponent][decoder]
                gain[name, decoder] = {p: _gain(values, other, i) for p, i in parts.items()}
    sizes = {part: int(inside.sum()) for part, inside in parts.items()}
    return AccuracyEvaluation(accuracy, gain, opponent, sizes)


def _mean(values: Floats, inside: npt.NDArray[np.bool_]) -> Estimate | None:
    return share_of(np.atleast_2d(values)[:, inside]) if inside.any() else None


def _gain(mine: Floats, theirs: Floats, inside: npt.NDArray[np.bool_]) -> Estimate | None:
    if not inside.any():
        return None
    a, b = np.broadcast_arrays(np.atleast_2d(mine), np.atleast_2d(theirs))
    return paired_difference(a[:, inside], b[:, inside])


def split_by_stratum(groups: Sequence[Group]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return all prompts as one part, and each stratum that the prompts name as another."""
    levels = np.array([str(g.prompt.meta.get("stratum", "")) for g in groups])
    named = {f"stratum {level}": levels == level for level in sorted(set(levels.tolist())) if level}
    return {"all": np.ones(len(levels), np.bool_), **named}


def majority_answers(groups: Iterable[Group]) -> list[Group]:
    """Return each group's first completion that gives the commonest answer: self-consistency.

    Reads `clusters`, never `scores`: a vote must not know what is right. Where nobody states an
    answer the first completion stands.
    """
    return [g.keep((largest_cluster(g, "elected") or [0])[:1]) for g in groups]


def vote_share(groups: Iterable[Group]) -> Floats:
    """Return [P] votes for the commonest answer / completions; 0 where no answer is stated."""
    return np.array([len(largest_cluster(g, "confidence")) / len(g) for g in groups])


def confidence_auroc(confident: Floats, right: Floats) -> float | None:
    """Return P(a right answer had more votes than a wrong one); None without both kinds."""
    return float(auroc(confident, right > 0.5)) if 0 < right.mean() < 1 else None
