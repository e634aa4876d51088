"""Exact numbers of the theory, and agreement with reference libraries.

See docs/theory/conventions.md#measures, docs/theory/reward_models.md#exact-values and
docs/theory/over_optimisation.md#exact-values.
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score
from statsmodels.api import GLM, families
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tandem.errors import ConfigError, DataError
from tandem.rng import Seed
from tandem.statistics import (
    ELO_PER_NAT,
    Estimate,
    LearningCurve,
    OverOptimisation,
    accuracy,
    auroc,
    average_both_orders,
    bootstrap,
    brier,
    by_prompt,
    centre_scores,
    comparisons_needed,
    d_optimal,
    design_information,
    ece,
    elo_gap,
    ensemble_scores,
    fit_bradley_terry,
    holm,
    learning_curve,
    length_controlled,
    log_loss,
    mean_of,
    member_disagreement,
    minimum_detectable,
    ordering_credit,
    outcomes_of,
    over_optimisation,
    paired_difference,
    rate_by_prompt,
    reliability_bins,
    share_of,
    temperature_scale,
    verdict_line,
    wilson,
    win_probability,
    win_probability_of,
    win_rate,
)
from tandem.statistics.crossed import crossed_squares


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# intervals


def test_one_seed_is_the_paired_t_test() -> None:
    a, b = rng(1).standard_normal((2, 40))
    found = paired_difference(a, b)
    test = scipy_stats.ttest_rel(a, b)
    ends = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert found.p_value == pytest.approx(test.pvalue)
    assert (found.n, found.seeds) == (40, 1)


def test_seeds_without_prompt_noise_are_a_t_test_over_seeds() -> None:
    """Seed s scores the same on every prompt: only the 3 seeds count.

    Then Satterthwaite's p-value is exactly that of t with 2 degrees. The generalised one draws the
    seed variance from its chi-squared law but lets the prompts keep t with 49 degrees in place of
    the normal, which is wider by the factor 2.0096 / 1.96 at most; it has a weight of .3 here.
    """
    by_seed = np.array([0.1, 0.4, 0.25])
    found = mean_of(np.repeat(by_seed[:, None], 50, axis=1))
    half = scipy_stats.t.ppf(0.975, 2) * by_seed.std(ddof=1) / math.sqrt(3)
    assert found.mean == pytest.approx(0.25)
    assert half < found.high - found.mean < half * (2.0096 / 1.96) ** 0.3
    assert found.p_value == pytest.approx(scipy_stats.ttest_1samp(by_seed, 0).pvalue, rel=0.01)


def test_more_seeds_do_not_replace_prompts() -> None:
    """With prompt noise alone, ten copies of one seed say no more than one."""
    d = rng(2).standard_normal(60)
    assert mean_of(np.tile(d, (10, 1))).high == pytest.approx(mean_of(d).high)


def test_pairing_removes_what_prompts_share() -> None:
    hard = 5 * rng(3).standard_normal(100)
    a, b = hard + 0.3 + 0.1 * rng(4).standard_normal(100), hard
    assert paired_difference(a, b).resolved
    assert paired_difference(a, b).se < mean_of(a).se / 20


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        ([], [], "an estimate needs numbers"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"shape \(2,\) and `b` has shape \(3,\)"),
        ([1.0, math.nan], [1.0, 2.0], "`a` is nan at seed 0, prompt 1"),
    ],
)
def test_wrong_columns_are_refused(a: list[float], b: list[float], match: str) -> None:
    with pytest.raises(DataError, match=match):
        paired_difference(a, b)


def test_standard_errors_of_win_rates() -> None:
    """sqrt(w (1 - w) / n) at w = .5: 1.76, 5.0 and 5.6 points for n = 805, 100, 80."""
    for n, points in ((805, 1.76), (100, 5.0), (80, 5.59)):
        assert 100 * wilson(n / 2, n).se == pytest.approx(points, abs=0.005)


def test_wilson_is_statsmodels_wilson() -> None:
    for wins, n in ((0, 10), (7, 10), (450, 805)):
        low, high = proportion_confint(wins, n, method="wilson")
        assert (wilson(wins, n).low, wilson(wins, n).high) == pytest.approx((low, high), abs=1e-12)


def test_win_rate_counts_ties_half_and_makes_them_narrower() -> None:
    decided, tied = np.repeat([1.0, 0.0], 50), np.repeat([1.0, 0.5, 0.5, 0.0], 25)
    assert win_rate(tied).mean == win_rate(decided).mean == 0.5
    assert win_rate(tied).se < win_rate(decided).se
    assert outcomes_of([1, 2, 2], [0, 2, 3]).tolist() == [1, 0.5, 0]


def test_a_judge_of_positions_gives_ties() -> None:
    """Always the first shown: mean outcome one half, and every winner changes with the order."""
    outcomes, flips = average_both_orders([1, 1, 1.0], [0, 0, 0.0])
    assert (outcomes.tolist(), flips) == ([0.5, 0.5, 0.5], 1)
    outcomes, flips = average_both_orders([1, 0, 1, 0.5], [1, 0, 0.5, 0.5])
    assert (outcomes.tolist(), flips) == ([1, 0, 0.75, 0.5], 0)


def test_a_perfect_win_rate_still_has_an_interval() -> None:
    found = win_rate(np.ones(20))
    assert found.high == 1
    assert found.low == pytest.approx(proportion_confint(20, 20, method="wilson")[0])
    with pytest.raises(DataError, match=r"-1\.0 to 2\.0"):
        win_rate([-1.0, 2.0])


def test_win_rate_p_value_agrees_with_its_interval() -> None:
    for wins in range(30, 71):
        found = win_rate(np.arange(100) < wins)
        assert (found.p_value < 0.05) == found.resolved


def test_by_prompt_clusters() -> None:
    """Repeating each row in its prompt adds no information; as prompts of its own, it would."""
    x = rng(5).standard_normal(50)
    once = by_prompt(x, np.arange(50))
    assert by_prompt(np.repeat(x, 4), np.repeat(np.arange(50), 4)).se == pytest.approx(once.se)
    assert once.low == pytest.approx(mean_of(x).low)
    assert math.isnan(by_prompt([1.0, 2.0], ["a", "a"]).low)


def test_rates_by_prompt_stay_inside_zero_and_one() -> None:
    """Eighteen right of twenty: a t interval would end at 1.04."""
    most = rate_by_prompt([1.0] * 18 + [0.0] * 2, np.arange(20))
    assert most.mean == pytest.approx(0.9)
    assert 0.5 < most.low < 0.9 < most.high < 1
    assert rate_by_prompt([0.0] * 12, list("abcdefghijkl")).low == 0
    twice = rate_by_prompt([1.0] * 36 + [0.0] * 4, np.repeat(np.arange(20), 2))
    assert (twice.low, twice.high) == pytest.approx((most.low, most.high))


def test_bootstrap_of_a_mean_is_its_standard_error() -> None:
    x = rng(6).standard_normal(400)
    found = bootstrap(lambda rows: float(x[rows].mean()), np.arange(400), seed=Seed(3))
    assert found.se == pytest.approx(mean_of(x).se, rel=0.08)
    again = bootstrap(lambda rows: float(x[rows].mean()), np.arange(400), seed=Seed(3))
    assert (found.low, found.high) == (again.low, again.high)
    clustered = bootstrap(
        lambda rows: float(np.repeat(x, 3)[rows].mean()), np.repeat(np.arange(400), 3)
    )
    assert clustered.se == pytest.approx(mean_of(x).se, rel=0.08)


def test_estimates_become_json() -> None:
    found = bootstrap(lambda rows: float(len(rows)), ["a", "b"]).as_dict()
    assert found["p_value"] is None
    assert json.loads(json.dumps(found)) == found
    assert str(wilson(50, 100)) == "0.500 [0.404, 0.596]"


# many comparisons, and power


def test_holm_by_hand_and_by_statsmodels() -> None:
    """Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, made monotone .04 .06 .06 .06."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    p = rng(7).random(12) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]).tolist() == []


