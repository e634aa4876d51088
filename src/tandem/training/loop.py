"""The one training loop, on Accelerate. It knows no method, no mask and no token.

A source yields optimiser steps, each a list of micro-batches. A loss names its terms; each term
is summed over the micro-batches of all ranks and divided by its own global weight, then the
terms are added. So a step is exactly the same however it is cut.

A killed loop resumes bit for bit from the last state it wrote: weights, optimiser, step, and the
source's position. In a launch of several processes each takes its share of a step's micro-batches;
`distributed` sums gradients, of whole weights or of slices, and rank 0 alone writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.microbatches import Cut
from tandem.batching.ragged import Ragged
from tandem.errors import DataError
from tandem.kernels.embedding_rows import train_only_rows
from tandem.kernels.malloc import keep_freed_memory, return_freed_memory
from tandem.models.devices import resolve_device
from tandem.models.quantised import weight_bytes
from tandem.runs.context import StageContext
from tandem.runs.heartbeat import count_tokens
from tandem.training.distributed import (
    clip_gradients,
    least_memory,
    most_memory,
    open_parallelism,
    start_accelerator,
    total_norm,
)
from tandem.training.free_memory import resident_memory, usable_memory
from tandem.training.memory import fit_to_memory, width_of
from tandem.training.optim import Optim
from tandem.training.resume_state import ResumeState
from tandem.training.sources import BatchSource
from tandem.training.step_log import StepLog

WIDE = 512
"""Hidden size from which freed memory goes back at once: a page costs little beside what is
computed on it, and pieces of many sizes would leave gaps in a heap of gigabytes
(docs/log/memory.md)."""
LossFunction = Callable[[Outputs, Batch], Mapping[str, Terms]]


def train(
    module: nn.Module,
    source: BatchSource,
    loss: LossFunction,
    optim: Optim,
    ctx: StageContext,
    *,
    want: Mapping[str, bool] | None = None,
) -> nn.Module:
    """Train a module in place on everything its source yields.

    Args:
        module: a `models.packed.PackedModel` or `ActorCritic`.
        source: the steps.
        loss: outputs and batch to named, unreduced terms.
        optim: optimiser and schedule.
        ctx: where step checkpoints and numbers go, and how often.
        want: what the model computes, for example {"entropy": True}.

    Raises:
        DataError: a loss or the gradient became infinite or not a number (with the step and the
            term), before the step reached the weights.
        ConfigError: the launch is not what was asked for, or weights and optimiser need more
            memory than there is.
    """
    kept = ctx.machine.sharding == "none" and width_of(module) < WIDE
    with keep_freed_memory() if kept else return_freed_memory():
        _train_within_memory(module, source, loss, optim, ctx, dict(want or {}))
    return module.eval()


def _train_within_memory(
    module: nn.Module,
    source: BatchSource,
    loss: LossFunction,
    optim: Optim,
    ctx: StageContext,
    wanted: Mapping[str, bool],
) -> None:
    accelerator = start_accelerator(ctx.machine)
    device = resolve_device(ctx.machine)
    there = least_memory(usable_memory(device), accelerator)
    tokens = fit_to_memory(
        module,
        source.cut.tokens,
        there,
        ctx.events,
        wanted,
        sizes=source.sizes(),
        held=most_memory(memory_besides(module) if device.type == "cpu" else 0, accelerator),
        shards=accelerator.num_processes if ctx.machine.sharding == "fsdp2" else 1,
    )
    source.cut = Cut(tokens, parts=accelerator.num_processes)
    with train_only_rows(module, source.reads(), optim.weight_decay):
        _train(module, source, loss, optim, ctx, wanted, accelerator)


def _train(
    module: nn.Module,
    source: BatchSource,
    loss: LossFunction,
    optim: Optim,
    ctx: StageContext,
    want: Mapping[str, bool],
    accelerator: Accelerator,
) -> None:
    machine, size = ctx.machine, accelerator.num_processes
    together = open_parallelism(module, optim, machine, accelerator)
    schedule = LambdaLR(together.optimiser, lambda step: optim.factor(step, source.total))
    state = ResumeState(module, schedule, source, together, ctx.scratch, machine.save_seconds)
    step = state.resume()
    log = StepLog(ctx.events, source.total, machine.log_every, accelerator)
    together.module.train()
    for micro in source.steps(module):
        weights = term_weights(loss, micro, accelerator.device)
        turns = together.turns(micro)
        for k, (batch, counts) in enumerate(turns):
            count_tokens("trained", batch.tokens.useful)
            batch = batch.to(accelerator.device)
            with together.accumulate(last=k == len(turns) - 1):
                terms = loss(together.module(batch.tokens, **want), batch)
                value = sum_terms(terms, weights) * size
                accelerator.backward(value if counts else value * 0)
            log.add(terms, weights, share=1.0 if counts else 0.0)
        log.tokens += sum(batch.tokens.useful for batch in micro)
        norm = log.check(step + 1, total_norm(together.module))
        if optim.clip is not None:
            clip_gradients(together.module, optim.clip, norm)
        rate = float(schedule.get_last_lr()[0])
        together.step(schedule)
        step += 1
        log.step(step, rate, norm)
        state.save(step)
    log.close(step)
    accelerator.wait_for_everyone()
    together.close()
    accelerator.free_memory()


def memory_besides(module: nn.Module) -> int:
    """Return the bytes that this process has besides a module's weights."""
    weights = sum(map(weight_bytes, module.parameters()))
    return max(0, resident_memory() - weights)


def sum_terms(terms: Mapping[str, Terms], weights: Mapping[str, Tensor]) -> Tensor:
    """Add the terms, each divided by its weight over the whole step."""
    parts = [t.loss.sum() / weights[name] for name, t in terms.items()]
    return torch.stack(parts).sum()


def term_weights(
    loss: LossFunction, micro: list[Batch], device: torch.device | str
) -> dict[str, Tensor]:
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
        embedding=torch.zeros(tokens.n, 2),
    )
