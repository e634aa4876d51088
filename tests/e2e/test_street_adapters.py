"""LoRA adapters as other programs save them: merged into what they were trained on, or refused."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_street_models import model

from tandem.errors import ModelError
from tandem.models.checks import check_policy
from tandem.models.model_finder import find_model
from vocabularies import CHATML, ENDLESS, byte_bpe

IDS = torch.tensor([[3, 40, 41, 42, 43]])
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def adapted(base: Path, folder: Path, **how: Any) -> torch.Tensor:
    """Save an adapter that changes its base; return the logits of both together."""
    lm: Any = hf.AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(lm, LoraConfig(**{"target_modules": ["q_proj"], "r": 2} | how))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn(weight.shape, generator=draw))
        logits = wrapped.eval()(input_ids=IDS).logits
    wrapped.save_pretrained(folder)
    configure(folder, base_model_name_or_path=str(base))
    return logits


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


HOW: dict[str, dict[str, Any]] = {
    "all linear layers": {"target_modules": "all-linear"},
    "a pattern": {"target_modules": r".*\.(q|v)_proj"},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 4},
    "DoRA": {"use_dora": True},
    "another rank for a layer": {"target_modules": ["q_proj", "v_proj"],
                                 "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 32}},
    "a head of its own": {"modules_to_save": ["lm_head"]},
    "embeddings of its own": {"modules_to_save": ["embed_tokens"]},
    "embeddings adapted": {"target_modules": ["embed_tokens", "q_proj"]},
    "norms of its own": {"modules_to_save": ["norm"]},
    "trained tokens": {"trainable_token_indices": [40, 41]},
    "a bias": {"bias": "all"},
    "the last layer": {"layers_to_transform": [0]},
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n == "DoRA" else pytest.param(n, marks=pytest.mark.slow) for n in HOW]
)
def test_base_plus_adapter_is_what_was_trained(name: str, tmp_path: Path):
    wanted = adapted(model(tmp_path / "base"), tmp_path / "adapter", **HOW[name])
    merged: Any = hf.AutoModelForCausalLM.from_pretrained(find_model(tmp_path / "adapter").path)
    plain: Any = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=IDS).logits, wanted, atol=2e-5)
        assert not torch.allclose(plain(input_ids=IDS).logits, wanted, atol=1e-3)


TIED: dict[str, dict[str, Any]] = {
    "the head": {"target_modules": ["lm_head", "q_proj"]},
    "the embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "a head of its own": {"modules_to_save": ["lm_head"]},
    "neither": {"target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("name", TIED)
def test_of_a_table_that_two_share_one_alone_is_changed(name: str, tmp_path: Path):
    """Merged into a tied table, what was trained for the head would change the embeddings too."""
    base = model(tmp_path / "base")
    lm: Any = hf.AutoModelForCausalLM.from_pretrained(base)
    lm.config.tie_word_embeddings, lm.lm_head.weight = True, lm.model.embed_tokens.weight
    lm.save_pretrained(base)
    assert "lm_head.weight" not in load_file(base / "model.safetensors")
    wanted = adapted(base, tmp_path / "adapter", **TIED[name])
    found = find_model(tmp_path / "adapter").path
    merged: Any = hf.AutoModelForCausalLM.from_pretrained(found)
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=IDS).logits, wanted, atol=2e-5)
    assert merged.config.tie_word_embeddings == (name == "neither")


def without_base(folder: Path) -> None:
    configure(folder, base_model_name_or_path=None)


def on_the_hub(folder: Path) -> None:
    configure(folder, base_model_name_or_path="owner/name", revision="v1")


def of_prompts(folder: Path) -> None:
    configure(folder, peft_type="PROMPT_TUNING")


def of_vectors(folder: Path) -> None:
    configure(folder, peft_type="IA3")


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def cut_short(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def of_another(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({k: torch.zeros(7, 7) for k in weights}, folder / "adapter_model.safetensors")


def of_other_layers(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    renamed = {k.replace("layers.0", "layers.9"): v for k, v in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors")


def on_packed_weights(folder: Path) -> None:
    path = folder.parent / "base" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))


def on_itself(folder: Path) -> None:
    configure(folder, base_model_name_or_path=str(folder))


def without_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_base, "does not name the model"),
        (on_the_hub, "LoRA adapter of `owner/name@v1`, which is not here"),
        (of_prompts, "PROMPT_TUNING adapter"),
        (of_vectors, "IA3 adapter"),
        (pickled, "without adapter_model.safetensors"),
        (cut_short, "cannot be put on"),
        (of_another, "cannot be put on"),
        (of_other_layers, "cannot be put on"),
        (on_packed_weights, "quantised by bitsandbytes"),
        (on_itself, "which is not here"),
        (without_config, "cannot be read"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(change: Any, words: str, tmp_path: Path):
    if not (saved := tmp_path.parent / "adapters").exists():
        adapted(model(saved / "base"), saved / "adapter")
    for name in ("base", "adapter"):
        shutil.copytree(saved / name, tmp_path / name)
    configure(tmp_path / "adapter", base_model_name_or_path="base")
    change(tmp_path / "adapter")
    with pytest.raises(ModelError, match=words):
        find_model(tmp_path / "adapter")
    kept = tmp_path / "cache" / "models"
    assert not kept.exists() or not list(kept.iterdir()), "nothing half-made is left"


def test_the_adapters_own_tokenizer_counts(tmp_path: Path):
    adapted(model(tmp_path / "base", CHATML), tmp_path / "adapter")
    byte_bpe(ENDLESS).save_pretrained(tmp_path / "adapter")
    found = find_model(tmp_path / "adapter").path
    assert hf.AutoTokenizer.from_pretrained(found).chat_template == ENDLESS
    longer = byte_bpe(CHATML)
    longer.add_tokens(["<|user_tag|>"], special_tokens=True)
    longer.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="no row for the tokens 376"):
        check_policy(find_model(tmp_path / "adapter").path)