def test_minimum_detectable_difference() -> None:
    """(1.963 + .842) * .5 / sqrt(805) = .0494: five points, not the 3.4 that RLP reports.

    Noncentral t with 804 degrees, which many prompts make nearly normal.
    """
    assert minimum_detectable(805) == pytest.approx(0.0494, abs=1e-4)
    assert minimum_detectable(400) == pytest.approx(2 * minimum_detectable(1600), rel=0.01)
    few, many = (minimum_detectable(300, seeds, sd_prompt=0.4, sd_seed=0.05) for seeds in (3, 10))
    assert many < few
    with pytest.raises(ConfigError, match="prompts = 1"):
        minimum_detectable(1)


def test_minimum_detectable_difference_has_its_power() -> None:
    """A true difference of that size is resolved in 80 % of simulated runs, with few seeds too.

    2,000 runs have a standard error of .9 points. A normal quantile for the power would give .69,
    .76 and .78 with 2, 3 and 5 seeds.
    """
    for seeds, prompts, by_seed in ((1, 4, 0.0), (2, 200, 0.05), (3, 200, 0.05), (5, 200, 0.05)):
        noise = 0.5 if seeds > 1 else 0.0
        sds = {"sd_prompt": 0.5, "sd_seed": by_seed, "sd_noise": noise}
        size, draw = minimum_detectable(prompts, seeds, **sds), rng(8)
        x = (
            size
            + by_seed * draw.standard_normal((2000, seeds, 1))
            + 0.5 * draw.standard_normal((2000, 1, prompts))
            + noise * draw.standard_normal((2000, seeds, prompts))
        )
        resolved = crossed_squares(x).p_value(x.mean(axis=(1, 2))) < 0.05
        assert 0.77 <= resolved.mean() <= 0.83, seeds


