"""The one training loop, on Accelerate. It knows no method, no mask and no token.

A source yields optimiser steps, each a list of micro-batches. A loss names its terms; each term
is summed over the micro-batches of all ranks and divided by its own global weight, then the
terms are added. So a step is exactly the same however it is cut.

A killed loop resumes bit for bit from the last state it wrote: weights, optimiser, step, and the
source's position. In a launch of several processes each takes its share of a step's micro-batches;
gradients are summed by DDP, and rank 0 alone writes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.packing import Cut
from tandem.batching.ragged import Ragged
from tandem.data.record import IntArray
from tandem.errors import ConfigError, DataError
from tandem.kernels.embedding_rows import narrowed
from tandem.kernels.malloc import kept
from tandem.machine import Machine
from tandem.models.loading import device
from tandem.runs.context import Here
from tandem.runs.events import Events
from tandem.training.memory import installed, make_room

Loss = Callable[[Outputs, Batch], Mapping[str, Terms]]
STATE = "state.pt"


@dataclass(frozen=True, slots=True)
class Optim:
    """AdamW with a schedule.

    Attributes:
        lr: peak learning rate.
        schedule: shape after the warm-up, down to `final` of the peak.
        warmup: share of all steps spent rising linearly from 0.
        final: where cosine and linear schedules end, as a share of the peak.
        betas: decay of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, on matrices only.
        clip: largest gradient norm; None does not clip.
    """

    lr: float = 1e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.03
    final: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0 or not 0 <= self.warmup <= 1 or self.weight_decay < 0:
            raise ConfigError(
                f"optim: lr {self.lr}, warmup {self.warmup}, weight_decay {self.weight_decay}",
                "lr > 0, warmup is a share in [0, 1], weight_decay >= 0",
                "change the value that is out of range",
            )

    def factor(self, step: int, total: int) -> float:
        """Learning rate at a step as a share of the peak."""
        rise = max(1, round(self.warmup * total))
        if self.warmup > 0 and step < rise:
            return (step + 1) / rise
        done = min(1.0, (step - rise) / max(1, total - rise)) if step > rise else 0.0
        fall = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        }[self.schedule]
        return fall if self.schedule == "constant" else self.final + (1 - self.final) * fall


class Source(Protocol):
    """Yields optimiser steps; offline sources ignore the policy, online ones sample from it."""

    @property
    def cut(self) -> Cut:
        """How a step is cut into micro-batches; the loop sets it before the first step."""
        ...

    @cut.setter
    def cut(self, cut: Cut) -> None: ...

    @property
    def total(self) -> int:
        """Number of optimiser steps in all."""
        ...

    def steps(self, policy: nn.Module) -> Iterator[list[Batch]]:
        """Yield the steps that are left, each as its micro-batches."""
        ...

    def reads(self) -> IntArray | None:
        """Return the different tokens of all steps, or None where nobody knows them before."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Position, buffers, controllers: numbers, strings, tensors, lists and dicts of them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step at which the state was taken."""
        ...


@kept()
def fit(
    module: nn.Module,
    source: Source,
    loss: Loss,
    optim: Optim,
    here: Here,
    *,
    want: Mapping[str, bool] | None = None,
) -> nn.Module:
    """Train a module in place on everything its source yields.

    Args:
        module: a `models.packed.Trunk` or `ActorCritic`.
        source: the steps.
        loss: outputs and batch to named, unreduced terms.
        optim: optimiser and schedule.
        here: where step checkpoints and numbers go, and how often.
        want: what the kernel computes, for example {"entropy": True}.

    Raises:
        DataError: a loss or the gradient became infinite or not a number (with the step and the
            term), before the step reached the weights.
        ConfigError: the launcher shards the weights (FSDP, DeepSpeed), or weights and optimiser
            need more memory than there is.
    """
    wanted = dict(want or {})
    accelerator = _accelerator(here.machine)
    there = _least(installed(device(here.machine)), accelerator)
    tokens = make_room(module, source.cut.tokens, there, here.events, wanted)
    source.cut = Cut(tokens, parts=accelerator.num_processes)
    with narrowed(module, source.reads(), optim.weight_decay):
        _train(module, source, loss, optim, here, wanted, accelerator)
    return module.eval()


