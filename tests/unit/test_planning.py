"""Plans and pools as users meet them: the planner's advice, a pilot, the choice of questions."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf

from tandem.cli import main
from tandem.data import formats
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError, DataError
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.planning.budget import (
    candidate_plans,
    mixed_worlds,
    plan_budget,
    prediction_range,
    prediction_share,
    variants_of,
)
from tandem.planning.label_plan import LabelCosts, LabelPlan
from tandem.planning.pilot import fit_pilot
from tandem.planning.simulation import FreeLabels, label_accuracy, simulate_plan
from tandem.planning.tabular_world import TabularWorld, draw_world
from tandem.runs.checkpoint import Checkpoint
from tandem.stages.pair_pool import main_directions, read_pool
from tandem.statistics.numerics import logistic
from tiny import folder, lm
from worlds import letters


def small_worlds(number: int) -> Any:
    return draw_world("linear", np.random.default_rng(number), prompts=4, answers=6, size=3)


@pytest.fixture(scope="module")
def advice() -> Any:
    return plan_budget(60, LabelCosts(), small_worlds, seeds=8)


def test_advice_spends_what_there_is_and_compares_on_the_same_worlds(advice: Any):
    assert advice.bought.cost <= 60
    assert advice.tried == len(candidate_plans()) + len(variants_of(advice.best.plan)) + 3
    assert {len(t.regret) for t in (advice.best, *advice.runners_up, *advice.naive.values())} == {8}
    for name, told in advice.naive.items():
        gain = advice.gain(name)
        assert gain.mean == pytest.approx((told.regret - advice.best.regret).mean())
        low, high = advice.gain_range(name)
        assert low <= gain.mean <= high
    said = json.loads(json.dumps(advice.as_dict()))
    assert said["buys"]["cost"] <= 60
    assert said["worlds"] == 8
    assert "the next 100 comparisons" in str(advice)
    assert "one world, 78 times in 100" in str(advice)


def test_worlds_that_choose_say_nothing_of_the_winner():
    """The advised regret is of worlds 0 to 7; those that chose are 8 to 11."""
    asked: list[int] = []

    def worlds(number: int) -> Any:
        asked.append(number)
        return small_worlds(number)

    plan_budget(40, LabelCosts(), worlds, seeds=8)
    assert set(asked) == set(range(12))
    assert asked.index(0) > asked.index(11)


def test_a_range_of_one_new_value():
    assert prediction_range(np.arange(10.0)) == (0.0, 9.0)
    assert prediction_range(np.arange(199.0)) == (4.0, 194.0)
    assert prediction_share(8) == pytest.approx(7 / 9)
    assert prediction_share(199) == pytest.approx(0.95)


def test_the_share_for_evaluation_is_kept_and_every_choice_is_said():
    plans = [p for first in candidate_plans(evaluation=0.9) for p in (first, *variants_of(first))]
    assert {p.evaluation for p in plans} == {0.9}
    tried = candidate_plans()[:1]
    assert len({str(p) for p in (*tried, *variants_of(tried[0]))}) == 1 + len(variants_of(tried[0]))


def test_the_next_comparisons_are_so_many_more_in_the_last_round():
    world, plan = small_worlds(0), LabelPlan(rounds=2, evaluation=0.5, demonstrations=0.2)
    few, more = (
        simulate_plan(world, plan, 100, LabelCosts(), np.random.default_rng(0), more=n)
        for n in (0, 100)
    )
    assert more.labels == few.labels + 100
    assert more.by_round[:-1] == few.by_round[:-1]


def test_nobody_is_asked_about_one_answer_twice():
    """The law of pairs drawn until they differ, also where a policy nearly always says the same."""
    world, rng = small_worlds(0), np.random.default_rng(0)
    sure = np.zeros_like(world.ref)
    sure[:, 0] = 1.0
    for first, second in ((world.ref, world.ref), (sure, world.ref), (sure, sure)):
        _, a, b = world.draw_pairs(first, second, 4000, rng)
        assert (a != b).all()
    p = np.array([[0.7, 0.2, 0.1]])
    one = TabularWorld(np.zeros((1, 3, 1)), np.zeros((1, 3)), p)
    _, a, b = one.draw_pairs(p, p, 40_000, rng)
    expected = np.outer(p, p) * (1 - np.eye(3))
    found = np.histogram2d(a, b, bins=3)[0] / 40_000
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.01)


@pytest.mark.parametrize(
    ("total", "seeds", "what"), [(0.5, 8, "--total 0.5"), (50, 4, "--seeds 4")]
)
def test_a_budget_that_says_nothing_is_refused(total: float, seeds: int, what: str):
    with pytest.raises(ConfigError, match=what):
        plan_budget(total, LabelCosts(), small_worlds, seeds=seeds)


def test_free_labels_are_used_only_where_they_are_better_than_the_reward():
    plan = LabelPlan(rounds=2, acquisition="random", free_labels=True)
    plain = LabelPlan(rounds=2, acquisition="random")
    regret = {}
    for name, own, free in (
        ("none", plain, None), ("worse than chance", plan, FreeLabels(0.3)),
        ("true", plan, FreeLabels(0.95, 300)),
    ):  # fmt: skip
        regret[name] = np.mean(
            [
                simulate_plan(
                    draw_world("linear", np.random.default_rng(s)), own, 30, LabelCosts(),
                    np.random.default_rng(100 + s), free=free,
                ).regret
                for s in range(8)
            ]
        )  # fmt: skip
    assert regret["true"] < regret["none"]
    assert abs(regret["worse than chance"] - regret["none"]) < 0.4 * regret["none"]


def test_label_accuracy_falls_with_flips():
    world = small_worlds(0)
    clean = label_accuracy(world)
    noisy = label_accuracy(draw_world("linear", np.random.default_rng(0), prompts=4, answers=6, size=3, flips=0.25))  # fmt: skip  # noqa: E501
    assert 0.5 < noisy < clean < 1


def test_a_pilot_finds_the_taste_and_the_noise_that_made_it():
    rng = np.random.default_rng(0)
    w, pairs = np.array([3.0, -2.0, 0.0]), rng.normal(size=(800, 3))
    p = 0.2 + 0.6 * logistic(pairs @ w)
    prompts = [str(k) for k in range(800)]
    labels, answers = rng.binomial(1, p).astype(float), rng.normal(size=(5, 6, 3))
    pilot = fit_pilot(pairs, labels, prompts, answers)
    assert 0.1 <= pilot.flips <= 0.3
    assert pilot.weights @ w / np.linalg.norm(w) / np.linalg.norm(pilot.weights) > 0.97
    assert 0.6 < pilot.accuracy < 0.8
    first, again, other = (pilot.worlds()(k) for k in (0, 0, 1))
    assert np.array_equal(first.reward, again.reward)
    assert not np.array_equal(first.reward, other.reward)
    assert first.flips == pilot.flips


def test_a_pilot_is_tried_on_prompts_that_it_was_not_fitted_to():
    """A taste that each prompt has for itself carries to no other prompt."""
    rng = np.random.default_rng(0)
    pairs = np.repeat(rng.normal(size=(24, 12)), 5, axis=0)
    labels = np.repeat(rng.integers(0, 2, 24), 5).astype(float)
    prompts = [str(k) for k in range(24) for _ in range(5)]
    assert fit_pilot(pairs, labels, prompts, rng.normal(size=(2, 2, 12))).accuracy < 0.6


def test_directions_are_those_in_which_pairs_differ():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)) * [5, 4, 0, 0, 0, 0]
    kept, axes = main_directions(x, 4)
    assert kept.shape == (50, 2)
    np.testing.assert_allclose(x @ axes, kept)
    assert np.square(kept).sum(axis=1).mean() == pytest.approx(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy, and a reward with random weights."""
    policy = folder(tmp_path_factory.mktemp("policy"))
    reward = tmp_path_factory.mktemp("reward")
    model = lm("llama", 3, hf.AutoModelForSequenceClassification, num_labels=1)
    model.config.tandem = {"gain": 2.0, "bias": 0.5}
    model.save_pretrained(reward)
    letters(41).save_pretrained(reward)
    return policy, reward