def test_comparisons_needed_resolve() -> None:
    """With many prompts n + more is n (2.80 se / mean)^2, as with a normal quantile."""
    found = Estimate(0.02, -0.01, 0.05, 20_000, 0.2, "", se=0.0153)
    more = comparisons_needed(found)
    assert more == pytest.approx(20_000 * ((2.8016 * 0.0153 / 0.02) ** 2 - 1), rel=1e-3)
    assert comparisons_needed(Estimate(0.2, 0.1, 0.3, 200, 0.0, "", se=0.05)) == 0
    with pytest.raises(DataError, match="exactly 0"):
        comparisons_needed(Estimate(0.0, -0.1, 0.1, 200, 1.0, "", se=0.05))


@pytest.mark.parametrize(("n", "mean"), [(4, 0.8), (4, 1.4), (8, 0.7)])
def test_comparisons_needed_have_the_power_promised(n: int, mean: float) -> None:
    """A mean of `mean` standard deviations: t tests on n + more prompts resolve it with P = .8.

    The normal quantile promised .8 at (2.80 / mean)^2 prompts: 13, 5 and 17 give .75, .65 and .77.
    """
    se = 1 / math.sqrt(n)
    half = float(scipy_stats.t.isf(0.025, n - 1)) * se
    total = n + comparisons_needed(Estimate(mean, mean - half, mean + half, n, 0.2, "", se=se))
    normal = math.ceil((2.8016 / mean) ** 2)

    def power(prompts: int) -> float:
        x = mean + np.random.default_rng(0).standard_normal((20_000, prompts))
        return float((scipy_stats.ttest_1samp(x, 0.0, axis=1).pvalue < 0.05).mean())

    assert power(total) > 0.79
    assert power(total - 1) < 0.81
    assert power(normal) < 0.78


def test_comparisons_needed_over_seeds() -> None:
    """Three seeds whose interval is that of t with 2 degrees of freedom: more than by a normal."""
    half = float(scipy_stats.t.isf(0.025, 2)) * 0.01
    found = Estimate(0.02, 0.02 - half, 0.02 + half, 100, 0.1, "", se=0.01, seeds=3)
    normal = 300 * ((2.8016 * 0.01 / 0.02) ** 2 - 1)
    assert 1.3 * normal < comparisons_needed(found) < 3 * normal


