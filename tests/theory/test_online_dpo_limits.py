"""Where online DPO, online IPO and XPO end: `online_dpo.fit` and `xpo.fit` on fixture F1.

The policy is a one-layer Llama with one-token answers, the judge a table with soft labels
sigmoid(r - r'), so the limits are known: docs/theory/online.md#exact-values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_f2_online import F1_REWARD, FP32, climbed, next_law, optim, prompts
from torch import Tensor

from tabular import (
    BRADLEY_TERRY,
    PI_REF,
    PI_STAR,
    R_STAR,
    descend,
    every_pair,
    f64,
    tilt,
    tv,
)
from tandem.data.record import Group, Preference
from tandem.engines import Sampling
from tandem.methods import online_dpo, xpo
from tandem.objectives import sigmoid
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from worlds import f1_model

CLEAN = every_pair(BRADLEY_TERRY)
ONLINE_IPO = f64(0.30438646, 0.28378653, 0.23666517, 0.17516184)  # tau = .5, its own opponent


def law_after(cfg: Any, method: Any, place: Path) -> Tensor:
    return next_law(climbed(method, cfg, f1_model(place / "f1"), F1_REWARD, place / "run"))


def settings(**more: Any) -> dict[str, Any]:
    size = {"prompts": 32, "minibatch": 32, "rounds": 40, "soft": True, "beta": 0.5}
    return {**size, "optim": optim(0.05), **more}


def test_online_dpo_reaches_pi_star(tmp_path: Path):
    cfg = online_dpo.OnlineDPOConfig(n=8, pairing="all", **settings())
    got = law_after(cfg, online_dpo, tmp_path)
    assert tv(got, PI_STAR) < 0.03
    assert tv(PI_REF, PI_STAR) > 0.5  # so that this is an achievement


def test_online_ipo_reaches_its_own_equilibrium(tmp_path: Path):
    """Pairs come from the policy, so its limit is another than that of pairs of the reference."""
    cfg = online_dpo.OnlineDPOConfig(n=8, pairing="all", loss="ipo", **settings())
    got = law_after(cfg, online_dpo, tmp_path)
    assert tv(got, ONLINE_IPO) < 0.015
    assert tv(tilt(PI_REF, BRADLEY_TERRY @ ONLINE_IPO, 0.5), ONLINE_IPO) < 1e-7


def xpo_limit(alpha: float) -> Tensor:
    """The fixed point of XPO on F1, by descent on the expectation of its loss."""

    def step(logits: Tensor) -> Tensor:
        logp = logits.log_softmax(-1)
        share = (logp.detach().exp()[:, None] * PI_REF[None, :]).reshape(-1)
        pairs = (share * sigmoid(logp - PI_REF.log(), CLEAN, beta=0.5).loss).sum()
        return pairs + alpha * (PI_REF * logp).sum()

    return descend(step, PI_REF.log(), steps=3000, lr=2.0).softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.02])
def test_xpo_reaches_its_own_limit(alpha: float, tmp_path: Path):
    """Without exploration that is pi*, though half of all answers are the reference's; with it,
    the limit is further from what the reference says."""
    limit = xpo_limit(alpha)
    assert tv(limit, PI_STAR) == pytest.approx(0.0992 if alpha else 0.0, abs=1e-4)
    cfg = xpo.XPOConfig(alpha=alpha, **settings(prompts=256, minibatch=256, rounds=60))
    assert tv(law_after(cfg, xpo, tmp_path), limit) < 0.04


@dataclass(frozen=True)
class Neighbours:
    """Compares (0, 1), (2, 3), ... by the table, and never scores."""

    name: str = "neighbours"
    compares: ClassVar[bool] = True

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for group in groups:
            r = [F1_REWARD[c.text] for c in group.completions]
            p = R_STAR.new_tensor(r).diff().neg().sigmoid().tolist()
            met = itertools.islice(range(len(r) - 1), 0, None, 2)
            yield replace(group, preferences=tuple(Preference(i, i + 1, p[i]) for i in met))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_a_judge_that_only_compares_leads_to_the_same_limits(loss: Any, tmp_path: Path):
    init = f1_model(tmp_path / "f1")
    cfg = online_dpo.OnlineDPOConfig(n=16, loss=loss, **settings())
    done = online_dpo.fit(
        Checkpoint(init), prompts(init, 16), Neighbours(), cfg, sampling=Sampling(max_tokens=1),
        ctx=StageContext.at(tmp_path / "run", seed=Seed(1), machine=FP32),
    )  # fmt: skip
    limit, near = {"dpo": (PI_STAR, 0.03), "ipo": (ONLINE_IPO, 0.015)}[loss]
    assert tv(next_law(done.path), limit) < near
