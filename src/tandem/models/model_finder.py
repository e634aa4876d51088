"""A model as people give it becomes a plain folder: a path, a hub id, an adapter, a GGUF file.

    my-model                      a Hugging Face folder, taken as it is
    owner/name, owner/name@v1     fetched from the hub, once; `@` names a branch, tag or commit
    runs/mine                     a run: the policy that it ended in; or one of its stages
    my-adapter                    a LoRA adapter: merged into its base, once
    model.Q4_K_M.gguf             dequantised, once
    s3://bucket/my-model          any of the above but a hub id or a run, fetched from a store, once

What is made is kept in the cache folder (`TANDEM_CACHE`) under the hash of what it was made from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tandem.data.remote_files import fetch_files, is_address
from tandem.errors import ModelError, nearest_name
from tandem.machine import Machine, cache_folder
from tandem.models import loading
from tandem.models.checks import check_policy
from tandem.models.folders import UNREADABLE, first_line, without_warnings
from tandem.models.lora import without_peft_warnings
from tandem.models.saving import save_model, stored_dtype
from tandem.models.tokenizers import load_tokenizer
from tandem.runs.checkpoint import MODEL_FILES, Checkpoint, file_hash
from tandem.runs.identity import fingerprint
from tandem.runs.policies import policy_of
from tandem.runs.weight_files import loaded_weights

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w][\w./-]*))?")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DEEPEST = 3
"""So many adapters may stand on one another."""


def find_model(given: str | Path) -> Checkpoint:
    """Return the folder of a model, made or fetched where it has to be.

    Args:
        given: a folder, a hub id with or without `@revision`, an adapter folder, a .gguf file, or
            an address of a store.

    Raises:
        ModelError: nothing is there, hub or store cannot be reached, or it is no model.
    """
    if is_address(given):
        given = fetch_files(str(given), ModelError, MODEL_FILES)
    return _find(str(given), DEEPEST)


def _find(given: str, depth: int) -> Checkpoint:
    path = Path(given).expanduser()
    if path.is_file() and path.suffix.lower() == ".gguf":
        return Checkpoint(open_gguf(path), path.stem)
    if path.is_dir():
        if (made := policy_of(path)) is not None:
            return made
        if (path / ADAPTER_CONFIG).exists() and not _holds_model(path):
            return Checkpoint(_merge_adapter(path, depth), path.name)
        return Checkpoint(path, path.resolve().name)
    if (match := HUB_ID.fullmatch(given)) is not None and not path.exists():
        if path.parent.is_dir() and str(path.parent) != ".":
            raise _nothing(given, path)
        owner_name, revision = match.groups()
        folder = fetch_model(owner_name, revision)
        return Checkpoint(folder, owner_name.partition("/")[2])
    raise _nothing(given, path)


def _holds_model(path: Path) -> bool:
    """True for a whole model; some programs put the base's config.json beside an adapter."""
    return (path / "config.json").exists() and bool(loaded_weights(path))


def _nothing(given: str, path: Path) -> ModelError:
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    return ModelError(
        f"there is no model {given}",
        f"a model is a folder, a .gguf file or a hub id.{nearest_name(path.name, there)}",
        "give the folder that `save_pretrained` made, or owner/name of the hub",
    )


def fetch_model(name: str, revision: str | None = None) -> Path:
    """Fetch a model of the hub, weights in safetensors alone; return its folder.

    Raises:
        ModelError: it is not there, needs a token, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = f"{name}@{revision}" if revision else name
    try:
        with without_warnings():
            patterns: list[str] = list(MODEL_FILES)
            return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise ModelError(
            f"the hub does not give {wanted} to you",
            "its owner asks everybody to agree to something first",
            f"agree on https://huggingface.co/{name}, then `hf auth login`",
        ) from error
    except (RevisionNotFoundError, RepositoryNotFoundError) as error:
        raise ModelError(
            f"the hub has no {wanted}",
            "the name, or the branch, tag or commit behind @, is not there; or it is private",
            f"look at https://huggingface.co/{name}; for a private one `hf auth login`",
        ) from error
    except Exception as error:  # of the network there are many kinds
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        why = (
            "HF_HUB_OFFLINE is set" if offline else f"the hub was not reached: {first_line(error)}"
        )
        again = " --revision " + revision if revision else ""
        raise ModelError(
            f"{wanted} is not on this machine",
            f"{why}; there is no folder of that name either",
            f"where there is a network: `hf download {name}{again} --local-dir FOLDER`; then "
            "give FOLDER here",
        ) from error


def _untie_tables(lm: Any) -> None:
    """Give a head and its embeddings tables of their own where an adapter changes one of them.

    Merging writes into the table, and a table that both share would change in both places.
    """
    tables = [lm.get_input_embeddings(), lm.get_output_embeddings()]
    if None in tables or not any(hasattr(t, "base_layer") for t in tables):
        return
    first, head = (getattr(t, "base_layer", t) for t in tables)
    if head.weight is first.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for config in {id(c): c for c in (lm.config, lm.config.get_text_config())}.values():
        config.tie_word_embeddings = False


def _merge_adapter(adapter: Path, depth: int) -> Path:
    """Merge a LoRA adapter into its base: what is trained, and referred to, is base + adapter."""
    config = _adapter_config(adapter)
    base = _find_base(adapter, config, depth)
    check_policy(base)
    files = [f for pattern in MODEL_FILES for f in sorted(adapter.glob(pattern))]
    mark = [Checkpoint(base).hash, *(file_hash(f) for f in files)]

    def make(out: Path) -> None:
        from peft import PeftModel

        lm = loading.load_policy(base, Machine(device="cpu"))
        try:
            with without_warnings(), without_peft_warnings():
                wrapped: Any = PeftModel.from_pretrained(lm, str(adapter))
                strange = _strange_weights(wrapped, adapter)
                _untie_tables(lm)
                merged = wrapped.merge_and_unload()
        except UNREADABLE as error:
            raise ModelError(
                f"{adapter} cannot be put on {base}: {first_line(error)}",
                "an adapter fits the model that it was trained on, and no other",
                "give the adapter beside its own base: base_model_name_or_path in "
                f"{ADAPTER_CONFIG} names it",
            ) from error
        if strange:
            raise ModelError(
                f"{adapter} cannot be put on {base}: {len(strange)} weights have no place in it or "
                f"are missing, first {strange[0]}",
                "what has no place would be left out, and the model would be its base",
                "give the adapter beside its own base: base_model_name_or_path in "
                f"{ADAPTER_CONFIG} names it",
            )
        save_model(merged, _adapter_tokenizer(adapter, base), out, dtype=stored_dtype(base))

    return _kept(f"merged-{fingerprint(mark)}", make)


def _strange_weights(wrapped: Any, adapter: Path) -> list[str]:
    """Return what an adapter's file holds that the model has no place for, and what it lacks."""
    from peft import get_peft_model_state_dict

    with safe_open(adapter / ADAPTER_WEIGHTS, framework="numpy") as file:
        given = set(file.keys())
    placed = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    known = placed | set(wrapped.state_dict())
    return sorted((given - known) | {name for name in placed - given if "lora_" in name})


