"""FSDP2: weights, gradients and moments spread over the processes of a launch.

torch's `fully_shard` cuts every parameter into one slice a process. A layer's slices are gathered
just before it is computed and dropped afterwards, so a process never holds all layers at once
while it trains. Each layer is a unit of its own; embeddings, head and whatever else is left belong
to the outermost module.

Sampling, saving and reading frozen columns want an ordinary module. `whole_weights` gives them one
for a while: the module as it was before, its parameters filled from all processes. Only what
`nn.Module` promises is used for that, that a module is a class and a dictionary; hooks of
`fully_shard` never run inside the block, nor in inference mode.

Everything here is collective: all processes call it in the same order, or all wait for ever.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed import _composable_state
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import PreTrainedModel

_OPEN: weakref.WeakKeyDictionary[nn.Module, ShardedWeights] = weakref.WeakKeyDictionary()
"""Outermost modules whose weights are spread now."""


class ShardedWeights:
    """Spreads a module's parameters over a mesh of processes, and gives them back.

    Args:
        module: what is trained, whole and the same in every process.
        mesh: the processes, in one dimension.
    """

    def __init__(self, module: nn.Module, mesh: DeviceMesh) -> None:
        self.module, self.mesh = module, mesh
        self._modules = list(module.modules())
        self._hidden = [(type(m), m.__dict__) for m in self._modules]
        self._is_whole = False
        whole = dict(module.named_parameters())
        for m in self._modules:
            object.__setattr__(m, "__dict__", _copy_tables(m.__dict__))
        self._units = [*find_layers(module), module]
        for unit in self._units:
            fully_shard(unit, mesh=mesh)
        slices = dict(module.named_parameters())
        self._pairs = [(whole[name], cast("DTensor", slices[name])) for name in whole]
        self._empty()
        _OPEN[module] = self

    @property
    def own_share(self) -> float:
        """The share of all parameters that this process holds."""
        held = sum(piece.to_local().numel() for _, piece in self._pairs)
        return held / max(1, sum(piece.numel() for _, piece in self._pairs))

    def is_spread(self) -> bool:
        """Return True if every parameter is cut over all processes of the mesh."""
        return all(
            isinstance(piece, DTensor)
            and piece.device_mesh.size() == self.mesh.size()
            and all(isinstance(place, Shard) for place in piece.placements)
            for _, piece in self._pairs
        )

    @contextmanager
    def as_whole(self) -> Iterator[None]:
        """Make the module whole inside the block; what is written to its weights is lost."""
        if self._is_whole:
            yield
            return
        self._gather()
        try:
            yield
        finally:
            self._swap()
            self._empty()

    def restore(self) -> None:
        """Make the module whole for good."""
        self._gather()
        for unit in self._units:  # it may be sharded anew, by another fit
            getattr(_composable_state, "_module_state_mapping", {}).pop(unit, None)
        self._pairs, self._hidden, self._units = [], [], []
        _OPEN.pop(self.module, None)

    def _gather(self) -> None:
        """Fill the parameters from all processes, one after the other."""
        for unit in self._units:
            cast("FSDPModule", unit).reshard()
        with torch.no_grad(), torch.inference_mode(False):
            for parameter, piece in self._pairs:
                parameter.data = cast("DTensor", piece.detach()).full_tensor()
        self._swap()

    def _swap(self) -> None:
        """Change every module between the one that is sharded and the one that is whole."""
        hidden = [(type(m), m.__dict__) for m in self._modules]
        for m, (kind, members) in zip(self._modules, self._hidden, strict=True):
            members["training"] = m.training
            object.__setattr__(m, "__dict__", members)
            m.__class__ = kind
        self._hidden, self._is_whole = hidden, not self._is_whole

    def _empty(self) -> None:
        for parameter, _ in self._pairs:
            parameter.data = parameter.data.new_empty(0)


def _copy_tables(members: dict[str, Any]) -> dict[str, Any]:
    """Copy a module's dictionary and its tables of parameters, parts and hooks."""
    return {k: v.copy() if isinstance(v, dict) else v for k, v in members.items()}


def find_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers of all models inside a module: what is gathered and dropped as one.

    Where a model does not name its layers, the members of its lists of modules are taken.
    """
    found: dict[int, nn.Module] = {}
    for lm in (m for m in module.modules() if isinstance(m, PreTrainedModel)):
        names = set(getattr(lm, "_no_split_modules", None) or ())
        lists = (m for m in lm.modules() if isinstance(m, nn.ModuleList))
        named = [m for m in lm.modules() if type(m).__name__ in names]
        for layer in named or [m for several in lists for m in several]:
            found[id(layer)] = layer
    inner = {id(m) for layer in found.values() for m in layer.modules() if m is not layer}
    return [layer for key, layer in found.items() if key not in inner]


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Let a module be read as an ordinary one inside the block, wherever its weights are.

    Does nothing where they are not sharded. Collective where they are; the block may not train.

        with whole_weights(policy):
            groups = list(engine.sample(prompts, n, sampling, seed))
    """
    for root, sharded in list(_OPEN.items()):
        if any(part is module for part in root.modules()):
            with sharded.as_whole():
                yield
            return
    yield


def collect_state(state: Any, *, keep: bool) -> Any:
    """Return a state with every sharded tensor whole and on the CPU; collective.

    Args:
        state: nested mappings, lists and tuples, as `state_dict` gives them.
        keep: False on processes that only help: they get None for each tensor.
    """
    if isinstance(state, DTensor):
        whole = cast("DTensor", state.detach()).full_tensor()
        return whole.cpu() if keep else None
    if isinstance(state, Mapping):
        return {k: collect_state(v, keep=keep) for k, v in state.items()}
    if isinstance(state, tuple | list):
        return type(state)(collect_state(v, keep=keep) for v in state)
    return state


def spread_tensor(whole: Tensor, like: Tensor) -> Tensor:
    """Cut a tensor that every process has as another one is cut; unchanged if that is whole."""
    if not isinstance(like, DTensor) or whole.shape != like.shape:
        return whole
    placed = whole.to(like.device)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)