def test_comparisons_needed_of_shares_near_one() -> None:
    """What Wilson leaves open is asked for at Wilson's standard error.

    Three seeds at .81, 1 and .85 may give .881 [.475, .984]: by the ordinary one it were resolved.
    """
    draw = rng(5)
    for shares in ((0.81, 1.0, 0.85), (0.02, 0.2), (0.99, 0.7), (0.5, 0.55), (1.0, 0.6, 0.97)):
        for prompts in (12, 59):
            found = win_rate(draw.random((len(shares), prompts)) < np.array(shares)[:, None])
            if not found.resolved:
                assert comparisons_needed(found) > 10
    assert comparisons_needed(wilson(0, 2)) >= 1
    with pytest.raises(DataError, match="nothing to differ from"):
        comparisons_needed(share_of(draw.random((1, 20)).round()))


def test_verdicts() -> None:
    won = Estimate(0.2, 0.1, 0.3, 200, 0.0, "", se=0.05, seeds=5)
    assert verdict_line(won, "dpo", "sft") == (
        "resolved: dpo is better than sft, 0.2 [0.1, 0.3] at n=200, 5 seeds"
    )
    open_ = Estimate(0.02, -0.01, 0.05, 200, 0.2, "", se=0.0153)
    assert verdict_line(open_, "a", "b") == (
        "not resolved at n=200: a against b 0.02 [-0.01, 0.05]; about 730 more comparisons needed"
    )
    even = Estimate(0.5, 0.4, 0.6, 200, 1.0, "", se=0.05, null=0.5)
    assert verdict_line(even, "a", "b") == "not resolved at n=200: a and b are even, 0.5 [0.4, 0.6]"


# strength


def test_elo_numbers() -> None:
    """200 points are w = .7597; one nat of reward is 173.72 points."""
    assert win_probability(200) == pytest.approx(0.7597, abs=5e-5)
    assert elo_gap(win_probability(123.4)) == pytest.approx(123.4)
    assert pytest.approx(173.72, abs=5e-3) == ELO_PER_NAT
    assert elo_gap(1 / (1 + math.exp(-1))) == pytest.approx(ELO_PER_NAT)
    assert elo_gap(1.0) == math.inf


def _tournament(
    theta: dict[str, float], games: int, seed: int
) -> tuple[list[str], list[str], np.ndarray]:
    names, draw = list(theta), rng(seed)
    first = [names[k] for k in draw.integers(len(names), size=games)]
    second = [
        names[(names.index(a) + 1 + draw.integers(len(names) - 1)) % len(names)] for a in first
    ]
    p = [1 / (1 + math.exp(theta[b] - theta[a])) for a, b in zip(first, second, strict=True)]
    return first, second, (draw.random(games) < p).astype(float)


def test_bradley_terry_recovers_gaps_within_two_standard_errors() -> None:
    theta = {"sft": 0.0, "dpo": 0.8, "rso": 1.3, "base": -1.0}
    hits = 0
    for seed in range(20):
        fit = fit_bradley_terry(*_tournament(theta, 600, seed))
        hits += sum(
            abs(fit.gap(a, "sft").mean - theta[a]) <= 2 * fit.gap(a, "sft").se
            for a in ("dpo", "rso", "base")
        )
    assert hits >= 52


def test_bradley_terry_of_two_is_the_log_odds() -> None:
    """70 wins of 100: theta = logit(.7), 147.2 Elo."""
    fit = fit_bradley_terry(["a"] * 100, ["b"] * 100, [1.0] * 70 + [0.0] * 30)
    assert fit.gap("a", "b").mean == pytest.approx(math.log(7 / 3))
    assert fit.gap("a", "b").se == pytest.approx(math.sqrt(1 / 70 + 1 / 30), rel=0.01)
    share = win_rate([1.0] * 70 + [0.0] * 30)
    gap = fit.gap("a", "b")
    assert (gap.low, gap.high) == pytest.approx(
        (math.log(share.low / (1 - share.low)), math.log(share.high / (1 - share.high)))
    )
    assert gap.p_value == pytest.approx(share.p_value)
    elo = fit.elo("b")
    assert elo["a"].mean == pytest.approx(elo_gap(0.7))
    assert (elo["b"].mean, elo["b"].low) == (0, 0)
    assert fit.theta.sum() == pytest.approx(0)


