"""The saved model is the trained model: its folder is opened again and both are read.

A model can be trained as one function and saved as another: adapters on two tables that the
configuration ties are merged into one, a weight gets no place in the folder, a setting is lost.
So after every fit

    1. adapters are merged, and packed weights unpacked: the numbers must not move
    2. weights are rounded to the dtype in which they are saved, and it is said how far they moved
    3. the folder is opened again: every weight must be equal, and the numbers must not move

Numbers are log-probabilities of toy completions, or scores where there is no language head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tandem.batching.packing import pack_groups
from tandem.errors import ModelError
from tandem.machine import Machine
from tandem.models import loading
from tandem.models.lora import merged_weights
from tandem.models.packed import PackedModel
from tandem.models.probe import toy_groups

SAME = 1e-3
"""Nats: what two ways to add up the same numbers in fp32 may differ by."""


def read_probe(trunk: PackedModel) -> Tensor:
    """Return what a model says of toy completions, in fp32 and at temperature 1.

    Args:
        trunk: on any device; it is left as it was.

    Returns:
        [T] log-probabilities, or [N] scores.
    """
    groups = toy_groups(int(trunk.inner.config.get_text_config().vocab_size))
    tokens = pack_groups(groups, "rows").to(trunk.device).tokens
    before = trunk.dtype, trunk.temperature, trunk.training
    trunk.dtype, trunk.temperature = torch.float32, 1.0
    trunk.eval()
    try:
        with torch.no_grad():
            out = trunk(tokens)
    finally:
        trunk.dtype, trunk.temperature = before[:2]
        trunk.train(before[2])
    found = out.score if out.logp is None else out.logp.values
    assert found is not None
    return found.float().cpu()


def check_merged(before: Tensor, after: Tensor, out: Path) -> None:
    """Refuse adapters whose merged model is another function than the one that was trained.

    Raises:
        ModelError: naming how far apart they are.
    """
    if (gap := _gap(before, after)) > SAME:
        raise ModelError(
            f"{out}: the adapters were trained, but merged into the weights they give a model "
            f"that is {gap:.3g} nats away",
            "two layers share one table (tied embeddings): each has an adapter of its own while "
            "training, and the table gets both",
            "name other layers: --machine.lora.targets all-linear",
        )


def check_reopened(
    trunk: PackedModel, wanted: Tensor, out: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Open a folder again and refuse it if it is not the model in memory.

    Args:
        trunk: what was saved; its numbers are those of weights rounded as they were saved.
        wanted: its `read_probe`.
        out: the folder.
        dtype: in which it was saved; it is opened in it, and read in fp32 layer by layer.

    Raises:
        ModelError: weights are missing or differ, or the folder's numbers do.
    """
    scalar = trunk.inner.get_output_embeddings() is None
    machine = Machine(device=str(trunk.device), precision="fp32", layout="rows")
    load = loading.load_scalar if scalar else loading.load_policy
    opened = load(out, machine, dtype=dtype)
    if unlike := _unlike_weights(trunk.lm, opened):
        raise ModelError(
            f"{out}: {len(unlike)} weights are not those that were trained, first {unlike[0]}",
            "what is saved has to be what was trained",
            "report this with the model's config.json; --machine.lora.rank 16 may help meanwhile",
        )
    _read_in_fp32(opened)
    again = PackedModel(opened)
    gap = _gap(wanted, read_probe(again.eval()))
    if gap > SAME or loading.score_scale(trunk.inner) != loading.score_scale(opened):
        raise ModelError(
            f"{out}: opened again, the model is {gap:.3g} nats away from the one that was trained",
            "its configuration and its weights do not describe the trained model",
            "report this with the model's config.json",
        )


def _read_in_fp32(lm: nn.Module) -> None:
    """Let a model of a lower dtype compute in fp32: a layer's weights are cast while it is read."""
    lists = (m for m in lm.modules() if isinstance(m, nn.ModuleList))
    layers, inside = list[nn.Module](), set[int]()
    for layer in (layer for several in lists for layer in several):
        if id(layer) not in inside:
            layers.append(layer)
            inside |= {id(part) for part in layer.modules()}
    cast_later = {id(p) for layer in layers for p in layer.parameters()}
    for p in lm.parameters():
        if id(p) not in cast_later and p.is_floating_point():
            p.data = p.data.float()
    for layer in layers:
        low = [(p, p.data) for p in layer.parameters() if p.is_floating_point()]
        layer.register_forward_pre_hook(partial(_cast_up, low))
        layer.register_forward_hook(partial(_put_back, low))


def _cast_up(low: Sequence[tuple[Tensor, Tensor]], *_: Any) -> None:
    for p, data in low:
        p.data = data.float()


def _put_back(low: Sequence[tuple[Tensor, Tensor]], *_: Any) -> None:
    for p, data in low:
        p.data = data


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")


def _unlike_weights(trained: Any, opened: Any) -> list[str]:
    """Name the weights that one of both lacks, or that differ; one is compared at a time."""
    theirs, unlike, seen = opened.state_dict(), list[str](), set[int]()
    for name, mine in merged_weights(trained):
        there = theirs.pop(name, None)
        if there is None or not torch.equal(mine.to(there.dtype), there):
            unlike.append(name)
        else:
            seen.add(there.data_ptr())
    return [*unlike, *(name for name, left in theirs.items() if left.data_ptr() not in seen)]
