"""What statistics say of data that cannot answer: nan and why, and never a resolved difference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tandem.errors import DataError
from tandem.evaluation import Table, accuracy_evaluation, policy_evaluation
from tandem.statistics import (
    Estimate,
    bootstrap,
    by_prompt,
    comparisons_needed,
    deviant_seeds,
    explain_few_prompts,
    fit_bradley_terry,
    holm,
    length_controlled,
    mean_of,
    mean_over_seeds,
    minimum_detectable,
    paired_difference,
    rate_by_prompt,
    share_of,
    verdict_line,
    wilson,
    win_rate,
)

SEEDS, PROMPTS = np.arange(3), np.arange(40)


def tied(first: int, second: int) -> Estimate:
    names = ["a"] * (first + second), ["b"] * (first + second)
    return fit_bradley_terry(*names, [1.0] * first + [0.0] * second).gap("a", "b")


ONE, FEW, SAME = "one prompt", "too few", "all numbers are equal"
WITHOUT = {
    "mean of one number": (lambda: mean_of([2.0]), ONE),
    "mean of one prompt, three seeds": (lambda: mean_of([[0.3], [0.4], [0.5]]), ONE),
    "paired on one prompt": (lambda: paired_difference([1.0], [0.0]), ONE),
    "mean of constants": (lambda: mean_of([3.0] * 10), SAME),
    "mean of constants, three seeds": (lambda: mean_of(np.full((3, 10), 0.1)), SAME),
    "paired, the same everywhere": (lambda: paired_difference([2.0, 3, 4], [1.0, 2, 3]), SAME),
    "paired, identical": (lambda: paired_difference([2.0, 3, 4], [2.0, 3, 4]), SAME),
    "one seed": (lambda: mean_over_seeds([1.0]), "one seed"),
    "a win": (lambda: win_rate([1.0]), ONE),
    "one prompt, five seeds": (lambda: win_rate(np.ones((5, 1))), ONE),
    "two wins of two": (lambda: win_rate([1.0, 1]), FEW),
    "a win and a loss": (lambda: win_rate([1.0, 0]), FEW),
    "five wins of five": (lambda: win_rate(np.ones((4, 5))), FEW),
    "share of two": (lambda: share_of([0.0, 1]), FEW),
    "rows of one prompt": (lambda: rate_by_prompt([1.0, 0], ["a", "a"]), ONE),
    "rows of two prompts": (lambda: rate_by_prompt([1.0, 0], ["a", "b"]), FEW),
    "mean of rows of one prompt": (lambda: by_prompt([1.0, 2], ["a", "a"]), ONE),
    "mean of equal rows": (lambda: by_prompt([0.7] * 9, list("aaabbbccd")), SAME),
    "bootstrap of one prompt": (lambda: bootstrap(lambda r: float(len(r)), ["a", "a"]), ONE),
    "bootstrap of a constant": (lambda: bootstrap(lambda _: 1.0, PROMPTS), SAME),
    "bootstrap of nine": (lambda: bootstrap(lambda r: float(r[0]), PROMPTS[:9]), FEW),
    "length, one prompt": (lambda: length_controlled([1.0, 0], [1.0, 2], ["a", "a"]), ONE),
    "length, 2 of 2": (lambda: length_controlled([1.0, 1], [1.0, 2]), FEW),
    "length, 10 of 10": (lambda: length_controlled(np.ones(10), np.arange(10.0)), FEW),
    "strengths from three": (lambda: tied(2, 1), FEW),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_no_interval_is_said_with_its_reason(name: str) -> None:
    """No zero width, no p-value, nothing resolved, and words in the place of the interval."""
    make, why = WITHOUT[name]
    found = make()
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(found.p_value)
    assert not found.resolved
    assert "no interval" in str(found)
    assert why in found.method
    assert found.as_dict()["low"] is None


def test_balanced_data_are_not_known_exactly() -> None:
    """Seeds and prompts agree in their means and not in a single number.

    [[2, 0], [0, 2]]: the squares of seeds and prompts are 0 and that of noise is 4. Prompts that
    vary less than noise do so by luck, so both are pooled: (0 + 4) / 2 = 2 with 2 degrees of
    freedom, se = sqrt(2 / 4) = .707.
    """
    found = mean_of([[2.0, 0.0], [0.0, 2.0]])
    assert found.mean == 1
    assert found.se == pytest.approx(math.sqrt(0.5))
    assert found.low < -1
    assert not found.resolved
    chess = np.indices((4, 40)).sum(axis=0) % 2.0
    assert win_rate(chess).low < 0.45
    assert mean_of(chess, null=0.4).se > 0.02


@pytest.mark.parametrize(
    ("found", "low", "high"),
    [
        (wilson(2, 2), 0.342, 1.0),
        (wilson(10, 10), 0.722, 1.0),
        (win_rate(np.ones(12)), 0.757, 1.0),
        (win_rate(np.ones((5, 12))), 0.757, 1.0),
        (win_rate(np.zeros((2, 12))), 0.0, 0.243),
        (win_rate(np.full(20, 0.5)), 0.299, 0.701),
        (rate_by_prompt(np.ones(24), np.repeat(np.arange(12), 2)), 0.757, 1.0),
        (length_controlled(np.ones(30), np.arange(30.0)), 0.886, 1.0),
    ],
)
def test_near_separation_it_is_wilsons(found: Estimate, low: float, high: float) -> None:
    """Where no spread is seen each prompt is one comparison: n / (n + 3.84) for n wins of n."""
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)


def test_one_loss_is_no_jump() -> None:
    """With one loss of 40 the interval is a little lower than with none, and no narrower."""
    won, gap = np.ones(40), np.linspace(-1, 1, 40)
    lost = np.where(PROMPTS == 20, 0.0, 1.0)
    for rate in (win_rate, lambda y: length_controlled(y, gap)):
        assert rate(lost).low < rate(won).low
        assert rate(lost).high - rate(lost).low > rate(won).high - rate(won).low


def test_a_length_that_separates_is_not_believed() -> None:
    """Every longer answer wins: at equal length nothing is known, and the interval is wide."""
    gap = np.linspace(-1, 1, 40)
    found = length_controlled((gap > 0) * 1.0, gap)
    assert not found.resolved
    assert found.high - found.low > 0.25


def test_strengths_of_a_narrow_win_reach_far() -> None:
    """19 of 20: the interval of the strength is that of the win rate, in log-odds.

    On that scale Wilson's interval is symmetric.
    """
    found, share = tied(19, 1), win_rate([1.0] * 19 + [0.0])
    assert found.low == pytest.approx(math.log(share.low / (1 - share.low)), rel=1e-6)
    assert found.high - found.mean == pytest.approx(found.mean - found.low)
    with pytest.raises(DataError, match="never beats"):
        tied(20, 0)


def test_rates_at_equal_length_count_seeds() -> None:
    """Ten prompts' worth of luck in each of five seeds: as wide as the win rate, not a fifth."""
    draw = np.random.default_rng(0)
    odds = np.array([-1.5, 1.2, 0.3, -0.8, 1.0])[:, None]
    won = (draw.random((5, 500)) < 1 / (1 + np.exp(-odds))) * 1.0
    gap = draw.standard_normal((5, 500))
    rate, plain = length_controlled(won, gap), win_rate(won)
    assert rate.seeds == 5
    assert rate.high - rate.low == pytest.approx(plain.high - plain.low, rel=0.05)
    prompt = np.broadcast_to(np.arange(500), won.shape).ravel()
    seed = np.broadcast_to(np.arange(5)[:, None], won.shape).ravel()
    assert length_controlled(won.ravel(), gap.ravel(), prompt, seed) == rate
    rows = rate_by_prompt(won.ravel(), prompt, seed)
    assert (rows.low, rows.high) == pytest.approx((plain.low, plain.high))
    names = ["a"] * won.size, ["b"] * won.size
    gap_of = fit_bradley_terry(*names, won.ravel(), prompt.tolist(), seed.tolist()).gap("a", "b")
    assert 1 / (1 + math.exp(-gap_of.low)) == pytest.approx(plain.low, rel=1e-6)


