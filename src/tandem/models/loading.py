"""Loading and saving models: Hugging Face folders in, Hugging Face folders out.

Weights are safetensors, remote code stays off, dropout is off everywhere (a policy that is
sampled and a policy that is trained must be the same function), and master weights are fp32.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from tandem.errors import ModelError
from tandem.machine import Machine
from tandem.models.devices import resolve_device
from tandem.models.folders import (
    UNREADABLE,
    Source,
    check_exists,
    first_line,
    read_config,
    without_warnings,
)
from tandem.models.packed_folder import check_shapes, read_packing
from tandem.models.quantised import patch_packed_layers, quantisation_of
from tandem.models.tokenizers import load_tokenizer
from tandem.models.unpacking import unpack_model
from tandem.rng import Seed
from tandem.runs.checkpoint import REMOVED
from tandem.runs.weight_files import loaded_weights

HEADS = frozenset(
    "lm_head score classifier cls pooler qa_outputs embed_out v_head position_ids inv_freq".split()
)
"""Parts of names that belong to heads, or to buffers that are computed again."""

RANDOM_PARTS = ("drop", "jitter")
"""In names of what is random in training alone: dropout, left-out layers, noise of routers."""

PAIR = "pair"
"""What `reads` says of a scalar model that reads two answers as one sequence."""
EMBEDDING = "embedding"
"""What it says of one whose head gives an answer a score and an embedding."""
MOST_DIMENSIONS = 1024


def load_policy(
    source: Source,
    machine: Machine,
    *,
    packed: bool = False,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Load a causal language model in fp32 onto the machine's device.

    Args:
        source: a folder; one of packed weights is unpacked, unless they are to stay packed.
        machine: device settings.
        packed: in 4 bits, where the machine asks for it.
        dtype: of the weights.

    Raises:
        ModelError: the folder is missing, is not a causal language model, or has no safetensors.
    """
    lm = _load(AutoModelForCausalLM, source, machine, packed=packed, dtype=dtype)
    return _ready(lm, machine)


def load_classifier(source: Source, machine: Machine) -> PreTrainedModel:
    """Load a sequence classifier, its labels as they are; raises what `load_policy` raises."""
    return _ready(_load(AutoModelForSequenceClassification, source, machine), machine)


def load_encoder(source: Source, machine: Machine) -> PreTrainedModel:
    """Load a model without a head; raises what `load_policy` raises."""
    return _ready(_load(AutoModel, source, machine), machine)


