"""Completions of the prompts that come next, drawn when they are wanted or one round ahead.

A prompt that comes round again, even inside one round, is drawn with other random numbers: its
draws are keyed by the pass over the prompts.

A draw that was begun ahead is of the policy as it was then, and its answers hold the probabilities
under that policy. An engine with weights of its own draws in a thread beside the training; ours
reads the weights that are trained, so it draws at once, and saves no time. The answers are the
same whoever waits for whom, and they are part of the state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Engine, Sampling
from tandem.rng import Seed


class Drawn(NamedTuple):
    """Prompts with their completions, and the seconds that it took to draw them."""

    groups: list[Group]
    seconds: float


class PromptDraws:
    """Samples an endless sequence of shuffled passes over prompts.

    Args:
        prompts: tokenised.
        engine: draws completions from the weights that it was given last.
        n: completions of each prompt.
        sampling: how they are drawn.
        seed: orders the prompts and draws their completions.

    `waited` counts the seconds that the caller waited for completions, and `drawing` those that it
    took to draw what was taken.
    """

    def __init__(
        self, prompts: Groups, engine: Engine, n: int, sampling: Sampling, seed: Seed
    ) -> None:
        self.prompts, self.engine, self.n = prompts, engine, n
        self.sampling, self.seed = sampling, seed
        self.asked = 0
        self.waited = self.drawing = 0.0
        self.coming: Future[Drawn] | None = None
        self._beside = None if engine.is_exact else ThreadPoolExecutor(1, "tandem-rollouts")

    def load(self, weights: nn.Module) -> None:
        """Draw from a live module's weights from now on; what was begun before is drawn first."""
        self.wait()
        self.engine.load(weights)

    def take(self, count: int) -> list[Group]:
        """Return the next prompts with their completions: those that were begun, if any were."""
        start = time.monotonic()
        drawn = _timed(self._draws(count)) if self.coming is None else self.coming.result()
        self.waited += time.monotonic() - start
        self.drawing += drawn.seconds
        self.coming = None
        return drawn.groups

    def begin(self, count: int) -> None:
        """Begin to draw the next prompts, for the next `take`."""
        draws = self._draws(count)
        beside = self._beside
        self.coming = _done(_timed(draws)) if beside is None else beside.submit(_timed, draws)

    def wait(self) -> None:
        """Wait until nothing is being drawn."""
        if self.coming is not None:
            start = time.monotonic()
            self.coming.result()
            self.waited += time.monotonic() - start

    def state_dict(self) -> dict[str, Any]:
        """How many prompts were asked, and what was drawn ahead; waits for it."""
        if self.coming is None:
            return {"asked": self.asked}
        drawn = self.coming.result()
        ahead = torch.from_numpy(Groups.of(drawn.groups).to_bytes().copy())
        return {"asked": self.asked, "ahead": ahead, "ahead_seconds": drawn.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.asked, self.coming = int(state["asked"]), None
        if "ahead" in state:
            groups = list(Groups.from_bytes(state["ahead"].numpy()))
            self.coming = _done(Drawn(groups, float(state["ahead_seconds"])))

    def _draws(self, count: int) -> Iterator[Group]:
        asked = list(self._next_prompts(count))
        keyed = (_keyed(g, epoch) for epoch, g in asked)
        drawn = self.engine.sample(keyed, self.n, self.sampling, self.seed.at("draws"))
        return (replace(d, prompt=g.prompt) for d, (_, g) in zip(drawn, asked, strict=True))

    def _next_prompts(self, count: int) -> Iterator[tuple[int, Group]]:
        """(pass, prompt): the next of an endless sequence of shuffled passes."""
        orders: dict[int, np.ndarray] = {}
        for at in range(self.asked, self.asked + count):
            epoch, inside = divmod(at, len(self.prompts))
            if epoch not in orders:
                orders[epoch] = self.seed.at("prompts", epoch).rng().permutation(len(self.prompts))
            yield epoch, self.prompts[int(orders[epoch][inside])]
        self.asked += count


def _keyed(group: Group, epoch: int) -> Group:
    """The prompt under a name of its own for this pass: engines key their draws by it."""
    return Group(replace(group.prompt, id=f"{group.id}/{epoch}"))


def _timed(draws: Iterator[Group]) -> Drawn:
    start = time.monotonic()
    return Drawn(list(draws), time.monotonic() - start)


def _done(drawn: Drawn) -> Future[Drawn]:
    future: Future[Drawn] = Future()
    future.set_result(drawn)
    return future
