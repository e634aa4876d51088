"""RLP where every expectation is known: no harm, and both directions.

See docs/theory/rlp.md#exact-values.

No harm: with a perfect reward, SPG must not take the policy from its optimum. Its labels are
certain where Bradley-Terry's are not, so the new reward is sharper than the truth on answers that
the policy often gives; its order stays. At beta = .1 the optimum is .9999 on the best answer, and
pi_hat is the optimum; at beta = .5 it is not: pi_hat is the tilt of a sharper reward, TV .31 away.

Both directions: a linear reward that saw short answers only has learned that longer is better.
PPO writes long ones, among which it is wrong. SPG mends that if the policy mostly says the right
thing and errs in many ways; if it mostly says one wrong thing, SPG makes it worse.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tabular import PI_REF, R_STAR, every_pair, f64, j, minimise, tilt, tv
from tandem.batching.batch import Pairs
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.judges.agreement import Agreement, SameText
from tandem.objectives import bradley_terry
from tandem.operators import cluster_share, synthetic_pairs
from tandem.rng import Seed

N, PROMPTS = 10, 2000


def samples(law: Tensor, answers: str, worth: Tensor, seed: int = 0) -> Groups:
    """n samples of a law for each prompt, with a reward's scores and clusters by exact text."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(answers), size=(PROMPTS, N), p=law.numpy() / law.numpy().sum())
    groups = (
        Group(
            Prompt(f"p{k}", "x"),
            tuple(Completion(answers[i]) for i in row),
            scores=worth.numpy()[row],
        )
        for k, row in enumerate(drawn)
    )
    return Groups.of(Agreement(SameText())(groups))


def spg(P: Groups, answers: str, gamma: float = 0.5) -> Pairs:
    """D_hat as pairs of answers."""
    chosen = [
        [answers.index(c.text) for c in g.completions] for g in synthetic_pairs(gamma)(P, Seed(1))
    ]
    w, l = torch.tensor(chosen).T  # noqa: E741
    return Pairs(w, l, torch.ones(len(w), dtype=torch.float64))


def both(D: Pairs, D_hat: Pairs, copies: int) -> Pairs:
    """D (each of its pairs so often) and D_hat, for a loss over pairs."""
    many = (torch.cat([x.repeat(copies), y]) for x, y in ((D.w, D_hat.w), (D.l, D_hat.l)))
    return Pairs(*many, torch.cat([D.p.repeat(copies), D_hat.p]))