def test_bradley_terry_agrees_with_statsmodels() -> None:
    first, second, y = _tournament({"a": 0.0, "b": 0.5, "c": -0.3}, 400, 1)
    fit = fit_bradley_terry(first, second, y)
    design = np.array(
        [[(f == n) - (s == n) for n in "bc"] for f, s in zip(first, second, strict=True)], float
    )
    glm = GLM(y, design, family=families.Binomial()).fit(cov_type="HC0")
    anchor = fit.names[0]
    expected = dict(zip("bc", glm.params, strict=True)) | {"a": 0.0}
    for name in "abc":
        gap = expected[name] - expected[anchor]
        assert fit.gap(name, anchor).mean == pytest.approx(gap, abs=1e-6)
    assert fit.gap("b", "a").se == pytest.approx(glm.bse[0] * math.sqrt(400 / 399), rel=1e-4)


def test_bradley_terry_clusters_by_prompt() -> None:
    first, second, y = _tournament({"a": 0.0, "b": 0.5}, 200, 2)
    once = fit_bradley_terry(first, second, y).gap("b", "a")
    copies = fit_bradley_terry(first * 3, second * 3, np.tile(y, 3), list(range(200)) * 3).gap(
        "b", "a"
    )
    assert copies.se == pytest.approx(once.se)
    assert copies.n == 200


def test_bradley_terry_needs_both_to_win_sometimes() -> None:
    with pytest.raises(DataError, match="`b` never beats or ties `a`"):
        fit_bradley_terry(["a", "a", "b"], ["b", "b", "c"], [1, 1, 0.5])
    with pytest.raises(DataError, match="no competitor `z`"):
        fit_bradley_terry(["a", "a"], ["b", "b"], [1, 0]).gap("a", "z")


def test_length_controlled_win_rate() -> None:
    """A judge that only likes length: 75 % plain wins, half at equal length."""
    draw = rng(9)
    gap = 40 + 40 * draw.standard_normal(4000)
    wins = (draw.random(4000) < 1 / (1 + np.exp(-2 * np.tanh(gap / gap.std())))).astype(float)
    found = length_controlled(wins, gap)
    assert wins.mean() > 0.7
    assert found.low <= 0.5 <= found.high
    assert found.high - found.low < 0.08


def test_length_controlled_without_a_length_difference_is_the_win_rate() -> None:
    wins = np.repeat([1.0, 0.5, 0.0], [60, 20, 20])
    assert length_controlled(wins, np.zeros(100)).mean == pytest.approx(0.7, abs=1e-3)
    perfect = length_controlled(np.ones(50), rng(1).standard_normal(50))
    assert (perfect.mean, perfect.low) == (1, win_rate(np.ones(50)).low)


# calibration


def test_accuracy_counts_ties_half() -> None:
    assert accuracy([1, -1, 0, 2], [1, 1, 1, 0]) == pytest.approx(1.5 / 4)
    assert ordering_credit([1, -1, 3], [0.5, 0.2, 0.7]).tolist() == [0.5, 1, 1]


def test_a_coin_has_the_known_scores() -> None:
    assert log_loss([0.5, 0.5], [1, 0]) == pytest.approx(math.log(2))
    assert brier([0.5, 0.5], [1, 0]) == 0.25
    assert log_loss([0.8], [0.8]) == pytest.approx(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))


def test_a_calibrated_model_has_no_calibration_error() -> None:
    """ECE < .01 at n = 1e5 and 15 bins."""
    draw = rng(10)
    p = draw.random(100_000)
    y = (draw.random(100_000) < p).astype(float)
    assert ece(p, y) < 0.01
    sharp = win_probability_of(3 * np.log(p / (1 - p)))
    assert ece(sharp, y) > 0.08


def test_calibration_error_by_hand() -> None:
    """Bins {.1, .2} and {.7, .9}: (2/4) |0 - .15| + (2/4) |.5 - .8| = .225."""
    assert ece([0.9, 0.1, 0.7, 0.2], [0, 0, 1, 0], bins=2) == pytest.approx(0.225)
    parts = reliability_bins([0.9, 0.1, 0.7, 0.2], [0, 0, 1, 0], bins=2)
    assert [(b.n, b.frequency) for b in parts] == [(2, 0), (2, 0.5)]
    with pytest.raises(DataError, match="3 predictions for 15 bins"):
        ece([0.1, 0.2, 0.3], [0, 0, 1])