def test_seeds_need_not_meet_every_prompt() -> None:
    """Two rows taken away from 120 hardly move the interval, and nothing breaks."""
    draw = np.random.default_rng(1)
    y = (draw.random((3, 40)) < 0.6) * 1.0
    seed, prompt = (x.ravel() for x in np.meshgrid(SEEDS, PROMPTS, indexing="ij"))
    whole = rate_by_prompt(y.ravel(), prompt, seed)
    some = rate_by_prompt(y.ravel()[2:], prompt[2:], seed[2:])
    assert (some.low, some.high) == pytest.approx((whole.low, whole.high), abs=0.02)


@pytest.mark.parametrize("n", [2, 3, 6, 20])
def test_shares_never_leave_zero_and_one(n: int) -> None:
    """Two prompts gave a column of wins the interval [-585 %, 685 %]."""
    draw = np.random.default_rng(n)
    for _ in range(50):
        y = draw.choice([0, 0.5, 1], (3, n))
        for found in (win_rate(y), share_of(y), length_controlled(y, y - 0.5)):
            assert not found.low < 0
            assert not found.high > 1
    other = {"sft": {"truth": np.arange(n) * 1.0}}
    table = other | {"dpo": {"truth": draw.random(n), "proxy_win": (np.arange(n) % 2) * 1.0}}
    row = policy_evaluation(table, opponents=("sft",)).rows[1]
    assert not row.means["proxy_win"].low < 0
    right = accuracy_evaluation(
        {"base": {"greedy": y}, "star": {"greedy": y}},
        {"all": np.ones(n, np.bool_), "none": np.zeros(n, np.bool_)},
        opponent="base",
    ).accuracy["star", "greedy"]
    assert right["all"] is not None
    assert not right["all"].high > 1
    assert right["none"] is None


