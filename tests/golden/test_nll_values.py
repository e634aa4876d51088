"""SFT's loss against values derived by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tabular import f64, minimise, total, tv
from tandem.batching.ragged import Ragged
from tandem.errors import ConfigError
from tandem.objectives import nll, unit_shares


def test_uniform_logits_cost_ln_v():
    """Every token has probability 1/V, so the loss is ln V whatever the lengths."""
    logits = torch.zeros(9, 7, dtype=torch.float64)
    logp = Ragged(logits.log_softmax(-1)[:, 3], torch.tensor([0] * 4 + [1] * 5), 2)
    for per in ("token", "sequence"):
        assert total(nll(logp, per=per)).item() == pytest.approx(math.log(7), abs=1e-12)


def test_token_and_sequence_averages():
    """Answers with costs (1, 2, 3) and (8): 14/4 a token, (2 + 8)/2 a sequence."""
    logp = Ragged.of([-f64(1, 2, 3), -f64(8)])
    assert total(nll(logp)).item() == 3.5
    assert total(nll(logp, per="sequence")).item() == 5.0


def test_weights_count_as_copies():
    """Weight 2 on the second answer: (6 + 2*8)/(3 + 2) a token, (2 + 2*8)/3 a sequence."""
    logp, weight = Ragged.of([-f64(1, 2, 3), -f64(8)]), f64(1, 2)
    assert total(nll(logp, weight=weight)).item() == pytest.approx(22 / 5)
    assert total(nll(logp, weight=weight, per="sequence")).item() == pytest.approx(18 / 3)


def test_constant_divides_by_the_given_length():
    """Dr. GRPO: sums (6, 8) over a length of 4, averaged over two answers: (6/4 + 8/4)/2."""
    tokens = Ragged.of([f64(1, 2, 3), f64(8)])
    factor, share = unit_shares(tokens, "constant", length=4.0)
    assert float((factor * tokens.values).sum() / share.sum()) == pytest.approx(1.75)


def test_unknown_average_is_refused():
    with pytest.raises(ConfigError, match="seqence"):
        unit_shares(Ragged.of([f64(1)]), "seqence")  # type: ignore[arg-type]


def test_mean_of_micro_batch_means_is_another_number():
    """Lengths (1, 3): the global mean is (4 + 6)/4 = 2.5, the mean of means (4 + 2)/2 = 3."""
    first, second = nll(Ragged.of([-f64(4)])), nll(Ragged.of([-f64(1, 2, 3)]))
    exact = (first.loss.sum() + second.loss.sum()) / (first.weight.sum() + second.weight.sum())
    assert exact.item() == 2.5
    assert 0.5 * (total(first) + total(second)).item() == 3.0


def test_minimiser_is_the_sampling_law():
    """SFT on samples from q converges to q: the cross-entropy is least at q."""
    q = f64(0.5, 0.25, 0.2, 0.05)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        logp = Ragged(logits.log_softmax(-1), torch.arange(4), 4)
        return total(nll(logp, weight=q))

    assert tv(minimise(loss, torch.zeros(4, dtype=torch.float64)).softmax(-1), q) < 1e-9
