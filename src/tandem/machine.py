"""Where and how numbers are computed: the one home of device, precision, layout and adapters.

A method never mentions any of these. A run keeps them beside the arguments of every stage,
because precision changes numbers.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tandem.errors import ConfigError
from tandem.errors.ranges import Count, NotNegative, Positive, Range, check_ranges

GIB = 2**30
"""Bytes."""
SPINNING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}
"""How long threads spin before they sleep: GNU's OpenMP, in turns, and LLVM's, in ms.

`benchmarks/shared_cores.py` measures what it costs alone and saves where cores are shared.
"""
WAITING = ("OMP_WAIT_POLICY", *SPINNING)
"""Settings of the user's with which nothing is changed."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters (LoRA) instead of full fine-tuning, by PEFT.

    >>> Machine(lora=Lora(rank=8, alpha=16.0)).lora
    Lora(rank=8, alpha=16.0, targets='all-linear')

    Attributes:
        rank: inner dimension r.
        alpha: the update is scaled by alpha / r.
        targets: names of the linear layers, or `all-linear`.
    """

    rank: Annotated[int, Range(1, 65536)] = 16
    alpha: Positive = 32.0
    targets: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        check_ranges(self, "lora")


WHEN_CHANGED = "recorded when changed"
"""Metadata of a field that run folders record only where it is not at its default."""
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how numbers are computed: device, precision, memory, adapters.

    Every method takes the same one, and a run is given it once.

    >>> Machine(device="cpu", precision="fp32", tokens=4096).precision
    'fp32'

    Attributes:
        device: `auto` takes a GPU when there is one.
        precision: compute dtype; `auto` is bf16 where the processor multiplies it natively.
            Master weights and sums are fp32 either way.
        layout: `auto` lets the probe choose; `rows` is one sequence a row.
        compiled: on a GPU, attention by FlexAttention and decoding by CUDA graphs. Not measured
            yet; on a CPU it costs time and memory.
        tokens: unique tokens of one micro-batch at most, fewer where an estimate of memory says
            so; the step is cut into as many as it needs.
        checkpointing: recompute activations in the backward pass; done unasked where it must be.
        lora: train adapters instead of all weights.
        quantise: `nf4` keeps the frozen weights under adapters in 4 bits (QLoRA), of the policy
            that is trained and of its reference; what is saved is whole again.
        engine: who draws completions: `torch` is our own, from the weights that are trained;
            `vllm` a server of vLLM on this machine, and `ray` the machines of a Ray cluster, from
            copies that are kept up to date; there judges with models are asked as well.
        rollouts_ahead: draw the next round's samples while this one is trained on. They are of a
            policy one round older, and policy gradients weigh them by the ratio of the two laws.
        sharding: how several processes share the weights that are trained: `none` keeps them
            whole in each, `fsdp2` gives each process a slice of weights, gradients and moments.
        save_dtype: of the weights that a fit saves. What training changes is often smaller than
            half a step of bf16, so fp32 keeps it, and an export chooses the dtype to give away.
        save_seconds: how often a long stage writes what it can resume from.
        log_every: optimiser steps between two log lines.
        keep_models: `all` models that stages fitted, or when a run has ended its `result` alone:
            the others' weights are deleted.
    """

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    layout: Literal["auto", "rows"] = "auto"
    compiled: bool = False
    tokens: Count = 16384
    checkpointing: bool = False
    lora: Lora | None = None
    quantise: Literal["none", "nf4"] = field(default="none", metadata={WHEN_CHANGED: True})
    engine: Literal["torch", "vllm", "ray"] = field(default="torch", metadata={WHEN_CHANGED: True})
    rollouts_ahead: bool = field(default=False, metadata={WHEN_CHANGED: True})
    sharding: Literal["none", "fsdp2"] = field(default="none", compare=False)
    save_dtype: Literal["fp32", "bf16", "fp16"] = field(
        default="fp32", metadata={WHEN_CHANGED: True}
    )
    save_seconds: NotNegative = field(default=30.0, compare=False)
    log_every: Count = field(default=10, compare=False)
    keep_models: Literal["all", "result"] = field(default="all", compare=False)

    def __post_init__(self) -> None:
        check_ranges(self, "machine")
        if not DEVICE.fullmatch(self.device):
            raise ConfigError(
                f"machine.device = {self.device[:40]!r}",
                "numbers are computed on a processor (cpu), a GPU (cuda, cuda:0, mps), or the one "
                "that is there (auto)",
                "give one of these, or leave it out",
            )
        if self.quantise != "none" and self.sharding != "none":
            raise ConfigError(
                f"machine.quantise = {self.quantise} with machine.sharding = {self.sharding}",
                "4-bit weights are packed in blocks that cannot be cut over processes here",
                "leave one of them out",
            )


def cache_folder() -> Path:
    """Return the folder of what is kept between runs: `$TANDEM_CACHE`, or `~/.cache/tandem`."""
    return Path(os.environ.get("TANDEM_CACHE") or "~/.cache/tandem").expanduser()


def bound_thread_spinning() -> None:
    """Let threads that wait for each other sleep early, so that several programs share the cores.

    By default OpenMP's threads spin for milliseconds at the end of each operation, and take the
    cores from another program's threads that have work. It takes hold where OpenMP is loaded
    afterwards, by this process or by one that it starts: call it before torch is imported. What
    the user has set is left as it is.

    >>> bound_thread_spinning()
    """
    if not any(name in os.environ for name in WAITING):
        os.environ.update(SPINNING)


def process_rank() -> int:
    """Return this process's rank as its launcher set it; 0 outside a launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes the launcher started; 1 outside a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))
