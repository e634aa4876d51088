"""How good is a reward model on judgments it has not seen.

Accuracy alone is a poor guide: human agreement is about 73 %, so 70 to 76 % is near the ceiling,
and what hurts later is a model that is sure where it is wrong. So: proper scores, calibration
before and after a temperature, slices, disagreement of an ensemble, and a check on shuffled
prompts. Every number has an interval over prompts. See
docs/theory/reward_models.md#evaluation-on-held-out-judgments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tandem.data.record import Group
from tandem.errors import DataError
from tandem.evaluation.comparisons import Comparisons, lay_out_comparisons
from tandem.evaluation.tables import Table, join_parts
from tandem.operators import is_mismatched, mismatch
from tandem.rng import Seed
from tandem.statistics import (
    Bin,
    Estimate,
    LearningCurve,
    auroc,
    bootstrap,
    by_prompt,
    ece,
    learning_curve,
    outcomes_of,
    rate_by_prompt,
    reliability_bins,
    temperature_scale,
    win_probability_of,
)
from tandem.statistics.numerics import Floats, Ints, log_sigmoid

BINS = 15
QUARTERS = ("lowest", "second", "third", "highest")


@dataclass(frozen=True)
class Slice:
    """Accuracy on part of the judgments."""

    kind: str
    name: str
    n: int
    accuracy: Estimate


@dataclass(frozen=True)
class RewardEvaluation:
    """What `reward_evaluation` found.

    Attributes:
        judgments: number of held-out judgments; `ties` of them were even.
        ties: judgments with y = .5: they count in the proper scores, not in accuracy.
        accuracy: share of decided judgments that the model orders alike, its own ties half.
        longer_wins: accuracy of always choosing the longer answer, to be beaten.
        log_loss: nats; ln 2 = .693 is a coin.
        brier: .25 is a coin.
        ece: expected calibration error over all judgments; None below 15 of them.
        temperature: T fitted on half of the prompts; None below 30 judgments.
        ece_half: ECE on the other half, before T.
        ece_scaled: ECE on the other half, after T.
        log_loss_scaled: log-loss on the other half, after T.
        slices: accuracy by |difference|, reward level, length, source and agreement.
        disagreement_auroc: how well the ensemble's spread points at errors; .5 is useless.
        own_prompt: win rate of answers over answers to other prompts; near 1 if prompts matter.
        bins: predicted against observed win probability, bins of equal mass; empty as `ece`.
    """

    judgments: int
    ties: int
    accuracy: Estimate
    longer_wins: Estimate
    log_loss: Estimate
    brier: Estimate
    ece: Estimate | None
    temperature: float | None
    ece_half: Estimate | None
    ece_scaled: Estimate | None
    log_loss_scaled: Estimate | None
    slices: tuple[Slice, ...]
    disagreement_auroc: Estimate | None
    own_prompt: Estimate | None
    bins: tuple[Bin, ...] = ()

    def table(self) -> Table:
        """Return the numbers over all judgments."""
        rows = (
            ("accuracy", self.accuracy),
            ("accuracy of the longer answer", self.longer_wins),
            ("log-loss (coin .693)", self.log_loss),
            ("Brier (coin .250)", self.brier),
            ("ECE", self.ece),
            ("temperature, fitted on half", self.temperature),
            ("ECE on the other half, before", self.ece_half),
            ("ECE on the other half, after", self.ece_scaled),
            ("log-loss on the other half, after", self.log_loss_scaled),
            ("AUROC of ensemble spread for errors", self.disagreement_auroc),
            ("own prompt's answer over another's", self.own_prompt),
        )
        title = f"{self.judgments} held-out judgments ({self.ties} ties), 95 % intervals"
        return Table(("measure", "value"), rows, title)

    def slice_table(self) -> Table:
        """Return accuracy by slice."""
        rows = tuple((s.kind, s.name, s.n, s.accuracy) for s in self.slices)
        return Table(("slice", "part", "n", "accuracy"), rows, "accuracy by slice")

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "judgments": self.judgments,
            "ties": self.ties,
            "measures": {row["measure"]: row["value"] for row in self.table().as_dicts()},
            "slices": self.slice_table().as_dicts(),
            "calibration": [bin._asdict() for bin in self.bins],
        }

    def __str__(self) -> str:
        return join_parts((self.table(), self.slice_table()))


def reward_evaluation(
    groups: Iterable[Group],
    *,
    members: Sequence[Iterable[Group]] = (),
    other_prompts: Iterable[Group] = (),
    seed: Seed | None = None,
    draws: int = 500,
) -> RewardEvaluation:
    """Evaluate a reward model on held-out judgments.

    Args:
        groups: `scores` written by the model, `preferences` the judgments.
        members: the same groups scored by each member of an ensemble (two or more).
        other_prompts: `shuffled(groups)`, scored by the model.
        seed: draws presentation orders, the calibration half and the resamples.
        draws: number of bootstrap resamples.

    Raises:
        DataError: no judgments, no scores, or members that scored other groups.
    """
    seed = seed or Seed()
    groups = list(groups)
    table = lay_out_comparisons(groups, members, seed=seed)
    decided = table.decided
    if not len(decided):
        raise DataError(
            f"all {len(table)} judgments are ties",
            "accuracy is about judgments that prefer one answer",
            "give judgments that are decided",
        )
    p = win_probability_of(table.difference)
    spread = len(members) > 1
    return RewardEvaluation(
        judgments=len(table),
        ties=len(table) - len(decided),
        accuracy=rate_by_prompt(decided.credit, decided.prompt),
        longer_wins=rate_by_prompt(_longer_credit(decided), decided.prompt),
        log_loss=by_prompt(pair_losses(table), table.prompt),
        brier=by_prompt((p - table.y) ** 2, table.prompt),
        ece=_ece(table, 1.0, seed, draws),
        **_scaled(table, seed, draws),
        slices=tuple(_slices(decided)),
        disagreement_auroc=_spread_auroc(decided, seed, draws) if spread else None,
        own_prompt=_own_prompt(groups, other_prompts),
        bins=tuple(reliability_bins(p, table.y, BINS)) if len(table) >= BINS else (),
    )


def with_other_prompts(groups: Iterable[Group]) -> Iterator[Group]:
    """Yield each prompt with the answers to another, unscored: `other_prompts`, once judged.

    Groups of one prompt alone have no answers to another: nothing is yielded.
    """
    unscored = [replace(g, scores=np.zeros(len(g)), preferences=()) for g in groups]
    if len({g.prompt.text for g in unscored}) < 2:
        return
    for group in mismatch()(unscored, Seed()):
        strange = group.keep(np.flatnonzero(is_mismatched(group)).tolist())
        yield replace(strange, scores=None)


def _longer_credit(table: Comparisons) -> Floats:
    return (1 + np.sign(table.longer) * np.sign(table.y - 0.5)) / 2


def pair_losses(table: Comparisons) -> Floats:
    """Return [M] each judgment's log-loss in nats."""
    return _losses(table.difference, table.y)


