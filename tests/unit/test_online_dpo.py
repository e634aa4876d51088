"""Online DPO's rounds: who is compared, what is kept, what a kill leaves, and how a step is cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from climbing import FAST, FP32, SHORT, Heard, Letters, climbed, drawn, prompts
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.engines.torch import TorchEngine
from tandem.errors import ConfigError, JudgeError
from tandem.judges import open_judge
from tandem.methods import iterative_dpo, online_dpo, xpo
from tandem.methods.dpo import DPOConfig
from tandem.models.opening import open_policy
from tandem.models.packed import ActorCritic
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.training.rollout_models import RolloutModels
from tandem.training.validation import Validation
from tiny import folder

SMALL: dict[str, Any] = {"prompts": 4, "rounds": 2, "minibatch": 2, "optim": FAST}
ONLINE = online_dpo.OnlineDPOConfig(n=4, **SMALL)
XPO = xpo.XPOConfig(alpha=0.01, **SMALL)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("init"))


@dataclass(frozen=True)
class Shorter:
    """Prefers the shorter of (0, 1), (2, 3), ...; it scores nothing, and refuses a single one."""

    name: str = "shorter"
    compares: ClassVar[bool] = True

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for group in groups:
            assert len(group) > 1, "asked about a single answer"
            size = [len(c.tokens) for c in group.completions]
            votes = [
                Preference(i, i + 1, 0.5 * (1 + np.sign(size[i + 1] - size[i])))
                for i in range(0, len(group) - 1, 2)
            ]
            yield replace(group, preferences=tuple(votes))


def models(init: Path, judge: Any = None) -> RolloutModels:
    policy = ActorCritic(open_policy(init, FP32, train=True))
    return RolloutModels(
        policy, open_policy(init, FP32), open_judge(judge or Letters(), FP32), FP32
    )


def weights(done: Checkpoint) -> dict[str, Any]:
    return load_file(done.path / "model.safetensors")


def answered(name: str, texts: str, scores: list[float]) -> Group:
    answers = tuple(Completion(x, np.array([ord(x)], np.int32)) for x in texts)
    return Group(Prompt(name, "?"), answers, np.array(scores))


def test_scores_become_pairs_and_preferences_are_kept(init: Path):
    groups = drawn(init, n=4)
    algorithm = online_dpo.OnlineDPOAlgorithm(models(init), ONLINE, Seed(0))
    for group in algorithm.compare(groups):
        assert group.scores is not None
        (pair,) = group.preferences
        assert group.scores[pair.i] == group.scores.max()
        assert group.scores[pair.j] == group.scores.min()
    algorithm = online_dpo.OnlineDPOAlgorithm(models(init, Shorter()), ONLINE, Seed(0))
    assert [len(g.preferences) for g in algorithm.compare(groups)] == [2] * 6


def test_what_teaches_nothing_is_left_out_and_fills_up_where_a_step_would_be_empty():
    """A tie, equal answers, and answers that meet nobody; the reference's column follows."""
    paired = [
        replace(answered("tie", "ab", [1, 1]), preferences=(Preference(0, 1, 0.5),)),
        replace(answered("same", "aa", [1, 1]), preferences=(Preference(0, 1, 1.0),)),
        replace(answered("good", "abcd", [0, 3, 1, 2]), preferences=(Preference(1, 0),)),
    ]
    kept, places = online_dpo.keep_informative(paired, 1)
    assert [g.id for g in kept] == ["good"]
    assert [c.text for c in kept[0].completions] == ["a", "b"]
    assert places == [4, 5]
    kept, places = online_dpo.keep_informative(paired, 2)
    assert [g.id for g in kept] == ["tie", "good"]
    assert places == [0, 0, 4, 5]
    assert online_dpo.keep_informative(paired, 1, gap=4.0)[1] == [0, 0]
    (fill,) = (g for g in kept if g.id == "tie")
    assert fill.completions[0] == fill.completions[1]  # beside itself, so it moves nothing
    assert fill.preferences == (Preference(0, 1, 0.5, by="fill"),)


def test_the_references_numbers_stay_with_their_answers(init: Path):
    actors = models(init)
    groups = drawn(init, n=4)
    algorithm = online_dpo.OnlineDPOAlgorithm(actors, ONLINE, Seed(0))
    found = algorithm.experience(groups)
    again = actors.ref_logprobs(found.groups)
    torch.testing.assert_close(found.columns["ref_logp"].values, again.values)
    assert found.metrics["kl"] == pytest.approx(0, abs=1e-3)  # the policy is its reference
    assert 0 < found.metrics["informative"] <= 1


