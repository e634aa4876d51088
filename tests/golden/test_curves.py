"""No number moves by accident: the golden curves of every method, and that they would tell."""

from __future__ import annotations

import pytest

import curves
from tandem.methods import METHODS

CLOSE = 1e-3
"""How far a rounded loss may be from the kept one on a processor without digests of its own."""
DRAWN = (
    "ppo", "grpo", "online_dpo", "xpo", "iterative_dpo", "raft", "rest", "rso", "best_of_n",
    "lmsi", "star", "rlaif", "cai", "rlp", "iterated_rlhf", "nash_md", "nash_ema", "self_play",
    "best_response", "past_play", "ipo_md", "sppo",
)  # fmt: skip
"""Methods that sample, where one bit can change a token and with it all that follows."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("curves")


def test_every_method_has_a_curve():
    assert {case.method for case in curves.CASES.values()} == set(METHODS)


@pytest.mark.parametrize("name", curves.CASES)
def test_the_curve_is_the_kept_one(name, folder):
    kept = curves.stored()
    known = curves.environment() in kept
    if not known and curves.CASES[name].method in DRAWN:
        pytest.skip(f"no digests for {curves.environment()}, and a sampled token may differ")
    found = curves.digests([name], folder)[name]
    if known:
        assert found == kept[curves.environment()][name]
        return
    losses = next(iter(kept.values()))[name]["losses"]
    assert found["losses"].keys() == losses.keys()
    for stage, values in losses.items():
        assert found["losses"][stage] == pytest.approx(values, rel=CLOSE)


def test_another_learning_rate_gives_another_digest(folder):
    """The next number after DPO's rate, in floating point, moves what is logged and the weights."""
    case = curves.CASES["dpo"]
    rate = curves.settings(case)["dpo"].optim.lr
    nudged = curves.train(folder, "nudged", case, {"dpo": {"optim": {"lr": rate * (1 + 2e-7)}}})
    a, b = curves.digest(nudged), curves.digests(["dpo"], folder)["dpo"]
    assert a["steps"] == b["steps"] > 0
    assert a["logged"] != b["logged"]
    assert a["weights"] != b["weights"]
