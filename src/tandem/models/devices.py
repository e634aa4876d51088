"""Resolve a machine's `auto` settings to a device and a precision on this computer."""

from __future__ import annotations

import os

import torch

from tandem.errors import ConfigError
from tandem.machine import Machine


def resolve_device(machine: Machine) -> torch.device:
    """Return the torch device for a machine's settings; `auto` takes a GPU where there is one."""
    if machine.device != "auto":
        return torch.device(machine.device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def check_device_name(machine: Machine) -> None:
    """Refuse a device that is not here.

    Raises:
        ConfigError: as said.
    """
    device = resolve_device(machine)
    if device.type == "cuda":
        there = torch.cuda.device_count()
        missing = (device.index or 0) >= there
        found = f"torch sees {there} GPUs here"
    else:
        missing = device.type == "mps" and not torch.backends.mps.is_available()
        found = "torch sees no GPU of this kind here"
    if missing:
        raise ConfigError(
            f"machine.device = {machine.device!r}",
            f"{found}; `tandem doctor` says why",
            "leave machine.device out, or give cpu",
        )


def resolve_precision(machine: Machine) -> torch.dtype:
    """Return the compute dtype: bf16 where the processor multiplies it natively, else fp32."""
    if machine.precision != "auto":
        return torch.bfloat16 if machine.precision == "bf16" else torch.float32
    if resolve_device(machine).type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32