def answers(n: int = 12, seed: int = 0) -> Groups:
    rng = np.random.default_rng(seed)

    def word() -> str:
        return "".join(rng.choice(list("abcdefghijklm"), size=5))

    return Groups.of(
        Group(Prompt(f"p{k}", word()), tuple(Completion(word()) for _ in range(2 + k % 2)))
        for k in range(n)
    )


def test_a_pool_is_read_in_one_pass_with_the_rewards_own_scores(models: tuple[Path, Path]):
    pool = answers()
    machine = Machine(device="cpu", precision="fp32")
    read = read_pool(pool, [Checkpoint(models[1], "r")], machine)
    assert len(read.pairs) == len(read.places) == 6 + 6 * 3
    assert read.pairs.gaps is not None
    scored = list(RewardModel(Checkpoint(models[1]), machine=machine)(pool))
    for place in (0, 5, 23):
        g, i, j = read.places[place]
        scores = scored[g].scores
        assert scores is not None
        assert read.pairs.gaps[0, place] == pytest.approx(scores[i] - scores[j], abs=1e-4)
    with pytest.raises(DataError, match="two different answers"):
        read_pool(pool.map(lambda g: g.keep([0, 0])), [Checkpoint(models[1])], Machine())


def test_questions_are_chosen_flagged_and_open_in_the_labelling_page(
    models: tuple[Path, Path], tmp_path: Path, capsys: Any
):
    pool, out = tmp_path / "pool.parquet", tmp_path / "questions.parquet"
    answers().write(pool)
    command = ["data", "select", str(pool), "--out", str(out), "--n", "8", "--uniform", "0.25"]
    assert main([*command, "--model", str(models[0])]) == 0
    assert "8 of 24 pairs: 2 uniform, 6 d_optimal" in capsys.readouterr().out
    asked = formats.read_data(out).groups
    assert [len(g) for g in asked] == [2] * 8
    assert len({g.id for g in asked}) == 8
    assert sorted(g.prompt.meta["source"] for g in asked) == ["d_optimal"] * 6 + ["uniform"] * 2
    two = [*command, "--acquisition", "disagreement", "--model", str(models[1])]
    assert main(two) == 2
    assert "disagreement with 1 reward" in capsys.readouterr().err
    assert main([*two, "--model", str(models[1])]) == 0


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--n", "0"], "--n 0"),
        (["--acquisition", "d_optimum"], "Did you mean `d_optimal`"),
        (["--out", "x.csv"], "ends in .parquet"),
        (["--uniform", "2"], "--uniform 2"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(more: list[str], what: str, capsys: Any):
    assert main(["data", "select", "pool", "--model", "m", "--out", "q.parquet", *more]) == 2
    assert what in capsys.readouterr().err


def test_the_budget_command_writes_numbers_and_a_picture(tmp_path: Path, capsys: Any):
    files = {kind: tmp_path / f"plan.{kind}" for kind in ("json", "svg")}
    command = ["budget", "--total", "24", "--seeds", "8", "--features", "2", "--world", "linear"]
    assert main([*command, "--json", str(files["json"]), "--picture", str(files["svg"])]) == 0
    assert "plan: " in capsys.readouterr().out
    assert json.loads(files["json"].read_text())["total"] == 24
    assert ET.parse(files["svg"]).getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--total", "0"], "--total 0"),
        (["--total", "9", "--world", "wide"], "--world wide"),
        (["--total", "9", "--pilot", "x"], "--pilot without --model"),
        (["--total", "9", "--flips", "0.6"], "--flips 0.6"),
        (["--total", "9", "--json", "x.txt"], "ends in .json"),
        (["--total", "9", "--cost_pair", "-1"], "give --cost_pair a value"),
        (["--total", "inf"], "total"),
        (["--total", "1e308"], "give --total 10000"),
        (["--total", "9", "--pilot", "x", "--model", "y", "--flips", "0.1"], "--flips 0.1 with"),
    ],
)
def test_a_budget_that_cannot_be_planned_is_refused(words: list[str], what: str, capsys: Any):
    assert main(["budget", *words]) == 2
    assert what in capsys.readouterr().err


def test_mixed_worlds_take_turns_and_are_the_same_each_time():
    worlds = mixed_worlds(flips=0.1)
    assert np.array_equal(worlds(4).reward, worlds(4).reward)
    assert worlds(0).flips == 0.1
    linear = worlds(0)
    left = np.linalg.lstsq(linear.features.reshape(-1, 16), linear.reward.ravel(), rcond=None)[1]
    assert left.sum() == pytest.approx(0, abs=1e-9)
    bent = worlds(2)
    left = np.linalg.lstsq(bent.features.reshape(-1, 16), bent.reward.ravel(), rcond=None)[1]
    assert left.sum() > 1
