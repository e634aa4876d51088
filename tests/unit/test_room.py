"""What a micro-batch may hold: the estimate against what is held, and what is done about it."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from climbing import Heard
from tandem.batching.microbatches import unique_tokens
from tandem.batching.packing import pack_groups
from tandem.data.groups import Groups
from tandem.errors import ConfigError
from tandem.machine import Lora, Machine
from tandem.methods import dpo
from tandem.models.loading import recompute_activations
from tandem.models.opening import open_policy
from tandem.models.packed import PackedModel
from tandem.models.probe import probe_layout
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training import free_memory, loop, memory
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource, StepSizes
from tiny import folder, group, labelled

FP32 = Machine(device="cpu", precision="fp32")


def groups(n: int = 12) -> Groups:
    rng = np.random.default_rng(0)
    return Groups.of(labelled(group(str(i), rng, 9, (7, 5)), rng) for i in range(n))


def trunk(tmp_path: Path, machine: Machine = FP32) -> PackedModel:
    return open_policy(folder(tmp_path), machine, train=True)


def asked(policy: PackedModel, tokens: int, total: int) -> tuple[int, list[dict[str, Any]]]:
    heard = Heard()
    return memory.fit_to_memory(policy, tokens, total, heard, {}), heard.lines


def enough(policy: PackedModel, tokens: float) -> int:
    """Memory in which a step of so many tokens just fits."""
    each = memory.bytes_per_token(policy, [policy.inner], {})
    layer = memory.PASSING * each / policy.inner.config.num_hidden_layers
    need = memory._need(policy, each, layer, int(tokens), 0, 1.0)
    return int(need.total / memory.SHARE) + 1


def recomputes(policy: PackedModel) -> bool:
    return any(getattr(m, "gradient_checkpointing", False) for m in policy.inner.modules())


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_keeps_as_much_in_a_large_batch(dtype: torch.dtype, rows: bool):
    """A slope from 16 and 96 tokens, against what 2,400 keep; weights and logits are in neither."""
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4}
    config = hf.LlamaConfig(vocab_size=500, num_hidden_layers=3, **shape)
    policy = PackedModel(hf.LlamaForCausalLM(config), dtype=dtype)
    if not rows:
        probe_layout(policy)
    each = memory.bytes_per_token(policy, [policy.inner], {})
    rng = np.random.default_rng(0)
    groups = [group(str(i), rng, 48, (24, 24)) for i in range(25)]
    (a, small), (b, large) = (memory.measure_saved_bytes(policy, groups[:n], {}) for n in (5, 25))
    assert (a, b) == (5 * 96, 25 * 96)
    assert 0.75 < each * (b - a) / (large - small) < 1.25


def test_nothing_is_left_of_a_measurement(tmp_path: Path):
    """Autograd frees no circle: a hook that gave a tensor itself would keep the model for good."""
    policy = trunk(tmp_path)
    held = [weakref.ref(p) for p in policy.parameters()]
    memory.bytes_per_token(policy, [policy.inner], {})
    del policy
    gc.collect()
    assert not [1 for ref in held if ref() is not None]


def test_enough_memory_changes_nothing(tmp_path: Path):
    policy = trunk(tmp_path)
    assert asked(policy, 1000, enough(policy, 1000)) == (1000, [])
    assert memory.fit_to_memory(policy, 1000, None, Heard(), {}) == 1000


def test_micro_batches_are_halved_until_they_fit(tmp_path: Path):
    policy = trunk(tmp_path)
    tokens, [line] = asked(policy, 4096, enough(policy, 1500))
    assert tokens == 1024
    assert line["text"].startswith("memory: micro-batches of 1,024 tokens; about 0.0")
    assert not recomputes(policy)


def test_where_1024_tokens_do_not_fit_cheap_activations_are_recomputed_first(tmp_path: Path):
    policy = trunk(tmp_path)
    each = memory.bytes_per_token(policy, [policy.inner], {})
    tokens, [line] = asked(policy, 4096, enough(policy, 900))
    assert recomputes(policy)
    assert "cheap activations recomputed" in line["text"]
    lean = memory.bytes_per_token(policy, [policy.inner], {}, products=True)
    assert line["bytes_per_token"] == lean < each
    assert 1024 <= tokens <= 4096


def test_where_that_is_not_enough_all_of_them_are(tmp_path: Path):
    policy = trunk(tmp_path)
    each, there = memory.bytes_per_token(policy, [policy.inner], {}), enough(policy, 300)
    _, [line] = asked(policy, 4096, there)
    assert recomputes(policy)
    assert "memory: activations recomputed" in line["text"]
    assert memory.bytes_per_token(policy, [policy.inner], {}) < 0.2 * each


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_what_is_recomputed_changes_no_gradient(tmp_path: Path, lora: Lora | None):
    found: list[torch.Tensor] = []
    for kept in (memory.KEEP_ALL, memory.KEEP_PRODUCTS, memory.KEEP_INPUTS):
        policy = trunk(tmp_path / str(kept), replace(FP32, lora=lora, precision="bf16"))
        if kept:
            recompute_activations(policy.inner, products=kept == memory.KEEP_INPUTS)
        out = policy(pack_groups(list(groups(3)), policy.layout).tokens)
        assert out.logp is not None
        out.logp.values.sum().backward()
        found.append(
            torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        )
    assert found[0].norm() > 0
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_on_a_processor_a_micro_batch_keeps_no_more_than_is_comfortable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    policy = trunk(tmp_path)
    each = memory.bytes_per_token(policy, [policy.inner], {})
    monkeypatch.setattr(memory, "COMFORT", int(each * 2500))
    assert asked(policy, 8192, 10**12)[0] == 2048
    monkeypatch.setattr(memory, "COMFORT", 1)
    assert asked(policy, 8192, 10**12)[0] == memory.EFFICIENT
    assert not recomputes(policy)


def test_a_long_group_counts_whole(tmp_path: Path):
    """It is not cut, however small a micro-batch is asked for."""
    policy = trunk(tmp_path)
    sizes = StepSizes(longest=3000, largest=9000)
    choice = memory.choose_microbatch(policy, 4096, enough(policy, 2000), {}, sizes=sizes)
    assert choice.kept != memory.KEEP_ALL
    assert choice.need.activations == int((choice.each or 0) * max(3000, choice.tokens))


def test_sizes_of_a_collection_bound_every_step():
    data = groups(12)
    source = DatasetSource(data, size=5, epochs=1, seed=Seed(0), layout="shared", tokens=64)
    found = source.sizes()
    per_step = [sum(map(unique_tokens, (data[i] for i in source._indices(k)))) for k in range(3)]
    assert found.largest >= max(per_step)
    assert found.longest == max(map(unique_tokens, data))
    assert 0 < found.trained < 1


def test_a_model_that_cannot_recompute_has_smaller_micro_batches(tmp_path: Path):
    """To no fewer than 256 tokens: groups are not cut, so that fewer would save nothing."""
    policy = trunk(tmp_path)
    policy.inner.supports_gradient_checkpointing = False
    tokens, [line] = asked(policy, 4096, enough(policy, 30))
    assert tokens == memory.FEWEST
    assert "recomputed" not in line["text"]
    assert not recomputes(policy)


def test_what_cannot_work_is_refused_before_the_first_step(tmp_path: Path):
    """Sixteen bytes a weight; adapters need four for most of them."""
    whole, adapters = (
        trunk(tmp_path / name, replace(FP32, lora=lora))
        for name, lora in (("whole", None), ("lora", Lora(rank=2)))
    )
    tables = whole.inner.get_input_embeddings().weight.numel()
    weights = sum(p.numel() for p in whole.parameters())
    least = 16 * weights - 12 * tables
    with pytest.raises(ConfigError, match=r"weights and optimiser need 0\.00 GiB"):
        asked(whole, 4096, least - 1)
    assert asked(whole, 4096, least)[0] == memory.FEWEST
    assert asked(adapters, 4096, least - 1)[0] >= memory.FEWEST


def test_a_fit_with_little_memory_ends_at_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Up to rounding, in more and smaller micro-batches."""
    init, data = Checkpoint(folder(tmp_path / "init")), groups()
    ends, sizes = [], []
    cut = DatasetSource.batches
    monkeypatch.setattr(memory, "FEWEST", 21)
    monkeypatch.setattr(loop, "memory_besides", lambda _: 0)
    for name, there in (("plenty", 10**12), ("little", enough(trunk(tmp_path / "again"), 60))):
        largest = [0]

        def batches(self: DatasetSource, chosen: Any, largest: list[int] = largest) -> Any:
            made = cut(self, chosen)
            largest[0] = max(largest[0], *(b.tokens.useful for b in made))
            return made

        monkeypatch.setattr(loop, "usable_memory", lambda _, there=there: there)
        monkeypatch.setattr(DatasetSource, "batches", batches)
        ctx = StageContext.at(tmp_path / name, machine=replace(FP32, tokens=240))
        made = dpo.fit(init, data, dpo.DPOConfig(epochs=2, batch=6, optim=Optim(lr=1e-3)), ctx=ctx)
        sizes.append(largest[0])
        ends.append(torch.cat([p.flatten() for p in open_policy(made.path, FP32).parameters()]))
    assert sizes[1] < sizes[0] == 126
    assert (ends[0] - ends[1]).norm() < 1e-4 * ends[0].norm()


