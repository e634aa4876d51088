"""A model as other programs want it: another dtype, the adapter alone, GGUF."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tandem.errors import ConfigError, ModelError
from tandem.machine import Machine
from tandem.models import loading
from tandem.models.saving import STORED, save_model
from tandem.models.tokenizers import load_tokenizer
from tandem.runs.checkpoint import MODEL_FILES
from tandem.runs.weight_files import loaded_weights

CONVERTER = "convert_hf_to_gguf.py"
GGUF_DTYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def export_weights(model: Path, out: Path, dtype: str | None = None) -> None:
    """Write a plain folder of a model; files are copied where the dtype is to stay.

    Args:
        model: a folder of a causal language model.
        out: the folder, made when missing.
        dtype: fp32, bf16 or fp16; as it is if not given.

    Raises:
        ModelError: the model cannot be loaded.
    """
    if dtype is None:
        copy_model_files(model, out)
        return
    lm = loading.load_policy(model, Machine(device="cpu"))
    save_model(lm, load_tokenizer(model), out, dtype=STORED[dtype])


def share_kept_by_rounding(model: Path, start: Path, dtype: torch.dtype) -> float | None:
    """Return how much of what training changed is still there in a dtype: 1 is all of it.

    It is the projection of the rounded change on the change, over all weights that both folders
    hold. Weights are read one after another.

    Args:
        model: folder of the trained model.
        start: folder of the model that training began with.
        dtype: in which the trained model is to be stored.

    Returns:
        None where no weight changed, or the folders hold different ones.
    """
    kept = whole = 0.0
    before = {name: file for file in loaded_weights(start) for name in _names(file)}
    for file in loaded_weights(model):
        with safe_open(file, framework="pt") as trained:
            for name in sorted(set(_names(file)) & set(before)):
                with safe_open(before[name], framework="pt") as old:
                    w, w_0 = trained.get_tensor(name), old.get_tensor(name)
                if w.shape != w_0.shape or not (w.is_floating_point() and w_0.is_floating_point()):
                    return None
                change = w.double() - w_0.double()
                whole += float(change.square().sum())
                kept += float((change * (w.to(dtype).double() - w_0.double())).sum())
    return kept / whole if whole else None


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as weights:
        return list(weights.keys())


def copy_model_files(model: Path, out: Path) -> None:
    """Copy what belongs to a model, and nothing beneath it."""
    out.mkdir(parents=True, exist_ok=True)
    for pattern in MODEL_FILES:
        for file in sorted(model.glob(pattern)):
            shutil.copyfile(file, out / file.name)


def export_adapter(model: Path, out: Path, base: str | None) -> None:
    """Write the LoRA adapter of a trained folder, with the name of its base in it.

    Args:
        model: a folder that a fit with adapters made.
        out: the folder, made when missing.
        base: what the adapter stands on, as other programs will look for it.

    Raises:
        ModelError: the model was not trained with adapters.
    """
    adapter = model / "adapter"
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(
            f"{model} has no adapter",
            "it was trained whole, or its adapter was not kept",
            "export it without --adapter; adapters are trained with --machine.lora.rank 16",
        )
    copy_model_files(adapter, out)
    path = out / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    load_tokenizer(model).save_pretrained(out)


def find_gguf_converter() -> Path:
    """Return llama.cpp's converter: on the path, or in the folder that LLAMA_CPP names.

    Raises:
        ConfigError: it is nowhere.
    """
    places = [shutil.which(CONVERTER)]
    if folder := os.environ.get("LLAMA_CPP"):
        places.append(str(Path(folder) / CONVERTER))
    for place in places:
        if place is not None and Path(place).is_file():
            return Path(place)
    raise ConfigError(
        f"--gguf needs {CONVERTER}, which is not here",
        "GGUF is llama.cpp's format, and its own program writes it; no library that Tandem uses "
        "does",
        "git clone https://github.com/ggml-org/llama.cpp, pip install gguf, and export "
        "LLAMA_CPP=FOLDER of the clone",
    )


def write_gguf(converter: Path, model: Path, file: Path, dtype: str) -> None:
    """Let llama.cpp's converter write one GGUF file of a model folder.

    Raises:
        ModelError: it failed.
    """
    words = [sys.executable, str(converter), str(model), "--outfile", str(file)]
    done = subprocess.run(
        [*words, "--outtype", GGUF_DTYPES[dtype]], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not file.is_file():
        last = (done.stderr.strip().splitlines() or ["nothing was written"])[-1][:300]
        raise ModelError(
            f"{converter.name} did not write {file.name}: {last}",
            "llama.cpp converts the architectures that it knows",
            f"run it by hand to see more: {' '.join(words)}",
        )
