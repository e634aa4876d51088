"""Before a run: what it can resolve. After it: what it did resolve, over all comparisons made."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError, DataError
from tandem.statistics.crossed import ALPHA, Crossed
from tandem.statistics.intervals import Estimate
from tandem.statistics.numerics import (
    Floats,
    chi_squared_quantile,
    find_root,
    noncentral_t,
    normal_cdf,
    spread_points,
    t_quantile,
)
from tandem.statistics.rates import FEWEST_PROMPTS, WILSON

POINTS = 512
"""Runs over which the power of a plan is averaged."""
MOST_DF = 1e4
"""Degrees of freedom from which on a t is as good as normal."""


def holm(p_values: npt.ArrayLike) -> Floats:
    """Adjust p-values so that the chance of any false positive in the family stays below alpha.

    Holm's step-down: the k-th smallest of m is multiplied by m - k + 1, made monotone, and cut
    at 1. Valid under any dependence. [M] in, [M] out, in the order given. A comparison without a
    p-value (nan) was made and shows nothing: it counts as 1.
    """
    p = np.nan_to_num(np.asarray(p_values, np.float64), nan=1.0)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def minimum_detectable(
    prompts: int,
    seeds: int = 1,
    *,
    sd_prompt: float = 0.5,
    sd_seed: float = 0.0,
    sd_noise: float = 0.0,
    power: float = 0.8,
) -> float:
    """Return the smallest true difference that a run of this size would resolve.

    Args:
        prompts: P.
        seeds: S; with one seed the claim is about these weights alone and sd_seed has no part.
        sd_prompt: standard deviation of the difference over prompts; .5 bounds that of a win rate.
        sd_seed: standard deviation over training seeds of a method's mean difference.
        sd_noise: standard deviation of what is left (sampling of one answer).
        power: chance of an interval clear of zero when the difference is real.
    """
    if prompts < 2 or seeds < 1:
        raise ConfigError(
            f"prompts = {prompts}, seeds = {seeds}",
            "an interval needs at least two prompts and one seed",
            "plan a larger run",
        )
    noise = sd_noise**2
    plan = Crossed(
        seeds=seeds,
        prompts=prompts,
        seed_square=noise + (prompts * sd_seed**2 if seeds > 1 else 0.0),
        prompt_square=noise + seeds * sd_prompt**2,
        noise_square=noise if seeds > 1 else 0.0,
        prompt_df=prompts - 1.0,
    )
    if not plan.variance > 0:
        raise ConfigError(
            f"sd_prompt = {sd_prompt}, sd_seed = {sd_seed}, sd_noise = {sd_noise}",
            "without any spread every difference would be seen",
            "give the spread that you expect over prompts, as a standard deviation",
        )
    se = math.sqrt(float(plan.variance))
    if seeds == 1:
        return se * noncentral_t(power, float(plan.df), plan.half_width / se)
    half = _half_widths(plan)

    def missing(size: float) -> float:
        resolved = normal_cdf((size - half) / se) + normal_cdf((-size - half) / se)
        return power - float(resolved.mean())

    return find_root(missing, 0.0, float(half.max()) + 40 * se)


def _half_widths(plan: Crossed) -> Floats:
    """Return the half widths of intervals that runs of this plan will have.

    Each mean square is its expectation times a chi-squared variable over its degrees of freedom,
    whatever the mean; so the power is an average over them. With one seed that average is the
    noncentral t; with several it has no name.
    """
    dfs = (plan.seeds - 1, plan.prompts - 1, (plan.seeds - 1) * (plan.prompts - 1))
    places = spread_points(POINTS, len(dfs)).T
    shares = [chi_squared_quantile(x, df) / df for x, df in zip(places, dfs, strict=True)]
    return replace(
        plan,
        seed_square=plan.seed_square * shares[0],
        prompt_square=plan.prompt_square * shares[1],
        noise_square=plan.noise_square * shares[2],
    ).half_width


def explain_few_prompts(prompts: int) -> str:
    """Say why so few held-out prompts cannot decide which policy wins; empty where they can.

    To be asked before the first stage of a run: nothing that is trained mends it.

        explain_few_prompts(4)      # "4 held-out prompts: no verdict is possible ..."
    """
    if prompts >= FEWEST_PROMPTS:
        return ""
    return (
        f"{prompts} held-out prompt{'' if prompts == 1 else 's'}: no verdict is possible, because "
        "no interval of so few covers a share as often as it says; hold out "
        f"{FEWEST_PROMPTS} prompts or more, and some hundreds for differences of ten points"
    )


def comparisons_needed(estimate: Estimate, *, power: float = 0.8) -> int:
    """Return about how many more comparisons would resolve a difference of this size.

    The standard error shrinks with the square root of the number of comparisons (prompts times
    seeds, grown together), and the degrees of freedom grow: with one seed as many as there are
    prompts, with several as there are seeds. The power is that of the noncentral t. 0 when the
    difference is resolved already.

    Args:
        estimate: a difference with its interval.
        power: chance that the larger comparison resolves it, if it is as large as it seems.

    Raises:
        DataError: the estimate is exactly the null, which no number of comparisons resolves, or
            it has no interval.
    """
    if estimate.resolved:
        return 0
    if math.isnan(estimate.se) or math.isnan(estimate.null):
        raise DataError(
            f"the estimate {estimate} has no standard error, or nothing to differ from",
            "how many comparisons would resolve it follows from how much they vary",
            "compare on more prompts first",
        )
    distance = abs(estimate.mean - estimate.null)
    if distance == 0:
        raise DataError(
            f"the estimate is exactly {estimate.null:g}",
            "a difference of zero is never resolved, however many comparisons are made",
            "say which difference would matter and ask `minimum_detectable` for the size",
        )
    have = estimate.n * estimate.seeds
    seen, df = distance / _test_scale(estimate)[0], degrees_of_freedom(estimate)

    def missing(growth: float) -> float:
        """How far the mean is from where a design that grew by a factor would resolve it."""
        larger = (df + 1) * (growth if estimate.seeds == 1 else math.sqrt(growth)) - 1
        known = min(larger, MOST_DF)
        return noncentral_t(power, known, t_quantile(ALPHA / 2, known)) - seen * math.sqrt(growth)

    if missing(1.0) <= 0:  # the interval is wider than its degrees of freedom make it
        return 1
    enough = 2.0
    while missing(enough) > 0:
        enough *= 2
    return max(1, math.ceil(have * (find_root(missing, enough / 2, enough) - 1)))


def _test_scale(estimate: Estimate) -> tuple[float, float]:
    """Return the standard error that the test divides by, and what its ratio has to exceed.

    The interval of a share is Wilson's: a truth supposed brings its own standard error, so that
    the one at the null decides, and the ends are `critical` of their own away.
    """
    low, mean, high = estimate.low, estimate.mean, estimate.high
    if not estimate.method.startswith(WILSON):
        return estimate.se, (high - low) / 2 / estimate.se
    seen = estimate.se > 0
    n = mean * (1 - mean) / estimate.se**2 if seen else float(estimate.n)
    end = low if low > 0 else high
    critical = abs(mean - end) / math.sqrt(end * (1 - end) / n)
    return math.sqrt(estimate.null * (1 - estimate.null) / n), critical


def degrees_of_freedom(estimate: Estimate) -> float:
    """Return what is behind an interval: n - 1 with one seed, else what its width tells.

    Without a standard error it is one fewer than the seeds.
    """
    if estimate.seeds == 1:
        return max(1.0, estimate.n - 1.0)
    if math.isnan(estimate.se):
        return estimate.seeds - 1.0
    critical = _test_scale(estimate)[1]

    def wider(log_df: float) -> float:
        return t_quantile(ALPHA / 2, math.exp(log_df)) - critical

    last = math.log(MOST_DF)
    if wider(0.0) <= 0:
        return 1.0
    return MOST_DF if wider(last) >= 0 else math.exp(find_root(wider, 0.0, last))


def verdict_line(estimate: Estimate, a: str, b: str) -> str:
    """Say in one line which of two is better, by how much, and whether that is resolved."""
    size = f"n={estimate.n}" + (f", {estimate.seeds} seeds" if estimate.seeds > 1 else "")
    if math.isnan(estimate.low):
        return f"not resolved at {size}: {a} against {b} {estimate.mean:.3g}, {estimate.method}"
    gap = f"{estimate.mean:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
    if estimate.resolved:
        sign = "better" if estimate.mean > estimate.null else "worse"
        return f"resolved: {a} is {sign} than {b}, {gap} at {size}"
    if estimate.mean == estimate.null:
        return f"not resolved at {size}: {a} and {b} are even, {gap}"
    more = comparisons_needed(estimate)
    digits = 10 ** max(0, len(str(more)) - 2)
    return (
        f"not resolved at {size}: {a} against {b} {gap}; "
        f"about {math.ceil(more / digits) * digits:,} more comparisons needed"
    )
