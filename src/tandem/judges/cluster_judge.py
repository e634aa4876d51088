"""A judge with models of its own, asked on the machines of a Ray cluster.

The judge travels with the files of its models, so that no machine needs a folder of another one.
"""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from tandem.data.record import Group
from tandem.engines.ray.policy_copy import Packed
from tandem.engines.ray.worker_pool import ClusterPool, shared_pool
from tandem.engines.torch import cut_units
from tandem.judges import Judge, open_judge
from tandem.judges.llm import Labeller, Rater
from tandem.judges.reasoning import ReasoningJudge
from tandem.machine import Machine
from tandem.runs.checkpoint import Checkpoint

UNIT_ROWS = 64
"""Completions in a unit of work, where all groups are as large as the first."""


def open_on_cluster(judge: Judge, machine: Machine) -> ClusterJudge | None:
    """Open a judge on all machines of the cluster; None for one that opens no models.

    One that asks a language model stays here, where its answers are kept.

    Args:
        judge: each `Checkpoint` of it and of the judges that it is made of is sent along.
        machine: of the run.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: there is no cluster where RAY_ADDRESS says.
    """
    if not hasattr(judge, "open"):
        return None
    found: list[Checkpoint] = []
    _with_checkpoints(judge, lambda c: (found.append(c), c)[1])
    if not found or _asks_language_model(judge):
        return None
    packed = [_pack(c) for c in found]
    device = "cpu" if machine.device == "cpu" else "auto"  # numbers of GPUs differ by machine
    alone = replace(machine, engine="torch", device=device, lora=None)
    return ClusterJudge(shared_pool(), JudgeCopy(judge, tuple(packed), alone))


@dataclass(frozen=True)
class JudgeCopy:
    """All that a worker needs to open a judge: a `Job`.

    Attributes:
        judge: the judge, its checkpoints at their places on the machine that sent it.
        files: of each of its checkpoints in turn: a file's name in the folder -> what is in it.
        machine: the settings that it runs with.
    """

    judge: Judge
    files: tuple[Mapping[str, Packed], ...]
    machine: Machine

    def open(self) -> Callable[[list[Group]], list[Group]]:
        """Write the models' files to this machine's disk, and open the judge on them."""
        place = tempfile.TemporaryDirectory(prefix="tandem-judge-")
        left = iter(enumerate(self.files))

        def unpacked(given: Checkpoint) -> Checkpoint:
            number, files = next(left)
            folder = Path(place.name) / str(number)
            for name, data in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data.tobytes())
            return Checkpoint(folder, str(given))

        score = open_judge(_with_checkpoints(self.judge, unpacked), self.machine)

        def judged(unit: list[Group]) -> list[Group]:
            return list(score(unit))

        weakref.finalize(judged, place.cleanup)
        return judged


class ClusterJudge:
    """An opened judge whose models are on the machines of a cluster.

    Args:
        pool: the workers.
        job: the judge as it is sent.
    """

    def __init__(self, pool: ClusterPool, job: JudgeCopy) -> None:
        self.pool = pool
        self._key = pool.add("judge", job)
        weakref.finalize(self, pool.remove, self._key)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with the judge's columns, in order.

        Raises:
            EngineError: no machine is left, or one unit lost worker after worker.
            JudgeError: what the judge raises.
        """
        given = iter(groups)
        if (first := next(given, None)) is not None:
            units = cut_units(itertools.chain([first], given), max(1, len(first)), UNIT_ROWS)
            yield from self.pool.work(self._key, units, lambda unit: (unit,))


def _pack(checkpoint: Checkpoint) -> dict[str, Packed]:
    return {
        file.relative_to(checkpoint.path).as_posix(): np.fromfile(file, np.uint8)
        for file in checkpoint.files()
    }


def _asks_language_model(value: Any) -> bool:
    if isinstance(value, Labeller | Rater | ReasoningJudge):
        return True
    if isinstance(value, tuple):
        return any(_asks_language_model(v) for v in cast("tuple[Any, ...]", value))
    if isinstance(value, Judge) and is_dataclass(value) and not isinstance(value, type):
        return any(_asks_language_model(getattr(value, f.name)) for f in fields(value))
    return False


def _with_checkpoints(value: Any, change: Callable[[Checkpoint], Checkpoint]) -> Any:
    """Return a judge with each of its checkpoints put through `change`, always in one order."""
    if isinstance(value, Checkpoint):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_with_checkpoints(v, change) for v in cast("tuple[Any, ...]", value))
    if isinstance(value, Judge) and is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        return replace(value, **{name: _with_checkpoints(v, change) for name, v in own.items()})
    return value