def test_comparisons_that_show_nothing_count_in_the_family() -> None:
    """nan counts as 1: .01 of three comparisons becomes .03."""
    assert holm([0.01, math.nan, 0.5]) == pytest.approx([0.03, 1.0, 1.0])


def test_what_has_no_interval_is_told_in_words() -> None:
    found = win_rate([1.0, 1.0])
    assert "not resolved" in verdict_line(found, "a", "b")
    assert "too few" in verdict_line(found, "a", "b")
    with pytest.raises(DataError, match="no standard error"):
        comparisons_needed(found)
    assert "too few" in str(Table(("win",), ((found,),)))


def test_too_few_held_out_prompts_are_known_before_a_run() -> None:
    """A share of eleven prompts has no interval, one of twelve has."""
    assert "no verdict is possible" in explain_few_prompts(11)
    assert explain_few_prompts(12) == ""
    assert not win_rate(np.ones(11)).resolved
    assert win_rate(np.ones(12)).resolved
    assert minimum_detectable(12) > 0.3


def test_a_seed_that_diverged_is_pointed_at() -> None:
    """KTO's gains in the full table: seed 0 fell to -3.73, the others lie between .05 and .64."""
    draw = np.random.default_rng(0)
    gains = np.array([-3.73, 0.48, 0.64, 0.05, 0.62])[:, None] + draw.standard_normal((5, 200))
    assert deviant_seeds(gains) == [0]
    assert deviant_seeds(gains[1:]) == []
    assert deviant_seeds(gains[:2]) == []
    assert deviant_seeds(np.ones((4, 10))) == []
    assert deviant_seeds(np.array([[0.0], [0.01], [9.0]])) == [2]
    three = np.array([0.0, 0.0, 5.0])[:, None] + 0.1 * draw.standard_normal((3, 200))
    assert deviant_seeds(three) == [2]


def test_alike_seeds_are_pointed_at_rarely() -> None:
    """At most 5 % of experiments with normal seeds, and 1,500 of them have a margin of 1.1."""
    draw = np.random.default_rng(2)
    for seeds in (3, 5, 10):
        pointed = sum(bool(deviant_seeds(draw.standard_normal((seeds, 8)))) for _ in range(1500))
        assert pointed / 1500 < 0.061