def _train(
    module: nn.Module,
    source: Source,
    loss: Loss,
    optim: Optim,
    here: Here,
    want: Mapping[str, bool],
    accelerator: Accelerator,
) -> None:
    machine = here.machine
    inner = module
    optimiser = _optimiser(module, optim)
    module, prepared = accelerator.prepare(module, optimiser)
    schedule = LambdaLR(optimiser, lambda step: optim.factor(step, source.total))
    state = _State(inner, optimiser, schedule, source, here.scratch, machine.save_seconds)
    step = state.resume()
    log = _Log(here.events, source.total, machine.log_every, accelerator)
    module.train()
    for micro in source.steps(inner):
        weights = divisors(loss, micro, accelerator.device)
        mine = micro[accelerator.process_index :: accelerator.num_processes]
        for k, batch in enumerate(mine or micro[:1]):
            batch = batch.to(accelerator.device)
            last = k == len(mine) - 1 or not mine
            with contextlib.nullcontext() if last else accelerator.no_sync(module):
                terms = loss(module(batch.tokens, **want), batch)
                value = total(terms, weights) * accelerator.num_processes
                accelerator.backward(value if mine else value * 0)
            log.add(terms, weights, share=1.0 if mine else 0.0)
        log.tokens += sum(batch.tokens.useful for batch in micro)
        norm = log.check(step + 1, total_norm(module))
        if optim.clip is not None and norm > optim.clip:
            clip_grads_with_norm_(module.parameters(), optim.clip, torch.tensor(norm))
        prepared.step()
        schedule.step()
        prepared.zero_grad(set_to_none=True)
        step += 1
        log.step(step, float(schedule.get_last_lr()[0]), norm)
        state.save(step, accelerator.is_main_process)
    log.close(step)
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def _accelerator(machine: Machine) -> Accelerator:
    """Start Accelerate; precision and accumulation are ours, whatever its launcher was told."""
    accelerator = Accelerator(
        cpu=device(machine).type == "cpu",
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    kind = accelerator.distributed_type
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ConfigError(
            f"the launcher asks for {kind.value}",
            "step checkpoints and the exported folder need whole weights, and these are sharded",
            "launch with plain data parallelism (--multi_gpu, or --cpu), or with one process",
        )
    return accelerator


def _least(memory: int | None, accelerator: Accelerator) -> int | None:
    """Return the least of all ranks' memory, so that all cut their steps alike."""
    if memory is None or accelerator.num_processes == 1:
        return memory
    own = torch.tensor([memory], device=accelerator.device)
    return min(torch.as_tensor(accelerator.gather(own)).tolist())


def total_norm(module: nn.Module) -> Tensor:
    """Return the norm of all gradients together."""
    return get_total_norm([p.grad for p in module.parameters() if p.grad is not None])


def total(terms: Mapping[str, Terms], weights: Mapping[str, Tensor]) -> Tensor:
    """Add the terms, each divided by its weight over the whole step."""
    parts = [t.loss.sum() / weights[name] for name, t in terms.items()]
    return torch.stack(parts).sum()


def divisors(loss: Loss, micro: list[Batch], device: torch.device | str) -> dict[str, Tensor]:
    """Return each term's weight over a whole step, before any forward pass.

    Weights depend on batches alone, so the loss is evaluated on outputs of zeros, and without
    features: a loss that reads those has networks of its own, which are not to be run twice.

    Raises:
        DataError: a term has no unit at all in this step.
    """
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for batch in micro:
            for name, term in loss(_zeros(batch), batch).items():
                sums[name] = sums.get(name, torch.zeros(())) + term.weight.sum()
    for name, weight in sums.items():
        if not float(weight) > 0:
            raise DataError(
                f"the loss term `{name}` has weight {float(weight)} in one step",
                "a step must hold at least one unit (token, completion or pair) of each term",
                "raise the batch size, or look for groups without preferences or with weight 0",
            )
    return {name: weight.to(device) for name, weight in sums.items()}


def _zeros(batch: Batch) -> Outputs:
    tokens = batch.tokens
    per_token = Ragged(torch.zeros(len(tokens.owner)), tokens.owner, tokens.n)
    return Outputs(
        logp=per_token,
        entropy=per_token,
        value=per_token,
        score=torch.zeros(tokens.n),
    )


def _optimiser(module: nn.Module, optim: Optim) -> AdamW:
    learn = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learn if p.ndim >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in learn if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    return AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


class _State:
    """What a killed loop resumes from: one file, replaced as a whole."""

    def __init__(
        self,
        module: nn.Module,
        optimiser: AdamW,
        schedule: LambdaLR,
        source: Source,
        scratch: Path | None,
        every: float,
    ) -> None:
        self.parts: dict[str, Any] = {
            "module": module,
            "optimiser": optimiser,
            "schedule": schedule,
            "source": source,
        }
        self.source = source
        self.path = None if scratch is None else scratch / STATE
        self.every, self.saved = every, time.monotonic()

    def resume(self) -> int:
        if self.path is None or not self.path.exists():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.source.cut = replace(self.source.cut, tokens=int(state["tokens"]))
        except (RuntimeError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.path} is of another model: {str(error).splitlines()[0]}",
                "a fit goes on from the state of the same version of Tandem, or not at all",
                "delete that file; what it began starts anew",
            ) from error
        return int(state["step"])

    def save(self, step: int, main: bool) -> None:
        if self.path is None or not main or time.monotonic() - self.saved < self.every:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state["tokens"] = self.source.cut.tokens
        part = self.path.with_suffix(".part")
        torch.save({**state, "step": step}, part)
        part.replace(self.path)
        self.saved = time.monotonic()