def _adapter_tokenizer(adapter: Path, base: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer that was saved with the adapter, or the base's."""
    if not (adapter / "tokenizer_config.json").exists():
        return load_tokenizer(base)
    try:
        return AutoTokenizer.from_pretrained(adapter, trust_remote_code=False)
    except UNREADABLE as error:
        raise ModelError(
            f"the tokenizer of {adapter} cannot be loaded: {first_line(error)}",
            "a tokenizer that was saved with an adapter is used with it",
            "put the base's tokenizer files in its place, or take them out",
        ) from error


def _adapter_config(adapter: Path) -> dict[str, Any]:
    path = adapter / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        base, kind = config["base_model_name_or_path"], config.get("peft_type")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} cannot be read: {error!r}",
            "it says what the adapter is and which model it belongs to",
            "save the adapter again with `save_pretrained`",
        ) from error
    if kind != "LORA" or not (adapter / ADAPTER_WEIGHTS).is_file():
        found = f"{kind} adapter" if kind != "LORA" else f"adapter without {ADAPTER_WEIGHTS}"
        raise ModelError(
            f"{adapter} is a {found}",
            "LoRA adapters in safetensors are merged; others, and pickled ones, are not",
            "merge it with PEFT (`merge_and_unload`), and give the folder of the whole model",
        )
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{path} does not name the model that the adapter belongs to",
            "an adapter alone is a difference to a model",
            "write the model's folder or hub id into base_model_name_or_path",
        )
    return config


def _find_base(adapter: Path, config: dict[str, Any], depth: int) -> Path:
    named = str(config["base_model_name_or_path"])
    if depth == 0:
        raise ModelError(
            f"{adapter} stands on {DEEPEST} other adapters, or on itself",
            "each is merged into its base first, and there is no end to it",
            "merge them with PEFT, and give the folder of the whole model",
        )
    beside = adapter.resolve().parent / named
    if not Path(named).exists() and beside.is_dir():
        named = str(beside)
    elif config.get("revision") and HUB_ID.fullmatch(named) and not Path(named).exists():
        named = f"{named}@{config['revision']}"
    try:
        return _find(named, depth - 1).path
    except ModelError as error:
        raise ModelError(
            f"{adapter} is a LoRA adapter of `{named}`, which is not here",
            error.why,
            f"put the model into {beside}, or name its folder in base_model_name_or_path of "
            f"{adapter / ADAPTER_CONFIG}",
        ) from error


def open_gguf(file: Path) -> Path:
    """Dequantise a GGUF file into a folder of fp32 weights; return the folder.

    Raises:
        ModelError: the package `gguf` is not installed, or the file cannot be read.
    """

    def make(out: Path) -> None:
        from transformers import AutoModelForCausalLM

        try:
            with without_warnings():
                where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
                lm: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
                tokenizer = AutoTokenizer.from_pretrained(**where)
        except UNREADABLE as error:
            raise ModelError(
                f"{file} cannot be opened: {first_line(error)}",
                "GGUF is read by transformers, which knows some architectures and needs the "
                "package gguf",
                "pip install gguf; or give the Hugging Face folder that the file was made from",
            ) from error
        for kind in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(lm.config, kind):
                delattr(lm.config, kind)
        for kind in ("hf_quantizer", "quantization_method", "is_quantized"):
            if hasattr(lm, kind):
                setattr(lm, kind, None)
        save_model(lm, tokenizer, out, dtype=torch.float32)

    return _kept(f"gguf-{file_hash(file)}", make)


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, made whole or not at all."""
    place = cache_folder() / "models" / name
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=place.parent))
    try:
        make(part)
        try:
            part.rename(place)
        except OSError:  # another process was first
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place
