"""How much memory a fit needs, estimated before its first step, and what is done about it.

    held + weights + optimiser + casts + logits + (bytes that a token keeps) x tokens + passing

All but the last two are counted; `held` is what the process has besides the trained module:
libraries, data, a frozen reference, a reward model. What a token keeps for the backward pass,
unless a rough bound fits, is measured on rows of the data: a few go through the module, and what
one more row keeps is divided by its tokens. That follows architecture, dtype, adapters and lengths
by itself.

A micro-batch of `machine.tokens` is halved until it fits. On a processor it is also halved where
it would keep more than `COMFORT`, to leave room for others. Where 1,024 tokens do not fit, what is
cheap is recomputed in the backward pass, then everything is. None of it changes a result but in
its last bits. Weights and optimiser that are larger than the memory are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tandem.batching.microbatches import unique_tokens
from tandem.batching.packing import pack_groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError, ModelError
from tandem.kernels import logprobs
from tandem.machine import GIB, Machine, world_size
from tandem.models import loading
from tandem.models.devices import resolve_device
from tandem.models.folders import UNREADABLE, Source, first_line, read_config, without_warnings
from tandem.models.lora import check_targets
from tandem.models.quantised import (
    PACKED_BYTES,
    packable_weights,
    weight_bytes,
    weight_count,
)
from tandem.runs.events import Events
from tandem.training.free_memory import usable_memory
from tandem.training.sources import StepSizes

SHARE = 0.8
"""Of the memory that there is, for what is estimated here."""
COMFORT = 2 * GIB
"""Bytes that a micro-batch keeps at most on a processor."""
TOYS = (32, 96)
"""Tokens of the toy batches, full rows of them; fewer where a model has fewer positions."""
TRAINED, FROZEN = 16, 4
"""Bytes of a weight: fp32, with gradient and two moments; fp32 alone. Packed ones have fewer."""
EFFICIENT = 1024
"""Tokens of a micro-batch below which recomputing costs less time than halving."""
FEWEST = 256
"""Tokens of a micro-batch below which halving saves little: groups are not cut."""
ROUGH = 16
"""Bytes a token for each weight of a model, over its width: where they fit, nothing is measured."""
PASSING = 2
"""Layers whose share of the activations a backward pass holds once more, for a moment."""
KEEP_ALL, KEEP_PRODUCTS, KEEP_INPUTS = range(3)
"""What a layer keeps: everything; the products of its linear layers; its input alone."""
TOLD = ("", "cheap activations recomputed", "activations recomputed")


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a fit needs at most, by part.

    Attributes:
        held: what the process has besides the trained module.
        weights: in fp32, or packed in 4 bits with their scales.
        optimizer: gradients and Adam's moments of what is trained.
        casts: copies of weights in the compute dtype; of packed ones, a matrix at a time.
        logits: what the language head keeps.
        activations: what a micro-batch keeps for its backward pass.
        passing: what the backward pass holds for a moment.
    """

    held: int
    weights: int
    optimizer: int
    casts: int
    logits: int
    activations: int
    passing: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Name -> bytes, in the order of the table."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class MicrobatchChoice:
    """What was chosen, and what it needs.

    Attributes:
        tokens: unique tokens of a micro-batch at most.
        kept: what a layer keeps, one of `KEEP_ALL`, `KEEP_PRODUCTS`, `KEEP_INPUTS`.
        each: bytes that a token keeps; None where the rough bound was enough.
        need: the estimate.
    """

    tokens: int
    kept: int
    each: float | None
    need: MemoryNeed


def fit_to_memory(
    module: nn.Module,
    tokens: int,
    total: int | None,
    events: Events,
    want: Mapping[str, bool],
    *,
    sizes: StepSizes | None = None,
    held: int = 0,
    shards: int = 1,
) -> int:
    """Choose a micro-batch size that fits into memory; recompute activations where it must be.

    Args:
        module: what is to be trained, before its first step.
        tokens: the most, `machine.tokens`.
        total: bytes of memory, the same for all ranks; None where nobody knows.
        events: hears of what was changed, and of what a large fit will need.
        want: what the kernel will be asked for.
        sizes: of the steps, where they are known.
        held: bytes that the process has besides the module.
        shards: processes over which weights, gradients and moments are spread.

    Raises:
        ConfigError: weights and optimiser alone need more than there is.
    """
    if total is None or not _outermost(module):
        return tokens
    _states(module, total, shards)
    choice = choose_microbatch(module, tokens, total, want, sizes=sizes, held=held, shards=shards)
    words = [TOLD[choice.kept]] if choice.kept else []
    if choice.tokens < tokens:
        words.append(f"micro-batches of {choice.tokens:,} tokens")
    need = choice.need.total
    if choice.each is not None and (words or need > GIB):
        about = f"about {need / GIB:.2f} of {total / GIB:.2f} GiB"
        text = f"memory: {'; '.join([', '.join(words), about] if words else [about])}"
        events.log("room", text=text, tokens=choice.tokens, bytes_per_token=choice.each, need=need)
    return choice.tokens