def test_nothing_is_chosen_by_a_score_that_nobody_gives(init: Path, tmp_path: Path):
    watch = Validation(prompts(init, 3, seed=9), choose="proxy")
    with pytest.raises(ConfigError, match=r"validation\.choose = 'proxy'"):
        climbed(online_dpo, ONLINE, init, tmp_path, Shorter(), validation=watch)


@pytest.mark.parametrize("loss", online_dpo.ONLINE_LOSSES)
def test_a_judge_that_only_compares_trains_and_is_validated_without_a_proxy(
    loss: Any, init: Path, tmp_path: Path
):
    heard = Heard()
    watch = Validation(prompts(init, 3, seed=9), (("letters", Letters()),), every=1)
    cfg = replace(ONLINE, loss=loss)
    done = climbed(online_dpo, cfg, init, tmp_path, Shorter(), heard=heard, validation=watch)
    assert all("proxy" not in p and "letters" in p for p in heard.of("watch"))
    assert f"{loss}_loss" in heard.of("train")[0]
    before = load_file(init / "model.safetensors")
    assert any(not torch.equal(v, before[k]) for k, v in weights(done).items())


@pytest.mark.parametrize(("method", "cfg"), [(online_dpo, ONLINE), (xpo, XPO)])
def test_a_killed_run_ends_with_the_same_weights(method: Any, cfg: Any, init: Path, tmp_path: Path):
    """Also where the second answer is the reference's, whose draws are counted in rounds."""
    whole = climbed(method, cfg, init, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        climbed(method, cfg, init, tmp_path / "cut", heard=Heard(dies_at=3))
    resumed = climbed(method, cfg, init, tmp_path / "cut")
    left, right = weights(whole), weights(resumed)
    assert all(torch.equal(left[k], right[k]) for k in left)


def test_the_reference_answers_afresh_each_round_and_is_marked(init: Path):
    actors = models(init)
    engine = TorchEngine(actors.reference.lm, load_tokenizer(init), name=xpo.REFERENCE)
    algorithm = xpo.XPOAlgorithm(actors, XPO, engine, SHORT, Seed(0))
    groups = drawn(init)
    first, second = (algorithm.add_reference_answers(groups) for _ in "12")
    assert [g.completions[1].author for g in first] == [xpo.REFERENCE] * 6
    texts = [[g.completions[1].text for g in turn] for turn in (first, second)]
    assert texts[0] != texts[1]
    found = algorithm.experience(groups)
    for group, marks in zip(found.groups, _by_group(found), strict=True):
        theirs = [c.author == xpo.REFERENCE for c in group.completions]
        assert [m < 0 for m in marks] == theirs


def _by_group(found: Any) -> Iterator[list[float]]:
    means = iter(found.columns["advantages"].mean().tolist())
    for group in found.groups:
        yield [next(means) for _ in group.completions]


def test_a_judge_that_writes_nothing_is_refused(init: Path):
    algorithm = online_dpo.OnlineDPOAlgorithm(models(init, lambda groups: groups), ONLINE, Seed(0))
    with pytest.raises(JudgeError, match="neither scores nor preferences for group `p0`"):
        algorithm.experience(drawn(init, n=2))


def test_settings_of_the_losses_and_their_ranges():
    assert online_dpo.OnlineDPOConfig().strength == {"beta": 0.1}
    assert online_dpo.OnlineDPOConfig(loss="ipo", beta=0.5).strength == {"tau": 0.5}
    assert online_dpo.OnlineDPOConfig(loss="slic").strength == {"beta": 0.002}
    with pytest.raises(ConfigError, match=r"online_dpo\.n"):
        online_dpo.OnlineDPOConfig(n=1)


@pytest.mark.parametrize("reference", ["fixed", "reset"])
def test_iterations_are_stages_and_the_reference_is_the_one_asked_for(
    reference: Any, init: Path, tmp_path: Path
):
    cfg = iterative_dpo.IterativeDPOConfig(
        iterations=2, prompts=4, n=3, reference=reference,
        dpo=DPOConfig(beta=0.1, epochs=1, batch=4, optim=FAST),
    )  # fmt: skip
    with Run(tmp_path / "run", machine=FP32) as run:
        X: Groups = prompts(init, 6)
        base = Checkpoint(init, "base")
        done = iterative_dpo.improve_policy(run, base, X, Letters(), SHORT, None, cfg)
        records = {r.name: r for r in run.records()}
    heard = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    assert str(done) == "iterative DPO-2"
    assert ("prices a step" in "".join(heard)) == (reference == "reset")
    refs = [str(records[f"policy-{t}"].arguments["ref"]) for t in (1, 2)]
    assert (refs[0] == refs[1]) == (reference == "fixed")
