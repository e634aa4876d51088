"""Ensembles and length debiasing, through judges (docs/theory/over_optimisation.md#levers)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf

from climbing import FAST, FP32, Heard, Letters, climbed, prompts
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError, DataError, JudgeError
from tandem.judges import Judge, open_judge
from tandem.judges.ensemble import Debiased, Ensemble, length_slope
from tandem.judges.reward_model import RewardModel, reward_models
from tandem.methods import ppo
from tandem.runs.checkpoint import Checkpoint
from tiny import folder, lm
from worlds import letters

IDS = ("x", "y", "z")


@dataclass(frozen=True)
class Noted:
    """Reads its scores from the prompt's meta, under its own name; adds a constant a prompt."""

    name: str
    constant: float = 0.0

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for g in groups:
            scores = np.array(g.prompt.meta[self.name]) + self.constant * len(g.id + g.prompt.text)
            yield replace(g, scores=scores[: len(g)])


@dataclass(frozen=True)
class Opinions:
    """A judge of preferences alone."""

    name: str = "opinions"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        yield from groups


def world(n: int = 4, seed: int = 0) -> list[Group]:
    """Three prompts of different length with n answers, scored by three members."""
    rng = np.random.default_rng(seed)
    return [
        Group(
            Prompt(name, "?" * k, meta={m: rng.normal(size=n).tolist() for m in "abc"}),
            tuple(Completion(f"{name}{i}", np.arange(i + 1, dtype=np.int32)) for i in range(n)),
        )
        for k, name in enumerate(IDS)
    ]


MEMBERS = tuple(Noted(m) for m in "abc")


def scores(judge: Judge, groups: Iterable[Group]) -> np.ndarray:
    return np.stack([g.scores for g in open_judge(judge, FP32)(groups)])


def test_aggregates_of_centred_members():
    """mean, min, and mean - weight x variance of members whose mean over a prompt is 0."""
    groups = world()
    x = np.array([[g.prompt.meta[m] for g in groups] for m in "abc"])
    x -= x.mean(-1, keepdims=True)
    want = {
        "mean": x.mean(0), "worst": x.min(0), "uncertainty": x.mean(0) - 0.3 * x.var(0)
    }  # fmt: skip
    for how, value in want.items():
        got = scores(Ensemble(MEMBERS, how, weight=0.3), groups)  # type: ignore[arg-type]
        np.testing.assert_allclose(got, value, atol=1e-12)
    assert (want["worst"] <= want["mean"]).all()
    np.testing.assert_allclose(
        scores(Ensemble(MEMBERS, "uncertainty", weight=0.0), groups), want["mean"], atol=1e-12
    )


