"""Judges: anything that writes scores, preferences or clusters into groups of completions.

A judge returns the same groups with `scores`, `preferences` or `clusters` filled in. It is a
frozen value: it opens models lazily inside the call, and its answer about a group depends on
that group alone (and its own seed), never on the order in which groups arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass, replace
from typing import Protocol, runtime_checkable

from tandem.data.record import Group
from tandem.machine import Machine


@runtime_checkable
class Judge(Protocol):
    """Anything that scores, compares or clusters completions: a name, and a call on groups.

    A judge is a frozen dataclass with a `name`. A call yields the same groups in the same order,
    with one of `scores`, `preferences` and `clusters` written. It may raise `Pending` where
    people answer later, but only before its first group. One that compares and never scores says
    so with `compares = True`, so that nobody asks it about a single answer.

    >>> import numpy as np
    >>> from dataclasses import dataclass, replace
    >>> from tandem import Completion, Prompt
    >>> @dataclass(frozen=True)
    ... class Brevity:
    ...     name: str = "brevity"
    ...
    ...     def __call__(self, groups):
    ...         for group in groups:
    ...             scores = [-len(c.text) for c in group.completions]
    ...             yield replace(group, scores=np.array(scores, float))
    >>> group = Group(Prompt("q", "2 + 2?"), (Completion("4"), Completion("it is 4")))
    >>> isinstance(Brevity(), Judge), next(Brevity()([group])).scores.tolist()
    (True, [-1.0, -7.0])
    """

    @property
    def name(self) -> str:
        """The judge's name in tables and in `Preference.by`."""
        ...

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the same groups, in order, with this judge's columns written."""
        ...


ScoringFunction = Callable[[Iterable[Group]], Iterator[Group]]
"""An opened judge: it writes its columns into groups, and keeps its models between two calls."""


def open_judge(judge: Judge, machine: Machine) -> ScoringFunction:
    """Open a judge once, on this machine, for a loop that asks it again and again.

    Judges that are models have a method `open`; others are called as they are. With Ray, judges
    that hold models are asked on all machines of the cluster.
    """
    if machine.engine == "ray" and (there := _open_on_cluster(judge, machine)) is not None:
        return there
    if is_dataclass(judge) and hasattr(judge, "machine"):
        judge = replace(judge, machine=replace(machine, lora=None))  # type: ignore[type-var,assignment]
    return judge.open() if hasattr(judge, "open") else judge  # type: ignore[attr-defined,union-attr]


def _open_on_cluster(judge: Judge, machine: Machine) -> ScoringFunction | None:
    from tandem.judges.cluster_judge import open_on_cluster

    return open_on_cluster(judge, machine)


def judge_once(judge: Judge, machine: Machine, groups: Iterable[Group]) -> Iterator[Group]:
    """Open a judge on this machine for these groups alone; its models are let go of afterwards."""
    return open_judge(judge, machine)(groups)


def only_compares(judge: Judge) -> bool:
    """True for a judge that writes preferences and no scores, as its `compares` says."""
    return getattr(judge, "compares", False) is True
