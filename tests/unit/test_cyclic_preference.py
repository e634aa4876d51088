"""The scalar plus cyclic model, and every judge opened as P(a beats b)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import load_file

from climbing import FP32, Heard
from tandem.batching.batch import Pairs
from tandem.cli.evaluate import open_folder
from tandem.cli.judge_choice import add_judge_flags, open_judge_choice
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import ConfigError, DataError, JudgeError, ModelError
from tandem.judges.open_preference import OpenPreference, open_preference
from tandem.judges.preference_model import PreferenceModel, cyclic_log_odds_matrix
from tandem.judges.reward_model import RewardModel
from tandem.methods import cyclic_preference, preference, reward
from tandem.models.checks import check_reward
from tandem.models.loading import stored_dimensions
from tandem.objectives.reward import cyclic_log_odds
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.stages.evaluate_cycles import evaluate_cycles
from tandem.tasks.micro import Annotator, Camps, Micro, Tastes
from tandem.training.optim import Optim
from tiny import folder, group

QUICK = Optim(lr=3e-3, schedule="constant", warmup=0.0, eps=1e-6)
CYCLIC = cyclic_preference.CyclicPreferenceConfig(epochs=2, batch=2, optim=QUICK)


def world(count: int = 6, n: int = 3) -> Groups:
    rng = np.random.default_rng(0)

    def one(i: int) -> Group:
        made = group(f"p{i}", rng, 4, rng.integers(2, 9, n).tolist())
        votes = itertools.combinations(range(n), 2)
        return replace(
            made, preferences=tuple(Preference(a, b, float(rng.uniform())) for a, b in votes)
        )

    return Groups.of(one(i) for i in range(count))


def fitted(place: Path, method, data: Groups, cfg) -> Checkpoint:
    ctx = StageContext.at(place, seed=Seed(3), events=Heard(), machine=FP32)
    init = folder(place / "init")
    return method.fit(Checkpoint(init, "init"), data, cfg, ctx=ctx)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    place, data = tmp_path_factory.mktemp("models"), world()
    pair = preference.PreferenceConfig(epochs=1, batch=2, optim=QUICK)
    scalar = reward.RewardConfig(epochs=1, batch=2, optim=QUICK)
    return {
        "cyclic": PreferenceModel(fitted(place / "c", cyclic_preference, data, CYCLIC)),
        "pairs": PreferenceModel(fitted(place / "p", preference, data, pair)),
        "reward": RewardModel(fitted(place / "r", reward, data, scalar)),
    }


# --------------------------------------------------------------------------------- the model


def test_the_form_is_antisymmetric_and_nothing_for_equal_answers():
    draw = torch.Generator().manual_seed(0)
    score, embedding = torch.randn(5, generator=draw), torch.randn(5, 6, generator=draw)
    one, two = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 4, 2, 0])
    p = torch.ones(4)
    ahead = cyclic_log_odds(score, embedding, Pairs(one, two, p))
    back = cyclic_log_odds(score, embedding, Pairs(two, one, p))
    torch.testing.assert_close(ahead, -back)
    assert ahead[2] == 0
    matrix = cyclic_log_odds_matrix(score.numpy(), embedding.numpy())
    np.testing.assert_allclose(matrix[one, two], ahead.numpy(), rtol=1e-5, atol=1e-6)


def test_a_form_without_an_embedding_is_a_reward():
    score = torch.tensor([2.0, 0.5])
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    assert cyclic_log_odds(score, torch.zeros(2, 2), pairs).item() == 1.5


def test_two_dimensions_hold_a_circle():
    """Three answers 120 degrees apart each beat the next by the same odds."""
    angle = np.array([0, 2 * np.pi / 3, 4 * np.pi / 3])
    embedding = np.stack([np.cos(angle), np.sin(angle)], 1)
    matrix = cyclic_log_odds_matrix(np.zeros(3), embedding)
    np.testing.assert_allclose([matrix[0, 1], matrix[1, 2], matrix[2, 0]], np.sin(angle[1]))


def test_it_is_a_folder_of_safetensors_that_says_what_it_is(models):
    path = models["cyclic"].checkpoint.path
    assert load_file(path / "model.safetensors")["score.weight"].shape == (5, 32)
    assert stored_dimensions(path) == 4
    assert stored_dimensions(models["reward"].checkpoint.path) == 0


@pytest.mark.parametrize("length", [3, -2, 10**6, "many", [2]])
def test_a_folder_that_lies_about_its_embedding_is_refused(models, length, tmp_path: Path):
    import json
    import shutil

    bad = shutil.copytree(models["cyclic"].checkpoint.path, tmp_path / "bad")
    config = json.loads((bad / "config.json").read_text())
    config["tandem"]["dimensions"] = length
    (bad / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="dimensions"):
        PreferenceModel(Checkpoint(bad)).open()


def test_an_odd_embedding_is_refused():
    with pytest.raises(ConfigError, match="dimensions = 3"):
        cyclic_preference.CyclicPreferenceConfig(dimensions=3)


def test_it_is_no_reward_model(models):
    with pytest.raises(JudgeError, match="gives embeddings"):
        RewardModel(models["cyclic"].checkpoint).open()


def test_it_learns_a_circle_that_no_reward_can(tmp_path: Path):
    """Three answers in a circle under every prompt: after fitting each beats the next."""
    rng = np.random.default_rng(1)
    answers = [group("x", rng, 2, [4]).completions[0] for _ in range(3)]

    def one(i: int) -> Group:
        votes = (Preference(0, 1, 0.9), Preference(1, 2, 0.9), Preference(2, 0, 0.9))
        return Group(group(f"p{i}", rng, 3, []).prompt, tuple(answers), preferences=votes)

    data = Groups.of(one(i) for i in range(24))
    cfg = replace(CYCLIC, epochs=12, batch=8, optim=replace(QUICK, lr=1e-2))
    rho = PreferenceModel(fitted(tmp_path, cyclic_preference, data, cfg))
    for p in open_preference(rho, FP32).matrices(data[:4]):
        assert min(p[0, 1], p[1, 2], p[2, 0]) > 0.7


# --------------------------------------------------------------------- one way to ask anybody


@pytest.mark.parametrize("kind", ["cyclic", "pairs", "reward"])
def test_every_model_is_asked_alike(models, kind: str):
    """Pairs, whole matrices and two groups of one prompt agree, and p + p.T is 1."""
    opened = open_preference(models[kind], FP32)
    groups = list(world(3, n=4))
    for g, matrix in zip(groups, opened.matrices(groups), strict=True):
        np.testing.assert_allclose(matrix + matrix.T, 1, atol=1e-12)
        (p,) = opened([(g, [(0, 2), (3, 1)])])
        np.testing.assert_allclose(p, [matrix[0, 2], matrix[3, 1]], atol=1e-5)
        (cross,) = opened.against([g.keep([0, 1])], [g.keep([2, 3])])
        np.testing.assert_allclose(cross, matrix[:2, 2:], atol=1e-5)


def test_a_preference_writes_what_its_judge_writes(models):
    """The judge of pairs and the opened preference say the same of neighbours."""
    groups = list(world(3, n=4))
    judge = replace(models["cyclic"], machine=FP32)
    said = [[v.p for v in g.preferences] for g in judge(groups)]
    asked = open_preference(models["cyclic"], FP32)([(g, [(0, 1), (2, 3)]) for g in groups])
    np.testing.assert_allclose(said, list(asked), atol=1e-6)


def test_groups_without_pairs_pass(models):
    g = world(1).take([0])[0]
    for judge in models.values():
        assert [len(p) for p in open_preference(judge, FP32)([(g, []), (g, [(0, 1)])])] == [0, 1]


@dataclass(frozen=True)
class Brevity:
    name: str = "brevity"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for g in groups:
            yield replace(g, scores=np.array([-len(c.text) for c in g.completions], float))


@dataclass(frozen=True)
class Clicks:
    """Compares neighbours, and says nothing of the second pair."""

    name: str = "clicks"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for g in groups:
            yield replace(g, preferences=(Preference(1, 0, 0.8),))


def test_any_judge_can_be_asked():
    """One that scores by sigma of the difference; one that compares by labels, else one half."""
    g = Group(Prompt("q", "?"), (Completion("a"), Completion("abc"), Completion("ab")))
    (p,) = open_preference(Brevity(), FP32)([(g, [(0, 1), (1, 2)])])
    np.testing.assert_allclose(p, 1 / (1 + np.exp([-2.0, 1.0])))
    (p,) = open_preference(Clicks(), FP32)([(g, [(0, 1), (1, 2)])])
    np.testing.assert_allclose(p, [0.2, 0.5])


def test_answers_in_other_tokens_are_read_as_text(models):
    """Two groups whose tokens are two tokenizers' are joined without a mark of whose they are."""
    seen: list[Group] = []

    def listen(asked):
        for g, pairs in asked:
            seen.append(g)
            yield np.full(len(pairs), 0.5)

    mine = Group(Prompt("q", "?", meta={"tokenizer": "a", "x": 1}), (Completion("a"),))
    theirs = Group(Prompt("q", "?", meta={"tokenizer": "b", "x": 1}), (Completion("b"),))
    list(OpenPreference(listen, "x").against([mine, mine], [theirs, mine]))
    assert [g.prompt.meta for g in seen] == [{"x": 1}, {"tokenizer": "a", "x": 1}]
    other = Group(Prompt("r", "?"), (Completion("b"),))
    with pytest.raises(DataError, match="`q` stands beside `r`"):
        list(OpenPreference(listen, "x").against([mine], [other]))