@pytest.mark.parametrize("how", ["mean", "worst", "uncertainty"])
def test_one_member_is_that_member_centred(how: Any):
    groups = world()
    alone = np.array([g.prompt.meta["a"] for g in groups])
    got = scores(Ensemble(MEMBERS[:1], how), groups)
    np.testing.assert_allclose(got, alone - alone.mean(1, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("how", ["mean", "worst", "uncertainty"])
@pytest.mark.parametrize("anchored", [False, True])
def test_constants_of_members_and_prompts_change_nothing(how: Any, anchored: bool):
    """c_k(x) is added to each member k, another one at each prompt x."""
    anchors = Groups.of(world()) if anchored else None
    groups = world()
    moved = tuple(Noted(m, constant) for m, constant in zip("abc", (0.0, 5.0, -3.0), strict=True))
    a, b = (scores(Ensemble(m, how, anchors=anchors), groups) for m in (MEMBERS, moved))
    np.testing.assert_allclose(a, b, atol=1e-9)
    bias = scores(Ensemble(moved, how, centre="bias"), groups)
    assert np.abs(bias - scores(Ensemble(MEMBERS, how, centre="bias"), groups)).max() > 0.1


def test_anchors_give_single_answers_their_zero():
    """PPO's case: an answer is worth what it is above the mean of pi_sft's answers."""
    groups = world()
    judge = Ensemble(MEMBERS, "worst", anchors=Groups.of(groups))
    singles = [g.keep([2]) for g in groups]
    singles = [
        replace(s, prompt=replace(s.prompt, meta={m: s.prompt.meta[m][2:] for m in "abc"}))
        for s in singles
    ]
    np.testing.assert_allclose(
        scores(judge, singles)[:, 0], scores(Ensemble(MEMBERS, "worst"), groups)[:, 2], atol=1e-12
    )
    with pytest.raises(JudgeError, match="one answer to prompt `x`") as caught:
        scores(Ensemble(MEMBERS), singles)
    assert "anchors" in caught.value.do
    with pytest.raises(JudgeError, match="no anchor for prompt `w`"):
        scores(judge, [replace(singles[0], prompt=replace(singles[0].prompt, id="w"))])
    bias = scores(Ensemble(MEMBERS, centre="bias"), singles)[:, 0]
    want = [np.mean([g.prompt.meta[m][2] for m in "abc"]) for g in groups]
    np.testing.assert_allclose(bias, want, atol=1e-12)


def test_nonsense_is_refused():
    for make in (
        lambda: Ensemble(()),
        lambda: Ensemble(MEMBERS, weight=-1.0),
        lambda: Ensemble(MEMBERS, centre="bias", anchors=Groups.of(world())),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert all([caught.value.what, caught.value.why, caught.value.do])
    for judge in (Ensemble((Opinions(),)), Debiased(Opinions(), 0.1)):
        with pytest.raises(JudgeError, match="no scores"):
            scores(judge, world())
    with pytest.raises(ConfigError, match="how"):
        scores(Ensemble(MEMBERS, "median"), world())  # type: ignore[arg-type]


def test_length_bias_is_found_within_prompts_and_taken_out():
    """r = quality + .3 |y| + a constant a prompt that grows with its length: the slope is .3.

    Across prompts the slope would be far larger, since long prompts have long answers here.
    """
    rng = np.random.default_rng(1)
    groups, quality = [], []
    for k in range(40):
        lengths = rng.integers(2, 8, 6) + 5 * k
        texts = [" ".join(["w"] * n) for n in lengths]
        q = rng.normal(size=6)
        q -= np.polyval(np.polyfit(lengths, q, 1), lengths) if np.ptp(lengths) else q
        noted = (q + 0.3 * lengths + 10 * k).tolist()
        answers = tuple(Completion(t, np.arange(n, dtype=np.int32)) for t, n in
                        zip(texts, lengths, strict=True))  # fmt: skip
        groups.append(Group(Prompt(str(k), "", meta={"a": noted}), answers, np.array(noted)))
        quality.append(q + 10 * k)
    assert length_slope(groups) == pytest.approx(0.3)
    assert length_slope(groups, "words") == pytest.approx(0.3)
    judge = Debiased(Noted("a"), length_slope(groups))
    assert judge.name == "a without length"
    np.testing.assert_allclose(scores(judge, groups), quality, atol=1e-9)
    assert length_slope(judge(groups)) == pytest.approx(0, abs=1e-9)
    flat = [g.keep([0]) for g in groups]
    with pytest.raises(DataError, match="different length"):
        length_slope(flat)
    bare = replace(groups[0], completions=tuple(Completion(c.text) for c in groups[0].completions))
    with pytest.raises(DataError, match="no tokens"):
        length_slope([bare])


@pytest.fixture(scope="module")
def models_of_reward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Judge, ...]:
    made = []
    for seed in (1, 2):
        place = tmp_path_factory.mktemp("reward")
        model = lm("llama", seed, hf.AutoModelForSequenceClassification, num_labels=1)
        model.save_pretrained(place)
        letters(41).save_pretrained(place)
        made.append(RewardModel(Checkpoint(place, f"r{seed}"), machine=FP32))
    return tuple(made)


def test_an_ensemble_of_reward_models_is_a_judge_of_ppo(
    models_of_reward: tuple[Judge, ...], tmp_path: Path
):
    """Opened once with the loop's machine; the value function starts from its first member."""
    init, heard = folder(tmp_path / "init"), Heard()
    ensemble = Ensemble(models_of_reward, "worst", centre="bias")
    judge = Debiased(ensemble, 0.01)
    assert [str(c) for c in reward_models(judge)] == ["r1", "r2"]
    assert reward_models(Letters()) == ()
    cfg = ppo.PPOConfig(prompts=6, rounds=1, inner=1, minibatch=6, optim=FAST)
    climbed(ppo, cfg, init, tmp_path / "run", reward=judge, heard=heard)
    assert "starts from r1" in heard.of("value")[0]["text"]
    answers = (Completion("abc"), Completion("bcd"))
    asked = [Group(Prompt(g.id, g.prompt.text), answers) for g in prompts(init, 3)]
    rows = [scores(m, asked) for m in models_of_reward]
    np.testing.assert_allclose(scores(ensemble, asked), np.min(rows, axis=0), atol=1e-6)
