"""Exams of rewards and labels on a policy's samples, and the pages that are made of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlp_rewards
import rlp_text
from climbing import FP32, Letters
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.rng import Seed
from tandem.stages.reward_shift import evaluate_pseudo_labels, evaluate_reward_shift
from tandem.statistics import mean_of

RESULTS = rlp_rewards.FOLDER


def answers(*texts: str) -> Group:
    name = "-".join(texts)
    return Group(Prompt(name, f"{name}?"), tuple(Completion(t) for t in texts))


PAIRS = Groups.of([answers("abc", "xyz"), answers("xx", "aa"), answers("ab", "cd"),
                   answers("axx", "aax")])  # fmt: skip
"""By share of early letters: first, second, a tie, second."""


def test_rewards_are_right_where_they_agree_with_the_truth():
    """Right on three of three, wrong on three of three; the tie of the truth is no pair."""
    rewards = {"r_phi": Letters("bad", sign=-1.0), "r_hat": Letters("good")}
    exam = evaluate_reward_shift(rewards, {"pi": PAIRS}, Letters(), seed=Seed(0), machine=FP32)
    bad, good = exam["numbers"]
    assert (bad["pairs"], bad["accuracy"]["mean"], good["accuracy"]["mean"]) == (3, 0.0, 1.0)
    assert bad["gain"] is None
    assert good["gain"]["mean"] == 1.0
    assert exam["credits"]["pi"]["prompt"] == ["abc-xyz", "xx-aa", "axx-aax"]
    assert exam["credits"]["pi"]["r_phi"] == [0, 0, 0]
    losses = [math.log1p(math.exp(-d)) for d in (1.0, 1.0, 1 / 3)]
    assert good["log-loss"]["mean"] == pytest.approx(np.mean(losses))
    assert good["ECE"] is None  # fewer pairs than bins


def test_labels_are_right_as_often_as_the_truth_says():
    """Two right, one wrong; the tie of the truth is left out."""
    sides = [(0, 1), (1, 0), (0, 1), (0, 1)]
    labels = [
        Group(g.prompt, g.completions, preferences=(Preference(*sorted(s), p=float(s[0] == 0)),))
        for g, s in zip(PAIRS, sides, strict=True)
    ]
    found = evaluate_pseudo_labels(
        {"mine": Groups.of(labels)}, Letters(), seed=Seed(0), machine=FP32
    )
    (row,) = found["numbers"]
    assert row["pairs"] == 4
    assert row["right"]["mean"] == pytest.approx(2 / 3)
    assert row["winner longer by"]["mean"] == 0.0


def test_the_mean_of_what_is_there_keeps_its_variance():
    """With nothing missing it is the table itself; missing at random leaves mean and scale.

    The standard error of a mean of n of N numbers is sqrt(N / n) that of all N.
    """
    rng = np.random.default_rng(0)
    x = (rng.random((4, 2000)) < 0.7).astype(float)
    assert np.array_equal(rlp_rewards.linear(x), x)
    gone = np.where(rng.random(x.shape) < 0.5, np.nan, x)
    whole, part = mean_of(x), mean_of(rlp_rewards.linear(gone))
    assert part.mean == pytest.approx(np.nanmean(gone))
    assert part.se == pytest.approx(whole.se * math.sqrt(2), rel=0.1)


def seed_of(k: int, accuracy: dict[str, float], prompts: int = 400) -> dict[str, Any]:
    """What one seed's exams say of rewards that are right at these rates on all policies."""
    rng = np.random.default_rng(k)
    names = [f"p{i}" for i in range(prompts)]
    rows, credits = [], {}
    asked = {"pi_sft": list(accuracy), "pi_theta": list(accuracy), "pi_hat a": ["r_phi", "r_hat a"]}
    for policy, rewards in asked.items():
        credits[policy] = {"prompt": names[k:]}
        for r in rewards:
            credits[policy][r] = (rng.random(prompts - k) < accuracy[r]).astype(float).tolist()
            numbers = {"log-loss": 0.6, "ECE": 0.1, "temperature": 1.0, "spread": 0.2}
            rows.append({"pairs of": policy, "reward": r, "pairs": prompts - k, **numbers})
    estimate = {"mean": 0.8, "low": 0.7, "high": 0.9}
    label = {"labels": "SPG", "pairs": 10, "right": estimate, "winner longer by": estimate}
    return {"rewards": rows, "credits": credits, "labels": [label], "prompts": names}


def test_the_page_says_which_reward_became_more_accurate(tmp_path: Path):
    seeds = [seed_of(k, {"r_phi": 0.6, "r_hat a": 0.8}) for k in range(4)]
    found = json.loads(json.dumps(rlp_rewards.collected(range(4), seeds)))
    at = {(r["policy"], r["reward"]): r for r in found["rewards"]}
    assert at["pi_theta", "r_hat a"]["gain"]["mean"] == pytest.approx(0.2, abs=0.05)
    assert at["pi_theta", "r_phi"]["gain"] is None
    kept = rlp_rewards.read_outcomes(rlp_rewards.write_outcomes(seeds, tmp_path / "x.parquet"))
    again = rlp_rewards.numbers(kept)["rewards"]
    assert [r["accuracy"]["mean"] for r in again] == [
        r["accuracy"]["mean"] for r in found["rewards"]
    ]
    page = rlp_rewards.page(found, "name")
    assert "| r_hat a | yes | yes | not shown equal: +" in page
    assert "| SPG | 10 | 0.800 (no interval)" in page  # the same in all four seeds


def test_ties_in_size_are_not_broken_by_quality():
    """Two clusters of two: the first is the largest, though the second is worth more."""
    group = Group(
        Prompt("p", "?"), tuple(Completion(t) for t in ("a b", "a b", "c", "c", "dd")),
        scores=np.array([0.0, 0.2, 1.0, 1.0, 0.5]), clusters=np.array([0, 0, 1, 1, 2]),
    )  # fmt: skip
    inside = rlp_text.largest(group)
    assert inside == [0, 1]
    assert rlp_text.contrast(group, inside) == pytest.approx((0.1 - 2.5 / 3, 1.0))
    assert rlp_text.longest(group) == [0, 1]
    assert rlp_text.contrast(group, [0]) is None


@pytest.mark.parametrize("name", ["rlp-rewards", "rlp-text"])
def test_committed_pages_are_made_from_their_numbers(name):
    file = RESULTS / f"{name}.json"
    if not file.exists():
        pytest.skip("not run yet")
    found = json.loads(file.read_text(encoding="utf-8"))
    page = rlp_text.page(found) if name == "rlp-text" else rlp_rewards.page(found, name)
    assert page == file.with_suffix(".md").read_text(encoding="utf-8")


def test_chance_is_what_a_random_draw_of_that_size_wins():
    """One of four is worth 1, the rest 0: a single draw wins one time in four."""
    texts = tuple(Completion(t) for t in "abcd")
    group = Group(Prompt("p", "?"), texts, scores=np.array([1.0, 0.0, 0.0, 0.0]))
    assert rlp_text.chance(group, 1) == pytest.approx(0.25, abs=0.06)
    assert rlp_text.chance(replace(group, scores=np.zeros(4)), 2) == 0.5