class _Log:
    """Sums of what the terms report, on the device; metrics are read once every few steps.

    Losses and the norm of the gradient are read at every step, together and once: what is not a
    number must not reach the weights, nor a state that a killed run would resume from.
    """

    def __init__(
        self, events: Events | None, total: int, every: int, accelerator: Accelerator
    ) -> None:
        self.events, self.total, self.every = events, total, every
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = {}
        self.losses: dict[str, Tensor] = {}
        self.steps, self.tokens, self.since = 0, 0, time.monotonic()

    def add(
        self, terms: Mapping[str, Terms], weights: Mapping[str, Tensor], *, share: float
    ) -> None:
        """Add a micro-batch; `share` 0 is a rank that had none and read another's."""
        for name, term in terms.items():
            loss = share * term.loss.detach().sum().float() / weights[name]
            self.losses[f"{name}_loss"] = self.losses.get(f"{name}_loss", 0) + loss
            for metric, values in term.metrics.items():
                self._sum(metric, share * values.detach().sum(), share * values.numel())

    def _sum(self, name: str, value: Tensor, count: float) -> None:
        row = torch.stack([value.float(), value.new_tensor(count, dtype=torch.float32)])
        self.sums[name] = self.sums[name] + row if name in self.sums else row

    def check(self, step: int, norm: Tensor) -> float:
        """Refuse a step that is not a number, on every rank; return the gradient's norm."""
        losses = torch.stack(list(self.losses.values()))
        whole = torch.as_tensor(self.accelerator.reduce(losses, "sum"))
        values = torch.cat([whole, norm.to(whole).reshape(1)]).tolist()
        _refuse(dict(zip([*self.losses, "grad_norm"], values, strict=True)), step)
        for name, loss in self.losses.items():
            self._sum(name, loss, 0)
        self.losses = {}
        return values[-1]

    def step(self, step: int, lr: float, norm: float) -> None:
        self.steps += 1
        if step % self.every and step != self.total:
            return
        numbers = self._read() | {"grad_norm": norm}
        _refuse(numbers, step)
        now = time.monotonic()
        speed = self.tokens / max(now - self.since, 1e-9)
        self.steps, self.tokens, self.since = 0, 0, now
        if self.events is not None:
            self.events.log("train", step=step, lr=lr, tokens_per_s=round(speed), **numbers)
            shown = {k: v for k, v in numbers.items() if k.endswith("loss")}
            self.events.progress(step, self.total, "step", tokens_per_s=round(speed), **shown)

    def _read(self) -> dict[str, float]:
        """Means since the last line: of losses over steps, of metrics over units."""
        rows = {n: self.accelerator.reduce(v, "sum") for n, v in self.sums.items()}
        self.sums = {}
        pairs = {n: torch.as_tensor(r).tolist() for n, r in rows.items()}
        return {n: s / (c or self.steps) for n, (s, c) in pairs.items()}

    def close(self, step: int) -> None:
        if self.events is not None:
            self.events.log("trained", step=step)


def _refuse(numbers: Mapping[str, float], step: int) -> None:
    bad = [name for name, value in numbers.items() if not math.isfinite(value)]
    if bad:
        raise DataError(
            f"{', '.join(bad)} is {numbers[bad[0]]} at optimiser step {step}",
            "training on would only spread it through the weights",
            "lower the learning rate, or look for extreme scores in the data",
        )
