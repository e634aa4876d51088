"""Resolve a machine's `auto` settings to a device and a precision on this computer."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from tandem.errors import ConfigError
from tandem.machine import Machine


def resolve_device(machine: Machine) -> torch.device:
    """Return the torch device for a machine's settings; `auto` takes a GPU where there is one.

    Of several processes each takes the GPU of its own number, unless the setting names one.
    """
    if machine.device == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
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


def cast_model(lm: nn.Module, dtype: torch.dtype, device: torch.device | str | None = None) -> Any:
    """Return the model with its weights in a dtype, and its rotary frequencies as they were.

    `Module.to` casts buffers too. A frequency in bf16 is off by up to 1 in 256, so at a thousand
    tokens an angle is off by a radian, and the model is another function. Frequencies are no
    weights, and every rotary embedding computes with them in fp32.
    """
    exact = [
        (module, name, buffer.detach().clone())
        for module in lm.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name.endswith("inv_freq")
    ]
    lm.to(device=device, dtype=dtype)
    for module, name, buffer in exact:
        setattr(module, name, buffer if device is None else buffer.to(device))
    return lm