def _losses(difference: Floats, y: Floats) -> Floats:
    return -(y * log_sigmoid(difference) + (1 - y) * log_sigmoid(-difference))


def _ece(table: Comparisons, temperature: float, seed: Seed, draws: int) -> Estimate | None:
    if len(table) < BINS:
        return None
    p = win_probability_of(table.difference, temperature)

    def statistic(rows: Ints) -> float:
        return ece(p[rows], table.y[rows], BINS) if len(rows) >= BINS else float("nan")

    found = bootstrap(statistic, table.prompt, draws=draws, seed=seed.at("ece"))
    return replace(found, low=found.low if math.isnan(found.low) else max(0.0, found.low))


def _scaled(table: Comparisons, seed: Seed, draws: int) -> dict[str, Any]:
    """Fit a temperature on half of the prompts and measure it on the other half."""
    half = {p: seed.at("half", str(p)).uniform() < 0.5 for p in np.unique(table.prompt)}
    fitting = np.array([half[p] for p in table.prompt])
    fit, rest = table.take(np.flatnonzero(fitting)), table.take(np.flatnonzero(~fitting))
    names = ("temperature", "ece_half", "ece_scaled", "log_loss_scaled")
    if min(len(fit), len(rest)) < BINS:
        return dict.fromkeys(names)
    t = temperature_scale(fit.difference, fit.y)
    losses = by_prompt(_losses(rest.difference / t, rest.y), rest.prompt)
    found = (t, _ece(rest, 1.0, seed, draws), _ece(rest, t, seed, draws), losses)
    return dict(zip(names, found, strict=True))


