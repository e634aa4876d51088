"""F1 and F2 climbed by the very code that trains real models: `ppo.fit`, `grpo.fit`.

See docs/theory/tabular.md. The policy is a one-layer Llama whose law is known, the
reward a table; the law of what was trained is read exactly off the exported folder, by the
forward pass of transformers, never sampled. KL coefficient beta = .5 everywhere.

F2 has two tokens an answer and no end to choose, so no missing-EOS rule applies. Its optimum is
the soft-value recursion: V(s) = beta ln sum_a pi_ref(a|s) e^{V(sa)/beta}.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import AutoModelForCausalLM

from tabular import PI_REF, R_STAR, kl_div, tilt, tv
from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.groups import Groups
from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.machine import Machine
from tandem.methods import grpo, ppo
from tandem.models.tokenise import mark_tokenizer
from tandem.models.tokenizers import load_tokenizer
from tandem.operators import best
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.statistics import best_of
from tandem.training.optim import Optim
from worlds import F2_A, F2_AFTER, F2_BOS, F2_FIRST, F2_LAW, F2_REWARD, f1_model, f2_model

BETA = 0.5
FP32 = Machine(device="cpu", precision="fp32", save_seconds=1e9, log_every=1000)
F1_REWARD = dict(zip("abcd", R_STAR.tolist(), strict=True))
F2_REF = torch.tensor(list(F2_LAW.values()), dtype=torch.float64)  # aa, ab, ba, bb
F2_SCORES = torch.tensor(list(F2_REWARD.values()), dtype=torch.float64)
F2_STAR = torch.tensor([0.20887210, 0.66144328, 0.10814728, 0.02153734], dtype=torch.float64)


@dataclass(frozen=True)
class Table:
    """Scores an answer by looking its text up."""

    rewards: tuple[tuple[str, float], ...]
    name: str = "table"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        rewards = dict(self.rewards)
        for group in groups:
            scores = np.array([rewards[c.text] for c in group.completions])
            yield replace(group, scores=scores)


def prompts(folder: Path, count: int) -> Groups:
    """`count` prompts that all are [bos], under different names."""
    whose = tokenizer_hash(load_tokenizer(folder))
    bos = np.array([F2_BOS], np.int32)
    return Groups.of(
        mark_tokenizer(Group(Prompt(str(i), "<bos>", tokens=bos)), whose) for i in range(count)
    )


def next_law(folder: Path, *last: int) -> Tensor:
    """The law of the token after [bos] and `last`, over the letters, in float64."""
    lm = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = lm(torch.tensor([[F2_BOS, *last]])).logits[0, -1].double()
    return logits.softmax(-1)[F2_A:]


def f2_law(folder: Path) -> Tensor:
    """The joint law of aa, ab, ba, bb."""
    first = next_law(folder)
    return torch.stack([first[x] * next_law(folder, F2_A + x) for x in (0, 1)]).reshape(-1)


def climbed(method: Any, cfg: Any, init: Path, rewards: dict[str, float], place: Path) -> Path:
    longest = len(next(iter(rewards)))
    done = method.fit(
        Checkpoint(init), prompts(init, 16), Table(tuple(rewards.items())), cfg,
        sampling=Sampling(max_tokens=longest),
        ctx=StageContext.at(place, seed=Seed(1), machine=FP32),
    )  # fmt: skip
    return done.path


def optim(lr: float) -> Optim:
    return Optim(lr=lr, schedule="linear", warmup=0.0, clip=None, eps=1e-5)


def test_the_optimum_of_f2_is_its_soft_value_recursion():
    """Backwards over two tokens, and in one step over whole answers: the same law."""
    after = {x: {y: F2_AFTER[x][y] * math.exp(F2_REWARD[x + y] / BETA) for y in "ab"} for x in "ab"}
    soft = {x: BETA * math.log(sum(after[x].values())) for x in "ab"}
    assert soft["a"] == pytest.approx(0.53522931, abs=1e-8)
    assert soft["b"] == pytest.approx(-0.21391319, abs=1e-8)
    first = {x: F2_FIRST[x] * math.exp(soft[x] / BETA) for x in "ab"}
    z = sum(first.values())
    assert BETA * math.log(z) == pytest.approx(0.34926631, abs=1e-8)
    law = [first[x] / z * after[x][y] / sum(after[x].values()) for x in "ab" for y in "ab"]
    np.testing.assert_allclose(law, F2_STAR, atol=1e-8)
    np.testing.assert_allclose(tilt(F2_REF, F2_SCORES, BETA), F2_STAR, atol=1e-8)
    assert tv(F2_REF, F2_STAR) > 0.4  # so that TV < .02 is an achievement


def test_ppo_reaches_the_optimum_of_f2(tmp_path: Path):
    """TV < .02 on the joint law. Whitening is off: at the optimum it would divide by 0.

    At pi* every return equals the soft value of its state, which the value function learns, so
    the gradient's noise vanishes.
    """
    cfg = ppo.PPOConfig(
        prompts=128, rounds=60, inner=2, minibatch=128, beta=BETA, whiten_rewards=False,
        whiten_advantages=False, value_clip=None, value_weight=0.5, optim=optim(0.02),
    )  # fmt: skip
    got = f2_law(climbed(ppo, cfg, f2_model(tmp_path / "f2"), F2_REWARD, tmp_path / "run"))
    assert tv(got, F2_STAR) < 0.02


@pytest.mark.parametrize("kl", ["reward", "k2"])
def test_rloo_and_the_k2_loss_reach_the_optimum_of_f2(kl: Any, tmp_path: Path):
    """RLOO has k1 in the reward; k2 of whole answers is a loss beside the same surrogate."""
    cfg = replace(
        grpo.GRPO_VARIANTS["rloo"], prompts=16, minibatch=16, n=16, rounds=60, beta=BETA, kl=kl,
        optim=optim(0.02),
    )  # fmt: skip
    got = f2_law(climbed(grpo, cfg, f2_model(tmp_path / "f2"), F2_REWARD, tmp_path / "run"))
    assert tv(got, F2_STAR) < 0.02


def test_k2_has_the_average_of_its_surrogate(tmp_path: Path):
    """The clipped surrogate averages tokens; so must the penalty, or beta would count twice.

    With a penalty per answer beside an average over two tokens the limit would be the optimum at
    2 beta, at a TV of .24 from the one at beta.
    """
    assert tv(tilt(F2_REF, F2_SCORES, 2 * BETA), F2_STAR) == pytest.approx(0.24, abs=0.01)
    cfg = grpo.GRPOConfig(
        prompts=16, minibatch=16, n=16, rounds=60, advantage="rest", beta=BETA, kl="k2",
        optim=optim(0.02),
    )  # fmt: skip
    got = f2_law(climbed(grpo, cfg, f2_model(tmp_path / "f2"), F2_REWARD, tmp_path / "run"))
    assert tv(got, F2_STAR) < 0.02


def test_grpo_with_k3_reaches_its_own_rational_law(tmp_path: Path):
    """F1, one-token answers, no division by the spread: pi_ref beta/(beta + E r - r).

    Groups are large, because r - mean is (1 - 1/n) (r - mean of the rest).
    """
    cfg = grpo.GRPOConfig(
        prompts=4, minibatch=4, n=64, rounds=80, advantage="mean", beta=BETA, kl="k3",
        optim=optim(0.02),
    )  # fmt: skip
    got = next_law(climbed(grpo, cfg, f1_model(tmp_path / "f1"), F1_REWARD, tmp_path / "run"))
    law = torch.tensor([0.09662, 0.09554, 0.09346, 0.71438], dtype=torch.float64)
    assert tv(got, law) < 0.02
    assert tv(got, tilt(PI_REF, R_STAR, BETA)) > 0.03  # not the exponential tilt


def test_best_of_n_has_its_exact_law_and_its_true_divergence(tmp_path: Path):
    """4,000 times the best of 4 on F1, drawn by the engine and judged: chi-squared, and the KL.

    KL(best of 4 || pi_ref) is .5871 and not the formula's .6363, which no atoms would give; its
    estimate from counts has a standard error of about .005.
    """
    folder = f1_model(tmp_path / "f1")
    lm = AutoModelForCausalLM.from_pretrained(folder)
    engine = TorchEngine(lm, load_tokenizer(folder))
    drawn = engine.sample(prompts(folder, 4000), 4, Sampling(max_tokens=1), Seed(3))
    judged = Table(tuple(F1_REWARD.items()))(drawn)
    kept = [g.completions[0].text for g in best()(judged, Seed(4))]
    counts = np.array([kept.count(x) for x in F1_REWARD])
    law = best_of.best_of_n_law(PI_REF.numpy(), R_STAR.numpy(), 4)
    np.testing.assert_allclose(law, (0.0256, 0.2145, 0.416, 0.3439), atol=5e-5)
    assert stats.chisquare(counts, 4000 * law).pvalue > 1e-3
    seen = torch.from_numpy(counts / 4000)
    assert kl_div(seen, PI_REF) == pytest.approx(0.5871, abs=0.02)
    assert best_of.kl_exact(PI_REF.numpy(), R_STAR.numpy(), 4) == pytest.approx(0.5871, abs=5e-5)