# --- no harm -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def r_hat() -> Tensor:
    """F1's reward learned again on D, as many pairs, and SPG's pairs of the optimal policy."""
    D = every_pair(torch.sigmoid(R_STAR[:, None] - R_STAR[None, :]))
    D_hat = spg(samples(tilt(PI_REF, R_STAR, 0.5), "abcd", R_STAR), "abcd")
    assert len(D_hat) > 1000
    assert (R_STAR[D_hat.w] > R_STAR[D_hat.l]).double().mean() > 0.97
    pairs = both(D, D_hat, len(D_hat) // len(D))
    loss = lambda r: bradley_terry(r, pairs).loss.mean() + 1e-9 * r.sum() ** 2  # noqa: E731
    return minimise(loss, torch.zeros(4, dtype=torch.float64))


def test_a_perfect_reward_keeps_its_order(r_hat: Tensor):
    assert (r_hat.argsort() == R_STAR.argsort()).all()


def test_a_perfect_reward_leaves_a_policy_at_its_optimum(r_hat: Tensor):
    assert tv(tilt(PI_REF, r_hat, 0.1), tilt(PI_REF, R_STAR, 0.1)) < 1e-4


def test_certain_labels_sharpen_a_perfect_reward(r_hat: Tensor):
    """At beta = .5 there is harm by the objective: the best answer gets .975 and not .670.

    The true reward rises and the KL more so: E r - beta KL falls below its maximum, which pi* has.
    """
    pi_hat, pi_star = (tilt(PI_REF, r, 0.5) for r in (r_hat, R_STAR))
    assert tv(pi_hat, pi_star) == pytest.approx(0.305, abs=0.02)
    assert float(pi_hat @ R_STAR) > float(pi_star @ R_STAR) + 0.2
    assert j(pi_hat) < j(pi_star) - 0.05


def test_without_pairs_the_reward_is_the_truth_and_so_is_the_policy():
    D = every_pair(torch.sigmoid(R_STAR[:, None] - R_STAR[None, :]))
    loss = lambda r: bradley_terry(r, D).loss.mean() + 1e-9 * r.sum() ** 2  # noqa: E731
    r = minimise(loss, torch.zeros(4, dtype=torch.float64))
    assert tv(tilt(PI_REF, r, 0.5), tilt(PI_REF, R_STAR, 0.5)) < 1e-6


# --- both directions -----------------------------------------------------------------------------

ANSWERS = "abgwxyz"  # a and b are short; g is long and right; w to z are longer inventions
LENGTH = f64(1, 2, 3, 3.5, 3.4, 3.3, 3.2)
WORTH = f64(0, 1, 2, -1, -1, -1, -1)
SHORT = f64(0.5, 0.5, 0, 0, 0, 0, 0)


def reward_of(weights: Tensor) -> Tensor:
    """Length and a feature of its own for each answer: r = v length + u_y."""
    return weights[0] * LENGTH + weights[1:]


def fitted(pairs: Pairs) -> Tensor:
    """Minimise Bradley-Terry with a small ridge: it generalises by length where it saw nothing."""
    loss = lambda w: bradley_terry(reward_of(w), pairs).loss.mean() + 1e-3 * (w**2).sum()  # noqa: E731
    return reward_of(minimise(loss, torch.zeros(8, dtype=torch.float64))).detach()


def accuracy(r: Tensor, law: Tensor) -> float:
    """P(the reward orders two different answers of the law as their worth does), ties half."""
    share = law[:, None] * law[None, :] * (WORTH[:, None] != WORTH[None, :])
    agree = torch.sign(r[:, None] - r[None, :]) * torch.sign(WORTH[:, None] - WORTH[None, :])
    return float((share * (1 + agree) / 2).sum() / share.sum())


def learned(law: Tensor) -> tuple[Tensor, Tensor, float]:
    """r_phi from short answers only, r_hat with SPG's pairs of the law; share of prompts kept."""
    D = Pairs(torch.tensor([1] * 100), torch.tensor([0] * 100), torch.ones(100).double())
    r_phi = fitted(D)
    P = samples(law, ANSWERS, r_phi)
    D_hat = spg(P, ANSWERS)
    kept = float(np.mean([cluster_share(g) >= 0.5 for g in P]))
    return r_phi, fitted(both(D, D_hat, max(1, len(D_hat) // 100))), kept


RIGHT = f64(0, 0, 0.6, 0.1, 0.1, 0.1, 0.1)  # errs in many ways
WRONG = f64(0, 0.1, 0.2, 0.65, 0.05, 0, 0)  # says one wrong thing


def test_the_corrupted_reward_is_wrong_only_where_the_policy_goes():
    r_phi, _, _ = learned(RIGHT)
    assert accuracy(r_phi, SHORT) == 1
    assert accuracy(r_phi, RIGHT) == 0  # every invention is longer than the right answer


def test_spg_mends_a_reward_if_the_majority_is_right():
    r_phi, r_hat, kept = learned(RIGHT)
    assert 0.5 < kept < 1
    assert accuracy(r_hat, RIGHT) > accuracy(r_phi, RIGHT) + 0.9
    assert accuracy(r_hat, SHORT) == 1


def test_spg_spoils_a_reward_if_the_majority_is_wrong():
    """The invention `w` is what most samples say: a reward that preferred g to it no longer does.

    So that there is something to lose, r_phi has also been told (by 100 labels) that g is better.
    """
    D = Pairs(torch.tensor([1, 2] * 100), torch.tensor([0, 3] * 100), torch.ones(200).double())
    r_phi = fitted(D)
    P = samples(WRONG, ANSWERS, r_phi)
    D_hat = spg(P, ANSWERS)
    assert (WORTH[D_hat.w] < WORTH[D_hat.l]).double().mean() > 0.6
    r_hat = fitted(both(D, D_hat, 1))
    assert accuracy(r_phi, WRONG) > 0.6
    assert accuracy(r_hat, WRONG) < accuracy(r_phi, WRONG) - 0.3


def test_clusters_that_mean_nothing_do_not_mend_it():
    """Dealt at random, the largest cluster's best by r_phi is r_phi's own opinion again."""
    from tandem.operators import shuffled_clusters

    D = Pairs(torch.tensor([1] * 100), torch.tensor([0] * 100), torch.ones(100).double())
    r_phi = fitted(D)
    P = samples(RIGHT, ANSWERS, r_phi)
    dealt = Groups.of(shuffled_clusters()(P, Seed(2)))
    r_hat = fitted(both(D, spg(dealt, ANSWERS), 15))
    assert accuracy(r_hat, RIGHT) < 0.2
    assert replace(dealt[0], clusters=None).completions[0].text == P[0].completions[0].text