def _slices(table: Comparisons) -> Iterator[Slice]:
    yield from _quarters(table, "|score difference|", np.abs(table.difference))
    yield from _quarters(table, "reward level", table.level)
    toward = np.sign(table.longer) * np.sign(table.y - 0.5)
    lengths = {-1: "shorter answer wins", 1: "longer answer wins", 0: "equally long"}
    for sign, name in lengths.items():
        yield from _slice(table, "length", name, toward == sign)
    for source in np.unique(table.source):
        yield from _slice(table, "written by", str(source), table.source == source)
    agreement = np.maximum(table.y, 1 - table.y)
    edges = ((0.5, 0.65), (0.65, 0.8), (0.8, 0.95), (0.95, 1.01))
    for low, high in edges:
        name = f"{low:.2f} to {min(high, 1):.2f}"
        yield from _slice(table, "agreement", name, (agreement >= low) & (agreement < high))


def _quarters(table: Comparisons, kind: str, x: Floats) -> Iterator[Slice]:
    rank = np.argsort(np.argsort(x, kind="stable"), kind="stable")
    for k, name in enumerate(QUARTERS):
        yield from _slice(table, kind, f"{name} quarter", rank * 4 // len(x) == k)


def _slice(table: Comparisons, kind: str, name: str, inside: Ints | Any) -> Iterator[Slice]:
    part = table.take(np.flatnonzero(inside))
    if len(part):
        yield Slice(kind, name, len(part), rate_by_prompt(part.credit, part.prompt))


def _spread_auroc(table: Comparisons, seed: Seed, draws: int) -> Estimate:
    wrong = table.credit < 0.5

    def statistic(rows: Ints) -> float:
        return auroc(table.spread[rows], wrong[rows])

    return bootstrap(statistic, table.prompt, draws=draws, seed=seed.at("auroc"))


def _own_prompt(groups: Iterable[Group], other_prompts: Iterable[Group]) -> Estimate | None:
    """Compare a prompt's own answers with other prompts' answers, all pairs, by prompt."""
    others = {g.id: g.scores for g in other_prompts}
    if not others:
        return None
    prompt: list[str] = []
    outcome: list[float] = []
    for group in groups:
        strange = others.get(group.id)
        if strange is None or group.scores is None:
            raise DataError(
                f"group `{group.id}` has no scored answers to other prompts",
                "the check compares a prompt's own answers with another prompt's",
                "give `shuffled(groups)`, judged by the same model",
            )
        outcome.append(float(outcomes_of(group.scores[:, None], strange[None, :]).mean()))
        prompt.append(group.id)
    return rate_by_prompt(outcome, prompt)


def learning_table(
    points: Sequence[tuple[int, str, RewardEvaluation]],
) -> tuple[Table, dict[str, LearningCurve]]:
    """Lay out evaluations against labels and model size, and fit a + b n^-c to each size's error.

    Args:
        points: (number of labels, model's size or name, its evaluation).

    Returns:
        The table, and a curve for each size that was trained on three or more amounts of labels.
    """
    rows = tuple((n, size, e.accuracy, e.log_loss, e.ece) for n, size, e in points)
    curves: dict[str, LearningCurve] = {}
    for size in dict.fromkeys(size for _, size, _ in points):
        mine = [(n, e.accuracy) for n, s, e in points if s == size]
        labels, errors = [n for n, _ in mine], [1 - a.mean for _, a in mine]
        ses = [a.se for _, a in mine]
        if len(set(labels)) >= 3 and all(se > 0 and math.isfinite(se) for se in ses):
            curves[size] = learning_curve(labels, errors, ses)
    return Table(("labels", "model", "accuracy", "log-loss", "ECE"), rows, "learning curve"), curves
