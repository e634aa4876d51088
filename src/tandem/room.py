"""How much of a step fits into memory at once, estimated before the first one.

    weights and optimiser + (bytes that a token keeps for the backward pass) x tokens <= room

The first is counted. The second is measured: two toy batches go through the module, and the
difference of what they keep, over the difference of their tokens, is a token's own share; weights
that were cast are in neither. It knows every architecture, dtype and adapter, and no attention
over longer prompts than the toys'. So it is an estimate: a third of the memory is left for the
reference, the data and what a backward pass holds for a moment.

Where a micro-batch of `machine.tokens` does not fit, it is halved until it does; where the largest
piece that cannot be cut still does not, activations are recomputed. Neither changes a result but
in its last bits. A training run that cannot work is refused before its first step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem import models
from tandem.errors import ConfigError
from tandem.groups import Completion, Group, Prompt
from tandem.packing import pack
from tandem.runs import Events

SHARE = 2 / 3
"""Of the memory that a device has, for what is estimated here."""
TOYS = (16, 96)
"""Tokens of the toy batches, fewer where a model has fewer positions."""
TRAINED, FROZEN = 16, 4
"""Bytes of a weight: fp32, with gradient and two moments; fp32 alone."""
GIB = 2**30


def make_room(
    module: nn.Module, tokens: int, least: int, events: Events, want: Mapping[str, bool]
) -> int:
    """Return how many unique tokens a micro-batch may have, and recompute where it must be.

    Args:
        module: what is to be trained, before its first step.
        tokens: the most, `machine.tokens`.
        least: tokens of the largest piece that cannot be cut; 0 where nobody knows yet.
        events: hears of what was changed.
        want: what the kernel will be asked for.

    Raises:
        ConfigError: weights, optimiser and the largest piece need more than the device has.
    """
    lms = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    total = memory(next(module.parameters()).device)
    if not lms or total is None:
        return tokens
    fixed = sum(p.numel() * (TRAINED if p.requires_grad else FROZEN) for p in module.parameters())
    room = SHARE * total - fixed
    each = per_token(module, lms, want)
    if each * tokens <= room:
        return tokens
    if each * least > room and not _recomputes(lms):
        for lm in lms:
            models.recompute(lm)
        each = per_token(module, lms, want)
        events.log("room", text="little memory: activations are recomputed in the backward pass")
    if fixed + each * least > total:
        raise ConfigError(
            f"training needs about {(fixed + each * least) / GIB:.1f} GiB, "
            f"the device has {total / GIB:.1f}",
            f"weights and optimiser take {fixed / GIB:.1f} GiB, and {least:,} tokens that belong "
            f"together {each * least / GIB:.1f}, with activations recomputed",
            "train adapters (machine.lora.rank), cut answers (max_length), or start from a "
            "smaller model",
        )
    while tokens > max(1, least) and each * tokens > room:
        tokens //= 2
    events.log(
        "room",
        text=f"micro-batches of {tokens:,} tokens: {each / 2**20:.2f} MiB each, in about "
        f"{max(0.0, room) / GIB:.1f} GiB beside weights and optimiser",
        tokens=tokens,
        bytes_per_token=each,
    )
    return tokens


def _recomputes(lms: list[PreTrainedModel]) -> bool:
    """Whether activations are recomputed already; each layer says so itself."""
    return any(getattr(m, "gradient_checkpointing", False) for lm in lms for m in lm.modules())


def memory(device: torch.device) -> int | None:
    """Return the bytes that a process may use there, or None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu":
        return None
    with suppress(ValueError, OSError, AttributeError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with suppress(ValueError, OSError):
            total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
        return total // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return None


def per_token(module: nn.Module, lms: list[PreTrainedModel], want: Mapping[str, bool]) -> float:
    """Return how many bytes one more token keeps for the backward pass."""
    longest = min(_positions(lm) for lm in lms)
    words = min(int(lm.config.get_text_config().vocab_size) for lm in lms)
    few, many = (_toy(min(n, longest // k), words) for n, k in zip(TOYS, (4, 1), strict=True))
    (a, small), (b, large) = (kept(module, [toy], want) for toy in (few, many))
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


def kept(module: nn.Module, groups: Sequence[Group], want: Mapping[str, bool]) -> tuple[int, int]:
    """Return unique tokens, and the bytes that autograd keeps of their forward pass."""
    held: Any = module
    tokens = pack(groups, held.layout).to(held.device).tokens
    seen: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        out = module(tokens, **want)
    del out
    return tokens.useful, sum(seen.values())
