"""Completions from the machines of a Ray cluster; a machine that is lost changes none of them.

Prompts are cut into units of work as our own engine cuts them. Which worker does a unit leaves
no trace in it: its draws depend on (seed, prompt id, i), and its arithmetic on its own prompts.
So a unit whose worker was lost is simply done again by another, and what comes out is the same
bit for bit, as long as the cluster's processors are of one kind.
"""

from __future__ import annotations

import copy
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch import nn

from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.engines.ray.cluster import Place, join_cluster, living_places
from tandem.engines.ray.rollout_worker import PolicyShape, RolloutWorker, pack_weights
from tandem.engines.torch import cut_units
from tandem.errors import EngineError
from tandem.models.lora import unwrap_adapters
from tandem.rng import Seed
from tandem.runs.heartbeat import count_tokens

UNIT_ROWS = 64
"""Completions in a unit of work: few enough that a step's prompts occupy several machines."""
IN_HAND = 2
"""Units given to a worker at once: the second waits beside it while it does the first."""
AHEAD = 4
"""Units for each worker that may be done before their turn, and wait in memory."""
PATIENCE = 60.0
"""Seconds that an engine waits for a machine when none is left."""
TRIES = 3
"""How often one unit may lose its worker: memory that it does not fit in kills any of them."""


