"""What a micro-batch may hold: the estimate against what is held, and what is done about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from tandem import room
from tandem.artifacts import Checkpoint
from tandem.errors import ConfigError
from tandem.groups import Groups
from tandem.kernel import Trunk, open_policy, probe
from tandem.loop import Optim
from tandem.machine import Lora, Machine
from tandem.methods import dpo
from tandem.offline import Offline
from tandem.rng import Seed
from tandem.runs import Here
from tiny import folder, group, labelled

FP32 = Machine(device="cpu", precision="fp32")


class Heard:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log(self, kind: str, **numbers: Any) -> None:
        self.lines.append({"kind": kind, **numbers})

    def progress(self, *_: Any, **__: Any) -> None:
        pass


def data(n: int = 12) -> Groups:
    rng = np.random.default_rng(0)
    return Groups.of(labelled(group(str(i), rng, 9, (7, 5)), rng) for i in range(n))


def trunk(tmp_path: Path, machine: Machine = FP32) -> Trunk:
    return open_policy(folder(tmp_path), machine, train=True)


def asked(policy: Trunk, tokens: int, least: int = 0) -> tuple[int, list[dict[str, Any]]]:
    heard = Heard()
    return room.make_room(policy, tokens, least, heard, {}), heard.lines


def limited(monkeypatch: pytest.MonkeyPatch, policy: Trunk, tokens: float) -> float:
    """Give the device what a step of so many tokens needs; return a token's bytes."""
    each = room.per_token(policy, [policy.inner], {})
    states = sum(
        p.numel() * (room.TRAINED if p.requires_grad else room.FROZEN) for p in policy.parameters()
    )
    monkeypatch.setattr(room, "memory", lambda _: int((states + each * tokens) / room.SHARE) + 1)
    return each


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_keeps_as_much_in_a_large_batch(dtype: torch.dtype):
    """A slope from 16 and 96 tokens, against what 2,400 tokens keep; weights are in neither."""
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4}
    config = hf.LlamaConfig(vocab_size=500, num_hidden_layers=3, **shape)
    policy = Trunk(hf.LlamaForCausalLM(config), dtype=dtype)
    probe(policy)
    each = room.per_token(policy, [policy.inner], {})
    rng = np.random.default_rng(0)
    groups = [group(str(i), rng, 48, (24, 24)) for i in range(25)]
    (a, small), (b, large) = (room.kept(policy, groups[:n], {}) for n in (5, 25))
    assert 0.75 < each * (b - a) / (large - small) < 1.25


def test_enough_memory_changes_nothing(tmp_path: Path):
    assert asked(trunk(tmp_path), 16384) == (16384, [])


def test_micro_batches_are_halved_until_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    policy = trunk(tmp_path)
    limited(monkeypatch, policy, 300)
    tokens, [line] = asked(policy, 1000, least=21)
    assert tokens == 250
    assert line["text"].startswith("micro-batches of 250 tokens")
    assert not room._recomputes([policy.inner])


def test_what_cannot_be_cut_is_recomputed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    policy = trunk(tmp_path)
    each = limited(monkeypatch, policy, 300)
    _, lines = asked(policy, 1000, least=400)
    assert room._recomputes([policy.inner])
    assert room.per_token(policy, [policy.inner], {}) < 0.7 * each
    assert "recomputed" in lines[0]["text"]


def test_what_cannot_work_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    policy = trunk(tmp_path)
    monkeypatch.setattr(room, "memory", lambda _: 100_000)
    with pytest.raises(ConfigError, match=r"training needs about .* GiB, the device has 0\.0"):
        asked(policy, 1000, least=400)


def test_adapters_need_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Frozen weights have no gradient and no moments: what does not fit as a whole does as LoRA."""
    whole, adapters = (
        trunk(tmp_path / name, replace(FP32, lora=lora))
        for name, lora in (("whole", None), ("lora", Lora(rank=2)))
    )
    weights = sum(p.numel() for p in whole.parameters())
    monkeypatch.setattr(room, "memory", lambda _: 15 * weights)
    with pytest.raises(ConfigError):
        asked(whole, 100, least=21)
    assert asked(adapters, 100, least=21)[0] >= 21


def test_a_fit_with_little_memory_ends_at_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Up to rounding: the split and the recomputing are no part of the result."""
    init = Checkpoint(folder(tmp_path / "init"))
    ends = []
    for name in ("plenty", "little"):
        if name == "little":
            limited(monkeypatch, trunk(tmp_path / "again"), 18)
        heard = Heard()
        here = Here.at(tmp_path / name, machine=FP32, events=heard)
        cfg = dpo.DPO(epochs=2, batch=6, optim=Optim(lr=1e-3))
        made = dpo.fit(init, data(), cfg, here=here)
        said = [line["text"] for line in heard.lines if line["kind"] == "room"]
        assert bool(said) == (name == "little")
        ends.append(torch.cat([p.flatten() for p in open_policy(made.path, FP32).parameters()]))
    assert (ends[0] - ends[1]).norm() < 1e-4 * ends[0].norm()


def test_sources_say_what_cannot_be_cut():
    """Pairs stay together; where answers may be parted, a prompt and its longest answer do."""
    groups = data()
    whole, parts = (
        Offline(groups, size=4, epochs=1, seed=Seed(0), layout="shared", tokens=99, divisible=d)
        for d in (False, True)
    )
    assert (whole.least(), parts.least()) == (21, 16)
