"""Rewards, advantages and the KL controller, by hand (docs/theory/ppo.md#exact-values)."""

from __future__ import annotations

import math

import pytest
import torch

from tabular import f64
from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError, DataError
from tandem.objectives.advantages import (
    explained_variance,
    gae,
    group_mean,
    group_std,
    has_score_spread,
    leave_one_out,
    whiten,
)
from tandem.objectives.kl_controller import AdaptiveBeta
from tandem.objectives.shaped_rewards import kl_shaping, kl_value, missing_eos, overlong_penalty

OLD = Ragged.of([f64(-1.0, -2.0, -0.5), f64(-0.7)])
REF = Ragged.of([f64(-1.2, -1.5, -0.6), f64(-1.1)])  # log-ratios (.2, -.5, .1), (.4)
SCORE = f64(2.0, -1.0)


def test_shaped_rewards():
    """beta = .5: (-.1, .25, 2 - .05) and (-1 - .2)."""
    shaped = kl_shaping(SCORE, OLD, REF, 0.5)
    assert shaped.values.tolist() == pytest.approx([-0.1, 0.25, 1.95, -1.2])


def test_shaped_rewards_sum_to_the_penalised_score():
    shaped = kl_shaping(SCORE, OLD, REF, 0.3)
    want = SCORE - 0.3 * (OLD.sum() - REF.sum())
    torch.testing.assert_close(shaped.sum(), want, rtol=0, atol=1e-12)


def test_alpacafarm_clamp_is_not_the_default():
    """floor 0: the negative log-ratio -.5 costs nothing instead of paying .25."""
    shaped = kl_shaping(SCORE, OLD, REF, 0.5, floor=0.0)
    assert shaped.values.tolist() == pytest.approx([-0.1, 0.0, 1.95, -1.2])


def test_wrong_shaping_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="diverges"):
        kl_shaping(SCORE, OLD, REF, 0.1, estimator="k3")
    with pytest.raises(ConfigError, match="collapses"):
        kl_shaping(SCORE, OLD, REF, 0.1, estimator="k2")
    with pytest.raises(ConfigError, match=r"beta=-0\.1"):
        kl_shaping(SCORE, OLD, REF, -0.1)
    empty = Ragged(f64(1.0), torch.tensor([0]), 2)
    with pytest.raises(DataError, match="completion 1"):
        kl_shaping(SCORE, empty, empty, 0.1)


def test_kl_values():
    """l = .2: .2, .02, e^-.2 - .8."""
    one = Ragged.of([f64(0.2)]), Ragged.of([f64(0.0)])
    got = [kl_value(*one, estimator=k).values.item() for k in ("k1", "k2", "k3")]
    assert got == pytest.approx([0.2, 0.02, math.exp(-0.2) - 0.8])


def test_missing_eos():
    stopped = torch.tensor([True, False])
    assert missing_eos(SCORE, stopped).tolist() == [2, -1]
    assert missing_eos(SCORE, stopped, replace=-3.0).tolist() == [2, -3]
    assert missing_eos(SCORE, stopped, penalty=0.5).tolist() == [2, -1.5]
    with pytest.raises(ConfigError, match="two rules"):
        missing_eos(SCORE, stopped, replace=-1.0, penalty=1.0)
    with pytest.raises(ConfigError, match="rewards answers that never end"):
        missing_eos(SCORE, stopped, penalty=-1.0)


def test_overlong():
    """limit 20, buffer 4: free to 16, -1/2 at 18, -1 at 20 and beyond."""
    length = torch.tensor([3, 16, 18, 20, 33])
    assert overlong_penalty(length, limit=20, buffer=4).tolist() == [0, 0, -0.5, -1, -1]
    with pytest.raises(ConfigError, match="buffer=0"):
        overlong_penalty(length, limit=20, buffer=0)


REWARD = Ragged.of([f64(-0.1, 0.25, 1.95), f64(-1.2)])
VALUE = Ragged.of([f64(0.5, 1.0, 1.5), f64(-1.0)])


def test_gae_by_hand():
    """gamma = .9, lam = .5. delta = (-.1 + .9 - .5, .25 + 1.35 - 1, 1.95 - 1.5) = (.3, .6, .45),
    so A_3 = .45, A_2 = .6 + .45*.45 = .8025, A_1 = .3 + .45*.8025 = .661125; alone -1.2 + 1."""
    adv, ret = gae(REWARD, VALUE, 0.9, 0.5)
    want = [0.661125, 0.8025, 0.45, -0.2]
    assert adv.values.tolist() == pytest.approx(want)
    assert ret.values.tolist() == pytest.approx(
        [a + v for a, v in zip(want, VALUE.values.tolist(), strict=True)]
    )