def load_scalar(
    source: Source,
    machine: Machine,
    *,
    fresh: Seed | None = None,
    zero: bool = False,
    layers: int | None = None,
    dimensions: int = 0,
    packed: bool = False,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Load a model with a scalar head on the last token (one label, no bias).

    The head of a cyclic preference model has further outputs, an embedding; its folder says how
    many.

    Args:
        source: a folder of such a model, or of a causal language model when `fresh` is given.
        machine: device settings.
        fresh: draw a new head from N(0, 1/(d + 1)) with this seed.
        zero: with `fresh`, start the score at zero instead.
        layers: keep only the first layers of the body: a smaller model of the same family.
        dimensions: with `fresh`, of the embedding; it is drawn also where the score is zero.
        packed: in 4 bits, where the machine asks for it.
        dtype: of the weights.

    The padding token is written into the configuration, because transformers finds the last
    token by it. Where it is also the end of a sequence there is none to be told apart: the
    configuration then has no padding, and transformers scores one sequence at a time, or refuses.

    Raises:
        ModelError: as `load_policy`; or there is no scalar head and none is to be drawn.
    """
    tokenizer = load_tokenizer(source)
    head = () if fresh is None else ("score.weight",)
    wide = stored_dimensions(source) if fresh is None else dimensions
    model = _load(
        AutoModelForSequenceClassification,
        source,
        machine,
        new=head,
        packed=packed,
        dtype=dtype,
        num_labels=1 + wide,
    )
    pad = tokenizer.pad_token_id
    model.config.pad_token_id = None if pad == tokenizer.eos_token_id else pad
    if layers is not None:
        _cut(model, layers)
    if fresh is not None:
        head: Any = model.score
        draw = torch.Generator().manual_seed(int(fresh))
        weight = torch.randn(head.weight.shape, generator=draw)
        weight *= 1 / math.sqrt(head.weight.shape[1] + 1)
        weight[0] *= 0.0 if zero else 1.0
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


def score_scale(model: PreTrainedModel) -> tuple[float, float]:
    """Return the (gain, bias) that a reward model was stored with: score = gain * raw + bias."""
    stored = getattr(model.config, "tandem", None) or {}
    return float(stored.get("gain", 1.0)), float(stored.get("bias", 0.0))


def stored_dimensions(source: Source) -> int:
    """Return how long the embedding is that a folder's head gives an answer; 0 for a reward.

    Raises:
        ModelError: the folder's configuration names a length that no embedding has.
    """
    check_exists(source)
    stored = getattr(read_config(source), "tandem", None)
    length = stored.get("dimensions", 0) if isinstance(stored, dict) else 0
    if not isinstance(length, int) or length % 2 or not 0 <= length <= MOST_DIMENSIONS:
        raise ModelError(
            f"{source} names an embedding of {str(length)[:40]} dimensions",
            f"their number is even, and at most {MOST_DIMENSIONS}",
            "mend `tandem.dimensions` in its config.json, or fit the model again",
        )
    return length


def stored_kind(source: Source) -> str:
    """Return what the scalar model of a folder reads and gives, before it is loaded."""
    stored = getattr(read_config(source), "tandem", None)
    return str(stored.get("reads", "answer")) if isinstance(stored, dict) else "answer"


def read_kind(model: PreTrainedModel) -> str:
    """Return what a scalar model reads and gives: an `answer`, a `pair`, or an `embedding`."""
    return str((getattr(model.config, "tandem", None) or {}).get("reads", "answer"))


def _load(
    auto: Any,
    source: Source,
    machine: Machine,
    *,
    new: tuple[str, ...] = (),
    packed: bool = False,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> PreTrainedModel:
    """Load weights, all of them but `new`: nothing else is ever drawn at random."""
    check_exists(source)
    check_weights(source)
    stored, config = read_packing(source)
    if config is not None:
        config.num_labels = settings.pop("num_labels", config.num_labels)
        settings["config"] = config
    if packed or stored:
        settings |= quantisation_of(machine, stored)
    try:
        with without_warnings():
            model, found = auto.from_pretrained(
                source,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **settings,
            )
    except UNREADABLE as error:
        raise ModelError(
            f"no model can be loaded from {source}: {first_line(error)}",
            f"it is opened with {auto.__name__}, safetensors only, without remote code",
            "give a Hugging Face folder with config.json and model.safetensors",
        ) from error
    _check_all_used(source, model, sorted(found["unexpected_keys"]))
    _check_all_there(source, model, sorted(set(found["missing_keys"]) - set(new)))
    if stored:
        check_shapes(source, model)
    keep = packed and machine.quantise != "none"
    return unpack_model(model) if stored and not keep else model


def _check_all_used(source: Source, model: PreTrainedModel, ignored: list[str]) -> None:
    """Refuse weights that this model has no place for; the head of another kind of model may be."""
    left = [name for name in ignored if not any(part in HEADS for part in name.split("."))]
    if left:
        raise ModelError(
            f"{source} holds {len(left)} weights that {type(model).__name__} would ignore: "
            f"{', '.join(left[:3])}",
            "its config.json describes another model, for example one with fewer layers; what is "
            "ignored is not trained, not sampled from, and lost when the model is saved",
            "mend config.json (num_hidden_layers, architectures), or save the model again with "
            "`save_pretrained`",
        )


def _check_all_there(source: Source, model: PreTrainedModel, missing: list[str]) -> None:
    """Refuse a folder without some of the model's weights."""
    if missing:
        raise ModelError(
            f"{source} lacks {len(missing)} weights of a {type(model).__name__}: {missing[0]}...",
            "they would be random numbers, and so would everything that is computed with them",
            "give a folder of this kind: a language model for a policy, and for a judge a reward "
            "model that `methods.reward` fitted",
        )


def check_weights(source: Source) -> None:
    """Refuse a folder without weights in safetensors.

    Raises:
        ModelError: it has none, they are pickled, or they were removed when the run had ended.
    """
    folder = Path(source)
    if folder.is_dir() and (folder / REMOVED).is_file() and not loaded_weights(folder):
        stage = folder.absolute().parent.name
        raise ModelError(
            f"the weights of {source} were removed when its run had ended",
            "machine.keep_models = result keeps the run's result alone",
            f"the same command with `--redo {stage}` makes them again",
        )
    if folder.is_dir() and not loaded_weights(folder):
        found = [p.name for p in sorted(folder.glob("*.bin"))] or ["no weights at all"]
        raise ModelError(
            f"{source} holds {', '.join(found)} and no safetensors",
            "pickled weights can run code when they are opened",
            "convert them: model.save_pretrained(folder) with a current transformers",
        )


def _ready(model: PreTrainedModel, machine: Machine) -> PreTrainedModel:
    patch_packed_layers(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        switch_off_chance(module)
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # the padding token may be EOS, which learns like any other
    if machine.checkpointing:
        recompute_activations(model)
    return model.to(resolve_device(machine))  # type: ignore[arg-type]


def switch_off_chance(thing: Any) -> None:
    """Set what a module or a configuration calls dropout, left-out layers or noise to 0."""
    for name, value in list(vars(thing).items()):
        if isinstance(value, float) and any(part in name for part in RANDOM_PARTS):
            setattr(thing, name, 0.0)


def recompute_activations(model: Any, *, products: bool = True) -> None:
    """Recompute activations in the backward pass.

    Args:
        model: of transformers, maybe with adapters.
        products: also recompute the products of linear layers, which are most of the time and
            half of the memory. Without them what is cheap is made again: norms, activations,
            rotations, attention.
    """
    switch = getattr(model, "activation_checkpointing_enable", None)  # since transformers 5
    how: dict[str, Any] = {"use_reentrant": False}
    if not products:
        how["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
    (switch or model.gradient_checkpointing_enable)(how)


def keep_activations(model: Any) -> None:
    """Take `recompute_activations` back: what the backward pass needs is kept."""
    switch = getattr(model, "activation_checkpointing_disable", None)  # since transformers 5
    (switch or model.gradient_checkpointing_disable)()


def _keep_products(_: Any, operation: Any, *args: Any, **kw: Any) -> CheckpointPolicy:
    kept = operation in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
