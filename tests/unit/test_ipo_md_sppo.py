"""IPO-MD and SPPO: what they sample and log; a killed run goes on alike; they learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_opponents import Shorter

from climbing import FP32, SHORT, Heard, prompts
from tandem.batching.batch import Pairs
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import ConfigError
from tandem.methods import ipo_md, sppo
from tandem.methods.ipo_md import list_preferences, policy_metrics
from tandem.methods.nash_md import mean_wins
from tandem.objectives import sppo as sppo_of_pairs
from tandem.objectives import sppo_regression
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.optim import Optim
from tandem.training.rollout_models import token_column
from tandem.training.validation import Validation
from tiny import folder

LEARN: dict[str, Any] = {"prompts": 4, "n": 3, "rounds": 2, "minibatch": 2}
OPTIM = Optim(lr=3e-3, schedule="linear", warmup=0.0, eps=1e-5)
IPO_MD = ipo_md.IPOMDConfig(tau=0.05, share=0.25, optim=OPTIM, **LEARN)
SPPO = sppo.SPPOConfig(eta=5.0, inner=2, optim=OPTIM, **LEARN)
BOTH = pytest.mark.parametrize(
    ("method", "cfg"), [(ipo_md, IPO_MD), (sppo, SPPO)], ids=["ipo_md", "sppo"]
)
TABLE = np.array([[0.5, 0.9, 0.7], [0.1, 0.5, 0.25], [0.3, 0.75, 0.5]])


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("relatives") / "init")


def trained(
    method: Any, cfg: Any, init: Path, place: Path, heard: Heard | None = None, **more: Any
) -> dict[str, torch.Tensor]:
    ctx = StageContext.at(place, seed=Seed(5), events=heard or Heard(), machine=FP32)
    made = method.fit(
        Checkpoint(init), prompts(init, 6), Shorter(), cfg, sampling=SHORT, ctx=ctx, **more
    )
    return load_file(made.path / "model.safetensors")


def test_wins_are_over_the_others_and_every_pair_is_listed():
    np.testing.assert_allclose(mean_wins(TABLE), [0.8, 0.175, 0.525])
    assert list_preferences(TABLE, "ann") == (
        Preference(0, 1, 0.9, by="ann"),
        Preference(0, 2, 0.7, by="ann"),
        Preference(1, 2, 0.25, by="ann"),
    )


def test_the_regression_is_zero_where_it_should_be_and_pulls_elsewhere():
    """And with a certain win and loss it is the loss of pairs at beta = 1 / eta."""
    wins = torch.tensor([1.0, 0.0, 0.75])
    h = torch.tensor([1.0, -1.0, 0.0], requires_grad=True)
    found = sppo_regression(h, wins, eta=2.0)
    assert found.loss.tolist() == [0.0, 0.0, 0.25]
    found.loss.sum().backward()
    assert h.grad is not None
    assert h.grad.tolist() == [0.0, 0.0, -1.0]
    h = torch.tensor([0.3, 0.4])
    pair = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0]))
    single = sppo_regression(h, torch.tensor([1.0, 0.0]), eta=2.0).loss.sum()
    assert single.item() == pytest.approx(sppo_of_pairs(h, pair, beta=0.5).loss.item())
    with pytest.raises(ConfigError, match="eta=0"):
        sppo_regression(h, wins[:2], eta=0)


def drawn_group(logp: list[list[float]]) -> Group:
    said = [Completion("", np.zeros(len(x), np.int32), logp=np.array(x)) for x in logp]
    return Group(Prompt("p", ""), tuple(said))


def test_metrics_are_the_policys_though_the_mixture_answered():
    """Two answers of which the policy would give the second three times as often as they came."""
    group = drawn_group([[np.log(0.5)], [np.log(0.25), np.log(0.5)]])
    old = token_column([[np.log([0.5]), np.log([0.75, 0.5])]])
    ref = old - 0.5
    found = policy_metrics([group], torch.tensor([1.0, 0.2]), old, ref)
    assert found["proxy"] == pytest.approx(0.25 * 1 + 0.75 * 0.2)
    assert found["kl"] == pytest.approx(0.25 * 0.5 + 0.75 * 1.0)
    assert found["length"] == pytest.approx(1.75)
    assert found["effective"] == pytest.approx(1 / (0.25**2 + 0.75**2) / 2)
    same = policy_metrics([group], torch.tensor([1.0, 0.2]), *[token_column([[
        c.logp for c in group.completions]])] * 2)  # fmt: skip
    assert same["effective"] == pytest.approx(1.0)
    assert same["proxy"] == pytest.approx(0.6)


@BOTH
def test_a_killed_run_goes_on_to_the_same_policy(method: Any, cfg: Any, init: Path, tmp_path: Path):
    """Killed in the middle of a round."""
    heard = Heard()
    whole = trained(method, cfg, init, tmp_path / "whole", heard)
    with pytest.raises(KeyboardInterrupt):
        trained(method, cfg, init, tmp_path / "killed", Heard(dies_at=cfg.shape.per_round + 1))
    again = trained(method, cfg, init, tmp_path / "killed")
    assert all(torch.equal(x, again[k]) for k, x in whole.items())
    if method is sppo:
        check_steps(heard, cfg.shape.per_round)


def check_steps(heard: Heard, per_round: int) -> None:
    """A round's first step sees its own policy, where every log-ratio is 0; the next do not."""
    moved = [e["log_ratio"] for e in heard.of("train")]
    assert moved[0::per_round] == pytest.approx([0.0] * 2, abs=1e-5)
    assert min(x for k, x in enumerate(moved) if k % per_round) > 1e-3


@pytest.mark.slow
@BOTH
def test_it_learns_what_is_preferred(method: Any, cfg: Any, init: Path, tmp_path: Path):
    """Against the reference's answers the trained policy wins more than half, by the judge."""
    heard = Heard()
    follow = Validation(prompts(init, 12, seed=3), every=10)
    long = replace(cfg, rounds=10, prompts=6, minibatch=6, optim=replace(OPTIM, lr=1e-2))
    trained(method, long, init, tmp_path, heard, validation=follow)
    first, *_, last = (e["proxy"] for e in heard.of("watch"))
    assert first == pytest.approx(0.5, abs=0.08)
    assert last > first + 0.1


def test_a_share_of_all_learns_from_the_reference_and_validates_the_policy(
    init: Path, tmp_path: Path
):
    """At b = 1 the answers stay the reference's, whose weights say how far the policy went."""
    heard = Heard()
    cfg = replace(IPO_MD, share=1.0, rounds=3)
    trained(ipo_md, cfg, init, tmp_path, heard, validation=Validation(prompts(init, 4), every=3))
    assert [e["round"] for e in heard.of("watch")] == [0, 3]
    effective = [e["effective"] for e in heard.of("round")]
    assert effective[0] == pytest.approx(1.0, abs=1e-5)
    assert min(effective[1:]) < 0.999
    start, end = heard.of("watch")
    assert start["kl"] == pytest.approx(0.0, abs=1e-5)
    assert abs(end["kl"]) > 1e-3


def test_one_answer_has_nobody_to_play_against():
    with pytest.raises(ConfigError, match=r"ipo_md\.n = 1"):
        ipo_md.IPOMDConfig(n=1)
    with pytest.raises(ConfigError, match=r"sppo\.n = 1"):
        sppo.SPPOConfig(n=1)
