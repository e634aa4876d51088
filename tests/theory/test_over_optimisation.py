"""When best-of-n turns over: two proxies, one light-tailed and one heavy-tailed.

See docs/theory/over_optimisation.md#when-a-proxy-turns-over.

Gold is standard normal. A proxy with Gaussian error of the same size never turns over: gold of
the best of n is half the proxy's, and keeps rising. With Student-t error (2 degrees of freedom) the
best of many is the one with the largest error, and gold falls back towards 0. To see hacking at all
a proxy needs errors with heavy tails, or systematic ones.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tandem.statistics import over_optimisation
from tandem.statistics.best_of import best_of_n_curve, kl_bound

NS = (4, 16, 64, 256, 1024)
POOLS, SIZE = 500, 2048


def simulated(heavy: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean gold and mean proxy of the best of n, and every pool's share in them."""
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(POOLS, SIZE))
    error = rng.standard_t(2, gold.shape) if heavy else rng.normal(size=gold.shape)
    proxy = gold + error
    return best_of_n_curve(proxy, gold, NS).mean(0), best_of_n_curve(proxy, proxy, NS).mean(0)


def test_a_gaussian_proxy_never_turns_over():
    """E[gold | proxy] = proxy/2, so gold is half of the proxy, whatever n."""
    gold, proxy = simulated(heavy=False)
    np.testing.assert_allclose(gold, (0.73, 1.25, 1.67, 2.0, 2.28), atol=0.08)
    assert (np.diff(gold) > 0.2).all()
    np.testing.assert_allclose(gold, proxy / 2, atol=0.08)


def test_a_heavy_tailed_proxy_turns_over_while_it_climbs():
    gold, proxy = simulated(heavy=True)
    np.testing.assert_allclose(gold, (0.55, 0.71, 0.45, 0.23, 0.14), atol=0.08)
    assert gold[1] > gold[0]
    assert (np.diff(gold[1:]) < 0).all()
    assert (np.diff(proxy) > 1).all()
    assert proxy[0] == pytest.approx(2.5, abs=0.4)
    assert 25 < proxy[-1] < 80  # the mean of variables without a variance: 41 in the long run


def test_gaos_form_tells_them_apart():
    """Fitted to gold, the form for best-of-n peaks inside the range, or beyond it."""
    kl = [kl_bound(n) for n in NS]
    farthest = math.sqrt(kl[-1])
    light, heavy = (over_optimisation(kl, simulated(tails)[0], "bon") for tails in (False, True))
    assert heavy.peak < 0.8 * farthest
    assert light.peak > farthest


def test_peaks_by_formula():
    """alpha = 1, beta = .2: best-of-n 2.5 and 1.25; a trained policy 54.598 and 10.9196."""
    d = np.linspace(0.5, 4, 9)
    bon = over_optimisation(d**2, d * (1 - 0.2 * d), "bon")
    rl = over_optimisation(d**2, d * (1 - 0.2 * np.log(d)), "rl")
    assert (bon.peak, bon.height) == pytest.approx((2.5, 1.25))
    assert (rl.peak, rl.height) == pytest.approx((54.598, 10.9196), rel=1e-5)
