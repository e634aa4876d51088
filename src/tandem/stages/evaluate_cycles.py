"""Stage that asks judges of pairs about all answers to a prompt: do they see circles?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import FloatArray
from tandem.errors import DataError
from tandem.evaluation.tables import Table
from tandem.judges import Judge
from tandem.judges.open_preference import open_preference
from tandem.machine import Machine
from tandem.statistics import mean_of
from tandem.statistics.games import PreferenceMatrix, cyclic_triples


def evaluate_cycles(
    judges: Mapping[str, Judge], answers: Groups, *, truth: Judge | None = None, machine: Machine
) -> dict[str, Any]:
    """Compare judges by what they say of every pair of a prompt's answers.

    Args:
        judges: name -> who compares; see `judges.open_preference`.
        answers: P prompts with three or more answers each.
        truth: a judge whose preference is exact, where there is one.

    Returns:
        `text`, a row a judge, and `numbers`, the same for JSON: the share of triples that go in a
        circle by majority, and, where the truth is known, how often the judge's choice is that of
        a member of the population.

    Raises:
        DataError: a prompt has fewer than three answers.
    """
    short = next((g for g in answers if len(g) < 3), None)
    if short is not None or not len(answers):
        raise DataError(
            f"{len(answers)} prompts"
            + ("" if short is None else f"; `{short.id}` has {len(short)}"),
            "a circle takes three answers to one prompt",
            "sample three answers or more to every prompt",
        )
    asked = {**judges, **({} if truth is None else {"exact": truth})}
    found = {
        name: list(open_preference(who, machine).matrices(answers)) for name, who in asked.items()
    }
    rows = [tuple(_row(name, own, found.get("exact"))) for name, own in found.items()]
    columns = ("judge", "cyclic triples", "agreement")[: 2 if truth is None else 3]
    title = f"all pairs of {len(answers[0])} answers to {len(answers)} prompts"
    table = Table(columns, tuple(rows), title)
    return {"text": str(table), "numbers": table.as_dicts()}


def _row(name: str, own: list[FloatArray], exact: list[FloatArray] | None) -> Iterator[Any]:
    yield name
    yield mean_of([_cyclic_share(p) for p in own])
    if exact is not None:
        yield mean_of([agreement_with(p, truth) for p, truth in zip(own, exact, strict=True)])


def _cyclic_share(p: FloatArray) -> float:
    circles, triples = cyclic_triples(PreferenceMatrix([str(k) for k in range(len(p))], p))
    return circles / triples


def agreement_with(p: FloatArray, truth: FloatArray) -> float:
    """Return how often a judge's choice is that of somebody drawn from the population.

    Args:
        p: [n, n] the judge's probabilities; only who is above one half counts.
        truth: [n, n] the share of the population that prefers each to each.
    """
    above = np.triu_indices(len(p), 1)
    side, share = np.sign(p[above] - 0.5), truth[above] - 0.5
    return float(0.5 + (side * share).mean())
