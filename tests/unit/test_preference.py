"""The preference model of two arguments: antisymmetric, soft, free to go round in circles."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from climbing import FP32, Heard
from tandem.data.groups import Groups
from tandem.data.pair_sequences import (
    PairSeparator,
    both_orders,
    judged_in_both_orders,
    longest_sequence,
    pair_log_odds,
)
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import ConfigError, DataError, JudgeError
from tandem.judges.preference_model import CLIP, Pointwise, PreferenceModel
from tandem.judges.reward_model import RewardModel
from tandem.methods import preference, reward
from tandem.models.saving import save_model
from tandem.models.tokenise import mark_tokenizer, tokenise
from tandem.models.tokenizers import load_tokenizer, tokenizer_hash
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.stages.evaluate_reward import evaluate_preferences
from tandem.tasks.micro import Camps, Micro, posts
from tandem.training.optim import Optim
from tiny import folder, group
from vocabularies import CHATML, byte_bpe

QUICK = Optim(lr=3e-3, schedule="constant", warmup=0.0, eps=1e-6)


def world(count: int = 6, n: int = 3, seed: int = 0) -> Groups:
    """Random groups with every pair judged, by soft shares."""
    rng = np.random.default_rng(seed)

    def one(i: int) -> Group:
        made = group(f"p{i}", rng, 4, rng.integers(2, 9, n).tolist())
        votes = itertools.combinations(range(n), 2)
        return replace(
            made, preferences=tuple(Preference(a, b, float(rng.uniform())) for a, b in votes)
        )

    return Groups.of(one(i) for i in range(count))


def fitted(
    init: Path, place: Path, data: Groups, method: Any = preference, cfg: Any = None,
    heard: Any = None,
) -> Checkpoint:  # fmt: skip
    cfg = cfg or preference.PreferenceConfig(epochs=2, batch=2, optim=QUICK)
    ctx = StageContext.at(place, seed=Seed(3), events=heard or Heard(), machine=FP32)
    return method.fit(Checkpoint(init, "init"), data, cfg, ctx=ctx)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    place = tmp_path_factory.mktemp("model")
    return fitted(folder(place / "init"), place, world())


# ---------------------------------------------------------------------------- one sequence


def test_two_answers_are_one_sequence_with_an_end_behind_each(tmp_path: Path):
    """prompt | y | EOS | y' | EOS for plain text; completions 2k and 2k + 1 are pair k."""
    tokenizer = load_tokenizer(folder(tmp_path))
    asked = Prompt("x", "ab", tokens=np.array([3, 4], np.int32))
    answers = [np.array(a, np.int32) for a in ([5, 2], [6, 7])]  # the second was cut off
    made = Group(asked, tuple(Completion("", a) for a in answers))
    derived = both_orders(made, [(0, 1)], PairSeparator.of(tokenizer))
    assert [c.tokens.tolist() for c in derived.completions] == [
        [5, 2, 2, 6, 7, 2],
        [6, 7, 2, 5, 2, 2],
    ]
    assert derived.prompt is made.prompt
    assert longest_sequence(derived) == 8


def test_a_template_opens_the_second_turn_too():
    """Decoded, the sequence is what a reader of the template expects: a turn, then another."""
    tokenizer = byte_bpe(CHATML)
    asked = Prompt("x", "", messages=({"role": "user", "content": "how are you?"},))
    made = Group(asked, (Completion("fine"), Completion("the cat")))
    (encoded,) = tokenise([made], tokenizer)
    derived = both_orders(encoded, [(1, 0)], PairSeparator.of(tokenizer))
    text = tokenizer.decode([*derived.prompt.tokens, *derived.completions[0].tokens])
    assert text == (
        "<|im_start|>user\nhow are you?<|im_end|>\n<|im_start|>assistant\nthe cat<|im_end|></s>"
        "<|im_start|>assistant\nfine<|im_end|></s>"
    )


def test_plain_text_gets_no_header_from_a_template():
    tokenizer = byte_bpe(CHATML)
    made = Group(Prompt("x", "hello"), (Completion(" to"), Completion(" the dog")))
    (encoded,) = tokenise([made], tokenizer)
    derived = both_orders(encoded, [(0, 1)], PairSeparator.of(tokenizer))
    assert tokenizer.decode(derived.completions[0].tokens) == " to</s></s> the dog</s></s>"


