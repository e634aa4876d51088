"""Adapters over 4-bit weights: what is refused, what is trained, what is saved."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from climbing import FP32, Heard, Letters, climbed
from tandem.batching.packing import pack_groups
from tandem.data.groups import Groups
from tandem.errors import ConfigError
from tandem.machine import Lora
from tandem.methods import dpo, grpo
from tandem.models.lora import merged_weights
from tandem.models.opening import open_policy
from tandem.models.quantised import check_bitsandbytes
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.optim import Optim
from tiny import folder, group, labelled

QLORA = replace(FP32, lora=Lora(rank=4, alpha=8.0), quantise="nf4")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def pairs(n: int = 8) -> Groups:
    rng = np.random.default_rng(0)
    return Groups.of(labelled(group(f"p{i}", rng, 7, (6, 9)), rng) for i in range(n))


def init(path: Path) -> Path:
    """A model whose matrices are wide enough to be packed in blocks of 64."""
    return folder(path, hidden_size=64, intermediate_size=128, head_dim=16)


def test_a_quantised_policy_needs_adapters(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"without machine\.lora"):
        open_policy(init(tmp_path), replace(QLORA, lora=None), train=True)


def test_quantised_weights_are_not_sharded():
    with pytest.raises(ConfigError, match="fsdp2"):
        replace(QLORA, sharding="fsdp2")


def test_a_missing_bitsandbytes_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="without bitsandbytes"):
        check_bitsandbytes()


def test_merged_weights_are_those_that_are_saved(tmp_path: Path):
    """Name by name what PEFT's own merge gives, and the adapters stay where they are."""
    policy = open_policy(init(tmp_path), replace(QLORA, quantise="none"), train=True)
    for name, p in policy.lm.named_parameters():
        if "lora_B" in name:
            p.data.normal_(generator=torch.Generator().manual_seed(0))
    merged = dict(merged_weights(policy.lm))
    assert any("lora_B" in name for name, _ in policy.lm.named_parameters())
    own = policy.lm.merge_and_unload().state_dict()  # type: ignore[operator]
    assert merged.keys() == own.keys()
    for name, value in own.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-6, atol=1e-6)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_dpo_over_packed_weights_begins_at_its_reference_and_saves_what_it_computes(
    tmp_path: Path,
):
    """The first loss is ln 2: policy and reference are packed alike."""
    place, heard = init(tmp_path / "init"), Heard()
    ctx = StageContext.at(tmp_path / "run", machine=QLORA, events=heard, seed=Seed(3))
    cfg = dpo.DPOConfig(epochs=4, batch=4, optim=Optim(lr=1e-2, warmup=0.0))
    made = dpo.fit(Checkpoint(place), pairs(), cfg, ctx=ctx)
    losses = [line["sigmoid_loss"] for line in heard.of("train")]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[-1] < losses[0] - 0.02
    saved = open_policy(made.path, FP32)
    assert saved.inner.config.to_dict().get("quantization_config") is None
    packed = open_policy(place, QLORA, train=True, seed=Seed(3).at("adapters"))
    assert sum(p.numel() * p.element_size() for p in packed.inner.model.layers.parameters()) < (
        0.5 * sum(p.numel() * 4 for p in saved.inner.model.layers.parameters())
    )


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_an_export_computes_what_was_trained(tmp_path: Path):
    """Log-probabilities of the packed policy and of its export differ by bf16's rounding alone."""
    from tandem.models.saving import save_model
    from tandem.models.tokenizers import load_tokenizer

    place = init(tmp_path / "init")
    policy = open_policy(place, QLORA, train=True)
    for name, p in policy.lm.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    read = pack_groups(list(pairs()), policy.layout).tokens
    with torch.no_grad():
        trained = policy.eval()(read).logp
    save_model(policy.lm, load_tokenizer(place), tmp_path / "out", dtype=torch.bfloat16)
    exported = open_policy(tmp_path / "out", FP32)
    with torch.no_grad():
        again = exported(pack_groups(list(pairs()), exported.layout).tokens).logp
        base = open_policy(place, FP32)(read).logp
    assert trained is not None
    assert again is not None
    assert base is not None
    rounding = float((again.values - trained.values).abs().mean())
    packing = float((base.values - trained.values).abs().mean())
    assert rounding < 0.2 * packing


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_grpo_over_packed_weights_holds_the_base_once(tmp_path: Path):
    """The reference is the policy without its adapters: the KL of the first round is 0."""
    heard = Heard()
    cfg = grpo.GRPOConfig(prompts=4, n=4, rounds=2, minibatch=4, optim=Optim(lr=1e-2))
    climbed(grpo, cfg, init(tmp_path / "init"), tmp_path / "run", Letters(), QLORA, heard)
    first, second = heard.of("round")
    assert first["kl"] == pytest.approx(0.0, abs=1e-5)
    assert abs(second["kl"]) > 1e-6


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_a_killed_fit_over_packed_weights_resumes_exactly(tmp_path: Path):
    place, ends = init(tmp_path / "init"), []
    cfg = dpo.DPOConfig(epochs=2, batch=4, optim=Optim(lr=1e-2))
    for name in ("calm", "torn"):
        for dies_at in (None,) if name == "calm" else (3, None):
            ctx = StageContext.at(tmp_path / name, machine=QLORA, events=Heard(dies_at=dies_at))
            try:
                made = dpo.fit(Checkpoint(place), pairs(), cfg, ctx=ctx)
            except KeyboardInterrupt:
                continue
            ends.append((made.path / "model.safetensors").read_bytes())
    assert ends[0] == ends[1]


def test_columns_of_a_packed_reference_have_a_key_of_their_own(tmp_path: Path):
    """Older run folders know nothing of the setting: at its default it is not described."""
    from tandem.runs.identity import describe_value

    assert "quantise" not in describe_value(FP32)
    assert describe_value(QLORA)["quantise"] == "nf4"