def test_what_is_no_probability_is_refused():
    g = Group(Prompt("q", "?"), (Completion("a"), Completion("b")))
    with pytest.raises(JudgeError, match="prompt `q`"):
        list(
            OpenPreference(lambda asked: (np.array([np.nan]) for _ in asked), "x")([(g, [(0, 1)])])
        )


def test_a_folder_is_opened_as_what_it_is(models):
    kinds = {k: type(open_folder(str(m.checkpoint.path))) for k, m in models.items()}
    assert kinds == {"cyclic": PreferenceModel, "pairs": PreferenceModel, "reward": RewardModel}
    check_reward(models["cyclic"].checkpoint.path)
    parser = ArgumentParser()
    add_judge_flags(parser)
    for kind, judge in kinds.items():
        words = ["--judge", str(models[kind].checkpoint.path)]
        assert type(open_judge_choice(parser.parse_args(words))) is judge


# --------------------------------------------------------------------------- people with tastes


def summaries(count: int = 30) -> list[Group]:
    """Posts, each with a summary of one, of three and of four clauses."""
    from tandem.tasks.micro import posts

    def one(g: Group) -> Group:
        facts = posts.told_targets(g.prompt.meta)
        chosen = (facts[:1], facts, [*facts, facts[0]])
        texts = tuple(Completion(posts.render_summary(claims)) for claims in chosen)
        return Group(g.prompt, texts)

    return [one(g) for g in Micro().prompts("preference", count, Seed(0))]