def test_judged_pairs_keep_their_shares_and_an_answer_without_tokens_is_refused(tmp_path: Path):
    seam = PairSeparator.of(load_tokenizer(folder(tmp_path)))
    (made,) = world(1)
    votes = judged_in_both_orders(made, seam).preferences
    assert [(v.i, v.j) for v in votes] == [(0, 1), (2, 3), (4, 5)]
    assert [v.p for v in votes] == [v.p for v in made.preferences]
    bare = replace(made, completions=(*made.completions[:2], Completion("a")))
    with pytest.raises(DataError, match="completion 2 has no tokens"):
        judged_in_both_orders(bare, seam)


# ---------------------------------------------------------------------------- antisymmetry


def test_log_odds_of_the_other_order_are_the_negative_bit_for_bit():
    scores = np.random.default_rng(0).normal(size=40).astype(np.float32)
    turned = scores.reshape(-1, 2)[:, ::-1].reshape(-1)
    assert np.array_equal(pair_log_odds(turned), -pair_log_odds(scores))


def test_the_two_orders_add_up_to_one(model: Checkpoint):
    """Through the real model, whichever answer comes first, in whatever company."""
    groups = list(world(5, n=4, seed=1))
    judge = PreferenceModel(model, pairs="all", machine=FP32)
    forward = [{(v.i, v.j): v.p for v in g.preferences} for g in judge(groups)]
    backward = judge([g.keep([3, 2, 1, 0]) for g in groups])
    seen: list[float] = []
    for there, back in zip(forward, backward, strict=True):
        for v in back.preferences:
            p = there[(3 - v.j, 3 - v.i)]
            assert p + v.p == pytest.approx(1, abs=1e-6)
            seen.append(p)
    assert len(seen) == 30
    assert np.std(seen) > 0.01  # it has opinions


def test_an_answer_against_itself_is_a_tie(model: Checkpoint):
    groups = [g.keep([0, 0]) for g in world(3)]
    for judged in PreferenceModel(model, machine=FP32)(groups):
        assert judged.preferences[0].p == pytest.approx(0.5, abs=1e-6)


# ---------------------------------------------------------------------------- fitting


def test_a_soft_label_is_where_the_fit_comes_to_rest(tmp_path: Path):
    """One pair labelled .8: dL/df = sigma(f) - .8 vanishes at f = logit .8 and nowhere else; with
    smoothing .1 at .9 * .8 + .1 * .2 = .74, and a label given the other way round is the same."""
    init = folder(tmp_path / "init")
    pair = world(1, n=2)[0]
    for k, (vote, smoothing, rest) in enumerate(
        [(Preference(0, 1, 0.8), 0.0, 0.8), (Preference(1, 0, 0.2), 0.1, 0.74)]
    ):
        data = Groups.of([replace(pair, preferences=(vote,))])
        cfg = preference.PreferenceConfig(60, smoothing=smoothing, head="zero", optim=QUICK)
        found = fitted(init, tmp_path / str(k), data, cfg=cfg)
        (judged,) = PreferenceModel(found)([pair])
        assert judged.preferences[0].p == pytest.approx(rest, abs=0.02)


def test_a_zero_head_starts_at_one_half(tmp_path: Path):
    data = world()
    cfg = preference.PreferenceConfig(head="zero", batch=6, optim=replace(QUICK, lr=1e-12))
    found = fitted(folder(tmp_path / "init"), tmp_path, data, cfg=cfg)
    votes = [v.p for g in PreferenceModel(found, pairs="all")(data) for v in g.preferences]
    np.testing.assert_allclose(votes, 0.5, rtol=0, atol=1e-6)


@cache
def camps(count: int, seed: int) -> Groups:
    """Summaries of two, three and four clauses, every pair with the share of the population."""
    prompts = Micro("summaries").prompts("preference", count, Seed(seed))

    def one(asked: Group) -> Group:
        meta = asked.prompt.meta
        facts = [*posts.told_targets(meta), *(tuple(fact) for fact in meta["told"][:1])]
        texts = [posts.render_summary(facts[:k]) for k in (2, 3, 4)]
        votes = (
            Preference(i, j, Camps().p(meta, texts[i], texts[j]))
            for i, j in itertools.combinations(range(3), 2)
        )
        return Group(asked.prompt, tuple(Completion(t) for t in texts), preferences=tuple(votes))

    tokenizer = load_tokenizer(Micro().model())
    return Groups.of(tokenise((one(g) for g in prompts), tokenizer))


