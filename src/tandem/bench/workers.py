"""Who does the seeds: this process, several processes, or the machines of a Ray cluster.

A seed is one run folder, so workers share nothing and a killed comparison goes on where each seed
stopped. On a Ray cluster `out` has to lie on a disk that all machines see.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from tandem.bench.plan import Plan
from tandem.errors import ConfigError
from tandem.events import Lines
from tandem.machine import Machine

Engine = Literal["processes", "ray"]


def run_seeds(
    plan: Plan, out: Path, machine: Machine, *, workers: int = 1, engine: Engine = "processes"
) -> list[int]:
    """Do every seed of a plan, or as many as fit into `plan.seconds`.

    A seed is started when the mean time of those that were finished says that it will end in
    time; which seeds are done depends on the clock alone, never on a result. The first is always
    done.

    Returns:
        the seeds that were started, all finished.

    Raises:
        ConfigError: workers below 1, or Ray is wanted and not installed.
    """
    if workers < 1:
        raise ConfigError(f"workers = {workers}", "somebody has to work", "give 1 or more")
    out.mkdir(parents=True, exist_ok=True)
    begun, spent, started = time.monotonic(), list[float](), list[int]()

    def wanted() -> Iterator[int]:
        for seed in plan.seeds:
            late = plan.seconds is not None and started and not spent
            each = sum(spent) / len(spent) if spent else 0.0
            used = time.monotonic() - begun
            if plan.seconds is not None and started and (late or used + each > plan.seconds):
                return
            started.append(seed)
            yield seed

    if engine == "ray":
        _with_ray(plan, out, machine, wanted(), workers, spent.append)
    elif workers == 1:
        for seed in wanted():
            spent.append(one_seed(plan, seed, out, machine, None))
    else:
        _with_processes(plan, out, machine, wanted(), workers, spent.append)
    return started


def one_seed(plan: Plan, seed: int, out: Path, machine: Machine, threads: int | None) -> float:
    """Do one seed and return its seconds; with `threads`, as one of several workers."""
    from tandem.bench.seeds import run_seed

    display = None
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
        display = Lines(sys.stderr, prefix=f"seed {seed}  ")
    begun = time.monotonic()
    run_seed(plan, seed, out, machine, display)
    return time.monotonic() - begun


def _with_processes(
    plan: Plan,
    out: Path,
    machine: Machine,
    seeds: Iterator[int],
    workers: int,
    tell: Callable[[float], None],
) -> None:
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        busy: set[Future[float]] = set()
        for seed in seeds:
            busy.add(pool.submit(one_seed, plan, seed, out, machine, threads))
            while len(busy) >= workers:
                done, busy = wait(busy, return_when=FIRST_COMPLETED)
                for each in done:
                    tell(each.result())
        for each in busy:
            tell(each.result())


def _with_ray(
    plan: Plan,
    out: Path,
    machine: Machine,
    seeds: Iterator[int],
    workers: int,
    tell: Callable[[float], None],
) -> None:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "--engine ray",
            "Ray is not installed",
            "`pip install 'tandem-rlhf[ray]'`, or --engine processes",
        ) from error
    cluster: Any = ray
    if not cluster.is_initialized():
        cluster.init(log_to_driver=True, include_dashboard=False)
    threads = max(1, int(cluster.cluster_resources().get("CPU", 1)) // workers)
    work = cluster.remote(num_cpus=threads)(one_seed)
    busy: list[Any] = []
    for seed in seeds:
        busy.append(work.remote(plan, seed, out.resolve(), machine, threads))
        while len(busy) >= workers:
            done, busy = cluster.wait(busy)
            for each in cluster.get(done):
                tell(each)
    for each in cluster.get(busy):
        tell(each)