def choose_microbatch(
    module: nn.Module,
    tokens: int,
    total: int,
    want: Mapping[str, bool],
    *,
    sizes: StepSizes | None = None,
    held: int = 0,
    shards: int = 1,
) -> MicrobatchChoice:
    """Return the largest micro-batch that fits; changes what the module keeps where it must be."""
    lms = _outermost(module)
    sizes = sizes or StepSizes(0, tokens)
    room = int(SHARE * total)
    on_processor = all(p.device.type == "cpu" for p in module.parameters())
    comfort = COMFORT if on_processor else math.inf

    def need(each: float, layer: float, tokens: int) -> MemoryNeed:
        found = _need(module, each, layer, sizes.most(tokens), held, sizes.trained)
        states = {"weights": found.weights // shards, "optimizer": found.optimizer // shards}
        return replace(found, **states)

    rough = sum(map(_roughly, lms))
    if math.isfinite(rough):
        bound = need(rough, 0.0, tokens)
        if bound.total <= room and bound.activations <= comfort:
            return MicrobatchChoice(tokens, KEEP_ALL, None, bound)
    each = whole = bytes_per_token(module, lms, want, sizes.sample)
    layer = PASSING * whole / max(1, min(map(_layers, lms)))

    def halved(fewest: int) -> int:
        fits = tokens
        while fits > fewest:
            found = need(each, layer, fits)
            if found.total <= room and found.activations <= comfort:
                break
            fits //= 2
        return fits

    kept, fits = KEEP_ALL, halved(EFFICIENT)
    able = all(map(_could_recompute, lms))
    while need(each, layer, fits).total > room and kept < KEEP_INPUTS and able:
        kept += 1
        for lm in lms:
            loading.recompute_activations(lm, products=kept == KEEP_INPUTS)
        each = bytes_per_token(module, lms, want, sizes.sample, products=kept == KEEP_PRODUCTS)
        fits = halved(EFFICIENT)
    if need(each, layer, fits).total > room:
        fits = halved(FEWEST)
    return MicrobatchChoice(fits, kept, each, need(each, layer, fits))


def _need(
    module: nn.Module, each: float, layer: float, tokens: int, held: int, trained: float
) -> MemoryNeed:
    weights = sum(map(weight_bytes, module.parameters()))
    moved = sum(p.numel() for p in module.parameters() if p.requires_grad)
    low = {getattr(m, "dtype", None) for m in module.modules()} & {torch.bfloat16, torch.float16}
    linear = [m.weight for m in module.modules() if isinstance(m, nn.Linear)]
    packed = [weight_count(w) for w in linear if hasattr(w, "quant_state")]
    plain = sum(w.numel() for w in linear if not hasattr(w, "quant_state"))
    one = max(packed, default=0) * (2 if low else 4)  # unpacked for a product, then dropped
    lms = _outermost(module)
    return MemoryNeed(
        held=held,
        weights=weights,
        optimizer=moved * (TRAINED - FROZEN),
        casts=(2 * plain if low else 0) + one,
        logits=_logits(lms, int(tokens * trained), 2 if low else 4),
        activations=int(each * tokens),
        passing=int(layer * tokens),
    )


def check_trainable(source: Source, machine: Machine) -> None:
    """Refuse a model that cannot be trained here, from its configuration alone.

    Nothing is hashed, loaded or allocated: the module is built without memory.

    Raises:
        ConfigError: its weights and optimiser are larger than the memory that is available, or
            adapters are asked for where it has no such layer.
        ModelError: the folder has no configuration of a causal language model.
    """
    config = read_config(source)
    try:
        with torch.device("meta"), without_warnings():
            lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except UNREADABLE as error:
        raise ModelError(
            f"no language model can be built from {source}: {first_line(error)}",
            "config.json names an architecture and its sizes",
            "give a Hugging Face folder of a causal language model",
        ) from error
    if machine.lora is not None:
        check_targets(lm, machine.lora)
        lm.requires_grad_(False)
    if (there := usable_memory(resolve_device(machine))) is not None:
        packed = packable_weights(lm) if machine.quantise != "none" else set[int]()
        _states(lm, there, world_size() if machine.sharding == "fsdp2" else 1, packed)


def width_of(module: nn.Module) -> int:
    """Return the largest hidden size of the models in a module; 0 where none names one."""
    configs = (lm.config.get_text_config() for lm in _outermost(module))
    return max((getattr(config, "hidden_size", None) or 0 for config in configs), default=0)


def _outermost(module: nn.Module) -> list[PreTrainedModel]:
    """Return the models that are no part of another one."""
    lms = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    parts = {id(part) for lm in lms for part in lm.modules() if part is not lm}
    return [lm for lm in lms if id(lm) not in parts]


def _states(module: nn.Module, total: int, shards: int = 1, packable: Container[int] = ()) -> int:
    """Return the bytes of weights, gradients and moments that one of several processes holds.

    Rows of an embedding that are not read have neither gradient nor moments
    (`kernels.embedding_rows`): a run is refused only if it does not fit even without them.

    Args:
        module: what is to be trained.
        total: bytes that there are.
        shards: processes over which they are spread.
        packable: ids of the weights that will be packed in 4 bits.
    """

    def each(p: Tensor) -> float:
        if p.requires_grad:
            return p.numel() * TRAINED / shards
        size = PACKED_BYTES * p.numel() if id(p) in packable else weight_bytes(p)
        return size / shards

    sizes = [each(p) for p in module.parameters()]
    tables = (p for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters())
    unread = sum(p.numel() * (TRAINED - FROZEN) for p in tables if p.requires_grad)
    fewest = sum(sizes) - unread / shards
    if fewest > total:
        raise ConfigError(
            f"weights and optimiser need {fewest / GIB:.2f} GiB, there are {total / GIB:.2f}",
            "each trained weight has 16 bytes: itself, its gradient and Adam's two moments in fp32",
            "train adapters (machine.lora.rank) over 4-bit weights (machine.quantise = nf4), start "
            "from a smaller model, or spread it over several processes (machine.sharding = fsdp2)",
        )
    return int(sum(sizes))


def _roughly(lm: PreTrainedModel) -> float:
    """Return some times the bytes that a token keeps: a layer keeps as much as it multiplies."""
    width = getattr(lm.config.get_text_config(), "hidden_size", None)
    return ROUGH * sum(map(weight_count, lm.parameters())) / width if width else math.inf


def _logits(lms: Sequence[PreTrainedModel], tokens: int, size: int) -> int:
    """Return the bytes of logits that the head keeps at most, `size` a logit."""
    weights = [getattr(lm.get_output_embeddings(), "weight", None) for lm in lms]
    words = max((len(w) for w in weights if w is not None), default=0)
    return min(logprobs.KEEP_BYTES, size * tokens * words)


def _layers(lm: PreTrainedModel) -> int:
    return int(getattr(lm.config.get_text_config(), "num_hidden_layers", None) or 1)


def _could_recompute(lm: PreTrainedModel) -> bool:
    """Return True if the model supports gradient checkpointing and does not use it yet."""
    does = any(getattr(m, "gradient_checkpointing", False) for m in lm.modules())
    return not does and bool(getattr(lm, "supports_gradient_checkpointing", False))


def bytes_per_token(
    module: nn.Module,
    lms: Sequence[PreTrainedModel],
    want: Mapping[str, bool],
    sample: Sequence[Group] = (),
    *,
    products: bool = False,
) -> float:
    """Measure how many bytes one more token keeps for the backward pass.

    Args:
        module: the trained module.
        lms: the language models in it.
        want: what the kernel will be asked for.
        sample: two or more groups of the data; toys where there are none.
        products: also count what linear layers return, which selective recomputing keeps.
    """
    longest = min(_positions(lm) for lm in lms)
    words = min(int(lm.config.get_text_config().vocab_size) for lm in lms)
    toys = [_toy(min(n, longest // k), words) for n, k in zip(TOYS, (3, 1), strict=True)]
    few, many = (sample[:1], sample) if len(sample) > 1 else ([toys[0]], [toys[1]])
    (a, small), (b, large) = (
        measure_saved_bytes(module, groups, want, products=products) for groups in (few, many)
    )
    return max(0.0, (large - small) / max(1, b - a))


def _positions(lm: PreTrainedModel) -> int:
    found = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
    return int(found or TOYS[-1])


def _toy(tokens: int, words: int) -> Group:
    """A group of about so many tokens: half of them the prompt's, the rest two answers'."""
    draw = np.random.default_rng(0).integers
    prompt, answer = (max(1, tokens // k) for k in (2, 4))
    ids = [draw(0, words, n).astype(np.int32) for n in (prompt, answer, answer)]
    first, second = (Completion("", x) for x in ids[1:])
    return Group(Prompt("toy", "", tokens=ids[0]), (first, second))


def measure_saved_bytes(
    module: nn.Module,
    groups: Sequence[Group],
    want: Mapping[str, bool],
    *,
    products: bool = False,
) -> tuple[int, int]:
    """Return unique tokens, and the bytes that autograd keeps of their forward pass, no logits."""
    held: Any = module
    tokens = pack_groups(groups, held.layout).to(held.device).tokens
    seen: dict[int, torch.UntypedStorage] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        seen[storage.data_ptr()] = storage  # held, so that its address is not another's
        return x.detach()  # x itself would be a circle that nothing frees

    linear = (m for m in module.modules() if products and isinstance(m, nn.Linear))
    watched = [
        m.register_forward_hook(lambda _, __, y: _count(note, cast("Tensor", y))) for m in linear
    ]
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda x: x)
    try:
        with torch.enable_grad(), logprobs.recompute_logits(), hooks:
            out = module(tokens, **want)
    finally:
        for hook in watched:
            hook.remove()
    del out
    return sum(map(unique_tokens, groups)), sum(x.nbytes() for x in seen.values())


def _count(note: Callable[[Tensor], Tensor], made: Tensor) -> None:
    """Note what a module made; a forward hook that returns nothing changes nothing."""
    note(made)
