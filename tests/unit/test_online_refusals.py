"""What on-policy methods refuse, and what they say of a reward that reads other tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from climbing import FAST, SHORT, Heard, climbed, drawn
from tandem.batching.ragged import Ragged
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group
from tandem.errors import ConfigError, JudgeError, TandemError
from tandem.judges.reward_model import RewardModel
from tandem.methods import grpo, ppo
from tandem.objectives.shaped_rewards import kl_shaping
from tandem.runs.checkpoint import Checkpoint
from tandem.training.optim import Optim
from tandem.training.rollouts import RolloutShape
from tandem.training.validation import Validation
from tiny import folder, lm
from worlds import letters

PPO = ppo.PPOConfig(prompts=8, rounds=1, inner=1, minibatch=4, beta=0.05, optim=FAST)
GRPO = grpo.GRPOConfig(prompts=4, n=4, rounds=1, inner=1, minibatch=2, optim=FAST)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("init"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ppo.PPOConfig(beta=-0.1),
        lambda: ppo.PPOConfig(beta=0.0, kl_target=6.0),
        lambda: ppo.PPOConfig(no_eos=-1.0, no_eos_penalty=1.0),
        lambda: ppo.PPOConfig(rounds=0) and RolloutShape(1, 1, 0, 1, 1),
        lambda: grpo.GRPOConfig(beta=-0.1),
        lambda: grpo.GRPOConfig(n=1),
        lambda: grpo.GRPOConfig(n=1, advantage="rest"),
        lambda: grpo.GRPOConfig(ratio="none", inner=2),
        lambda: grpo.GRPOConfig(ratio="none", prompts=64, minibatch=32),
        lambda: grpo.GRPOConfig(kl="k2", inner=2),
        lambda: grpo.GRPOConfig(kl="k2", prompts=64, minibatch=32),
        lambda: Validation(Groups.of([]), choose="truth"),
        lambda: Validation(Groups.of([]), every=0),
        lambda: Validation(Groups.of([]), patience=2),
        lambda: Validation(Groups.of([]), choose="proxy", patience=0),
        lambda: kl_shaping(torch.zeros(1), one(), one(), 0.1, estimator="k3"),
        lambda: kl_shaping(torch.zeros(1), one(), one(), 0.1, estimator="k2"),
        lambda: kl_shaping(torch.zeros(1), one(), one(), -0.1),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any):
    with pytest.raises(ConfigError) as caught:
        make()
    assert all([caught.value.what, caught.value.why, caught.value.do])


@pytest.mark.parametrize(
    "cfg",
    [
        {"ratio": "none", "prompts": 64, "minibatch": 64},
        {"ratio": "none", "prompts": 8, "minibatch": 64},
        {"kl": "k2", "prompts": 64, "minibatch": 64},
        {"kl": "k2", "beta": 0.0, "inner": 2},
        {"kl": "k3", "inner": 2, "minibatch": 8},
        {"kl": "reward", "inner": 2, "minibatch": 8},
    ],
    ids=str,
)
def test_fresh_steps_and_corrected_ratios_are_not_refused(cfg: dict[str, Any]):
    """A minibatch that holds the whole round is fresh; a clipped ratio says how stale it is."""
    assert grpo.GRPOConfig(**cfg)


def one() -> Ragged:
    return Ragged.of([torch.zeros(2)])


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}],
    ids=str,
)
@pytest.mark.parametrize("method", [ppo, grpo], ids=["ppo", "grpo"])
def test_episodes_of_another_law_are_refused(
    method: Any, sampling: Any, init: Path, tmp_path: Path
):
    cfg = PPO if method is ppo else GRPO
    with pytest.raises(ConfigError, match="sampled with") as caught:
        climbed(method, cfg, init, tmp_path, sampling=replace(SHORT, **sampling))
    assert "another law" in caught.value.why


@dataclass(frozen=True)
class Silent:
    """Judges without scores."""

    scores: float | None = None
    name: str = "silent"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for g in groups:
            x = self.scores
            yield replace(g, scores=None if x is None else np.full(len(g), x))


@pytest.mark.parametrize("method", [ppo, grpo], ids=["ppo", "grpo"])
@pytest.mark.parametrize("scores", [None, math.nan])
def test_a_judge_without_scores_is_refused(
    method: Any, scores: float | None, init: Path, tmp_path: Path
):
    cfg = PPO if method is ppo else GRPO
    with pytest.raises(JudgeError) as caught:
        climbed(method, cfg, init, tmp_path, reward=Silent(scores))
    assert isinstance(caught.value, TandemError)
    assert all([caught.value.what, caught.value.why, caught.value.do])


def test_a_reward_model_with_another_tokenizer_reads_text_and_says_so(init: Path, tmp_path: Path):
    """Its scores are those of its own tokens, and the value function does not start from it."""
    place = tmp_path / "foreign"
    model = lm("llama", 3, hf.AutoModelForSequenceClassification, num_labels=1, vocab_size=55)
    model.save_pretrained(place)
    letters(55).save_pretrained(place)
    judge, heard = RewardModel(Checkpoint(place, "foreign")), Heard()
    climbed(ppo, PPO, init, tmp_path / "run", reward=judge, heard=heard)
    assert "another tokenizer" in heard.of("retokenised")[0]["text"]
    assert heard.of("retokenised")[0]["judge"] == "foreign"
    assert "foreign" not in heard.of("value")[0]["text"]
    groups = drawn(init)
    bare = [
        Group(
            replace(g.prompt, tokens=np.empty(0, np.int32), meta={}),
            tuple(Completion(c.text, stopped=c.stopped) for c in g.completions),
        )
        for g in groups
    ]
    scored, again = (np.concatenate([g.scores for g in judge(x)]) for x in (groups, bare))
    np.testing.assert_allclose(scored, again, rtol=1e-5, atol=1e-6)


def test_optim_of_the_defaults_is_that_of_the_papers():
    """Adam's epsilon 1e-5 and a rate that falls linearly to 0: docs/theory/ppo.md#checklist."""
    assert ppo.PPOConfig().optim == Optim(lr=1e-5, schedule="linear", eps=1e-5)
    assert ppo.PPOConfig().optim.factor(100, 100) == 0
