"""A folder becomes a packed model on a device."""

from __future__ import annotations

from typing import Any

from tandem.kernels import rms_norm, rotary
from tandem.machine import Machine
from tandem.models import loading
from tandem.models.devices import precision
from tandem.models.folders import Source
from tandem.models.lora import adapt
from tandem.models.packed import Trunk
from tandem.models.probe import probe
from tandem.rng import Seed

NO_SEED = Seed()


def open_policy(
    source: Source, machine: Machine, *, train: bool = False, seed: Seed = NO_SEED
) -> Trunk:
    """Open a causal language model as a trunk, with adapters if it is to be trained with them."""
    lm = loading.load_policy(source, machine)
    return _opened(adapt(lm, machine.lora, seed) if train else lm, machine, train)


def open_scalar(
    source: Source,
    machine: Machine,
    *,
    fresh: Seed | None = None,
    zero: bool = False,
    layers: int | None = None,
    train: bool = False,
) -> Trunk:
    """Open a model with a scalar head as a trunk; see `models.loading.load_scalar`."""
    lm = loading.load_scalar(source, machine, fresh=fresh, zero=zero, layers=layers)
    seed = NO_SEED if fresh is None else fresh
    return _opened(adapt(lm, machine.lora, seed) if train else lm, machine, train)


def _opened(lm: Any, machine: Machine, train: bool) -> Trunk:
    rms_norm.patch_rms_norm(lm)
    rotary.patch_rotary(lm)
    trunk = Trunk(lm, dtype=precision(machine))
    if machine.layout == "auto":
        probe(trunk, compiled=machine.compiled)
    return trunk.train(train)