def test_gae_limits():
    """lam = gamma = 1: G_t is the sum of what follows. lam = 0: A_t = delta_t."""
    _, ret = gae(REWARD, VALUE, 1.0, 1.0)
    assert ret.values.tolist() == pytest.approx([2.1, 2.2, 1.95, -1.2])
    adv, _ = gae(REWARD, VALUE, 1.0, 0.0)
    assert adv.values.tolist() == pytest.approx([-0.1 + 1 - 0.5, 0.25 + 1.5 - 1, 0.45, -0.2])


def test_gae_does_not_leak_between_completions():
    """A completion alone, and among others with an empty one between, has the same advantages."""
    alone, _ = gae(Ragged.of([REWARD.rows()[0]]), Ragged.of([VALUE.rows()[0]]), 0.9, 0.7)
    among = [f64(9, 9), f64(), REWARD.rows()[0], f64(-5)]
    values = [f64(3, 3), f64(), VALUE.rows()[0], f64(2)]
    adv, _ = gae(Ragged.of(among), Ragged.of(values), 0.9, 0.7)
    torch.testing.assert_close(adv.rows()[2], alone.values)


def test_gae_carries_no_gradient():
    live = VALUE.map(lambda v: v.clone().requires_grad_(True))
    adv, ret = gae(REWARD, live, 1.0, 0.95)
    assert not adv.values.requires_grad
    assert not ret.values.requires_grad


@pytest.mark.parametrize("bad", [(1.1, 0.9), (1.0, -0.1)])
def test_gae_settings_out_of_range_are_refused(bad: tuple[float, float]):
    with pytest.raises(ConfigError, match="gae"):
        gae(REWARD, VALUE, *bad)


GROUP = torch.tensor([7, 3, 7, 3, 7])
SCORES = f64(1, 10, 2, 20, 6)


def test_group_baselines():
    """Group 7 holds (1, 2, 6), group 3 (10, 20), interleaved."""
    assert group_mean(SCORES, GROUP).tolist() == [3, 15, 3, 15, 3]
    assert leave_one_out(SCORES, GROUP).tolist() == [4, 20, 3.5, 10, 1.5]
    spread = group_std(SCORES, GROUP).tolist()
    assert spread == pytest.approx([7**0.5, 50**0.5, 7**0.5, 50**0.5, 7**0.5])


def test_rloo_identity():
    """r_i - mean of the others = K/(K - 1) (r_i - mean)."""
    k = torch.where(GROUP == 7, 3.0, 2.0).to(torch.float64)
    loo = SCORES - leave_one_out(SCORES, GROUP)
    torch.testing.assert_close(loo, k / (k - 1) * (SCORES - group_mean(SCORES, GROUP)))


def test_single_completions_have_no_others():
    for baseline in (leave_one_out, group_std):
        with pytest.raises(DataError, match="group 9"):
            baseline(f64(1, 2, 3), torch.tensor([4, 4, 9]))


def test_uninformative_groups():
    score, group = f64(1, 0, 1, 1, 0, 0), torch.tensor([0, 0, 1, 1, 2, 2])
    assert has_score_spread(score, group).tolist() == [True, True, False, False, False, False]


def test_whitening():
    """(1, 2, 3, 6): mean 3, variance 14/3."""
    x, s = Ragged.of([f64(1, 2, 3), f64(6)]), math.sqrt(14 / 3)
    assert whiten(x).values.tolist() == pytest.approx([-2 / s, -1 / s, 0, 3 / s])
    kept = whiten(x, shift=False).values
    assert kept.tolist() == pytest.approx([3 - 2 / s, 3 - 1 / s, 3, 3 + 3 / s])
    assert kept.mean().item() == pytest.approx(3)


def test_whitening_does_not_blow_up_a_converged_batch():
    """A spread of 1e-9 is divided by the floor, 1e-4, and stays small."""
    x = Ragged.of([f64(1.0, 1.0 + 2e-9)])
    assert whiten(x).values.abs().max() < 1e-4
    with pytest.raises(DataError, match="1 token"):
        whiten(Ragged.of([f64(1)]))


def test_explained_variance():
    ret = Ragged.of([f64(1, 2, 3, 4)])
    assert explained_variance(ret, ret).item() == 1
    assert explained_variance(ret.map(torch.zeros_like), ret).item() == 0
    assert explained_variance(-ret, ret).item() == -3


def test_beta_controller():
    """KL = 2 target: beta (1 + .2 n/h); KL = 0: beta (1 - .2 n/h); small errors in proportion."""
    up, down = AdaptiveBeta(0.1, horizon=1000), AdaptiveBeta(0.1, horizon=1000)
    assert up.update(12.0, 100) == pytest.approx(0.1 * 1.02)
    assert down.update(0.0, 100) == pytest.approx(0.1 * 0.98)
    assert AdaptiveBeta(0.1).update(6.6, 1000) == pytest.approx(0.1 * 1.01)
    again = AdaptiveBeta(0.7)
    again.load_state_dict(up.state_dict())
    assert again.update(6.0, 100) == up.beta


def test_beta_controller_refuses_nonsense():
    with pytest.raises(ConfigError, match="beta=-1"):
        AdaptiveBeta(-1)
