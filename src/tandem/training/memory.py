"""How much of a step fits into memory at once, estimated before the first one.

    weights and optimiser + logits + (bytes that a token keeps for the backward pass) x tokens

The first two are counted. The last, unless a rough bound fits, is measured: two toy batches go
through the module, and the difference of what they keep, over the difference of their tokens, is a
token's own share; weights that were cast are in neither. It follows architecture, dtype and
adapters by itself, and knows nothing of attention over longer prompts than the toys'. So it is an
estimate: a third of the memory is left for the reference, the data and what a backward pass holds
for a moment.

Where a micro-batch of `machine.tokens` does not fit, it is halved until it does; where three times
are not enough, activations are recomputed as well. Neither changes a result but in its last bits.
Weights and optimiser that are larger than the memory are refused before the first step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

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
from tandem.runs.events import Events

SHARE = 2 / 3
"""Of the memory that a device has, for what is estimated here."""
TOYS = (32, 96)
"""Tokens of the toy batches, full rows of them; fewer where a model has fewer positions."""
TRAINED, FROZEN = 16, 4
"""Bytes of a weight: fp32, with gradient and two moments; fp32 alone."""
MICROBATCH_HALVINGS = 3
"""So often a micro-batch is halved before activations are recomputed."""
FEWEST = 256
"""Tokens of a micro-batch below which halving saves little: groups are not cut."""
CGROUPS = Path("/sys/fs/cgroup")
ROUGH = 16
"""Bytes a token for each weight of a model, over its width: where they fit, nothing is measured."""


def fit_to_memory(
    module: nn.Module,
    tokens: int,
    total: int | None,
    events: Events,
    want: Mapping[str, bool],
    *,
    shards: int = 1,
) -> int:
    """Choose a micro-batch size that fits into memory; recompute activations where it must be.

    Args:
        module: what is to be trained, before its first step.
        tokens: the most, `machine.tokens`.
        total: bytes of memory, the same for all ranks; None where nobody knows.
        events: hears of what was changed.
        want: what the kernel will be asked for.
        shards: processes over which weights, gradients and moments are spread.

    Raises:
        ConfigError: weights and optimiser alone need more than there is.
    """
    lms = _outermost(module)
    if not lms or total is None:
        return tokens
    fixed = _states(module, total, shards) + _logits(lms, tokens)
    room = SHARE * total - fixed
    if sum(map(_roughly, lms)) * tokens <= room:
        return tokens
    each = bytes_per_token(module, lms, want)
    if each * tokens <= room:
        return tokens
    words = []
    if each * tokens > room * 2**MICROBATCH_HALVINGS and all(map(_could_recompute, lms)):
        for lm in lms:
            loading.recompute_activations(lm)
        each = bytes_per_token(module, lms, want)
        words.append("activations recomputed")
    fits = tokens
    while fits > FEWEST and each * fits > room:
        fits //= 2
    if fits < tokens:
        words.append(f"micro-batches of {fits:,} tokens")
    need = fixed + each * fits
    text = f"little memory: {', '.join(words)}; about {need / GIB:.2f} of {total / GIB:.2f} GiB"
    events.log("room", text=text, tokens=fits, bytes_per_token=each)
    return fits


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
        _states(lm, there, world_size() if machine.sharding == "fsdp2" else 1)


def _outermost(module: nn.Module) -> list[PreTrainedModel]:
    """Return the models that are no part of another one."""
    lms = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    parts = {id(part) for lm in lms for part in lm.modules() if part is not lm}
    return [lm for lm in lms if id(lm) not in parts]


def _states(module: nn.Module, total: int, shards: int = 1) -> int:
    """Return the bytes of weights, gradients and moments that one of several processes holds.

    Rows of an embedding that are not read have neither gradient nor moments (`vocabulary`): a
    run is refused only if it does not fit even without them.
    """
    sizes = [
        p.numel() * (TRAINED if p.requires_grad else FROZEN) / shards for p in module.parameters()
    ]
    tables = (p for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters())
    unread = sum(p.numel() * (TRAINED - FROZEN) for p in tables if p.requires_grad)
    fewest = sum(sizes) - unread / shards
    if fewest > total:
        raise ConfigError(
            f"weights and optimiser need {fewest / GIB:.2f} GiB, there are {total / GIB:.2f}",
            "each trained weight has 16 bytes: itself, its gradient and Adam's two moments in fp32",
            "train adapters (machine.lora.rank), start from a smaller model, or spread it over "
            "several processes (machine.sharding = fsdp2)",
        )
    return int(sum(sizes))


def _roughly(lm: PreTrainedModel) -> float:
    """Return some times the bytes that a token keeps: a layer keeps as much as it multiplies."""
    width = getattr(lm.config.get_text_config(), "hidden_size", None)
    return ROUGH * sum(p.numel() for p in lm.parameters()) / width if width else math.inf


def _logits(lms: Sequence[PreTrainedModel], tokens: int) -> int:
    """Return the bytes of logits that the head keeps at most."""
    weights = [getattr(lm.get_output_embeddings(), "weight", None) for lm in lms]
    words = max((len(w) for w in weights if w is not None), default=0)
    return min(logprobs.KEEP_BYTES, 4 * tokens * words)


def _could_recompute(lm: PreTrainedModel) -> bool:
    """Return True if the model supports gradient checkpointing and does not use it yet."""
    does = any(getattr(m, "gradient_checkpointing", False) for m in lm.modules())
    return not does and bool(getattr(lm, "supports_gradient_checkpointing", False))


def usable_memory(device: torch.device) -> int | None:
    """Return the bytes of memory that a process may use on a device, or None where unknown.

    That is what is free now and what the process has already. On a CPU it is also bounded by the
    limits of the control groups, and shared among the processes of a launch.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    if device.type != "cpu":
        return None
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    free = _kibibytes(Path("/proc/meminfo"), "MemAvailable")
    if free is not None:
        total = min(total, free + (_kibibytes(Path("/proc/self/status"), "VmRSS") or 0))
    return min([total, *_limits(CGROUPS)]) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _kibibytes(file: Path, name: str) -> int | None:
    """Return the bytes that a line `NAME: 12 kB` of a file of the kernel says, or None."""
    with suppress(OSError, ValueError, IndexError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _limits(mounted: Path, groups: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yield the limits of this process's control groups, of version 2 and 1, up to the root."""
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                name = "memory.limit_in_bytes" if kinds else "memory.max"
                own = Path(path.lstrip("/"))
                for folder in (own, *own.parents):
                    with suppress(OSError, ValueError):  # no such file, or `max`
                        yield int((mounted / kinds / folder / name).read_text())


def bytes_per_token(
    module: nn.Module, lms: Sequence[PreTrainedModel], want: Mapping[str, bool]
) -> float:
    """Measure how many bytes one more token keeps for the backward pass."""
    longest = min(_positions(lm) for lm in lms)
    words = min(int(lm.config.get_text_config().vocab_size) for lm in lms)
    few, many = (_toy(min(n, longest // k), words) for n, k in zip(TOYS, (3, 1), strict=True))
    (a, small), (b, large) = (measure_saved_bytes(module, [toy], want) for toy in (few, many))
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
    module: nn.Module, groups: Sequence[Group], want: Mapping[str, bool]
) -> tuple[int, int]:
    """Return unique tokens, and the bytes that autograd keeps of their forward pass, no logits."""
    held: Any = module
    tokens = pack_groups(groups, held.layout).to(held.device).tokens
    seen: dict[int, torch.UntypedStorage] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        seen[storage.data_ptr()] = storage  # held, so that its address is not another's
        return x.detach()  # x itself would be a circle that nothing frees

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda x: x)
    with torch.enable_grad(), logprobs.recompute_logits(), hooks:
        out = module(tokens, **want)
    del out
    return sum(map(unique_tokens, groups)), sum(x.nbytes() for x in seen.values())
