"""Loading and saving models: Hugging Face folders in, Hugging Face folders out.

Weights are safetensors, remote code stays off, dropout is off everywhere (a policy that is
sampled and a policy that is trained must be the same function), and master weights are fp32.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hub

from tandem.errors import ModelError
from tandem.machine import Lora, Machine, process_rank
from tandem.rng import Seed

Source = Path | str
"""A model folder, or the id of a model on the hub."""

PAIR = "pair"
"""What `reads` says of a scalar model that reads two answers as one sequence."""

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
"""What transformers raises for a folder that is broken in one way or another."""


def device(machine: Machine) -> torch.device:
    """Return the device that a machine's settings mean here."""
    if machine.device != "auto":
        return torch.device(machine.device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def precision(machine: Machine) -> torch.dtype:
    """Return the compute dtype: bf16 where the processor multiplies it natively, else fp32."""
    if machine.precision != "auto":
        return torch.bfloat16 if machine.precision == "bf16" else torch.float32
    if device(machine).type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def load_tokenizer(source: Source, *, ends: bool = True) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        source: the model's folder.
        ends: ask for an end-of-sequence token, which every policy needs, and an encoder does not.

    Raises:
        ModelError: there is none, or it has no end-of-sequence token.
    """
    _exists(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"no tokenizer can be loaded from {source}: {_first_line(error)}",
            "prompts and completions are tokenised with the model's own tokenizer",
            "put tokenizer.json and tokenizer_config.json into the model's folder",
        ) from error
    if ends and tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {source} has no end-of-sequence token",
            "without one no completion can end, and the model never learns to stop",
            "set eos_token in tokenizer_config.json",
        )
    return tokenizer


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what a tokenizer does: vocabulary, rules, special tokens, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [
        backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab()),
        json.dumps({k: str(v) for k, v in tokenizer.special_tokens_map.items()}),
        str(tokenizer.chat_template),
    ]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def same_tokens(a: Source, b: Source) -> bool:
    """Return True if two models read the same tokens."""
    return tokenizer_hash(load_tokenizer(a)) == tokenizer_hash(load_tokenizer(b))


def load_policy(source: Source, machine: Machine) -> PreTrainedModel:
    """Load a causal language model in fp32 onto the machine's device.

    Raises:
        ModelError: the folder is missing, is not a causal language model, or has no safetensors.
    """
    return _ready(_load(AutoModelForCausalLM, source), machine)


def load_classifier(source: Source, machine: Machine) -> PreTrainedModel:
    """Load a sequence classifier, its labels as they are; raises what `load_policy` raises."""
    return _ready(_load(AutoModelForSequenceClassification, source), machine)


def load_encoder(source: Source, machine: Machine) -> PreTrainedModel:
    """Load a model without a head; raises what `load_policy` raises."""
    return _ready(_load(AutoModel, source), machine)


def load_scalar(
    source: Source,
    machine: Machine,
    *,
    fresh: Seed | None = None,
    zero: bool = False,
    layers: int | None = None,
) -> PreTrainedModel:
    """Load a model with a scalar head on the last token (one label, no bias).

    Args:
        source: a folder of such a model, or of a causal language model when `fresh` is given.
        machine: device settings.
        fresh: draw a new head from N(0, 1/(d + 1)) with this seed.
        zero: with `fresh`, start the head at zero instead.
        layers: keep only the first layers of the body: a smaller model of the same family.

    The padding token is written into the configuration, because transformers finds the last
    token by it. Where it is also the end of a sequence there is none to be told apart: the
    configuration then has no padding, and transformers scores one sequence at a time, or refuses.

    Raises:
        ModelError: as `load_policy`; or there is no scalar head and none is to be drawn.
    """
    tokenizer = load_tokenizer(source)
    head = () if fresh is None else ("score.weight",)
    model = _load(AutoModelForSequenceClassification, source, new=head, num_labels=1)
    pad = tokenizer.pad_token_id
    model.config.pad_token_id = None if pad == tokenizer.eos_token_id else pad
    if layers is not None:
        _cut(model, layers)
    if fresh is not None:
        head: Any = model.score
        std = 0.0 if zero else 1 / math.sqrt(head.weight.shape[1] + 1)
        draw = torch.Generator().manual_seed(int(fresh))
        weight = torch.randn(head.weight.shape, generator=draw) * std
        head.weight.data.copy_(weight)
    return _ready(model, machine)


def _cut(model: Any, layers: int) -> None:
    body = getattr(model, model.base_model_prefix)
    deep = len(getattr(body, "layers", ()))
    if not 1 <= layers <= deep:
        raise ModelError(
            f"the first {layers} layers of {type(model).__name__}",
            f"it has {deep or 'no list of'} layers that can be counted off",
            "ask for fewer layers, or leave the model whole",
        )
    body.layers = body.layers[:layers]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]


def value_head(model: PreTrainedModel) -> nn.Linear:
    """Return a scalar head for a model's hidden states; it starts at zero."""
    head = nn.Linear(int(model.config.hidden_size), 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def scale(model: PreTrainedModel) -> tuple[float, float]:
    """Return the (gain, bias) that a reward model was stored with: score = gain * raw + bias."""
    stored = getattr(model.config, "tandem", None) or {}
    return float(stored.get("gain", 1.0)), float(stored.get("bias", 0.0))


def reads(model: PreTrainedModel) -> str:
    """Return what a scalar model reads as one sequence: an `answer`, or a `pair` of answers."""
    return str((getattr(model.config, "tandem", None) or {}).get("reads", "answer"))


def adapt(model: PreTrainedModel, lora: Lora | None, seed: Seed) -> Any:
    """Put trainable adapters, drawn by the seed, on a frozen model; or return it as it is."""
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    heads = ["score"] if hasattr(model, "score") else None
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=int(lora.alpha),
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        modules_to_save=heads,
        lora_dropout=0.0,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT asks transformers a question that transformers means to rename
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        torch.manual_seed(int(seed))
        return get_peft_model(model, config)  # type: ignore[arg-type]


def save(model: Any, tokenizer: PreTrainedTokenizerBase, out: Path, card: str = "") -> None:
    """Write a plain Hugging Face folder; adapters are merged, and kept beside it in `adapter/`.

    In a launch of several processes rank 0 writes, the others do nothing.
    """
    if process_rank() > 0:
        return
    out.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "merge_and_unload"):
        with _quiet():
            model.save_pretrained(out / "adapter")
        _same_everywhere(out / "adapter")
        model = model.merge_and_unload()
    with _quiet():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    if card:
        (out / "README.md").write_text(card, encoding="utf-8")


def _same_everywhere(adapter: Path) -> None:
    """Take out where the base lay and the order of sets: the same adapter is the same bytes."""
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    config = {k: sorted(v) if isinstance(v, list) else v for k, v in config.items()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (adapter / "README.md").unlink(missing_ok=True)


def _load(auto: Any, source: Source, new: tuple[str, ...] = (), **extra: Any) -> PreTrainedModel:
    """Load weights, all of them but `new`: nothing else is ever drawn at random."""
    _exists(source)
    _no_pickles(source)
    try:
        with _quiet():
            model, found = auto.from_pretrained(
                source,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **extra,
            )
    except UNREADABLE as error:
        raise ModelError(
            f"no model can be loaded from {source}: {_first_line(error)}",
            f"it is opened with {auto.__name__}, safetensors only, without remote code",
            "give a Hugging Face folder with config.json and model.safetensors",
        ) from error
    if missing := sorted(set(found["missing_keys"]) - set(new)):
        raise ModelError(
            f"{source} lacks {len(missing)} weights of a {type(model).__name__}: {missing[0]}...",
            "they would be random numbers, and so would everything that is computed with them",
            "give a folder of this kind: a language model for a policy, and for a judge a reward "
            "model that `methods.reward` fitted",
        )
    return model


def _exists(source: Source) -> None:
    looks_local = isinstance(source, Path) or str(source).startswith((".", "/", "~"))
    if looks_local and not (Path(source) / "config.json").exists():
        raise ModelError(
            f"{source} is not a model folder: it has no config.json",
            "models are Hugging Face folders",
            "give the folder that `save_pretrained` made, or the id of a model on the hub",
        )


def _no_pickles(source: Source) -> None:
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        found = [p.name for p in folder.glob("*.bin")] or ["no weights at all"]
        raise ModelError(
            f"{source} holds {', '.join(found)} and no safetensors",
            "pickled weights can run code when they are opened",
            "convert them: model.save_pretrained(folder) with a current transformers",
        )


def _ready(model: PreTrainedModel, machine: Machine) -> PreTrainedModel:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # the padding token may be EOS, which learns like any other
    if machine.checkpointing:
        recompute(model)
    return model.to(device(machine))  # type: ignore[arg-type]


def recompute(model: Any) -> None:
    """Recompute activations in the backward pass; transformers renamed the switch in 5.x."""
    switch = getattr(model, "activation_checkpointing_enable", None)
    (switch or model.gradient_checkpointing_enable)({"use_reentrant": False})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' notes and bars off the screen; errors still raise."""
    bars = hub.is_progress_bar_enabled()
    hub.disable_progress_bar()
    loggers = [logging.getLogger(name) for name in ("transformers", "accelerate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            hub.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def depth(source: Source) -> int:
    """Return how many layers a model has."""
    return int(getattr(_config(source), "num_hidden_layers", 1))


def context(source: Source) -> int:
    """Return how many tokens a model can read."""
    config = _config(source)
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return int(limit or 2**31)


def _config(source: Source) -> Any:
    _exists(source)
    try:
        with _quiet():
            return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except UNREADABLE as error:
        raise ModelError(
            f"{source} has no configuration that can be read: {_first_line(error)}",
            "config.json names an architecture that transformers knows",
            "give a Hugging Face folder of a causal language model, or a newer transformers",
        ) from error