def test_it_learns_a_circle_that_no_reward_can(tmp_path: Path):
    """Two in three prefer short to medium, medium to long and long to short, on new prompts too.

    The best reward orders two of the three edges (accuracy 2/3) and its likelihood is best at
    all rewards equal (ln 2 = .693); the preference model gets every edge right and comes
    near the entropy of the labels, H(1/3) = .637 nats.
    """
    data, held_out = camps(96, 0), camps(24, 1)
    assert {round(v.p, 3) for g in data for v in g.preferences} == {0.667, 0.333}
    base, optim = Micro().model(), Optim(lr=1e-3, schedule="linear", warmup=0.1)
    same = {"epochs": 4, "batch": 16, "head": "zero", "optim": optim}
    rho = fitted(base, tmp_path / "rho", data, cfg=preference.PreferenceConfig(**same))
    r = fitted(base, tmp_path / "r", data, reward, reward.RewardConfig(**same))
    judges = {"rho": PreferenceModel(rho), "r": RewardModel(r)}
    exam = evaluate_preferences(judges, held_out, seed=Seed(0), machine=FP32)
    two, one = exam["numbers"]["judges"]
    assert two["accuracy"]["mean"] > 0.95
    assert two["log-loss"]["mean"] < 0.66
    assert one["accuracy"]["mean"] < 0.7
    assert one["log-loss"]["mean"] > 0.685
    assert exam["numbers"]["gains"][0]["accuracy"]["low"] > 0.25
    assert "rho less r" in exam["text"]


def test_a_killed_fit_ends_in_the_same_bytes(tmp_path: Path):
    init = folder(tmp_path / "init")
    calm = fitted(init, tmp_path / "calm", world())
    torn = tmp_path / "torn"
    with pytest.raises(KeyboardInterrupt):
        fitted(init, torn, world(), heard=Heard(dies_at=4))
    again = Heard()
    done = fitted(init, torn, world(), heard=again)
    assert next(line["step"] for line in again.of("train")) == 4  # step 4 was not yet on disk
    assert done.hash == calm.hash


def test_pairs_that_do_not_fit_are_counted_and_never_cut(tmp_path: Path):
    init = folder(tmp_path / "init", max_position_embeddings=20)
    rng, heard = np.random.default_rng(0), Heard()
    vote = (Preference(0, 1),)
    long, short = (
        replace(group(name, rng, 4, lengths), preferences=vote)
        for name, lengths in (("long", [9, 9]), ("short", [7, 7]))
    )
    fitted(init, tmp_path, Groups.of([long, short]), heard=heard)
    (line,) = heard.of("encoded")
    assert line["text"] == "dropped 1 of 2 pairs: prompt and both answers are longer than 20 tokens"
    with pytest.raises(DataError, match="none of 1 pairs fits into 20 tokens"):
        fitted(init, tmp_path / "none", Groups.of([long]))
    judge = PreferenceModel(Checkpoint(tmp_path / "out"))
    with pytest.raises(JudgeError, match="`long` with two of its answers has 24 tokens"):
        list(judge([short, long]))


# ---------------------------------------------------------------------------- judges


def test_given_pairs_are_labelled_anew(model: Checkpoint):
    """The same p as among all pairs, for the pairs that are there; hard: 1, 0, or 1/2."""
    ask = {"machine": FP32}
    bare = [replace(g, preferences=()) for g in world(4, n=4, seed=1)]
    twice = [replace(g, completions=(*g.completions, g.completions[0])) for g in bare]
    met = (Preference(2, 0), Preference(1, 3, 0.5), Preference(0, 4))
    given = [replace(g, preferences=met) for g in twice]
    soft = list(PreferenceModel(model, "given", **ask)(given))
    hard = list(PreferenceModel(model, "given", hard=True, **ask)(given))
    for every, judged, clicks in zip(
        PreferenceModel(model, "all", **ask)(bare), soft, hard, strict=True
    ):
        p = {(v.i, v.j): v.p for v in every.preferences}
        wanted = [1 - p[0, 2], p[1, 3], 0.5]
        assert [(v.i, v.j) for v in judged.preferences] == [(2, 0), (1, 3), (0, 4)]
        assert [v.p for v in judged.preferences] == pytest.approx(wanted, abs=1e-5)
        assert [v.p for v in clicks.preferences] == [*(float(q > 0.5) for q in wanted[:2]), 0.5]
        assert {v.by for v in clicks.preferences} == {str(model)}
    with pytest.raises(DataError, match="needs preferences"):
        list(PreferenceModel(model, "given", **ask)(bare))


