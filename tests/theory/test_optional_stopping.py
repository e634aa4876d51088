"""Intervals that hold whenever one stops: the martingale behind them, and coverage at any rule.

docs/results/optional-stopping.md has the full grid; a few of its cells are simulated here.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import integrate, stats

import optional_stopping as experiment
from optional_stopping import RULES, Cell, simulate
from tandem.errors import ConfigError
from tandem.statistics import confidence_sequence, paired_difference, unresolved_cells
from tandem.statistics.confidence_sequence import EFFECT, critical_t, sequence_half_width
from tandem.statistics.crossed import crossed_squares


def ratio(t: float, seeds: int) -> float:
    """The likelihood ratio of t, by the definition: a mixture of noncentral t over a central one.

    Student's t with an effect that is normal with a spread of EFFECT is a central t times
    sqrt(1 + S EFFECT^2).
    """
    wider = math.sqrt(1 + seeds * EFFECT**2)
    return float(stats.t.pdf(t / wider, seeds - 1) / wider / stats.t.pdf(t, seeds - 1))


@pytest.mark.parametrize("seeds", [3, 4, 7, 20])
@pytest.mark.parametrize("alpha", [0.04, 0.2])
def test_the_critical_t_is_where_the_likelihood_ratio_gets_there(seeds: int, alpha: float):
    assert ratio(critical_t(seeds, alpha), seeds) == pytest.approx(1 / alpha)


@pytest.mark.parametrize("seeds", [2, 3, 7])
def test_the_likelihood_ratio_has_mean_one(seeds: int):
    """So it is a fair bet, and Ville's inequality says how seldom it ever reaches 25."""

    def weighed(t: float) -> float:
        return ratio(t, seeds) * float(stats.t.pdf(t, seeds - 1))

    area = 2 * integrate.quad(weighed, 0, np.inf, limit=200)[0]
    assert area == pytest.approx(1, abs=1e-6)


def test_two_seeds_never_have_an_interval():
    assert math.isinf(critical_t(2, 0.04))
    found = confidence_sequence(np.random.default_rng(0).normal(5, 1, (2, 100)))
    assert math.isnan(found.low)
    assert "fewer than 3" in found.method
    assert not found.resolved


@pytest.mark.parametrize("d", [np.ones((4, 10)), np.zeros((3, 1))])
def test_where_an_ordinary_interval_says_nothing_it_says_nothing(d: np.ndarray):
    assert math.isnan(confidence_sequence(d).low)


def test_it_is_wider_than_an_interval_for_a_fixed_number_and_agrees_with_its_p_value():
    rng = np.random.default_rng(0)
    for _ in range(40):
        d = rng.normal(0.4, 0.3, (5, 1)) + rng.normal(0, 1, (1, 50)) + rng.normal(0, 1, (5, 50))
        found, fixed = confidence_sequence(d), paired_difference(d, np.zeros_like(d))
        assert found.mean == fixed.mean
        assert found.high - found.low > fixed.high - fixed.low
        assert (found.p_value < 0.05) == found.resolved


def test_units_and_shifts_do_not_matter():
    d = np.random.default_rng(1).normal(1, 1, (4, 30))
    found, other = confidence_sequence(d), confidence_sequence(10 * d + 7, null=7)
    assert other.low == pytest.approx(10 * found.low + 7)
    assert other.p_value == pytest.approx(found.p_value)
    many = sequence_half_width(crossed_squares(np.stack([d, 10 * d])))
    assert many == pytest.approx([found.high - found.mean, 10 * (found.high - found.mean)])


def test_cells_that_are_open_get_another_seed_until_there_are_enough():
    rng = np.random.default_rng(2)

    def cell(level: float, seeds: int) -> np.ndarray:
        return level + rng.normal(0, 0.1, (seeds, 1)) + rng.normal(0, 0.5, (seeds, 100))

    cells = {"large": cell(3, 4), "none": cell(0, 4), "spent": cell(0, 8), "young": cell(3, 2)}
    assert unresolved_cells(cells, most=8) == ["none", "young"]
    assert unresolved_cells({}, most=8) == []
    with pytest.raises(ConfigError, match="most = 2"):
        unresolved_cells(cells, most=2)


CELLS = [
    Cell("mean", 20, 0.0, 0.0),
    Cell("mean", 50, 1.0, 0.0),
    Cell("mean", 50, 0.3, 0.3),
    Cell("win rate", 50, 0.3, 0.5),
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_it_covers_at_any_rule_of_stopping(cell: Cell):
    """93 to 100 %, and 250 draws at 95 % have a standard error of 1.4 points."""
    found = simulate(cell, 250, part=0)
    assert set(found["sequence"]) == set(RULES)
    assert min(found["sequence"].values()) >= 0.93


def test_an_ordinary_interval_does_not():
    """What the sequence is for: stopping when it is resolved, with no difference at all."""
    fixed = simulate(Cell("mean", 20, 1.0, 0.0), 200, part=1)["fixed"]
    assert fixed["adversary"] < 0.9
    assert fixed["resolved"] < 0.9


def test_the_page_is_that_of_its_numbers():
    found = json.loads(experiment.JSON.read_text(encoding="utf-8"))
    inside = [c.name for c in experiment.grid() if not c.disaster]
    cells = [found["cells"][name] for name in inside if name in found["cells"]]
    assert len(cells) >= 24
    shares = [s for c in cells for s in c["sequence"].values()]
    assert len(shares) == len(cells) * len(RULES)
    assert min(shares) >= 0.93
    page = experiment.JSON.with_suffix(".md").read_text(encoding="utf-8")
    assert page == experiment.page_text(found)