class RayEngine:
    """Draws completions on every machine of a cluster, from copies of the policy.

    Args:
        lm: the policy, a model of transformers with adapters or without.
        tokenizer: its tokenizer; prompts bring their tokens, this one writes the text.
        dtype: what the workers compute in.
        name: written as the completions' author.
        unit_rows: completions in a unit of work, at least one prompt's.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: there is no cluster where RAY_ADDRESS says.
    """

    is_exact = False

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: Any,
        *,
        dtype: torch.dtype = torch.float32,
        name: str = "policy",
        unit_rows: int = UNIT_ROWS,
    ) -> None:
        self._ray, _ = join_cluster("machine.engine = ray", "leave machine.engine out")
        self.name, self.dtype, self.unit_rows = name, dtype, unit_rows
        self._shape = self._ray.put(_shape_of(lm, tokenizer, dtype, name, unit_rows))
        self._lm, self._version = lm, 0
        self._weights: Any = None
        self._affinity = import_module(
            "ray.util.scheduling_strategies"
        ).NodeAffinitySchedulingStrategy
        self._workers: dict[Place, Any] = {}
        self._shunned: set[Place] = set()
        self._closing = weakref.finalize(self, _end_workers, self._ray, self._workers)

    def load(self, weights: nn.Module) -> None:
        """Sample from a live module's weights from now on; adapters are added to their layers.

        The weights before are dropped, so that the cluster holds one set. These are handed over
        when they are sampled.
        """
        self._lm, self._weights = weights, None
        self._version += 1

    def close(self) -> None:
        """End the workers."""
        self._closing()

    def sample(
        self, prompts: Iterable[Group], n: int, sampling: Sampling, seed: Seed
    ) -> Iterator[Group]:
        """Yield each prompt with n new completions, in the order of the prompts.

        Raises:
            EngineError: what a worker refused; or no machine is left, or one unit lost worker
                after worker.
        """
        if self._weights is None:
            self._weights = self._ray.put(pack_weights(self._lm, self.dtype))
        self._shunned.clear()
        self._hire()
        units = _Units(cut_units(prompts, n, self.unit_rows))
        running: dict[Any, tuple[Place, int, list[Group]]] = {}
        try:
            while True:
                while (place := self._free_place(running, units)) and (given := units.take()):
                    number, unit = given
                    asked = self._workers[place].sample
                    ref = asked.remote(self._version, self._weights, unit, n, sampling, seed)
                    running[ref] = (place, number, unit)
                if not running:
                    return
                [ref], _ = self._ray.wait(list(running), num_returns=1)
                place, number, unit = running.pop(ref)
                drawn = self._result(ref)
                if isinstance(drawn, Exception):
                    units.put_back(number, unit, drawn)
                    self._lose(place)
                    continue
                for group in units.in_turn(number, drawn):
                    count_tokens("drawn", sum(len(c.tokens) for c in group.completions))
                    yield group
        finally:
            for ref in running:
                self._ray.cancel(ref, force=False)

    def _free_place(self, running: dict[Any, Any], units: _Units) -> Place | None:
        """Return who can be given a unit: the worker with the fewest, if it has room."""
        if len(running) + units.held >= AHEAD * len(self._workers):
            return None
        busy = Counter(place for place, _, _ in running.values())
        place = min(self._workers, key=lambda p: busy[p])
        return place if busy[place] < IN_HAND else None

    def _result(self, ref: Any) -> list[Group] | Exception:
        """Return what a worker drew, or how it was lost."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:
            raise error.cause from error
        except (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError) as error:
            return error

    def _lose(self, place: Place) -> None:
        """Give nothing more to a worker that was lost.

        A machine that is gone counts as living for some seconds more, so that its place is left
        alone until the next prompts come, unless there is no other.
        """
        self._workers.pop(place, None)
        self._shunned.add(place)
        self._hire()

    def _hire(self) -> None:
        """Have a worker in every place that lives, and in no other."""
        end = time.monotonic() + PATIENCE
        while not (living := set(living_places(self._ray)) - self._shunned):
            if time.monotonic() > end:
                raise EngineError(
                    "no machine of the Ray cluster is left",
                    "completions are drawn on its machines",
                    "start machines again (`ray start --address=...`); the same command goes on",
                )
            time.sleep(1)
            if time.monotonic() > end - PATIENCE / 2:
                self._shunned.clear()  # what still lives now is a machine whose worker ended
        for place in self._workers.keys() - living:
            del self._workers[place]
        for place in living - self._workers.keys():
            hired = self._ray.remote(num_cpus=0, num_gpus=place.gpus)(RolloutWorker)
            here = self._affinity(node_id=place.node, soft=False)
            self._workers[place] = hired.options(scheduling_strategy=here).remote(self._shape)


def _shape_of(
    lm: Any, tokenizer: Any, dtype: torch.dtype, name: str, unit_rows: int
) -> PolicyShape:
    inner = unwrap_adapters(lm)
    config = copy.deepcopy(inner.config)
    config._attn_implementation = None  # ours is known in the process alone that registered it
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    generation = getattr(inner, "generation_config", None)
    threads = torch.get_num_threads()
    return PolicyShape(type(inner), config, generation, tokenizer, dtype, name, unit_rows, threads)


class _Units:
    """Units of work by number: not begun, to be done again, or done before their turn."""

    def __init__(self, units: Iterable[list[Group]]) -> None:
        self._fresh = enumerate(units)
        self._again: deque[tuple[int, list[Group]]] = deque()
        self._done: dict[int, list[Group]] = {}
        self._losses: Counter[int] = Counter()
        self._turn = 0

    @property
    def held(self) -> int:
        """How many wait for their turn; none keeps one that was lost from being done again."""
        return 0 if self._again else len(self._done)

    def take(self) -> tuple[int, list[Group]] | None:
        """Return the next unit to be done, those that were lost first."""
        return self._again.popleft() if self._again else next(self._fresh, None)

    def put_back(self, number: int, unit: list[Group], error: Exception) -> None:
        """Have a unit done again whose worker was lost.

        Raises:
            EngineError: it has lost too many.
        """
        self._losses[number] += 1
        if self._losses[number] == TRIES:
            raise EngineError(
                f"{TRIES} workers ended while they drew for {len(unit)} prompts from "
                f"`{unit[0].id}` on: {' '.join(str(error).split())[:300]}",
                "often a machine has no memory left for the policy and a unit's completions",
                "give larger machines, or a smaller sampling.max_tokens; the same command goes on",
            ) from error
        self._again.append((number, unit))

    def in_turn(self, number: int, drawn: list[Group]) -> Iterator[Group]:
        """Keep what was drawn; yield all groups whose turn has come."""
        self._done[number] = drawn
        while self._turn in self._done:
            self._turn += 1
            yield from self._done.pop(self._turn - 1)


def _end_workers(ray: Any, workers: dict[Place, Any]) -> None:
    if ray.is_initialized():
        for worker in workers.values():
            ray.kill(worker)
    workers.clear()