def test_equal_predictions_share_a_bin_whatever_their_order() -> None:
    """300 times .5, half of them wins, sorted by outcome: by row order the error was .469."""
    y = np.repeat([1.0, 0.0], 150)
    assert len(reliability_bins(np.full(300, 0.5), y)) == 1
    assert ece(np.full(300, 0.5), y) == 0
    p = rng(17).choice([0.2, 0.5, 0.8], 300)
    orders = [rng(k).permutation(300) for k in range(5)]
    assert len({round(ece(p[o], y[o]), 12) for o in orders}) == 1
    assert [b.confidence for b in reliability_bins(p, y)] == pytest.approx([0.2, 0.5, 0.8])


def test_temperature_undoes_overconfidence() -> None:
    draw = rng(11)
    d = 2 * draw.standard_normal(50_000)
    y = (draw.random(50_000) < win_probability_of(d)).astype(float)
    assert temperature_scale(3 * d, y) == pytest.approx(3, rel=0.03)
    assert ece(win_probability_of(3 * d, 3), y) < 0.02 < ece(win_probability_of(3 * d), y)
    assert temperature_scale(d, win_probability_of(d / 4)) == pytest.approx(4, rel=1e-4)


def test_auroc_is_sklearns() -> None:
    score, flag = rng(12).integers(0, 5, 200).astype(float), rng(13).random(200) < 0.3
    assert auroc(score, flag) == pytest.approx(roc_auc_score(flag, score))
    assert auroc([1, 2], [False, True]) == 1
    assert math.isnan(auroc([1, 2], [True, True]))


# curves


def test_learning_curve_recovers_its_parameters() -> None:
    n = np.array([100, 200, 500, 1000, 3000, 10_000])
    fit = learning_curve(n, 0.24 + 1.5 * n**-0.45)
    assert (fit.a, fit.b, fit.c) == pytest.approx((0.24, 1.5, 0.45), rel=1e-3)
    assert fit.gain(1000, 500) == pytest.approx(fit.at(1000) - fit.at(1500))
    assert LearningCurve(0.2, 1.0, 0.5).at(100) == pytest.approx(0.3)
    with pytest.raises(DataError, match="2 different numbers"):
        learning_curve([1, 2, 2], [1, 2, 3])


@pytest.mark.parametrize("form", ["bon", "rl"])
def test_over_optimisation_fits_recover_noiseless_curves(form: str) -> None:
    kl = np.array([0.0, 0.5, 1, 4, 9, 25, 60])
    d = np.sqrt(kl[1:])
    gold = d * (1 - 0.2 * (d if form == "bon" else np.log(d)))
    se = np.linspace(0.1, 0.2, 7)
    fit = over_optimisation(kl, np.concatenate([[0.0], gold]), form, se)  # type: ignore[arg-type]
    assert (fit.alpha, fit.beta) == pytest.approx((1, 0.2))
    assert fit.at(d) == pytest.approx(gold)


def test_over_optimisation_peaks() -> None:
    """alpha = 1, beta = .2: best-of-n 2.5 and 1.25; RL e^4 = 54.598 and 10.9196."""
    bon, rl = OverOptimisation(1, 0.2, "bon"), OverOptimisation(1, 0.2, "rl")
    assert (bon.peak, bon.height) == pytest.approx((2.5, 1.25))
    assert (rl.peak, rl.height) == pytest.approx((54.598, 10.9196), rel=1e-5)
    for curve in (bon, rl):
        assert float(curve.at(curve.peak)) == pytest.approx(curve.height)
    assert OverOptimisation(1, -0.1, "rl").peak == math.inf


def test_over_optimisation_trusts_the_points_that_are_known_best() -> None:
    """A point that is off by 5 and has a thousand times the error moves nothing."""
    kl = np.array([1.0, 4, 9, 25])
    gold = np.sqrt(kl) * (1 - 0.2 * np.sqrt(kl)) + [0, 0, 5, 0]
    se = np.array([0.01, 0.01, 10, 0.01])
    fit = over_optimisation(kl, gold, "bon", se)
    assert (fit.alpha, fit.beta) == pytest.approx((1, 0.2), abs=1e-3)
    assert abs(over_optimisation(kl, gold, "bon").alpha - 1) > 0.5
    tiny = over_optimisation(kl, gold, "bon", se * 1e-300)
    assert (tiny.alpha, tiny.beta) == pytest.approx((fit.alpha, fit.beta))
    with pytest.raises(DataError, match=r"point 1 is 0\.0"):
        over_optimisation(kl, gold, "bon", [0.1, 0, 0.1, 0.1])


