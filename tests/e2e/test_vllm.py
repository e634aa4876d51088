"""GRPO with a vLLM server: weights replaced in place each round, and the mismatch measured."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from climbing import FP32, Heard, Letters, climbed
from tandem.machine import Lora, Machine
from tandem.methods import grpo
from tandem.training.optim import Optim
from tiny import folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.skipif(not os.environ.get("TANDEM_VLLM"), reason="TANDEM_VLLM names no Python"),
]
ROUNDS = 20
OPTIM = Optim(lr=3e-3, schedule="constant", warmup=0.0)
CFG = grpo.GRPOConfig(prompts=6, n=8, rounds=ROUNDS, minibatch=6, beta=0.0, optim=OPTIM)


@pytest.mark.parametrize("lora", [None, Lora(rank=8, alpha=32.0)], ids=["full", "lora"])
def test_a_policy_climbs_on_samples_of_a_server_that_follows_it(
    lora: Lora | None, tmp_path: Path
) -> None:
    """If the server kept the first weights, the mismatch would grow with every round."""
    init = folder(tmp_path / "init", head_dim=32)
    rewards = {}
    for engine in ("torch", "vllm"):
        machine: Machine = replace(FP32, engine=engine, lora=lora)
        heard = Heard()
        climbed(grpo, CFG, init, tmp_path / engine, Letters(), machine, heard)
        rounds = heard.of("round")
        assert len(rounds) == ROUNDS
        rewards[engine] = [r["proxy"] for r in rounds]
        print(engine, [round(r["sample_s"], 3) for r in rounds], rewards[engine])
        if engine == "vllm":
            print("nats", [r["mismatch_nats"] for r in rounds])
            assert max(abs(r["mismatch_nats"]) for r in rounds) < 1e-5
            assert all(r["mismatch_capped"] == 0 for r in rounds)
            assert all(abs(r["mismatch_weight"] - 1) < 1e-3 for r in rounds)
    for seen in rewards.values():
        assert sum(seen[-4:]) / 4 > sum(seen[:4]) / 4 + 0.1
    ends = [sum(seen[-4:]) / 4 for seen in rewards.values()]
    assert abs(ends[0] - ends[1]) < 0.25
