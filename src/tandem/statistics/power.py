"""Before a run: what it can resolve. After it: what it did resolve, over all comparisons made."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tandem.errors import ConfigError, DataError
from tandem.statistics.crossed import ALPHA, Crossed
from tandem.statistics.intervals import Estimate
from tandem.statistics.numerics import Floats, normal_quantile


def holm(p_values: npt.ArrayLike) -> Floats:
    """Adjust p-values so that the chance of any false positive in the family stays below alpha.

    Holm's step-down: the k-th smallest of m is multiplied by m - k + 1, made monotone, and cut
    at 1. Valid under any dependence. [M] in, [M] out, in the order given.
    """
    p = np.asarray(p_values, np.float64)
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
        noise_square=noise,
    )
    return math.sqrt(plan.variance) * (plan.quantile() + normal_quantile(1 - power))


def comparisons_needed(estimate: Estimate, *, power: float = 0.8) -> int:
    """Return about how many more comparisons would resolve a difference of this size.

    The standard error shrinks with the square root of the number of comparisons (prompts times
    seeds, grown together); 0 when it is resolved already.

    Raises:
        DataError: the estimate is exactly the null, which no number of comparisons resolves.
    """
    if estimate.resolved:
        return 0
    distance = abs(estimate.mean - estimate.null)
    if distance == 0:
        raise DataError(
            f"the estimate is exactly {estimate.null:g}",
            "a difference of zero is never resolved, however many comparisons are made",
            "say which difference would matter and ask `minimum_detectable` for the size",
        )
    have = estimate.n * estimate.seeds
    z = normal_quantile(ALPHA / 2) + normal_quantile(1 - power)
    needed = have * (z * estimate.se / distance) ** 2
    return max(1, math.ceil(needed - have))


def verdict_line(estimate: Estimate, a: str, b: str) -> str:
    """Say in one line which of two is better, by how much, and whether that is resolved."""
    size = f"n={estimate.n}" + (f", {estimate.seeds} seeds" if estimate.seeds > 1 else "")
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
