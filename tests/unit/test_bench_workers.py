"""Seeds side by side: who ends them, what their mistakes become, and when no more are begun."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.bench import Entry, Plan, run_seeds, workers
from tandem.bench.workers import ProcessPool
from tandem.errors import ConfigError, DataError, Pending, RunError
from tandem.machine import Machine
from tandem.tasks import Sizes

PLAN = Plan("t", "q", (Entry("DPO", "dpo", {}),), tuple(range(5)), Sizes(), task="micro")


def job(seed: int, threads: int) -> float:
    """Seed 1 works, 2 fails, 3 waits for people, 4 is killed, 5 would sleep."""
    if seed == 2:
        raise DataError("two", "is", "wrong")
    if seed == 3:
        raise Pending("http://127.0.0.1:8000", 1, 2)
    if seed == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 5:
        time.sleep(600)
    return float(seed)


def test_a_worker_tells_its_seconds():
    crew = ProcessPool(2, job)
    crew.start(1)
    assert len(crew) == 1
    assert crew.wait() == [1.0]
    assert len(crew) == 0


@pytest.mark.parametrize(
    ("seed", "error", "said"),
    [(2, DataError, "two"), (3, Pending, "1 of 2"), (4, RunError, "worker of seed 4 .* code -9")],
)
def test_a_workers_mistake_is_the_benchs(seed, error, said):
    crew = ProcessPool(2, job)
    crew.start(seed)
    with pytest.raises(error, match=said):
        crew.wait()
    crew.close()


def test_closing_ends_whoever_works():
    crew = ProcessPool(1, job)
    crew.start(5)
    ((_, work),) = crew._busy.values()
    crew.close()
    assert work.exitcode == -signal.SIGTERM


class Clock:
    """Seeds that take as long as they are told."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds, self.done = 0.0, seconds, list[int]()

    def __call__(self, plan: Plan, seed: int, threads: int | None = None, **_: object) -> float:
        self.now += self.seconds
        self.done.append(seed)
        return self.seconds


@pytest.mark.parametrize(("budget", "begun"), [(1, 1), (25, 2), (30, 3), (None, 5)])
def test_no_seed_is_begun_that_would_end_late(budget, begun, tmp_path: Path, monkeypatch):
    """A seed takes 10 s: the first is always done, the n-th begins if 10 n s are there."""
    clock = Clock(10.0)
    monkeypatch.setattr(workers, "time_seed", clock)
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock.now)
    plan, told = replace(PLAN, seconds=budget), list[int]()
    done = run_seeds(plan, tmp_path, Machine(), tell=lambda spent: told.append(len(spent)))
    assert done == list(range(begun)) == clock.done
    assert told == list(range(1, begun + 1))


@pytest.mark.parametrize(
    ("given", "said"), [({"workers": 0}, "workers = 0"), ({"engine": "rocket"}, "rocket")]
)
def test_nonsense_is_refused(given, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        run_seeds(PLAN, tmp_path, Machine(), **given)


def test_ray_says_how_it_is_installed(tmp_path):
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="Ray is not installed"):
            run_seeds(PLAN, tmp_path, Machine(), engine="ray")
