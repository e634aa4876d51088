"""Who does the seeds: this process, several processes, or the machines of a Ray cluster.

A seed is one run folder, so workers share nothing and a killed comparison goes on where each seed
stopped. On a Ray cluster `out` has to lie on a disk that all machines see.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import Any, Literal, Protocol

from tandem.bench.plan import Plan
from tandem.engines.ray.cluster import join_cluster
from tandem.errors import ConfigError, RunError
from tandem.machine import Machine
from tandem.runs.display import Lines

PoolKind = Literal["processes", "ray"]
Job = Callable[..., float]
"""(seed, threads) -> seconds that it took."""


class WorkerPool(Protocol):
    """Workers: seeds go in, seconds come out."""

    def start(self, seed: int) -> None:
        """Begin a seed."""

    def wait(self) -> list[float]:
        """Return the seconds of seeds that have ended since, at least of one."""
        ...

    def __len__(self) -> int:
        """Return the number of workers that are running."""
        ...

    def close(self) -> None:
        """Stop whoever is still at work."""


def run_seeds(
    plan: Plan,
    out: Path,
    machine: Machine,
    *,
    workers: int = 1,
    engine: PoolKind = "processes",
    trackers: tuple[str, ...] = (),
    redo: tuple[str, ...] = (),
    is_resolved: Callable[[], bool] | None = None,
    tell: Callable[[Sequence[float]], None] | None = None,
) -> list[int]:
    """Do every seed of a plan, or as many as fit into `plan.seconds`, or as are needed.

    Every worker's first seed is always done. With a budget another is started when the mean time of
    those that ended says that it ends in time: it depends on the clock alone, never on a result.
    With `plan.fewest_seeds` none is started after those once `is_resolved` says so (docs/adr/0019).

    Args:
        plan: what is compared.
        out: the comparison's folder, made when missing.
        machine: the same for every seed.
        workers: seeds done side by side.
        engine: who works.
        trackers: who follows the events of every seed.
        redo: stages to do again, where a seed has them.
        is_resolved: says of the finished seeds whether they resolve every claim.
        tell: called with the seconds of the finished seeds, each time that there are more.

    Returns:
        the seeds that were started, all finished.

    Raises:
        ConfigError: workers below 1, an unknown engine, or Ray is wanted and not installed.
        RunError: a worker was killed.
    """
    job = partial(time_seed, plan, out=out.resolve(), machine=machine, trackers=trackers, redo=redo)
    crew = _crew(engine, workers, job)
    begun, spent, started = time.monotonic(), list[float](), list[int]()

    def wait_for_seeds(fewest: int) -> None:
        while len(spent) < fewest:
            spent.extend(crew.wait())
            if tell is not None:
                tell(spent)

    try:
        for seed in plan.seeds:
            wait_for_seeds(len(started) - workers + 1)
            if len(started) >= workers and _would_end_late(plan, time.monotonic() - begun, spent):
                break
            if plan.fewest_seeds is not None and len(started) >= plan.fewest_seeds:
                wait_for_seeds(plan.fewest_seeds)
                if is_resolved is not None and is_resolved():
                    break
            crew.start(seed)
            started.append(seed)
        wait_for_seeds(len(started))
    finally:
        crew.close()
    return started


def _would_end_late(plan: Plan, elapsed: float, spent: Sequence[float]) -> bool:
    """Say whether another seed, as long as those that ended, would end after the budget."""
    return plan.seconds is not None and elapsed + sum(spent) / len(spent) > plan.seconds


def time_seed(
    plan: Plan,
    seed: int,
    threads: int | None = None,
    *,
    out: Path,
    machine: Machine,
    trackers: tuple[str, ...] = (),
    redo: tuple[str, ...] = (),
) -> float:
    """Do one seed and return its seconds; with `threads`, as one of several workers."""
    from tandem.bench.seeds import run_seed

    display = None
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
        gc.freeze()  # as in `cli.run_command`
        display = Lines(sys.stderr, prefix=f"seed {seed}  ")
    begun = time.monotonic()
    run_seed(plan, seed, out, machine, display, trackers, redo)
    return time.monotonic() - begun


def _crew(engine: str, workers: int, job: Job) -> WorkerPool:
    if workers < 1:
        raise ConfigError(f"workers = {workers}", "somebody has to work", "give 1 or more")
    if engine == "ray":
        return RayPool(workers, job)
    if engine != "processes":
        raise ConfigError(
            f"--engine {engine}", "seeds are done by processes or by Ray", "give one of the two"
        )
    return InProcess(job) if workers == 1 else ProcessPool(workers, job)


class InProcess:
    """This process."""

    def __init__(self, job: Job) -> None:
        self._job, self._spent = job, list[float]()

    def start(self, seed: int) -> None:
        """Do a seed, now."""
        self._spent.append(self._job(seed))

    def wait(self) -> list[float]:
        """Return what was done."""
        spent, self._spent = self._spent, []
        return spent

    def __len__(self) -> int:
        return len(self._spent)

    def close(self) -> None:
        """Nobody is left at work."""


class ProcessPool:
    """A process a seed; the processors are shared out evenly.

    A worker does not hear Ctrl-C: this process does, and ends the others. What they had finished
    stays, as after any kill.
    """

    def __init__(self, workers: int, job: Job) -> None:
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._context, self._job = get_context("spawn"), job
        self._busy: dict[Connection, tuple[int, Any]] = {}

    def start(self, seed: int) -> None:
        """Begin a seed in a process of its own."""
        answer, far = self._context.Pipe(duplex=False)
        work = self._context.Process(target=_work, args=(far, self._job, seed, self._threads))
        with ignoring_interrupts():
            work.start()
        far.close()
        self._busy[answer] = (seed, work)

    def wait(self) -> list[float]:
        """Return the seconds of those that ended; raise what a worker raised."""
        return [self._end(end) for end in wait(list(self._busy)) if isinstance(end, Connection)]

    def _end(self, answer: Connection) -> float:
        seed, work = self._busy[answer]
        try:
            told = answer.recv()
        except EOFError:
            work.join()
            told = RunError(
                f"the worker of seed {seed} ended with exit code {work.exitcode}",
                "something killed it: often there was no memory left for so many side by side",
                "give fewer --workers; the same command goes on from here",
            )
        work.join()
        del self._busy[answer]
        if isinstance(told, BaseException):
            raise told
        return told

    def __len__(self) -> int:
        return len(self._busy)

    def close(self) -> None:
        """End whoever is still at work."""
        for _, work in self._busy.values():
            work.terminate()
        for _, work in self._busy.values():
            work.join()
        self._busy.clear()


def _work(answer: Connection, job: Job, seed: int, threads: int) -> None:
    """Do a seed in a process of its own, and tell its seconds or what went wrong."""
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer.send(job(seed, threads))
    except Exception as error:
        answer.send(error)


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Start processes that do not hear Ctrl-C, from their first moment: they inherit it."""
    if current_thread() is not main_thread():  # where signals cannot be changed
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    """A worker whose parent was killed would hold its seed's folder against the next command."""
    if (parent := parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)


class RayPool:
    """Tasks on a Ray cluster: the one that RAY_ADDRESS names, or one on this machine."""

    def __init__(self, workers: int, job: Job) -> None:
        self._ray, self._own = join_cluster("--engine ray", "give --engine processes", log=True)
        cpus = self._ray.cluster_resources().get("CPU", 1)
        self._threads = max(1, int(cpus) // workers)
        self._busy: list[Any] = []

        def work(seed: int, threads: int) -> float:
            return job(seed, threads)

        self._task = self._ray.remote(num_cpus=self._threads)(work)

    def start(self, seed: int) -> None:
        """Hand a seed to the cluster."""
        self._busy.append(self._task.remote(seed, self._threads))

    def wait(self) -> list[float]:
        """Return the seconds of those that ended; raise what a task raised."""
        done, self._busy = self._ray.wait(self._busy)
        return self._ray.get(done)

    def __len__(self) -> int:
        return len(self._busy)

    def close(self) -> None:
        """Cancel whoever is still at work, and leave the cluster."""
        for task in self._busy:
            self._ray.cancel(task, force=True)
        self._busy = []
        if self._own:
            self._ray.shutdown()
