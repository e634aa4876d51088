"""Where IPO-MD and SPPO go: exactly on tables, and by the code that trains real models.

See docs/theory/nash.md#relatives. The game is rock, paper, scissors with answers of one token;
`test_nash_learning` has the policy, the judge, and the fixed point that IPO-MD shares with
Nash-MD-PG. SPPO is followed round by round beside multiplicative weights on the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import root
from test_nash_learning import (
    F2_GAME,
    F2_MU,
    F2_NAMES,
    F2_SHARE,
    F2_TAU,
    FP32,
    GAME,
    MU,
    ROCK_PAPER_SCISSORS,
    TAU,
    TablePreference,
    by_token,
    fixed_point,
    next_law,
    prompts,
    rest,
    rps_model,
)
from torch import Tensor

from tabular import BRADLEY_TERRY, RPS, every_pair, tv
from tandem.data.record import FloatArray
from tandem.engines import Sampling
from tandem.judges.open_preference import GroupPairs
from tandem.methods import ipo_md, sppo
from tandem.objectives import ipo
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.statistics.games import PreferenceMatrix, dynamics
from tandem.statistics.games import best_response as best_response_to
from tandem.training.optim import Optim
from worlds import F2_A, f1_model, f2_model, letters, markov_model

# ----------------------------------------------------------------------------------------- tables


def ipo_md_gradient(policy: FloatArray, share: float) -> FloatArray:
    """Of IPO's loss on all pairs of the mixture, in the logits; what answers is held fixed."""
    mu, pairs = torch.tensor(MU), every_pair(RPS)
    logits = torch.tensor(policy).log().requires_grad_(True)
    logp = logits.log_softmax(-1)
    m = ((1 - share) * logp.detach() + share * mu.log()).softmax(-1)
    weight = (m[:, None] * m[None, :]).reshape(-1)
    loss = (weight * ipo(logp - mu.log(), pairs, tau=TAU).loss).sum()
    return torch.autograd.grad(loss, logits)[0].numpy()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_ipo_md_rests_where_nash_md_pg_does_and_nowhere_else(share: float):
    """At b = 0 that is the equilibrium, at b = 1 the best response to the reference."""
    goal = best_response_to(GAME, MU, TAU, MU) if share == 1 else fixed_point(share)
    np.testing.assert_allclose(ipo_md_gradient(goal, share), 0, atol=1e-8)
    for elsewhere in (fixed_point((share + 0.2) % 1), MU, np.full(3, 1 / 3)):
        assert np.abs(ipo_md_gradient(elsewhere, share)).max() > 1e-2


def test_ipo_md_goes_there():
    policy = MU
    for _ in range(1500):
        policy = policy * np.exp(-0.2 * ipo_md_gradient(policy, 0.5))
        policy = policy / policy.sum()
    np.testing.assert_allclose(policy, fixed_point(0.5), atol=1e-5)


def sppo_step(game: PreferenceMatrix, pi: FloatArray, eta: float) -> FloatArray:
    """The policy of least loss: h + lam e^h = eta (P - 1/2), h = log (pi' / pi), sum of pi' 1."""
    aim = eta * (game.p @ pi - 0.5)

    def residual(x: FloatArray) -> FloatArray:
        h, lam = x[:-1], x[-1]
        return np.append(h + lam * np.exp(h) - aim, pi @ np.exp(h) - 1)

    found = root(residual, np.append(aim, 0.0), tol=1e-13)
    assert np.abs(residual(found.x)).max() < 1e-9
    return pi * np.exp(found.x[:-1])


def test_a_fitted_step_of_sppo_is_multiplicative_weights_up_to_the_cube_of_eta():
    """Halving eta leaves an eighth of what is between them; with a large one they are apart."""

    def between(eta: float) -> float:
        exact = MU * np.exp(eta * GAME.p @ MU)
        return tv(torch.tensor(sppo_step(GAME, MU, eta)), torch.tensor(exact / exact.sum()))

    gaps = [between(eta) for eta in (4.0, 0.2, 0.1, 0.05)]
    print("TV between the two steps at eta = 4, .2, .1, .05:", *(f"{x:.2e}" for x in gaps))
    assert gaps[0] > 0.02
    for wide, narrow in itertools.pairwise(gaps[1:]):
        assert 7 < wide / narrow < 9


# ------------------------------------------------------------------- by the code that trains models


@dataclass(frozen=True)
class RecordedRounds(TablePreference):
    """The table's judge; keeps how often each answer was given in each round."""

    rounds: list[FloatArray] = field(default_factory=list)

    def open_pairs(self) -> Callable[[Iterable[GroupPairs]], Iterator[FloatArray]]:
        looked_up = super().open_pairs()

        def probability(asked: Iterable[GroupPairs]) -> Iterator[FloatArray]:
            groups = list(asked)
            said = [c.text for g, _ in groups for c in g.completions]
            counts = np.array([said.count(name) for name in self.names], float)
            self.rounds.append(counts / counts.sum())
            yield from looked_up(groups)

        return probability