def test_a_peak_beyond_all_reason_overflows_nothing() -> None:
    """alpha / beta = 601: e^600 has no square; the peak is said to be infinite."""
    far = OverOptimisation(601, 1, "rl")
    assert far.peak == far.height == math.inf
    assert f"{far.peak**2:.3g}" == "inf"
    assert OverOptimisation(1e200, 1, "bon").height == math.inf
    assert float(OverOptimisation(1, 0.2, "rl").at(0.0)) == 0


def test_over_optimisation_refuses() -> None:
    with pytest.raises(ConfigError, match="form = 'ppo'"):
        over_optimisation([1, 2], [1, 2], "ppo")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="1 points with KL above 0"):
        over_optimisation([0, 2], [0, 2], "rl")


def test_ensemble_laws() -> None:
    """One member is itself, no weight is the mean, and the worst is never above the mean."""
    prompt = np.repeat(np.arange(10), 4)
    r = rng(14).standard_normal((5, 40))
    assert ensemble_scores(r[:1], prompt, "worst") == pytest.approx(centre_scores(r[:1], prompt)[0])
    assert ensemble_scores(r[:1], prompt, "uncertainty") == pytest.approx(
        centre_scores(r[:1], prompt)[0]
    )
    mean = ensemble_scores(r, prompt)
    assert ensemble_scores(r, prompt, "uncertainty", 0.0) == pytest.approx(mean)
    assert (ensemble_scores(r, prompt, "worst") <= mean + 1e-12).all()
    assert (ensemble_scores(r, prompt, "uncertainty") <= mean).all()
    assert member_disagreement(r[[0, 0]], prompt) == pytest.approx(np.zeros(40))
    with pytest.raises(ConfigError, match="how = 'max'"):
        ensemble_scores(r, prompt, "max")  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["mean", "worst", "uncertainty"])
def test_ensembles_ignore_constants_per_prompt_and_member(how: str) -> None:
    prompt = np.repeat(np.arange(10), 4)
    r = rng(15).standard_normal((5, 40))
    moved = r + rng(16).standard_normal((5, 10))[:, prompt]
    assert ensemble_scores(moved, prompt, how) == pytest.approx(ensemble_scores(r, prompt, how))  # type: ignore[arg-type]


# design


def test_greedy_design_is_nearly_the_best() -> None:
    """At least 1 - 1/e of the best two of eight, by brute force; often the best itself."""
    exact = 0
    for seed in range(30):
        x = rng(seed).standard_normal((8, 3))
        greedy = design_information(x[d_optimal(x, 2)])
        best = max(
            design_information(x[list(pair)]) for pair in itertools.combinations(range(8), 2)
        )
        assert (1 - 1 / math.e) * best <= greedy <= best + 1e-12
        exact += greedy > best - 1e-9
    assert exact > 15


def test_design_spreads_over_directions() -> None:
    """A second look along (3, 0) gains log(19/10) = .64; (0, 2) gains log 5 = 1.61."""
    x = np.array([[3.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    assert d_optimal(x, 2) == [0, 2]
    assert design_information(x[[0, 1]]) == pytest.approx(math.log(19))
    assert design_information(x[[0, 2]]) == pytest.approx(math.log(10) + math.log(5))
    assert sorted(d_optimal(x, 9)) == [0, 1, 2]
    with pytest.raises(ConfigError, match="keep = 0"):
        d_optimal(x, 0)


def test_a_mean_that_is_the_null_but_for_rounding_has_p_value_one():
    x = np.random.default_rng(0).normal(size=(3, 20))
    x -= x.mean()
    assert abs(x.mean()) < 1e-15
    assert mean_of(x + 1e-16).p_value == pytest.approx(1.0)
