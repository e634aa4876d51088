"""A vLLM server beside the trainer: the same law after new weights, and GRPO on its samples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from climbing import FP32, Heard, Letters, climbed
from tandem.data.record import Completion, Group, Prompt
from tandem.engines import Sampling
from tandem.engines.open_engine import open_engine
from tandem.engines.torch import TorchEngine
from tandem.engines.vllm.vllm_engine import VllmEngine
from tandem.machine import Lora, Machine
from tandem.methods import grpo
from tandem.models.opening import open_policy
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.training.optim import Optim
from tiny import VOCABULARY, folder, tokens
from worlds import SAMPLINGS, truncated

pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.skipif(not os.environ.get("TANDEM_VLLM"), reason="TANDEM_VLLM names no Python"),
]
ROUNDS = 20
OPTIM = Optim(lr=3e-3, schedule="constant", warmup=0.0)
CFG = grpo.GRPOConfig(prompts=6, n=8, rounds=ROUNDS, minibatch=6, beta=0.0, optim=OPTIM)
VLLM = replace(FP32, engine="vllm")


@dataclass
class Served:
    """A server that began with other weights, and the model whose weights it was given since."""

    engine: VllmEngine
    ours: TorchEngine
    lm: Any


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Embeddings and language head are one table, as in most small models; adapters on top."""
    place = tmp_path_factory.mktemp("served")
    other = folder(place / "other", "llama-tied", seed=1, head_dim=32)
    mine = folder(place / "mine", "llama-tied", seed=2, head_dim=32)
    tokenizer = load_tokenizer(mine)
    engine = open_engine(open_policy(other, VLLM), tokenizer, VLLM)
    assert isinstance(engine, VllmEngine)
    policy = open_policy(mine, replace(VLLM, lora=Lora(rank=4, alpha=16.0)))
    with torch.no_grad():
        for name, parameter in policy.lm.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.3)
    engine.load(policy.lm)
    yield Served(engine, TorchEngine(policy.lm, tokenizer), policy.lm)
    engine.close()


def _prompts(count: int) -> list[Group]:
    rng = np.random.default_rng(3)
    return [Group(Prompt(f"q{i}", "", tokens=tokens(rng, 3 + i))) for i in range(count)]


@torch.no_grad()
def _logits(lm: Any, prompt: Prompt, answer: Completion) -> np.ndarray:
    """[t, V] logits of the law of each token, by the model's own forward pass in one piece."""
    row = torch.from_numpy(np.concatenate([prompt.tokens, answer.tokens]))[None].long()
    first = len(prompt.tokens) - 1
    return lm(row).logits[0, first:-1].double().numpy()


@pytest.mark.parametrize("sampling", SAMPLINGS[:5], ids=str)
def test_logp_is_the_law_of_the_new_weights(served: Served, sampling: Sampling) -> None:
    """Of both tables, of adapters, and after temperature and truncation."""
    worst = 0.0
    for group in served.engine.sample(_prompts(4), 6, sampling, Seed(1)):
        for answer in group.completions:
            rows = _logits(served.lm, group.prompt, answer)
            want = [truncated(row, sampling)[t] for row, t in zip(rows, answer.tokens, strict=True)]
            assert answer.logp is not None
            worst = max(worst, float(np.abs(answer.logp - want).max()))
    print("largest difference of a log-probability", worst)
    assert worst < 1e-4


def test_greedy_answers_are_those_of_our_engine(served: Served) -> None:
    greedy = Sampling(temperature=0, max_tokens=12)
    pairs = zip(
        served.engine.sample(_prompts(6), 1, greedy, Seed(0)),
        served.ours.sample(_prompts(6), 1, greedy, Seed(0)),
        strict=True,
    )
    for theirs, ours in pairs:
        for a, b in zip(theirs.completions, ours.completions, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist()
            assert (a.text, a.stopped) == (b.text, b.stopped)


def test_a_first_token_has_the_law_of_the_model(served: Served) -> None:
    """Chi-square of 2,000 draws against the softmax over the whole vocabulary."""
    [prompt] = _prompts(1)
    [group] = served.engine.sample([prompt], 2000, Sampling(max_tokens=1), Seed(8))
    seen = np.bincount([c.tokens[0] for c in group.completions], minlength=VOCABULARY)
    logits = _logits(served.lm, prompt.prompt, group.completions[0])[0]
    law = np.exp(truncated(logits, Sampling()))
    likely = law * 2000 >= 5
    counts = np.append(seen[likely], seen[~likely].sum())
    expected = np.append(law[likely], law[~likely].sum()) * 2000
    kept = expected > 0
    found = chisquare(counts[kept], expected[kept])
    print("chi-square", found)
    assert found.pvalue > 1e-4


def test_answers_end_where_ours_would(served: Served) -> None:
    """At an end token, or where the text holds a stop string for the first time."""
    how = Sampling(max_tokens=24, stop=("ab", "c"))
    ended = 0
    for group in served.engine.sample(_prompts(6), 16, how, Seed(4)):
        for answer in group.completions:
            text, last = answer.text, int(answer.tokens[-1])
            stops = last == 2 or any(s in text for s in how.stop)
            assert answer.stopped == stops
            assert stops or len(answer.tokens) == 24
            assert not any(s in text[:-1] for s in how.stop)
            assert 2 not in answer.tokens[:-1]
            ended += stops
    assert ended > 20


def test_other_weights_are_other_draws_and_the_same_ones_the_same(served: Served) -> None:
    """The cache of prompts is emptied: nothing of the weights before is left in an answer."""
    how, asked = Sampling(max_tokens=8), _prompts(3)

    def drawn() -> list[list[int]]:
        found = served.engine.sample(asked, 4, how, Seed(6))
        return [c.tokens.tolist() for g in found for c in g.completions]

    before = drawn()
    weights = {k: v.clone() for k, v in served.lm.state_dict().items()}
    with torch.no_grad():
        for parameter in served.lm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    served.engine.load(served.lm)
    assert drawn() != before
    served.lm.load_state_dict(weights)
    served.engine.load(served.lm)
    assert drawn() == before


@pytest.mark.parametrize("path", ["/collective_rpc", "/reset_prefix_cache", "/v1/completions"])
def test_without_its_key_a_server_does_nothing(served: Served, path: str) -> None:
    url = f"http://127.0.0.1:{served.engine.server.port}{path}"
    body = {"method": "take_weight_file", "args": ["/nowhere"]}
    assert httpx.post(url, json=body, timeout=30, trust_env=False).status_code == 401


@pytest.mark.parametrize("lora", [None, Lora(rank=8, alpha=32.0)], ids=["full", "lora"])
def test_a_policy_climbs_on_samples_of_a_server_that_follows_it(
    lora: Lora | None, tmp_path: Path
) -> None:
    """If the server kept the first weights, the mismatch would grow with every round."""
    init = folder(tmp_path / "init", "llama-tied", head_dim=32)
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
