"""What only a GPU can say: the same numbers as a CPU, and the same bits again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from climbing import FP32, Heard
from tandem.batching.packing import pack_groups
from tandem.data.groups import Groups
from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.engines.open_engine import open_engine
from tandem.machine import Lora, Machine
from tandem.methods import dpo
from tandem.models.opening import open_policy
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.optim import Optim
from tiny import folder, group, labelled, tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
CUDA = Machine(device="cuda", precision="fp32", save_seconds=0.0, log_every=1)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("init"), head_dim=16)


def pairs(n: int = 12) -> Groups:
    rng = np.random.default_rng(0)
    return Groups.of(labelled(group(f"p{i}", rng, 9, (6, 11)), rng) for i in range(n))


def fit(init: Path, place: Path, machine: Machine, dies_at: int | None = None) -> Heard:
    heard = Heard(dies_at=dies_at)
    ctx = StageContext.at(place, machine=machine, events=heard, seed=Seed(1))
    cfg = dpo.DPOConfig(epochs=3, batch=4, optim=Optim(lr=1e-3))
    dpo.fit(Checkpoint(init), pairs(), cfg, ctx=ctx)
    return heard


def test_losses_are_those_of_a_cpu(init: Path, tmp_path: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    cpu, gpu = (fit(init, tmp_path / m.device, m) for m in (FP32, CUDA))
    a, b = ([line["sigmoid_loss"] for line in h.of("train")] for h in (cpu, gpu))
    assert b == pytest.approx(a, rel=1e-4)


@pytest.mark.parametrize("settings", [{}, {"lora": Lora(rank=4)}, {"precision": "bf16"}], ids=str)
def test_a_killed_fit_ends_with_the_same_bits(settings: dict, init: Path, tmp_path: Path) -> None:
    machine = replace(CUDA, **settings)
    fit(init, tmp_path / "calm", machine)
    with pytest.raises(KeyboardInterrupt):
        fit(init, tmp_path / "torn", machine, dies_at=5)
    fit(init, tmp_path / "torn", machine)
    one, other = (tmp_path / n / "out" / "model.safetensors" for n in ("calm", "torn"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("settings", [{"layout": "rows"}, {}, {"compiled": True}], ids=str)
def test_log_probabilities_are_those_of_a_cpu(settings: dict, init: Path) -> None:
    """One sequence a row, blocks, and FlexAttention compiled, with their gradients."""
    torch.backends.cuda.matmul.allow_tf32 = False
    seen = []
    for machine in (FP32, replace(CUDA, **settings)):
        model = open_policy(init, machine, train=True)
        out = model(pack_groups(list(pairs()), model.layout).to(model.device).tokens).logp
        assert out is not None
        out.values.sum().backward()
        slopes = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
        seen.append((out.values.detach().cpu(), torch.cat(slopes)))
    (a, da), (b, db) = seen
    torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-3)
    assert (db - da).norm() < 1e-3 * da.norm()


@pytest.mark.parametrize("compiled", [False, True])
def test_greedy_answers_are_those_of_a_cpu(compiled: bool, init: Path) -> None:
    rng = np.random.default_rng(0)
    asked = [Group(Prompt(f"p{i}", "", tokens=tokens(rng, 9))) for i in range(8)]
    texts = []
    for machine in (FP32, replace(CUDA, compiled=compiled)):
        engine = open_engine(open_policy(init, machine), load_tokenizer(init), machine)
        how = Sampling(temperature=0, max_tokens=12)
        drawn = engine.sample(asked, 2, how, Seed(0))
        texts.append([c.text for g in drawn for c in g.completions])
    assert texts[0] == texts[1]