def test_a_killed_fit_goes_on_with_the_cut_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also where there is less memory than before: bit for bit the uninterrupted one."""
    init, data, ends = Checkpoint(folder(tmp_path / "init")), groups(), []
    cfg = dpo.DPOConfig(epochs=3, batch=6, optim=Optim(lr=1e-2))
    monkeypatch.setattr(memory, "FEWEST", 21)
    monkeypatch.setattr(loop, "memory_besides", lambda _: 0)
    little = enough(trunk(tmp_path / "again"), 60)
    for name in ("whole", "killed"):
        machine = replace(FP32, tokens=240, save_seconds=0.0, log_every=1)
        monkeypatch.setattr(loop, "usable_memory", lambda _: 10**12)
        if name == "killed":
            dying = StageContext.at(tmp_path / name, machine=machine, events=Heard(dies_at=3))
            with pytest.raises(KeyboardInterrupt):
                dpo.fit(init, data, cfg, ctx=dying)
            monkeypatch.setattr(loop, "usable_memory", lambda _: little)
        heard = Heard()
        made = dpo.fit(
            init, data, cfg, ctx=StageContext.at(tmp_path / name, machine=machine, events=heard)
        )
        assert ("room" in {line["kind"] for line in heard.lines}) == (name == "killed")
        ends.append(torch.cat([p.flatten() for p in open_policy(made.path, FP32).parameters()]))
    assert torch.equal(*ends)


def test_memory_is_that_of_the_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Version 2 and 1, the group itself and those above it; `max` is no limit."""
    groups = tmp_path / "cgroup"
    groups.write_text("3:cpu:/else\n2:memory:/job/step\n0::/user/app\n")
    for path, text in {
        "memory/job/memory.limit_in_bytes": "9000\n",
        "memory/memory.limit_in_bytes": "7000\n",
        "user/app/memory.max": "max\n",
        "user/memory.max": "5000\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert sorted(free_memory._limits(tmp_path, groups)) == [5000, 7000, 9000]
    assert list(free_memory._limits(tmp_path, tmp_path / "none")) == []
    monkeypatch.setattr(free_memory, "_limits", lambda _: [4000])
    assert free_memory.usable_memory(torch.device("cpu")) == 4000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert free_memory.usable_memory(torch.device("cpu")) == 2000