def test_pointwise_is_the_mean_clipped_log_odds_against_baselines(model: Checkpoint):
    """Against PreferenceModel's own answers to the same pairs, baselines given from outside."""
    groups, others = list(world(4, n=3, seed=1)), world(4, n=2, seed=2)
    got = list(Pointwise(model, others, machine=FP32)(groups))
    low, high = (math.log(p / (1 - p)) for p in CLIP)
    for judged, asked, others_of in zip(got, groups, others, strict=True):
        for k, score in enumerate(judged.scores):
            met = [
                Group(asked.prompt, (asked.completions[k], b), preferences=())
                for b in others_of.completions
            ]
            p = [g.preferences[0].p for g in PreferenceModel(model, machine=FP32)(met)]
            wanted = np.mean([np.clip(math.log(x / (1 - x)), low, high) for x in p])
            assert score == pytest.approx(wanted, abs=1e-5)
        assert len(judged.completions) == 3  # baselines are not left behind


def test_pointwise_against_its_own_first_answer_scores_that_one_zero(model: Checkpoint):
    groups = list(world(3, n=4, seed=1))
    for judged in Pointwise(model)(groups):
        assert judged.scores[0] == pytest.approx(0, abs=1e-6)
        assert np.std(judged.scores) > 1e-3
    for judged, one in zip(
        Pointwise(model, first=2)(groups), Pointwise(model)(groups), strict=True
    ):
        assert judged.scores[1] == pytest.approx(one.scores[1] / 2, abs=1e-6)


def test_a_saturated_preference_is_clipped(tmp_path: Path):
    """A head of 1e4 makes rho 0 or 1: scores are then logit .99 = 4.595 at most."""
    place = fitted(folder(tmp_path / "init"), tmp_path, world()).path
    trained = AutoModelForSequenceClassification.from_pretrained(place)
    trained.score.weight.data.mul_(1e4)
    save_model(trained, load_tokenizer(place), tmp_path / "loud")
    scores = np.concatenate([g.scores for g in Pointwise(Checkpoint(tmp_path / "loud"))(world())])
    assert np.abs(scores).max() == pytest.approx(math.log(99), abs=1e-6)


def test_judges_ignore_company_and_micro_batches(model: Checkpoint):
    groups = list(world(6, n=3, seed=4))
    whole = [g.scores for g in Pointwise(model, machine=FP32)(groups)]
    small = replace(FP32, tokens=40)
    parts = [next(iter(Pointwise(model, machine=small)([g]))).scores for g in groups]
    np.testing.assert_allclose(np.concatenate(whole), np.concatenate(parts), rtol=0, atol=1e-5)


def test_foreign_tokens_are_read_from_text_by_judges_and_refused_by_the_fit(
    model: Checkpoint, tmp_path: Path
):
    """A judge reads text; a fit starts from the policy, whose tokens the data must be in."""
    mine = tokenizer_hash(load_tokenizer(model.path))
    groups = [mark_tokenizer(replace(g, preferences=()), mine) for g in world(3)]
    foreign = [
        replace(
            mark_tokenizer(g, "another"),
            completions=tuple(replace(c, tokens=c.tokens[::-1].copy()) for c in g.completions),
        )
        for g in groups
    ]
    here, there = (list(PreferenceModel(model, machine=FP32)(x)) for x in (groups, foreign))
    for a, b in zip(here, there, strict=True):
        assert a.preferences[0].p == pytest.approx(b.preferences[0].p, abs=1e-6)
    with pytest.raises(DataError, match="tokens of another tokenizer than that of init"):
        fitted(model.path, tmp_path, world().map(lambda g: mark_tokenizer(g, "another")))


def test_a_reward_is_no_preference_model_and_the_other_way_round(model: Checkpoint, tmp_path: Path):
    cfg = reward.RewardConfig(batch=6, optim=QUICK)
    r = fitted(folder(tmp_path / "init"), tmp_path, world(), reward, cfg)
    with pytest.raises(JudgeError, match="scores one answer at a time"):
        list(Pointwise(r)(world()))
    with pytest.raises(JudgeError, match="reads two answers at a time"):
        list(RewardModel(model)(world()))


def test_what_cannot_be_compared_is_refused(model: Checkpoint):
    single = [g.keep([0]) for g in world(1)]
    for judge in (PreferenceModel(model, machine=FP32), Pointwise(model)):
        with pytest.raises(JudgeError, match="was given 1 answer"):
            list(judge(single))
    with pytest.raises(JudgeError, match="no baseline for prompt `p0`"):
        list(Pointwise(model, baselines=Groups.of([]))(world(1)))
    with pytest.raises(ConfigError, match=r"smoothing=0\.5"):
        preference.PreferenceConfig(smoothing=0.5)
    with pytest.raises(ConfigError, match="pairs='some'"):
        PreferenceModel(model, pairs="some")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="first=0"):
        Pointwise(model, first=0)
    with pytest.raises(ConfigError, match="first=2"):
        Pointwise(model, baselines=Groups.of([]), first=2)
