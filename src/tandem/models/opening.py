"""Open a model folder as a packed model on a device, with our kernels and layout."""

from __future__ import annotations

from typing import Any

from tandem.kernels import linear_inputs, rms_norm, rotary
from tandem.machine import Machine
from tandem.models import loading
from tandem.models.devices import resolve_precision
from tandem.models.folders import Source
from tandem.models.lora import add_adapters
from tandem.models.packed import PackedModel
from tandem.models.probe import check_training_mode, probe_layout
from tandem.models.quantised import check_adapters
from tandem.rng import Seed

NO_SEED = Seed()


def open_policy(
    source: Source,
    machine: Machine,
    *,
    train: bool = False,
    reference: bool = False,
    seed: Seed = NO_SEED,
) -> PackedModel:
    """Load a causal language model as it is, to be trained, or as the reference of one that is.

    Args:
        source: a folder.
        machine: device, precision, adapters; `quantise` matters where one of the next two is said.
        train: add the machine's LoRA adapters, drawn from `seed`.
        reference: read what is trained before its first step, packed as it is.
        seed: of the adapters.

    Raises:
        ConfigError: a quantised model is to be trained without adapters.
    """
    if train:
        check_adapters(machine)
    lm = loading.load_policy(source, machine, packed=train or reference)
    return _opened(add_adapters(lm, machine.lora, seed) if train else lm, machine, train)


def open_scalar(
    source: Source,
    machine: Machine,
    *,
    fresh: Seed | None = None,
    zero: bool = False,
    layers: int | None = None,
    dimensions: int = 0,
    train: bool = False,
) -> PackedModel:
    """Load a model with a scalar head (a reward model); see `models.loading.load_scalar`.

    Raises:
        ConfigError: a quantised model is to be trained without adapters.
    """
    if train:
        check_adapters(machine)
    lm = loading.load_scalar(
        source,
        machine,
        fresh=fresh,
        zero=zero,
        layers=layers,
        dimensions=dimensions,
        packed=train and fresh is not None,
    )
    seed = NO_SEED if fresh is None else fresh
    return _opened(add_adapters(lm, machine.lora, seed) if train else lm, machine, train)


def _opened(lm: Any, machine: Machine, train: bool) -> PackedModel:
    rms_norm.patch_rms_norm(lm)
    rotary.patch_rotary(lm)
    linear_inputs.patch_linear(lm)
    trunk = PackedModel(lm, dtype=resolve_precision(machine))
    if machine.layout == "auto":
        probe_layout(trunk, compiled=machine.compiled)
    if train:
        check_training_mode(trunk)
    return trunk.train(train)
