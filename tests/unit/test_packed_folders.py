"""Folders of packed weights: which are opened, which are refused, and that they are one model."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from climbing import FP32, Heard
from tandem import cli
from tandem.batching.packing import pack_groups
from tandem.data.groups import Groups
from tandem.errors import ConfigError, ModelError
from tandem.machine import Lora, Machine
from tandem.methods import dpo
from tandem.models import unpacking
from tandem.models.checks import check_policy, check_reward
from tandem.models.loading import load_policy
from tandem.models.opening import open_policy, open_scalar
from tandem.models.packed import PackedModel
from tandem.models.quantised import is_quantised, plain_state
from tandem.models.saving import stored_dtype
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.memory import check_trainable
from tandem.training.optim import Optim
from tiny import folder, group, labelled

LORA = replace(FP32, lora=Lora(rank=4, alpha=8.0))
QLORA = replace(LORA, quantise="nf4")
STATE = "quant_state.bitsandbytes__nf4"
NOTE = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def pairs(n: int = 8) -> Groups:
    rng = np.random.default_rng(0)
    return Groups.of(labelled(group(f"p{i}", rng, 7, (6, 9)), rng) for i in range(n))


def wide(path: Path, **more: Any) -> Path:
    """A model whose matrices are wide enough to be packed in blocks of 64."""
    return folder(path, hidden_size=64, intermediate_size=128, head_dim=16, **more)


def noted(path: Path, note: dict[str, Any]) -> Path:
    """Whole weights, and a configuration that speaks of packed ones."""
    file = wide(path) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": note}))
    return path


def forged(path: Path, **parts: torch.Tensor) -> Path:
    """Packed parts of one matrix as a file holds them, written without the library."""
    noted(path, NOTE)
    weights = load_file(path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [128, 64]}
    raw = json.dumps(state).encode()
    own = {
        "": torch.zeros(4096, 1, dtype=torch.uint8),
        ".absmax": torch.ones(128),
        ".quant_map": torch.linspace(-1, 1, 16),
        f".{STATE}": torch.frombuffer(bytearray(raw), dtype=torch.uint8),
    }
    weights |= {name + part: value for part, value in own.items()}
    weights |= {f"{name}.{part}": value for part, value in parts.items() if part != "weight"}
    weights |= {name: parts["weight"]} if "weight" in parts else {}
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    return path


def logp(policy: PackedModel) -> torch.Tensor:
    with torch.no_grad():
        found = policy.eval()(pack_groups(list(pairs()), policy.layout).tokens).logp
    assert found is not None
    return found.values


# without the library -----------------------------------------------------------------------------


def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("quantised", "packed_folder"):
        monkeypatch.setattr(f"tandem.models.{module}.has_bitsandbytes", lambda: False)


def data(tmp_path: Path) -> Path:
    file = tmp_path / "d.jsonl"
    file.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3)
    return file


def test_a_packed_folder_without_the_library_is_refused_alike(tmp_path: Path, capsys, monkeypatch):
    absent(monkeypatch)
    model, rows = noted(tmp_path / "m", NOTE), data(tmp_path)
    words = "holds weights quantised by bitsandbytes, which is not installed"
    out = tmp_path / "out"
    run = ["run", "dpo", f"--model={model}", f"--data={rows}", f"--out={out}", "--dry_run"]
    for command in (["data", "check", str(rows), f"--model={model}"], run):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert words in said
        assert "why:" in said
        assert "pip install 'tandem-rlhf[quantise]'" in said
    assert cli.main(["doctor", "--model", str(model)]) == 1
    said = capsys.readouterr().out
    assert words in said
    assert "pip install 'tandem-rlhf[quantise]'" in said
    assert "4-bit weights  not here" in said
    with pytest.raises(ModelError, match=words):
        check_reward(model)
    assert not out.exists()


def test_a_setting_that_cannot_be_kept_is_refused_before_anything(
    tmp_path: Path, capsys, monkeypatch
):
    absent(monkeypatch)
    run = ["run", "dpo", "--task", "micro", "--machine.quantise", "nf4", "--dry_run"]
    assert cli.main(run) == 2
    assert "nf4 without machine.lora" in capsys.readouterr().err
    assert cli.main([*run, "--machine.lora.rank", "4"]) == 2
    assert "nf4 without bitsandbytes" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="without bitsandbytes"):
        open_policy(wide(tmp_path / "m"), QLORA, train=True)


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised by gptq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes in 8 bits"),
        ({}, "a method that it does not name"),
    ],
)
def test_other_packed_folders_are_refused_with_a_way_on(
    note: dict[str, Any], words: str, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr("tandem.models.packed_folder.has_bitsandbytes", lambda: True)
    with pytest.raises(ModelError, match=words) as refused:
        check_policy(noted(tmp_path / "m", note))
    assert "--machine.quantise nf4" in refused.value.do


def state(**changes: Any) -> torch.Tensor:
    known = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [128, 64]}
    raw = json.dumps({**known, **changes}).encode()
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


@pytest.mark.parametrize(
    "parts",
    [
        {"weight": torch.zeros(4095, 1, dtype=torch.uint8)},
        {"weight": torch.zeros(4096, 1)},
        {"absmax": torch.ones(127)},
        {"absmax": torch.ones(128, dtype=torch.float64)},
        {"quant_map": torch.ones(15)},
        {STATE: state(shape=[128, 6400])},
        {STATE: state(shape=[-128, -64])},
        {STATE: state(shape=[2**40, 64])},
        {STATE: state(blocksize=1)},
        {STATE: state(blocksize=0)},
        {STATE: state(quant_type="fp4")},
        {STATE: state(nested_blocksize=256, nested_offset=0.0)},
        {STATE: torch.zeros(9000, dtype=torch.uint8)},
        {STATE: torch.full((40,), 0x5B, dtype=torch.uint8)},
    ],
)
def test_packed_parts_that_do_not_belong_together_are_refused_before_they_are_read(
    parts: dict[str, torch.Tensor], tmp_path: Path, monkeypatch
):
    """What unpacks them reads as many bytes as their JSON says, wherever those are."""
    monkeypatch.setattr("tandem.models.packed_folder.has_bitsandbytes", lambda: True)
    if len(parts) == 1 and "weight" in parts:
        check_policy(forged(tmp_path / "good"))
    with pytest.raises(ModelError, match="parts do not belong together"):
        check_policy(forged(tmp_path / "m", **parts))
    with pytest.raises(ModelError, match="parts do not belong together"):
        load_policy(tmp_path / "m", FP32)


def test_whole_weights_beside_a_note_are_whole(tmp_path: Path):
    """The note describes nothing that is there."""
    lm = load_policy(noted(tmp_path / "m", NOTE), FP32)
    assert not is_quantised(lm)
    assert getattr(lm.config, "quantization_config", None) is None
    assert torch.equal(
        lm.get_parameter("model.embed_tokens.weight"),
        load_file(tmp_path / "m" / "model.safetensors")["model.embed_tokens.weight"],
    )


def test_four_bits_count_as_four_bits_before_anything_is_loaded(tmp_path: Path, monkeypatch):
    """A model that fits packed and not whole."""
    model = wide(tmp_path / "m", num_hidden_layers=4)
    count = sum(p.numel() for p in load_policy(model, FP32).parameters())
    monkeypatch.setattr("tandem.training.memory.usable_memory", lambda device: 2 * count)
    with pytest.raises(ConfigError, match="4-bit"):
        check_trainable(model, LORA)
    check_trainable(model, QLORA)


# with it -----------------------------------------------------------------------------------------


def packed(path: Path, source: Path, nested: bool = False, kind: str = "nf4") -> Path:
    """Pack a folder as others do, by transformers."""
    how = hf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=nested
    )
    lm = hf.AutoModelForCausalLM.from_pretrained(source, quantization_config=how)
    lm.save_pretrained(path)
    hf.AutoTokenizer.from_pretrained(source).save_pretrained(path)
    return path


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "nested"), [("nf4", False), ("nf4", True), ("fp4", False)])
def test_a_packed_folder_is_one_model_packed_and_unpacked(kind: str, nested: bool, tmp_path: Path):
    source = wide(tmp_path / "whole")
    model = packed(tmp_path / "packed", source, nested, kind)
    check_policy(model)
    assert stored_dtype(model) == torch.float32
    stays, whole = (open_policy(model, m, train=True) for m in (QLORA, LORA))
    assert is_quantised(stays)
    assert not is_quantised(whole)
    assert getattr(whole.inner.config, "quantization_config", None) is None
    torch.testing.assert_close(logp(stays), logp(whole), rtol=0, atol=2e-6)
    ours = open_policy(source, QLORA, train=True)
    if kind == "nf4" and not nested:
        torch.testing.assert_close(logp(stays), logp(ours), rtol=0, atol=0)
    base = logp(open_policy(source, FP32))
    assert float((logp(stays) - base).abs().mean()) > 1e-4, "4 bits are another model"


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("nested", [False, True])
def test_dpo_over_a_packed_folder(nested: bool, tmp_path: Path):
    model = packed(tmp_path / "packed", wide(tmp_path / "whole"), nested)
    ctx, heard = StageContext.at(tmp_path / "run", machine=QLORA, seed=Seed(3)), Heard()
    ctx = replace(ctx, events=heard)
    cfg = dpo.DPOConfig(epochs=2, batch=4, optim=Optim(lr=1e-2, warmup=0.0))
    made = dpo.fit(Checkpoint(model), pairs(), cfg, ctx=ctx)
    assert heard.of("train")[0]["sigmoid_loss"] == pytest.approx(np.log(2), abs=1e-4)
    check_policy(made.path)
    assert stored_dtype(made.path) == torch.float32
    assert not is_quantised(open_policy(made.path, FP32))


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", [False, True])
def test_loss_and_gradient_are_those_of_adapters_over_the_unpacked_base(bias: bool, tmp_path: Path):
    source = wide(tmp_path / "whole", attention_bias=bias)
    four = open_policy(source, QLORA, train=True, seed=Seed(1))
    unpacking.write_unpacked(open_policy(source, QLORA, reference=True).lm, tmp_path / "base",
                             torch.float32)  # fmt: skip
    whole = open_policy(folder_with(tmp_path / "base", source), LORA, train=True, seed=Seed(1))
    grads: list[dict[str, torch.Tensor]] = []
    for policy in (four, whole):
        for name, p in policy.lm.named_parameters():
            if "lora_B" in name:
                p.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
        out = policy(pack_groups(list(pairs()), policy.layout).tokens)
        assert out.logp is not None
        (-out.logp.values.mean()).backward()
        grads.append({n: p.grad for n, p in policy.lm.named_parameters() if p.grad is not None})
    torch.testing.assert_close(logp(four), logp(whole), rtol=0, atol=2e-6)
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-7)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_packed_layers_follow_autocast(tmp_path: Path):
    """In bf16 the layout is probed in fp32 as of any model, and numbers are those of bf16."""
    source = wide(tmp_path / "whole")
    four = open_policy(source, replace(QLORA, precision="bf16", layout="auto"), train=True)
    plain = open_policy(source, replace(LORA, precision="bf16", layout="auto"), train=True)
    assert (four.layout, four.narrow) == (plain.layout, plain.narrow) == ("shared", True)
    low, exact = logp(four), logp(open_policy(source, QLORA, train=True))
    assert 1e-3 < float((low - exact).abs().mean()) < 0.1
    linear = next(m for m in four.modules() if hasattr(getattr(m, "weight", None), "quant_state"))
    x = torch.ones(1, linear.in_features)  # type: ignore[arg-type]
    assert linear(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x).dtype == torch.bfloat16


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_in_several_files_is_the_model(dtype: torch.dtype, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(unpacking, "FILE_BYTES", 40_000)
    policy = open_policy(wide(tmp_path / "whole"), QLORA, train=True)
    for name, p in policy.lm.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    before = logp(policy)
    unpacking.write_unpacked(policy.lm, tmp_path / "out", dtype)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    unpacking.merge_products(policy.lm, dtype)
    again = open_policy(folder_with(tmp_path / "out", tmp_path / "whole"), FP32)
    torch.testing.assert_close(logp(policy), logp(again), rtol=0, atol=2e-6)
    gap = float((before - logp(again)).abs().max())
    assert gap < (2e-5 if dtype == torch.float32 else 0.5)
    assert (gap > 1e-3) == (dtype == torch.bfloat16)
    assert {v.dtype for _, v in plain_state(again.inner)} == {torch.float32}


def folder_with(out: Path, source: Path) -> Path:
    hf.AutoTokenizer.from_pretrained(source).save_pretrained(out)
    return out


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_a_packed_export_that_is_another_model_is_an_error(tmp_path: Path, monkeypatch):
    from tandem.training import fitting

    base = Checkpoint(wide(tmp_path / "base"), "base")
    ctx = StageContext.at(tmp_path / "sft", machine=QLORA)
    policy = open_policy(base.path, QLORA, train=True)
    fitting.save_checkpoint(policy, base, ctx, "SFT")
    real = fitting.save_model

    def losing(model: Any, tokenizer: Any, out: Path, **more: Any) -> Any:
        found = real(model, tokenizer, out, **more)
        weights = load_file(out / "model.safetensors")
        weights["model.layers.1.mlp.up_proj.weight"] *= 1.001
        save_file(weights, out / "model.safetensors", {"format": "pt"})
        return found

    monkeypatch.setattr(fitting, "save_model", losing)
    policy = open_policy(base.path, QLORA, train=True)
    with pytest.raises(ModelError, match=r"1 weights are not those .*up_proj"):
        fitting.save_checkpoint(policy, base, StageContext.at(tmp_path / "b", machine=QLORA), "SFT")


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_a_reward_model_over_packed_weights(tmp_path: Path):
    """Also where the note lists the layers that stay whole, of which a new head is none."""
    from tandem.methods import reward

    for name, source in (
        ("whole", wide(tmp_path / "whole")),
        ("packed", packed(tmp_path / "packed", tmp_path / "whole")),
    ):
        if name == "packed":
            file = source / "config.json"
            config = json.loads(file.read_text())
            config["quantization_config"]["llm_int8_skip_modules"] = ["lm_head"]
            file.write_text(json.dumps(config))
        ctx = StageContext.at(tmp_path / f"{name}-reward", machine=QLORA)
        made = reward.fit(Checkpoint(source), pairs(), reward.RewardConfig(batch=4), ctx=ctx)
        assert not is_quantised(open_scalar(made.path, FP32))
    with pytest.raises(ConfigError, match=r"without machine\.lora"):
        open_scalar(source, replace(QLORA, lora=None), fresh=Seed(0), train=True)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_a_value_function_beside_a_packed_policy_is_trained_whole(tmp_path: Path):
    from climbing import Letters
    from tandem.methods import ppo

    ctx = StageContext.at(tmp_path / "ppo", machine=QLORA)
    init = Checkpoint(wide(tmp_path / "m"), "m")
    models = ppo.actor_critic(init, Letters(), ppo.PPOConfig(), ctx)
    assert models.critic is not None
    assert is_quantised(models.actor)
    assert not is_quantised(models.critic)
    assert sum(p.requires_grad for p in models.critic.inner.parameters()) > 10


@needs_bitsandbytes
def test_an_estimate_counts_packed_bytes(tmp_path: Path):
    from tandem.training import memory

    machine = Machine(device="cpu", precision="fp32", layout="rows", lora=Lora(rank=4))
    source = wide(tmp_path / "m")
    needs = []
    for quantise in ("none", "nf4"):
        policy = open_policy(source, replace(machine, quantise=quantise), train=True)
        needs.append(memory._need(policy, 0.0, 0.0, 100, 0, 1.0))
    linear = 2 * (3 * 64 * 128 + 2 * 64 * 64 + 2 * 64 * 32)
    saved = needs[0].weights - needs[1].weights
    assert saved == pytest.approx(linear * (4 - 0.5625), rel=1e-3)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_a_packed_matrix_that_is_turned_is_refused(tmp_path: Path):
    """As many codes and scales as it should have, of the other shape."""
    model = packed(tmp_path / "packed", wide(tmp_path / "whole"))
    weights = load_file(model / "model.safetensors")
    name = f"model.layers.0.mlp.up_proj.weight.{STATE}"
    known = json.loads(weights[name].numpy().tobytes())
    raw = json.dumps({**known, "shape": known["shape"][::-1]}).encode()
    weights[name] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj.weight` is packed as \[64, 128\]"):
        load_policy(model, QLORA, packed=True)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
def test_a_packed_folder_on_the_command_line(tmp_path: Path, capsys):
    """Planned, trained without and with its 4 bits, exported."""
    model = packed(tmp_path / "packed", wide(tmp_path / "whole"))
    rows = tmp_path / "d.jsonl"
    words = ("abc", "bca", "cab", "acb", "bac", "cba", "aab", "bbc", "cca", "abb")
    rows.write_text(
        "".join(
            json.dumps({"prompt": a + b, "chosen": a, "rejected": b}) + "\n"
            for a in words
            for b in words
            if a != b
        )
    )
    given = ["dpo", f"--model={model}", f"--data={rows}", "--start=model", "--evaluate=none"]
    small = ["--dpo.epochs=1", "--dpo.batch=8", "--machine.lora.rank=4", "--sampling.max_tokens=8"]
    four = [*given, *small, "--machine.quantise=nf4", f"--out={tmp_path / 'four'}"]
    assert cli.main(["plan", *four]) == 0
    assert cli.main(["run", *four]) == 0
    assert cli.main(["run", *given, *small, f"--out={tmp_path / 'whole-run'}"]) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    assert cli.main(["export", str(tmp_path / "four"), f"--out={out}", "--dtype=bf16"]) == 0
    assert not is_quantised(load_policy(out, FP32))
    check_policy(out)
