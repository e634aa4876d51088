"""Fixture F2, a language of four answers, through the path of real models.

See docs/theory/tabular.md#fixture-f2.

A one-layer Llama in a Hugging Face folder, opened, trained and saved by the same stages that
train anything else; the four answers are enumerated, so that every optimum is known. With
rewards r, beta = 1/2 and the reference's law pi_ref, the optimum is pi_ref exp(r / beta) / Z.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.methods import dpo, reward, sft
from tandem.models.forward import forward_groups, with_logprobs
from tandem.models.opening import open_policy
from tandem.models.tokenise import mark_tokenizer
from tandem.models.tokenizers import load_tokenizer, tokenizer_hash
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.optim import Optim
from worlds import F2_A, F2_B, F2_BOS, F2_LAW, F2_REWARD, f2_model

BETA = 0.5
ANSWERS = ("aa", "ab", "ba", "bb")
PI_REF = np.array([F2_LAW[y] for y in ANSWERS])
R = np.array([F2_REWARD[y] for y in ANSWERS])
PI_STAR = np.array([0.20887210, 0.66144328, 0.10814728, 0.02153734])
P = 1 / (1 + np.exp(R[None, :] - R[:, None]))  # P(i better than j)
MACHINE = Machine(device="cpu", precision="fp32")
STEPS = Optim(lr=0.02, schedule="cosine", warmup=0.0, clip=None)


@pytest.fixture
def pi_sft(tmp_path: Path) -> Checkpoint:
    return Checkpoint(f2_model(tmp_path / "ref"))


def enumerated(p: np.ndarray | None = None, weight: np.ndarray | None = None) -> Groups:
    """Return the prompt with its four answers; every pair is labelled by its probability p."""
    ids = {"a": F2_A, "b": F2_B}
    answers = tuple(
        Completion(
            y,
            np.array([ids[c] for c in y], np.int32),
            weight=1.0 if weight is None else float(weight[k]),
            stopped=False,
        )
        for k, y in enumerate(ANSWERS)
    )
    pairs = () if p is None else itertools.combinations(range(4), 2)
    votes = tuple(Preference(i, j, float(p[i, j])) for i, j in pairs) if p is not None else ()
    prompt = Prompt("x", "<bos>", tokens=np.array([F2_BOS], np.int32))
    return Groups.of([Group(prompt, answers, preferences=votes)])


def law(policy: Checkpoint) -> np.ndarray:
    """Return the probabilities of the four answers, as the kernel reads them."""
    (group,) = with_logprobs(open_policy(policy.path, MACHINE), enumerated())
    return np.exp([c.logp.sum(dtype=np.float64) for c in group.completions])


def tv(p: np.ndarray, q: np.ndarray) -> float:
    return 0.5 * float(np.abs(p - q).sum())


def fitted(method: Any, init: Checkpoint, data: Groups, cfg: Any, place: Path) -> Checkpoint:
    return method.fit(init, data, cfg, ctx=StageContext.at(place, machine=MACHINE))


def test_the_fixture_is_what_it_says(pi_sft: Checkpoint):
    """The model's law is the table's, and pi* is its tilt: pi_ref e^(r/beta) / 2.01079993.

    Z = sum pi_ref e^(2r) = .42 + .18 e^2 + .08 e + .32 e^-2 = 2.0108.
    """
    assert tv(law(pi_sft), PI_REF) < 1e-6
    tilt = PI_REF * np.exp(R / BETA)
    assert tilt.sum() == pytest.approx(2.01079993, abs=1e-7)
    assert np.abs(tilt / tilt.sum() - PI_STAR).max() < 1e-8


def test_dpo_reaches_the_optimum(pi_sft: Checkpoint, tmp_path: Path):
    """Soft labels sigma(r_i - r_j) on every pair: beta log(pi/pi_ref) = r + constant."""
    cfg = dpo.DPOConfig(beta=BETA, epochs=250, batch=1, optim=STEPS)
    policy = fitted(dpo, pi_sft, enumerated(P), cfg, tmp_path)
    assert tv(PI_REF, PI_STAR) > 0.4
    assert tv(law(policy), PI_STAR) < 0.01


def test_rdpo_undoes_flipped_labels_and_dpo_does_not(pi_sft: Checkpoint, tmp_path: Path):
    """A quarter of all labels flipped: p' = 3/4 p + 1/4 (1 - p). rDPO is unbiased for p."""
    flipped = 0.75 * P + 0.25 * (1 - P)
    cfg = dpo.DPOConfig(loss="robust", beta=BETA, noise=0.25, epochs=250, batch=1, optim=STEPS)
    (tmp_path / "robust").mkdir()
    policy = fitted(dpo, pi_sft, enumerated(flipped), cfg, tmp_path / "robust")
    assert tv(law(policy), PI_STAR) < 0.01
    (tmp_path / "plain").mkdir()
    plain = dpo.DPOConfig(beta=BETA, epochs=250, batch=1, optim=STEPS)
    misled = fitted(dpo, pi_sft, enumerated(flipped), plain, tmp_path / "plain")
    assert tv(law(misled), PI_STAR) > 0.1


def test_ipo_reaches_its_closed_form(pi_sft: Checkpoint, tmp_path: Path):
    """Each pair wants h_i - h_j = (2 p_ij - 1)/(2 tau), from p (d - c)^2 + (1 - p)(-d - c)^2.

    Least squares over all pairs of a complete graph: h_i is the mean over j of what it wants.
    """
    tau = 0.5
    h = ((2 * P - 1) / (2 * tau)).mean(1)
    wanted = PI_REF * np.exp(h) / (PI_REF * np.exp(h)).sum()
    cfg = dpo.DPOConfig(loss="ipo_sum", tau=tau, epochs=250, batch=1, optim=STEPS)
    policy = fitted(dpo, pi_sft, enumerated(P), cfg, tmp_path)
    assert tv(PI_REF, wanted) > 0.1
    assert tv(law(policy), wanted) < 0.01


def test_a_reward_model_recovers_r_up_to_a_constant(pi_sft: Checkpoint, tmp_path: Path):
    """And the constant is such that the mean over the four answers is 0."""
    cfg = reward.RewardConfig(epochs=250, batch=1, optim=STEPS)
    made = fitted(reward, pi_sft, enumerated(P), cfg, tmp_path)
    whose = tokenizer_hash(load_tokenizer(made.path))
    (judged,) = RewardModel(made, machine=MACHINE)([mark_tokenizer(enumerated()[0], whose)])
    assert np.abs(judged.scores - (R - R.mean())).max() < 0.02


def test_sft_reaches_the_law_of_its_demonstrations(pi_sft: Checkpoint, tmp_path: Path):
    """Every answer with weight q(y): cross-entropy to q, whose minimum is q."""
    q = np.array([0.1, 0.2, 0.3, 0.4])
    cfg = sft.SFTConfig(epochs=250, batch=1, optim=STEPS)
    policy = fitted(sft, pi_sft, enumerated(weight=q), cfg, tmp_path)
    assert tv(PI_REF, q) > 0.3
    assert tv(law(policy), q) < 0.01


def test_the_law_is_the_same_in_parts(pi_sft: Checkpoint):
    """The four answers in one pack, or one each."""
    policy = open_policy(pi_sft.path, MACHINE)
    for budget in (1, 100):
        ((_, reading),) = forward_groups(policy, enumerated(), budget)
        assert tv(np.exp([x.sum() for x in reading.logp]), PI_REF) < 1e-6
