"""Agreement equals the textbook's, people of known accuracy are found again, habits are seen."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

import krippendorff
from sklearn.metrics import cohen_kappa_score

from tandem.labelling.acquisition import pool_accuracy, rate_item
from tandem.labelling.annotator_agreement import (
    Ratings,
    coincidence_matrix,
    describe_habits,
    krippendorff_ordinal,
    measure_agreement,
)
from tandem.labelling.annotator_model import PRIOR, TOGETHER, fit_annotators
from tandem.labelling.judgements import Comparison, Vote


def vote(item, who, strength, *, order=(0, 1), lengths=(5, 5), seconds=1.0):
    choice = 4 - (strength if order[0] == 0 else -strength)
    return Vote(
        {
            "choice": choice,
            "order": list(order),
            "person_id": who,
            "seconds": seconds,
            "ranks": None,
            "kind": "vote",
        },
        {"id": item, "name": f"item-{item}", "question": {"answers": ["x" * n for n in lengths]}},
        f"person-{who}",
    )


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_alpha_is_that_of_the_library(missing):
    rng = np.random.default_rng(1)
    table = np.where(rng.random((4, 60)) < 0.6, rng.integers(0, 7, 60), rng.integers(0, 7, (4, 60)))
    table = np.where(rng.random((4, 60)) < missing, np.nan, table)
    rows = [
        (unit, person, int(table[person, unit]))
        for unit in range(60)
        for person in range(4)
        if np.isfinite(table[person, unit])
    ]
    counts = np.bincount([r[0] for r in rows], minlength=60)
    columns = np.array([r for r in rows if counts[r[0]] > 1])
    units = np.unique(columns[:, 0], return_inverse=True)[1]
    ratings = Ratings(units, columns[:, 1], columns[:, 2])
    mine = krippendorff_ordinal(
        coincidence_matrix(ratings.pairs(), np.ones(units.max() + 1), np.ones(4))
    )
    theirs = krippendorff.alpha(table, level_of_measurement="ordinal", value_domain=list(range(7)))
    assert mine == pytest.approx(theirs, abs=1e-12)


def test_people_who_are_always_right_agree_though_the_first_is_always_better():
    """In files where the first is the chosen one, a plain alpha would have no value."""
    votes = [vote(k, who, 2) for k in range(40) for who in (1, 2)]
    found = measure_agreement(votes)
    assert found.percent.value == 1
    assert found.alpha.value == pytest.approx(1)
    assert found.kappa.value == pytest.approx(1)


def test_coin_throwers_agree_by_chance_and_the_interval_says_so():
    rng = np.random.default_rng(0)
    votes = [vote(k, who, int(rng.choice([-2, 2]))) for k in range(200) for who in (1, 2)]
    found = measure_agreement(votes)
    assert found.kappa_name == "Cohen's kappa"
    for measured in (found.alpha, found.kappa):
        assert measured.low < 0 < measured.high
    assert found.percent.low < 0.5 < found.percent.high


def test_kappa_of_two_people_is_that_of_scikit_learn():
    rng = np.random.default_rng(2)
    truth = rng.choice([-1, 0, 1], 80)
    seconds = [np.where(rng.random(80) < 0.7, truth, rng.choice([-1, 0, 1], 80)) for _ in "ab"]
    votes = [vote(k, who, int(seconds[who][k])) for k in range(80) for who in (0, 1)]
    ratings = Ratings.of(votes)
    sides = np.sign(ratings.level - 3)
    expected = cohen_kappa_score(sides[ratings.person == 0], sides[ratings.person == 1])
    assert measure_agreement(votes).kappa.value == pytest.approx(expected)


def test_with_five_people_the_interval_counts_people_too():
    rng = np.random.default_rng(3)

    def votes(people):
        return [
            vote(k, who, 2 if rng.random() < (0.95 if who % 2 else 0.55) else -2)
            for k in range(60)
            for who in range(people)
        ]

    few, many = measure_agreement(votes(4)), measure_agreement(votes(6))
    assert (few.resampled, many.resampled) == ("items", "items and people")
    assert many.percent.high - many.percent.low > 1.3 * (few.percent.high - few.percent.low)


def simulate(accuracy, units, seed, *, bias=0.0, known=0.0):
    rng = np.random.default_rng(seed)
    comparisons, gold, truth, right = [], {}, {}, {name: [] for name in accuracy}
    for k in range(units):
        unit = (k, 0, 1)
        first_better = bool(rng.random() < 0.5)
        truth[unit] = first_better
        if rng.random() < known:
            gold[unit] = float(first_better)
        for name, share in accuracy.items():
            left = bool(rng.random() < 0.5)
            better_left = first_better == left
            correct = bool(rng.random() < share + (bias if better_left else -bias))
            right[name].append(correct)
            strength = 1 if first_better == correct else -1
            comparisons.append(Comparison(unit, name, strength, left))
    return comparisons, gold, truth, {n: float(np.mean(r)) for n, r in right.items()}


ACCURACY = {"ann": 0.9, "bob": 0.8, "cleo": 0.7}


def test_known_accuracies_are_found_again_and_labels_beat_the_majority():
    comparisons, gold, truth, realised = simulate(ACCURACY, 1500, 0)
    found = fit_annotators(comparisons, gold, repeats=20)
    for name, share in realised.items():
        person = found.people[name]
        assert person.mean == pytest.approx(share, abs=0.05)
        assert person.low <= share <= person.high
    soft = np.mean([(found.labels[u] > 0.5) == t for u, t in truth.items()])
    votes = dict.fromkeys(truth, 0)
    for c in comparisons:
        votes[c.unit] += c.strength
    majority = np.mean([(votes[u] > 0) == t for u, t in truth.items()])
    assert soft >= majority


def test_probabilities_are_calibrated():
    comparisons, gold, truth, _ = simulate(ACCURACY, 3000, 1)
    labels = fit_annotators(comparisons, gold, repeats=0).labels
    p = np.array([labels[u] for u in truth])
    t = np.array(list(truth.values()), float)
    for low, high in itertools.pairwise((0, 0.2, 0.5, 0.8, 1.0001)):
        inside = (p >= low) & (p < high)
        if inside.sum() > 50:
            assert p[inside].mean() == pytest.approx(t[inside].mean(), abs=0.06)


def test_a_habit_of_the_left_is_told_from_accuracy():
    comparisons, gold, *_ = simulate({"l": 0.75, "m": 0.8, "n": 0.8}, 2000, 2, bias=0.15)
    found = fit_annotators(comparisons, gold, repeats=0).people["l"]
    assert found.left - found.right == pytest.approx(0.3, abs=0.1)


def test_the_posterior_is_that_of_bayes_rule_worked_by_hand():
    """One unit, two people whose rates gold has fixed: Bayes' rule on their two votes."""
    comparisons, gold = [], {}
    for k in range(200):
        gold[k, 0, 1] = 1.0
        for name, hits in (("a", 180), ("b", 120)):
            comparisons.append(Comparison((k, 0, 1), name, 1 if k < hits else -1, k % 2 == 0))
    open_unit = (999, 0, 1)
    comparisons += [
        Comparison(open_unit, "a", 1, True),
        Comparison(open_unit, "b", -1, True),
    ]
    found = fit_annotators(comparisons, gold, repeats=0)
    a, b = found.people["a"], found.people["b"]
    first = a.left * (1 - b.left)  # a says first, b says second; the first stood left
    second = (1 - a.right) * b.right
    assert found.labels[open_unit] == pytest.approx(first / (first + second), abs=1e-6)
    shrunk = (180 + PRIOR[0] - 1) / (200 + sum(PRIOR) - 2)
    assert a.mean == pytest.approx(shrunk, abs=0.01)
    assert TOGETHER > 0