def test_the_dial_goes_from_a_reward_to_a_circle():
    for matrix in open_preference(Tastes(cyclic=1.0), FP32).matrices(summaries(5)):
        np.testing.assert_allclose([matrix[0, 1], matrix[1, 2], matrix[2, 0]], 2 / 3)
    for matrix in open_preference(Tastes(cyclic=0.0), FP32).matrices(summaries(5)):
        odds = np.log(matrix / (1 - matrix))
        assert abs(odds[0, 1] + odds[1, 2] + odds[2, 0]) < 1e-9  # a reward's differences add up
    half, ends = (
        [next(open_preference(Tastes(cyclic=c), FP32).matrices(summaries(1))) for c in dial]
        for dial in ((0.5,), (0.0, 1.0))
    )
    np.testing.assert_allclose(half[0], sum(ends) / 2)


def test_votes_are_drawn_from_the_exact_preference():
    """2,000 votes on one pair: their share is the exact one within four standard errors."""
    who, pair = Tastes(cyclic=1.0), [g.keep([0, 1]) for g in summaries(1)]
    many = [replace(g, prompt=replace(g.prompt, id=str(k))) for g in pair for k in range(2000)]
    share = np.mean([g.preferences[0].p for g in who(many)])
    assert share == pytest.approx(2 / 3, abs=4 * np.sqrt(2 / 9 / 2000))


def test_the_camps_are_the_tastes_without_noise():
    """Between bands both say 2 in 3; within a band the tastes have Bradley and Terry's noise."""
    groups = summaries(5)
    camps, tastes = (
        list(open_preference(who, FP32).matrices(groups)) for who in (Camps(), Tastes())
    )
    np.testing.assert_allclose(camps, tastes)


def test_circles_are_counted_beside_the_truth():
    """The camps see a circle in every triple of bands; a score sees none and agrees less."""
    groups = Groups.of(summaries(8))
    who = {"camps": Camps(), "brevity": Brevity()}
    found = evaluate_cycles(who, groups, truth=Tastes(), machine=FP32)
    rows = {row["judge"]: row for row in found["numbers"]}
    assert rows["camps"]["cyclic triples"]["mean"] == rows["exact"]["cyclic triples"]["mean"] == 1
    assert rows["brevity"]["cyclic triples"]["mean"] == 0
    assert rows["exact"]["agreement"]["mean"] == pytest.approx(2 / 3)
    assert rows["brevity"]["agreement"]["mean"] == pytest.approx(5 / 9)  # right in two of three
    with pytest.raises(DataError, match="three answers"):
        evaluate_cycles(who, Groups.of(g.keep([0, 1]) for g in groups), machine=FP32)


def test_an_annotator_is_known_exactly():
    g = summaries(1)[0]
    (p,) = open_preference(Annotator(flips=0.1), FP32)([(g, [(0, 1)])])
    assert p[0] == pytest.approx(0.1)  # three facts told are worth more than one


@pytest.mark.parametrize("wrong", [{"cyclic": 1.5}, {"flips": 0.6}, {"temperature": 0.0}])
def test_impossible_tastes_are_refused(wrong):
    with pytest.raises(ConfigError):
        Tastes(**wrong)
