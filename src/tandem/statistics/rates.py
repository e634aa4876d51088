"""Shares and win rates, whose intervals stay inside [0, 1].

Wilson's interval with the effective number of comparisons w (1 - w) / V, where V is the variance
that prompts, seeds and ties really give (`crossed`).

Shapes: S seeds, P prompts, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.errors import DataError
from tandem.statistics.crossed import ALPHA, Crossed, crossed_squares
from tandem.statistics.intervals import (
    NO_INTERVAL,
    ONE_PROMPT,
    Estimate,
    cell_sums,
    describe_design,
    deviations,
    read_design,
    without_interval,
)
from tandem.statistics.numerics import Floats, normal_quantile, normal_tails

WILSON = "Wilson"
"""What the method of an interval begins with whose standard error is that of a truth supposed."""
FEWEST_PROMPTS = 12
"""Below this a share of 90 % has no interval that holds it in 93 to 98 % of draws. Of ten prompts
the outcomes 8 to 10 hold 92.98 % of draws, and 7 to 10 already 98.7 %."""


def wilson(wins: float, n: float, *, null: float = 0.5) -> Estimate:
    """Return Wilson's score interval of one rate of independent wins and losses.

    Args:
        wins: number of wins, ties counted half.
        n: number of comparisons, or an effective number of them.
        null: the rate tested by the p-value.

    Raises:
        DataError: n is not above 0, or wins lie outside [0, n].
    """
    if not n > 0 or not 0 <= wins <= n:
        raise DataError(
            f"{wins} wins of {n}",
            "a rate is a number of wins out of as many comparisons or more",
            "count the comparisons that were made, ties as half a win",
        )
    rate = wins / n
    low, high = wilson_ends(rate, n, normal_quantile(ALPHA / 2))
    score = abs(rate - null) * math.sqrt(n / (null * (1 - null)))
    p_value, se = float(2 * normal_tails(np.float64(score))), math.sqrt(rate * (1 - rate) / n)
    return Estimate(rate, low, high, round(n), p_value, WILSON, se, 1, null)


def wilson_ends(rate: float, n: float, z: float) -> tuple[float, float]:
    """Return where a rate of n comparisons is z standard errors from a supposed truth."""
    shrink = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    low = max(0.0, centre - half) if rate > 0 else 0.0
    return low, min(1.0, centre + half) if rate < 1 else 1.0


def share_p_value(rate: Any, spread: Crossed, null: float) -> Any:
    """Return the two-sided p-value of a rate in [0, 1] with these mean squares.

    Wilson's test: the variance is that of the supposed truth, null (1 - null) over the effective
    number of comparisons. Where no spread is seen each prompt counts as one comparison.

    Args:
        rate: the estimate, or one an experiment.
        spread: mean squares of the outcomes, or of the influence on the rate.
        null: the rate supposed.
    """
    w, variance = np.asarray(rate, np.float64), np.asarray(spread.variance, np.float64)
    seen = (variance > 0) & (w > 0) & (w < 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.where(seen, w * (1 - w) / variance, spread.prompts)
    score = np.abs(w - null) * np.sqrt(n / (null * (1 - null)))
    known = 2 * normal_tails(score)
    p = np.where(seen, spread.p_value(score * np.sqrt(variance)), known)
    return float(p) if p.ndim == 0 else p


def estimate_share(
    rate: float, spread: Crossed, null: float = 0.5, method: str | None = None
) -> Estimate:
    """Join a rate and the mean squares behind it to an estimate.

    Args:
        rate: in [0, 1].
        spread: see `share_p_value`.
        null: the rate tested; nan tests none.
        method: how it was made; Wilson over the design unless given.
    """
    s, p = spread.seeds, spread.prompts
    if p < FEWEST_PROMPTS:
        return without_interval(rate, p, few_prompts(p), s, null)
    variance = float(spread.variance)
    seen = variance > 0 and 0 < rate < 1
    n = rate * (1 - rate) / variance if seen else float(p)
    z = spread.half_width / math.sqrt(variance) if seen else normal_quantile(ALPHA / 2)
    low, high = wilson_ends(rate, n, z)
    tested = float("nan") if math.isnan(null) else float(share_p_value(rate, spread, null))
    how = method or (f"{WILSON}, {describe_design(s)}" if seen else f"{WILSON} over prompts")
    se = math.sqrt(rate * (1 - rate) / n)
    return Estimate(rate, low, high, p, tested, how, se, s, null)


def few_prompts(prompts: int) -> str:
    """Say why so few prompts give a share no interval."""
    if prompts == 1:
        return ONE_PROMPT
    return f"{NO_INTERVAL}: {prompts} prompts are too few for a share, {FEWEST_PROMPTS} the fewest"


def share_of(x: npt.ArrayLike, *, null: float = float("nan")) -> Estimate:
    """Estimate a share, such as that of right answers, from numbers in [0, 1].

    Below twelve prompts there is no interval: none would cover as often as it says.

    Args:
        x: [P] or [S, P] one number a prompt; every seed meets the same prompts.
        null: the share tested by the p-value; none unless given.

    Raises:
        DataError: numbers outside [0, 1], no number, or numbers that are not finite.
    """
    return _share(x, "x", null)


def win_rate(outcomes: npt.ArrayLike) -> Estimate:
    """Estimate a win rate from outcomes in [0, 1]: 1 won, 0 lost, .5 tied or inconsistent.

    It is `share_of`, and the hypothesis tested is one half.

    Args:
        outcomes: [P] or [S, P].

    Raises:
        DataError: outcomes outside [0, 1], no outcome, or outcomes that are not finite.
    """
    return _share(outcomes, "outcomes", 0.5)


def bounded_win_rate(
    outcomes: npt.ArrayLike, estimate: Callable[[Floats], Estimate] = win_rate
) -> Estimate:
    """Estimate a win rate where some verdicts could not be read: nan.

    They count half in the rate. The interval reaches from that of losing all of them to that of
    winning all of them, so it holds whatever they would have been.

    Args:
        outcomes: [P] or [S, P] in [0, 1], or nan.
        estimate: how a win rate without nan is estimated.

    Raises:
        DataError: as `win_rate`.
    """
    values = np.asarray(outcomes, np.float64)
    unread = np.isnan(values)
    if not unread.any():
        return estimate(values)
    lost, half, won = (estimate(np.where(unread, filled, values)) for filled in (0.0, 0.5, 1.0))
    p_value = max(lost.p_value, won.p_value) if (lost.mean - 0.5) * (won.mean - 0.5) > 0 else 1.0
    return replace(
        half,
        low=lost.low,
        high=won.high,
        p_value=float("nan") if np.isnan(lost.p_value) else p_value,
        method=f"{half.method}; bounds over {int(unread.sum())} unreadable",
    )


def _share(x: npt.ArrayLike, name: str, null: float) -> Estimate:
    values = read_design(x, name)
    if values.min() < 0 or values.max() > 1:
        raise DataError(
            f"`{name}` runs from {values.min()} to {values.max()}",
            "a win counts 1, a loss 0 and a tie .5",
            "turn scores into outcomes first: (a > b) + .5 * (a == b)",
        )
    s, p = values.shape
    rate = float(values.mean())
    if p == 1:
        return without_interval(rate, p, ONE_PROMPT, s, null)
    return estimate_share(rate, crossed_squares(values, share=True), null)


def rate_by_prompt(
    values: npt.ArrayLike,
    prompt: Sequence[Any] | npt.NDArray[Any],
    seed: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> Estimate:
    """Estimate a rate from rows in [0, 1] that come in prompts, tested against one half.

    `by_prompt`'s variance, with Wilson's interval at the effective number of rows.

    Args:
        values: [N] 1, 0, or .5 for a tie.
        prompt: [N] which prompt each row belongs to.
        seed: [N] which training seed each row belongs to, where several are pooled.
    """
    rows = np.asarray(values, np.float64)
    rate = float(rows.mean())
    cells = cell_sums(deviations(rows) / len(rows), prompt, seed)
    s, p = cells.shape
    if p == 1:
        return without_interval(rate, p, ONE_PROMPT, s, 0.5)
    return estimate_share(rate, crossed_squares(cells, share=True))


def outcomes_of(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Return 1 where a is higher than b, .5 where they are equal, 0 elsewhere."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (first > second) + 0.5 * (first == second)


def average_both_orders(
    shown_first: npt.ArrayLike, shown_second: npt.ArrayLike
) -> tuple[Floats, float]:
    """Join a judge's verdicts on the same comparisons seen in both orders.

    Args:
        shown_first: [...] outcomes for A in [0, 1] when A was shown first.
        shown_second: the same shape: outcomes for A when A was shown second.

    Returns:
        The mean outcomes, so that a judge who follows the position alone gives ties, and the
        share of comparisons whose winner changes with the order.
    """
    first, second = np.asarray(shown_first, np.float64), np.asarray(shown_second, np.float64)
    flipped = (first - 0.5) * (second - 0.5) < 0
    return (first + second) / 2, float(flipped.mean())
