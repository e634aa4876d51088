"""Workers on the machines of a Ray cluster: units of work in, results in order out.

Which worker does a unit leaves no trace in its result. So a unit whose worker was lost is simply
done again by another, and what comes out is the same bit for bit, as long as the cluster's
processors are of one kind.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

import torch

from tandem.data.record import Group
from tandem.engines.ray.cluster import Place, join_cluster, living_places
from tandem.engines.ray.cluster_worker import ClusterWorker, Job
from tandem.errors import EngineError

IN_HAND = 2
"""Units that a job gives to a worker at once: the second waits while it does the first."""
AHEAD = 4
"""Units for each worker that may be done before their turn, and wait in memory."""
PATIENCE = 60.0
"""Seconds that a job waits for a machine when none is left."""
TRIES = 3
"""How often one unit may lose its worker: memory that it does not fit in kills any of them."""


class ClusterPool:
    """One worker in each place of the cluster, for all jobs of this process.

        pool = shared_pool()
        key = pool.add("policy", job)
        for group in pool.work(key, units, lambda unit: (unit, n, sampling, seed)):
            ...

    Args:
        ray: the module, joined to its cluster.
    """

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.cluster = ray.get_runtime_context().get_job_id()
        self._affinity = import_module(
            "ray.util.scheduling_strategies"
        ).NodeAffinitySchedulingStrategy
        self._workers: dict[Place, Any] = {}
        self._shunned: set[Place] = set()
        self._jobs: dict[str, Any] = {}
        self._named = 0
        self._lock = threading.RLock()
        weakref.finalize(self, _end_workers, ray, self._workers)

    def add(self, what: str, job: Job) -> str:
        """Let workers do a job; return the name that it is asked for by."""
        with self._lock:
            self._named += 1
            key = f"{what}-{self._named}"
            self._jobs[key] = self.ray.put(job)
            return key

    def remove(self, key: str) -> None:
        """Let workers forget a job and its models."""
        with self._lock:
            if self._jobs.pop(key, None) is not None and self.ray.is_initialized():
                for worker in self._workers.values():
                    worker.forget.remote(key)

    def work(
        self,
        key: str,
        units: Iterable[list[Group]],
        arguments: Callable[[list[Group]], tuple[Any, ...]],
    ) -> Iterator[Group]:
        """Yield what a job makes of units, in their order; several threads may ask at once.

        Args:
            key: the job.
            units: are taken as results are read.
            arguments: what the job's work is called with for a unit.

        Raises:
            EngineError: no machine is left, or one unit lost worker after worker.
            TandemError: what the job raised.
        """
        with self._lock:
            self._shunned.clear()
        self._hire()
        queue = _Units(units)
        running: dict[Any, tuple[Place, Any, int, list[Group]]] = {}
        try:
            while True:
                while (free := self._free_worker(running, queue)) and (given := queue.take()):
                    (place, worker), (number, unit) = free, given
                    ref = worker.do.remote(key, [self._jobs[key]], *arguments(unit))
                    running[ref] = (place, worker, number, unit)
                if not running and free:
                    return
                if not running:  # another thread has just lost the last worker
                    self._hire()
                    continue
                [ref], _ = self.ray.wait(list(running), num_returns=1)
                place, worker, number, unit = running.pop(ref)
                made = self._result(ref)
                if isinstance(made, Exception):
                    queue.put_back(number, unit, made)
                    self._lose(place, worker)
                    continue
                yield from queue.in_turn(number, made)
        finally:
            for ref in running:
                self.ray.cancel(ref, force=False)

    def _free_worker(self, running: dict[Any, Any], queue: _Units) -> tuple[Place, Any] | None:
        """Return who can be given a unit: the worker with the fewest of them, if it has room."""
        with self._lock:
            workers = dict(self._workers)
        if len(running) + queue.held >= AHEAD * len(workers):
            return None
        busy = Counter(place for place, *_ in running.values())
        place = min(workers, key=lambda p: busy[p])
        return (place, workers[place]) if busy[place] < IN_HAND else None

    def _result(self, ref: Any) -> list[Group] | Exception:
        """Return what a worker made, or how it was lost."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as error:
            raise error.cause from error
        except (
            errors.RayActorError, errors.ActorUnschedulableError, errors.WorkerCrashedError,
            errors.OutOfMemoryError, errors.ObjectLostError, errors.NodeDiedError,
        ) as error:  # fmt: skip
            return error

    def _lose(self, place: Place, worker: Any) -> None:
        """Give nothing more to a worker that was lost.

        A machine that is gone counts as living for some seconds more, so that its place is left
        alone until the next units come, unless there is no other.
        """
        with self._lock:
            if self._workers.get(place) is worker:
                del self._workers[place]
                self._shunned.add(place)
        self._hire()

    def _hire(self) -> None:
        """Have a worker in every place that lives, and in no other."""
        end = time.monotonic() + PATIENCE
        while not (living := set(living_places(self.ray)) - self._shunned):
            if time.monotonic() > end:
                raise EngineError(
                    "no machine of the Ray cluster is left",
                    "completions are drawn and judged on its machines",
                    "start machines again (`ray start --address=...`); the same command goes on",
                )
            time.sleep(1)
            if time.monotonic() > end - PATIENCE / 2:
                self._shunned.clear()  # what still lives now is a machine whose worker ended
        with self._lock:
            for place in self._workers.keys() - living:
                del self._workers[place]
            for place in living - self._workers.keys():
                hired = self.ray.remote(num_cpus=0, num_gpus=place.gpus)(ClusterWorker)
                here = self._affinity(node_id=place.node, soft=False)
                self._workers[place] = hired.options(scheduling_strategy=here).remote(
                    torch.get_num_threads()
                )


_pools: list[ClusterPool] = []


def shared_pool() -> ClusterPool:
    """Return this process's pool, joining the cluster if need be.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: there is no cluster where RAY_ADDRESS says.
    """
    ray, _ = join_cluster("machine.engine = ray", "leave machine.engine out")
    now = ray.get_runtime_context().get_job_id()
    if not _pools or _pools[0].cluster != now:
        _pools[:] = [ClusterPool(ray)]
    return _pools[0]


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
                f"{TRIES} workers ended while they were busy with {len(unit)} prompts from "
                f"`{unit[0].id}` on: {' '.join(str(error).split())[:300]}",
                "often a machine has no memory left for the models and a unit's completions",
                "give larger machines, or a smaller sampling.max_tokens; the same command goes on",
            ) from error
        self._again.append((number, unit))

    def in_turn(self, number: int, made: list[Group]) -> Iterator[Group]:
        """Keep what was made of a unit; yield all groups whose turn has come."""
        self._done[number] = made
        while self._turn in self._done:
            self._turn += 1
            yield from self._done.pop(self._turn - 1)


def _end_workers(ray: Any, workers: dict[Place, Any]) -> None:
    if ray.is_initialized():
        for worker in workers.values():
            ray.kill(worker)
    workers.clear()
