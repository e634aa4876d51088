"""What a fit saves: the model that was trained, and what another dtype makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

import tiny
from tandem.data.groups import Groups
from tandem.errors import ConfigError, ModelError
from tandem.judges.reward_model import RewardModel
from tandem.machine import Lora, Machine
from tandem.methods import reward, sft
from tandem.models.exporting import share_kept_by_rounding
from tandem.models.lora import check_targets
from tandem.models.opening import open_policy
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.identity import describe_value
from tandem.training import fitting
from tandem.training.optim import Optim

MACHINE = Machine(device="cpu", precision="fp32")


def data(n: int = 4) -> Groups:
    rng = np.random.default_rng(0)
    return Groups.of(tiny.labelled(tiny.group(f"g{k}", rng, 6, (5, 4)), rng) for k in range(n))


def in_dtype(folder: Path, dtype: torch.dtype, kind: str = "llama") -> Path:
    tiny.folder(folder, kind)
    lm = tiny.lm(kind).to(dtype)
    lm.save_pretrained(folder)
    return folder


def kinds(folder: Path) -> set[torch.dtype]:
    return {w.dtype for w in load_file(folder / "model.safetensors").values()}


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.bfloat16, "llama-tied"), (torch.float16, "llama")]
)
def test_what_was_trained_is_saved_whole_and_the_dtype_can_be_chosen(
    dtype: torch.dtype, kind: str, tmp_path: Path
):
    base = Checkpoint(in_dtype(tmp_path / "base", dtype, kind), "base")
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    small = replace(MACHINE, save_dtype=name)
    for machine, stored in ((MACHINE, torch.float32), (small, dtype)):
        ctx = StageContext.at(tmp_path / str(stored), machine=machine)
        fitted = sft.fit(base, data(), sft.SFTConfig(steps=1, batch=2), ctx=ctx)
        assert kinds(fitted.path) == {stored}
        config: dict[str, Any] = json.loads((fitted.path / "config.json").read_text())
        assert config["dtype"] == str(stored).removeprefix("torch.")
    assert "save_dtype" not in describe_value(MACHINE), "folders of earlier versions are kept"
    assert describe_value(small)["save_dtype"] == name


def test_an_adapter_trained_with_small_steps_survives_a_start_in_bf16(tmp_path: Path):
    start = in_dtype(tmp_path / "base", torch.bfloat16)
    machine = replace(MACHINE, lora=Lora(rank=2))
    cfg = sft.SFTConfig(steps=2, batch=2, optim=Optim(lr=1e-5))
    ctx = StageContext.at(tmp_path / "sft", machine=machine)
    fitted = sft.fit(Checkpoint(start, "base"), data(), cfg, ctx=ctx)
    assert share_kept_by_rounding(fitted.path, start, torch.float32) == pytest.approx(1)
    rounded = share_kept_by_rounding(fitted.path, start, torch.bfloat16)
    assert rounded is not None
    assert rounded < 0.5
    assert share_kept_by_rounding(start, start, torch.bfloat16) is None


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")
@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`")
def test_adapters_on_tied_tables_are_refused_before_and_after(tmp_path: Path, monkeypatch):
    targets = ("embed_tokens", "lm_head")
    tied, free = tiny.lm("llama-tied"), tiny.lm("llama")
    with pytest.raises(ConfigError, match="one table"):
        check_targets(tied, Lora(targets=targets))
    with pytest.raises(ConfigError, match="one table"):
        check_targets(tied, Lora(targets=".*lm_head"))
    with pytest.raises(ConfigError, match="past any adapter"):
        check_targets(free, Lora(targets=targets))
    with pytest.raises(ConfigError, match="one table"):
        check_targets(tied, Lora(targets=("embed_tokens",)))
    check_targets(free, Lora(targets=("embed_tokens", "q_proj")))
    check_targets(tied, Lora())
    base = Checkpoint(tiny.folder(tmp_path / "base", "llama-tied"), "base")

    def adapted(lm: Any, lora: Any, seed: Any) -> Any:
        wrapped = get_peft_model(lm, LoraConfig(r=2, target_modules=["embed_tokens"]))
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3)
        return wrapped

    monkeypatch.setattr("tandem.models.opening.add_adapters", adapted)
    ctx = StageContext.at(tmp_path / "sft", machine=MACHINE)
    policy = open_policy(base.path, MACHINE, train=True)
    with pytest.raises(ModelError, match="merged into the weights"):
        fitting.save_checkpoint(policy, base, ctx, "SFT")


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_a_folder_that_is_another_model_is_an_error(lora: Lora | None, tmp_path: Path, monkeypatch):
    base = Checkpoint(tiny.folder(tmp_path / "base"), "base")
    machine = Machine(device="cpu", precision="fp32", lora=lora)
    policy = open_policy(base.path, machine, train=True)
    fitting.save_checkpoint(policy, base, StageContext.at(tmp_path / "a", machine=machine), "SFT")
    real = fitting.save_model

    def losing(model: Any, tokenizer: Any, out: Path, **more: Any) -> Any:
        found = real(model, tokenizer, out, **more)
        path = out / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"rms_norm_eps": 10.0}))
        return found

    monkeypatch.setattr(fitting, "save_model", losing)
    policy = open_policy(base.path, machine, train=True)
    with pytest.raises(ModelError, match="opened again"):
        fitting.save_checkpoint(
            policy, base, StageContext.at(tmp_path / "b", machine=machine), "SFT"
        )


def test_another_program_gives_our_rewards_up_to_a_constant(tmp_path: Path):
    base = Checkpoint(tiny.folder(tmp_path / "base"), "base")
    cfg = reward.RewardConfig(batch=2, unit_variance=True)
    groups = data(6)
    r_phi = reward.fit(
        base, groups, cfg, ctx=StageContext.at(tmp_path / "r", machine=MACHINE)
    )  # fmt: skip
    ours, theirs = [], []
    lm: Any = hf.AutoModelForSequenceClassification.from_pretrained(r_phi.path)
    for group in RewardModel(r_phi, machine=MACHINE)(groups):
        for completion, score in zip(group.completions, group.scores, strict=True):
            ids = torch.tensor([[*group.prompt.tokens, *completion.tokens]])
            with torch.no_grad():
                theirs.append(float(lm(input_ids=ids).logits))
            ours.append(float(score))
    assert np.std(ours) == pytest.approx(1, abs=1e-3)
    assert np.std(np.array(ours) - np.array(theirs)) < 1e-4
