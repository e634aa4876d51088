"""What the finished seeds of a comparison have left on disk. No torch.

Shapes: S seeds, P prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tandem.bench.outcomes import Outcomes, Stack
from tandem.bench.plan import Plan
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import RunError
from tandem.runs.atomic_files import read_json
from tandem.runs.names import folder_name
from tandem.runs.records import Record, read_records

FAILED, NEEDED = "failed.json", "needed.json"
JUDGED = "judged-answers"
"""The stage of a scope that ends it: what its answers are worth by every judge."""
Tally = Callable[[Group], float]


@dataclass(frozen=True)
class Finished:
    """The seeds of a plan that were done from the first entry to the last.

    Attributes:
        plan: what was compared.
        out: the comparison's folder.
        tallies: column -> what is counted in an answer, for tasks that can tell.
    """

    plan: Plan
    out: Path
    tallies: Mapping[str, Tally]

    @property
    def names(self) -> list[str]:
        """Every row of the table."""
        return list(self.plan.policies)

    @cached_property
    def seeds(self) -> list[int]:
        """The finished seeds.

        Raises:
            RunError: there are none.
        """
        found = [s for s in self.plan.seeds if all(self._ended(s, n) for n in self.names)]
        if not found:
            raise RunError(
                f"no seed of {self.plan.title!r} is finished in {self.out}",
                "results are collected from seeds of which every method was examined or failed",
                "run the same command again: it goes on where it stopped",
            )
        return found

    @property
    def begun(self) -> list[int]:
        """Seeds that were started and are not finished."""
        started = (s for s in self.plan.seeds if self.plan.folder(self.out, s).exists())
        return [s for s in started if s not in self.seeds]

    def scopes(self, name: str) -> list[Path]:
        """Return an entry's folder in each finished seed."""
        return [self._scope(seed, name) for seed in self.seeds]

    @cached_property
    def failed(self) -> dict[str, str]:
        """Name -> why and in which seed; a method that failed once has no row of numbers."""
        found: dict[str, str] = {}
        for name in self.names:
            for seed, scope in zip(self.seeds, self.scopes(name), strict=True):
                if (told := read_json(scope / FAILED)) is not None:
                    found.setdefault(name, f"seed {seed}: {told['reason']}")
        return found

    @cached_property
    def columns(self) -> dict[str, Stack]:
        """Name -> column -> [S, P] numbers of every method that did not fail."""
        return {name: self._stacked(name) for name in self.names if name not in self.failed}

    @property
    def main(self) -> Stack:
        """The opponent's columns."""
        return self.columns[self.plan.opponent]

    @cached_property
    def judge(self) -> str:
        """Who decides: the most trusted judge that has seen every answer."""
        return self.outcomes.judge

    @cached_property
    def outcomes(self) -> Outcomes:
        """What every policy did on every prompt."""
        return Outcomes(self.seeds, [g.id for g in self.answers(self.plan.opponent)], self.columns)

    def answers(self, name: str, k: int = 0) -> Groups:
        """Return what a policy answered in the k-th finished seed."""
        return load_stage(self.scopes(name)[k], "answers").load()

    def spent(self, name: str) -> list[tuple[float, int]]:
        """Return [S] seconds and peak bytes of a method, what it shares with others in full."""
        return [_spent(scope) for scope in self.scopes(name)]

    def _scope(self, seed: int, name: str) -> Path:
        return self.plan.folder(self.out, seed) / folder_name(name)

    def _ended(self, seed: int, name: str) -> bool:
        return has_ended(self._scope(seed, name))

    def _stacked(self, name: str) -> Stack:
        exams = [load_stage(scope, JUDGED).load() for scope in self.scopes(name)]
        found = {
            k: np.array([e[k] for e in exams], np.float64)
            for k in exams[0]
            if all(k in e for e in exams)
        }
        answers = [self.answers(name, k) for k in range(len(exams))] if self.tallies else []
        counted = {
            column: np.array([[count(group) for group in groups] for groups in answers])
            for column, count in self.tallies.items()
        }
        return found | counted


def has_ended(scope: Path) -> bool:
    """Say whether an entry was examined to the end, or failed."""
    return (scope / FAILED).exists() or has_stage(scope, JUDGED)


def has_stage(scope: Path, name: str) -> bool:
    """Say whether a stage is finished."""
    return any(r.name == name for r in read_records(scope))


def load_stage(scope: Path, name: str) -> Record:
    """Return a finished stage by its name."""
    return next(r for r in read_records(scope) if r.name == name)


def _spent(scope: Path) -> tuple[float, int]:
    told: dict[str, Any] = read_json(scope / NEEDED) or {"stages": []}
    own = [r for r in read_records(scope) if r.name in told["stages"]]
    return sum(r.seconds for r in own), max((r.peak_bytes for r in own), default=0)
