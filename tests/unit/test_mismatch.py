"""Samples of another engine: weighed by min(pi/q, 2), measured in nats, and ours left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tandem.batching.ragged import Ragged
from tandem.data.record import Completion, Group, Prompt
from tandem.training.rollouts import Experience, correct_mismatch


def experience(pi: list[float], q: list[float]) -> Experience:
    drawn = Completion("", np.arange(len(q), dtype=np.int32), logp=np.log(np.array(q, np.float32)))
    owner = torch.zeros(len(q), dtype=torch.long)
    columns = {
        "old_logp": Ragged(torch.tensor(pi).log(), owner, 1),
        "advantages": Ragged(torch.full((len(q),), 3.0), owner, 1),
    }
    return Experience([Group(Prompt("p", ""), (drawn,))], columns, {"reward": 1.0})


def test_the_ratio_is_cut_at_the_cap():
    found = correct_mismatch(experience([0.5, 0.2, 0.9], [0.25, 0.4, 0.1]))
    assert found.columns["advantages"].values.tolist() == pytest.approx([6.0, 1.5, 6.0])
    assert found.metrics["mismatch_capped"] == pytest.approx(1 / 3)
    assert found.metrics["reward"] == 1.0


def test_the_same_law_changes_nothing():
    law = [0.5, 0.2, 0.9]
    found = correct_mismatch(experience(law, law))
    torch.testing.assert_close(found.columns["advantages"].values, torch.full((3,), 3.0))
    assert found.metrics["mismatch_nats"] == pytest.approx(0.0, abs=1e-6)


def test_weighed_samples_of_one_law_have_the_mean_of_another():
    """E_q[min(pi/q, cap) f] is E_pi[f] where no ratio reaches the cap."""
    rng = np.random.default_rng(0)
    pi, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    f = np.array([1.0, -2.0, 5.0])
    draws = rng.choice(3, 200_000, p=q)
    weighed = correct_mismatch(experience(pi[draws].tolist(), q[draws].tolist()))
    weight = weighed.columns["advantages"].values.numpy() / 3.0
    assert np.mean(weight * f[draws]) == pytest.approx(pi @ f, abs=0.02)
    kl = float(q @ np.log(q / pi))
    assert weighed.metrics["mismatch_nats"] == pytest.approx(kl, abs=2e-3)
