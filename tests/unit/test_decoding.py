"""Truncation by its definitions, and draws by inversion, against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import worlds
from tandem.engines import Sampling
from tandem.engines.decoding import choose_tokens, invert_cumulative, token_weights, uniform_numbers
from tandem.rng import Seed


@pytest.mark.parametrize("sampling", worlds.SAMPLINGS, ids=str)
@pytest.mark.parametrize("vocabulary", [5, 61, 1000])
def test_truncation_keeps_what_the_definitions_say(sampling: Sampling, vocabulary: int) -> None:
    logits = torch.randn(20, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2
    weights, ids = token_weights(logits, sampling)
    p = weights if ids is None else torch.zeros_like(logits).scatter(-1, ids, weights)
    p = p / p.sum(-1, keepdim=True)
    for ours, row in zip(p.numpy(), logits.numpy(), strict=True):
        np.testing.assert_allclose(
            ours, np.exp(worlds.truncated(row.astype(float), sampling)), atol=1e-6
        )


@pytest.mark.parametrize("width", [1, 7, 256, 257, 384, 1000])
def test_inversion_finds_the_first_column_above(width: int) -> None:
    """Against float64 numpy on weights with many zeros, u at both ends included."""
    rng = np.random.default_rng(width)
    weights = rng.random((200, width)) * (rng.random((200, width)) < 0.3)
    weights[np.arange(200), rng.integers(0, width, 200)] += 0.5
    u = np.concatenate([np.zeros(20), np.full(20, np.nextafter(1, 0)), rng.random(160)])
    p = torch.from_numpy(weights).float()
    columns, total = invert_cumulative(p, torch.from_numpy(u))
    exact = p.double().numpy()
    cdf = exact.cumsum(-1)
    np.testing.assert_allclose(total, cdf[:, -1], rtol=1e-6)
    assert (exact[np.arange(200), columns] > 0).all()
    want = np.array(
        [np.searchsorted(c, x * c[-1], side="right") for c, x in zip(cdf, u, strict=True)]
    )
    first, last = (exact > 0).argmax(-1), width - 1 - (exact[:, ::-1] > 0).argmax(-1)
    assert (columns.numpy() == want.clip(first, last)).mean() > 0.98  # fp32 block sums may differ


def test_wide_draws_follow_their_law() -> None:
    """100,000 draws over 1,000 tokens against the law; chi-squared, seed fixed."""
    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    u = torch.from_numpy(uniform_numbers(Seed(1), "x", 0, 100_000))
    token, logp = choose_tokens(logits.expand(100_000, -1), Sampling(), u)
    p = logits[0].double().softmax(-1)
    counts = torch.bincount(token, minlength=1000)
    assert chisquare(counts.numpy(), (p * 100_000).numpy()).pvalue > 0.01
    np.testing.assert_allclose(logp, p[token].log(), atol=1e-5)


def test_uniforms_are_a_stream_of_their_own() -> None:
    """More numbers extend a stream; another prompt, i or seed is another stream."""
    base = uniform_numbers(Seed(0), "p", 1, 8)
    assert ((base >= 0) & (base < 1)).all()
    np.testing.assert_array_equal(uniform_numbers(Seed(0), "p", 1, 3), base[:3])
    for other in (
        uniform_numbers(Seed(1), "p", 1, 8),
        uniform_numbers(Seed(0), "q", 1, 8),
        uniform_numbers(Seed(0), "p", 2, 8),
    ):
        assert not np.isin(other, base).any()
