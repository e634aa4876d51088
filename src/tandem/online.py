"""Steps that a policy learns from its own samples: sample, turn into experience, train, repeat.

A round samples n completions of each of B prompts from the policy as it is, hands them to the
method's own `experience` (rewards, advantages: frozen columns), and goes over them for some inner
epochs in minibatches. The buffer of the round under way is part of the state, so a killed run
resumes in the middle of a round, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tandem.batch import Batch
from tandem.engines import Engine, Sampling
from tandem.errors import ConfigError
from tandem.groups import Group, Groups
from tandem.packing import Layout, pack, split
from tandem.ragged import Ragged
from tandem.rng import Seed
from tandem.runs import Events

Watch = Callable[[int, nn.Module], None]


@dataclass(frozen=True)
class Experience:
    """What a round learned from its samples.

    Attributes:
        groups: the prompts with their judged completions.
        columns: per-token numbers over all completions in order: ref, old, adv, ret, value.
        numbers: means to be logged: reward, kl, length, ...
    """

    groups: list[Group]
    columns: dict[str, Ragged]
    numbers: dict[str, float]


@dataclass(frozen=True)
class Rounds:
    """The shape of online training.

    Attributes:
        prompts: prompts per round, B.
        n: completions per prompt.
        rounds: how often to sample.
        inner: passes over a round's samples.
        minibatch: prompts per optimiser step.
    """

    prompts: int
    n: int
    rounds: int
    inner: int
    minibatch: int

    def __post_init__(self) -> None:
        if min(self.prompts, self.n, self.rounds, self.inner, self.minibatch) < 1:
            raise ConfigError(
                f"online training of {self}",
                "every count is at least 1",
                "raise the one that is 0 or less",
            )

    @property
    def per_round(self) -> int:
        """Optimiser steps per round."""
        return self.inner * -(-self.prompts // self.minibatch)


class Online:
    """A `Source` that samples from the policy it trains.

    Args:
        prompts: tokenised prompts, gone over in seeded order.
        engine: draws completions; it is given the policy's weights at the start of each round.
        weights: finds in the trained module what the engine samples from.
        experience: the method's algorithm from samples to columns.
        shape: prompts, completions, rounds, epochs, minibatches.
        how: temperature, truncation, longest answer.
        seed: order of prompts, draws, order of minibatches.
        layout: the layout that the probe chose.
        tokens: unique tokens per micro-batch.
        events: where phase times and numbers of each round go.
        watch: called with (rounds done, policy) before the first round and after every one.
        controllers: parts of the method with a state of their own (adaptive beta).
    """

    def __init__(
        self,
        prompts: Groups,
        engine: Engine,
        weights: Callable[[nn.Module], Any],
        experience: Callable[[list[Group]], Experience],
        shape: Rounds,
        *,
        how: Sampling,
        seed: Seed,
        layout: Layout,
        tokens: int,
        events: Events,
        watch: Watch | None = None,
        controllers: dict[str, Any] | None = None,
    ) -> None:
        self.prompts, self.engine, self.weights = prompts, engine, weights
        self.experience, self.shape, self.how, self.seed = experience, shape, how, seed
        self.layout: Layout = layout
        self.tokens, self.events = tokens, events
        self.watch, self.controllers = watch, controllers or {}
        self.step = 0
        self.buffer: Experience | None = None

    @property
    def total(self) -> int:
        """Optimiser steps in all."""
        return self.shape.rounds * self.shape.per_round

    def steps(self, policy: nn.Module) -> Iterator[list[Batch]]:
        """Yield the steps that are left, sampling when a round begins."""
        if self.step == 0 and self.watch is not None:
            self.watch(0, policy)
        began = time.monotonic()
        while self.step < self.total:
            turn, inside = divmod(self.step, self.shape.per_round)
            if inside == 0 or self.buffer is None:
                self.buffer = self._sampled(turn, policy)
                began = time.monotonic()
            self.step += 1
            yield self._batches(turn, inside, self.buffer)
            if self.step % self.shape.per_round == 0:
                self._report(turn, began)
                if self.watch is not None:
                    self.watch(turn + 1, policy)

    def _sampled(self, turn: int, policy: nn.Module) -> Experience:
        start = time.monotonic()
        self.engine.load(self.weights(policy))
        prompts = self.prompts.take(self._drawn(turn))
        seed = self.seed.at("draws", turn)
        groups = list(self.engine.sample(prompts, self.shape.n, self.how, seed))
        sampled = time.monotonic()
        with torch.no_grad():
            found = self.experience(groups)
        drawn = sum(len(c.tokens) for g in groups for c in g.completions)
        self.times = {
            "sample_s": sampled - start,
            "score_s": time.monotonic() - sampled,
            "sample_tokens_per_s": drawn / max(sampled - start, 1e-9),
        }
        return found

    def _report(self, turn: int, began: float) -> None:
        if self.buffer is None:
            return
        times = getattr(self, "times", {}) | {"train_s": time.monotonic() - began}
        rounded = {k: round(v, 4) for k, v in times.items()}
        self.events.log("round", round=turn + 1, **rounded, **self.buffer.numbers)

    def _drawn(self, turn: int) -> list[int]:
        """The prompts of a round: the next B of an endless sequence of shuffled passes."""
        wanted = range(turn * self.shape.prompts, (turn + 1) * self.shape.prompts)
        orders: dict[int, np.ndarray] = {}
        drawn: list[int] = []
        for at in wanted:
            epoch, inside = divmod(at, len(self.prompts))
            if epoch not in orders:
                orders[epoch] = self.seed.at("prompts", epoch).rng().permutation(len(self.prompts))
            drawn.append(int(orders[epoch][inside]))
        return drawn

    def _batches(self, turn: int, inside: int, buffer: Experience) -> list[Batch]:
        per_epoch = self.shape.per_round // self.shape.inner
        epoch, which = divmod(inside, per_epoch)
        order = self.seed.at("minibatches", turn, epoch).rng().permutation(len(buffer.groups))
        chosen = order[which * self.shape.minibatch : (which + 1) * self.shape.minibatch].tolist()
        starts = np.cumsum([0, *(len(g) for g in buffer.groups)])
        rows = {name: column.rows() for name, column in buffer.columns.items()}
        batches: list[Batch] = []
        for micro in split([buffer.groups[i] for i in chosen], self.tokens):
            own = [chosen[k] for k, _ in micro]
            columns = {
                name: [[r.numpy() for r in values[starts[i] : starts[i + 1]]] for i in own]
                for name, values in rows.items()
            }
            batches.append(pack([g for _, g in micro], self.layout, columns, [k for k, _ in micro]))
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Step, the buffer of the round under way, controllers, and what the watch remembers."""
        state: dict[str, Any] = {"step": self.step, "times": getattr(self, "times", {})}
        parts = {**self.controllers, **_stateful(self.watch)}
        state["controllers"] = {name: part.state_dict() for name, part in parts.items()}
        if self.buffer is not None and self.step % self.shape.per_round:
            state["buffer"] = _saved(self.buffer)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step at which the state was taken."""
        self.step, self.times = int(state["step"]), dict(state["times"])
        for name, part in {**self.controllers, **_stateful(self.watch)}.items():
            part.load_state_dict(state["controllers"][name])
        self.buffer = _restored(state["buffer"]) if "buffer" in state else None


def _stateful(watch: Watch | None) -> dict[str, Any]:
    return {"watch": watch} if hasattr(watch, "state_dict") else {}


def _saved(buffer: Experience) -> dict[str, Any]:
    return {
        "groups": torch.from_numpy(Groups.of(buffer.groups).to_bytes().copy()),
        "columns": {name: c.values for name, c in buffer.columns.items()},
        "numbers": buffer.numbers,
    }


def _restored(state: dict[str, Any]) -> Experience:
    groups = list(Groups.from_bytes(state["groups"].numpy()))
    lengths = torch.tensor([len(c.tokens) for g in groups for c in g.completions])
    owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    columns = {n: Ragged(values, owner, len(lengths)) for n, values in state["columns"].items()}
    return Experience(groups, columns, dict(state["numbers"]))
