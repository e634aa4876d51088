"""A worker of the cluster: keeps what it was given to do, a policy or a judge, and does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from tandem.data.record import Group

Work = Callable[..., list[Group]]
"""What a job does with one unit: its groups, with completions or judgments in them."""


class Job(Protocol):
    """What a worker is to do, as it is sent to it."""

    def open(self) -> Work:
        """Open the models, once, on the worker's machine."""
        ...


class ClusterWorker:
    """Does units of work for all jobs of a run, so that a GPU has one worker and is shared.

    Args:
        threads: of every worker, so that rounding does not tell one from another.
    """

    def __init__(self, threads: int) -> None:
        self._threads, self._opened = threads, dict[str, Work]()

    def do(self, key: str, job: list[Any], *unit: Any) -> list[Group]:
        """Return what a job makes of a unit.

        Args:
            key: the job's name.
            job: a reference to it in the object store, read when the name is new.
            unit: the arguments of its work.

        Raises:
            TandemError: what the job raises.
        """
        if key not in self._opened:
            import ray  # type: ignore[import-not-found]

            torch.set_num_threads(self._threads)
            self._opened[key] = ray.get(job[0]).open()  # type: ignore[attr-defined]
        return self._opened[key](*unit)

    def forget(self, key: str) -> None:
        """Let go of a job's models."""
        self._opened.pop(key, None)