def trained(method: Any, cfg: Any, init: Path, place: Path, judge: Any) -> Path:
    ctx = StageContext.at(place, seed=Seed(1), machine=FP32)
    sampling = Sampling(max_tokens=len(judge.names[0]))
    made = method.fit(Checkpoint(init), prompts(init, 16), judge, cfg, sampling=sampling, ctx=ctx)
    return made.path


def settings(lr: float, schedule: Any, **more: Any) -> dict[str, Any]:
    optim = Optim(lr=lr, schedule=schedule, warmup=0.0, clip=None, eps=1e-5)
    return {"prompts": 16, "minibatch": 16, "n": 16, "optim": optim, **more}


def far(a: Tensor | FloatArray, b: FloatArray) -> float:
    return tv(torch.as_tensor(a), torch.tensor(b))


@pytest.mark.slow
def test_ipo_md_lands_on_the_fixed_point_of_nash_md(tmp_path: Path):
    cfg = ipo_md.IPOMDConfig(share=0.5, tau=TAU, **settings(0.005, "linear", rounds=160))
    init = rps_model(tmp_path / "init")
    got = next_law(trained(ipo_md, cfg, init, tmp_path / "run", ROCK_PAPER_SCISSORS))
    print(f"IPO-MD: TV {far(got, fixed_point(0.5)):.4f} from its fixed point")
    assert far(got, fixed_point(0.5)) < 0.02
    assert far(fixed_point(0.0), fixed_point(0.5)) > 0.05  # online IPO's, told apart


@pytest.mark.slow
def test_ipo_md_on_two_tokens_rests_where_the_token_mixture_does(tmp_path: Path):
    judge = TablePreference(F2_NAMES, tuple(map(tuple, F2_GAME.p.tolist())))
    cfg = ipo_md.IPOMDConfig(share=F2_SHARE, tau=F2_TAU, **settings(0.01, "linear", rounds=120))
    folder = trained(ipo_md, cfg, f2_model(tmp_path / "init"), tmp_path / "run", judge)
    first = next_law(folder)
    got = torch.stack([first[x] * next_law(folder, F2_A + x) for x in (0, 1)]).reshape(-1)
    print(f"IPO-MD on F2: TV {far(got, rest(by_token)):.4f} from its fixed point")
    assert far(got, rest(by_token)) < 0.02
    assert far(F2_MU, rest(by_token)) > 0.05


@pytest.mark.slow
def test_sppo_follows_multiplicative_weights_round_the_circle(tmp_path: Path):
    """Fourteen steps, each fitted to the end, from one leader past the next to the third.

    With 16 passes instead of 48, Adam's momentum overshoots each step by a third.
    """
    start, eta, rounds = np.array([0.45, 0.3, 0.25]), 1.0, 14
    law = dict(zip("abc", start.tolist(), strict=True))
    init = markov_model(tmp_path / "init", {"<bos>": law}, letters(6))
    judge = RecordedRounds(ROCK_PAPER_SCISSORS.names, ROCK_PAPER_SCISSORS.rows)
    size = settings(0.004, "constant", rounds=rounds, n=64, inner=48)
    got = next_law(trained(sppo, sppo.SPPOConfig(eta=eta, **size), init, tmp_path / "run", judge))
    exact = dynamics.sppo_play(GAME, rounds, start=start, step_size=eta).policies
    average, goal = np.mean(judge.rounds, axis=0), exact[:-1].mean(axis=0)
    print(f"SPPO: TV {far(got, exact[-1]):.4f} after {rounds} rounds, {far(average, goal):.4f} "
          "of the average")  # fmt: skip
    assert far(got, exact[-1]) < 0.02
    assert far(average, goal) < 0.02
    assert [int(np.argmax(exact[k])) for k in (0, 8, rounds)] == [0, 1, 2]


@pytest.mark.slow
def test_sppo_ends_on_the_best_answer_of_a_ranking(tmp_path: Path):
    judge = TablePreference(tuple("abcd"), tuple(map(tuple, BRADLEY_TERRY.tolist())))
    size = settings(0.01, "constant", rounds=12, inner=12)
    init = f1_model(tmp_path / "init")
    got = next_law(trained(sppo, sppo.SPPOConfig(eta=4.0, **size), init, tmp_path / "run", judge))
    print(f"SPPO on F1: TV {far(got, np.eye(4)[3]):.4f} from the best answer")
    assert far(got, np.eye(4)[3]) < 0.02