def test_without_overlap_or_gold_nothing_is_identified():
    votes = [Comparison((k, 0, 1), "a", 1, True) for k in range(5)]
    assert not fit_annotators(votes, repeats=0).is_identified
    assert fit_annotators([], repeats=0).labels == {}


def test_gold_fixes_its_unit():
    votes = [Comparison((0, 0, 1), name, 1, True) for name in "abc"]
    assert fit_annotators(votes, {(0, 0, 1): 0.0}, repeats=0).labels[0, 0, 1] == 0.0


def test_habits_are_seen():
    rng = np.random.default_rng(0)
    votes = []
    for k in range(80):
        order = (0, 1) if k % 2 else (1, 0)
        # always the left, never mind what it is; slower and slower
        votes.append(vote(k, 1, 2 if order[0] == 0 else -2, order=order, lengths=(9, 3), seconds=k))
        votes.append(vote(k, 2, 2, order=order, lengths=(9, 3), seconds=2.0))
        votes.append(vote(k, 3, int(rng.choice([-2, 0, 2])), order=order, lengths=(9, 3)))
    gold = dict.fromkeys(range(20), 1)
    left, longer, _ = describe_habits(votes, gold)
    assert left.left.value == 1
    assert left.left.low > 0.9
    assert left.gold.value == 0.5
    assert longer.longer.value == 1
    assert longer.gold.value == 1
    assert longer.left.low < 0.5 < longer.left.high
    assert list(left.quarters) == sorted(left.quarters)
    assert left.ties.value == 0
    json.dumps(left.with_others.value)


def test_priority_is_where_rewards_differ_not_where_all_say_half():
    tie = rate_item([[0.0, 0.0]] * 3)
    disputed = rate_item([[2.0, 0.0], [0.0, 2.0], [0.5, 0.0]])
    sure = rate_item([[5.0, 0.0]] * 3)
    assert disputed.value > 0.2
    assert max(tie.value, sure.value) < 1e-9
    assert "spread" in disputed.why
    ranking = rate_item([[0.0, 0.0, 3.0], [0.0, 0.0, -3.0]])
    assert "beats 3" in ranking.why


def test_held_out_accuracy_has_its_interval_and_leaves_ties_out():
    scores = {k: [1.0, 0.0] for k in range(10)}
    said = {(k, 0, 1): 0.9 if k < 7 else 0.2 for k in range(9)} | {(9, 0, 1): 0.5}
    found = pool_accuracy(scores, said)
    assert (found["n"], found["accuracy"]) == (9, pytest.approx(7 / 9))
    assert found["low"] < 7 / 9 < found["high"]
    assert pool_accuracy({}, said)["accuracy"] is None
    silent = pool_accuracy({k: [1.0, 1.0] for k in range(10)}, said)
    assert silent["accuracy"] == 0.5  # two equal scores prefer nobody
