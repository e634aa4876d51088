"""Exams: the stages that measure a reward model or some policies on prompts nobody trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tandem.answers import Read
from tandem.artifacts import Checkpoint
from tandem.evaluation import (
    accuracy_evaluation,
    confidence,
    confidence_auroc,
    elected,
    kl_column,
    learning_table,
    length_column,
    policy_evaluation,
    reward_evaluation,
    score_column,
    shuffled,
    strata,
)
from tandem.groups import Group, Groups
from tandem.judges import Judge
from tandem.judges.answers import Votes
from tandem.machine import Machine
from tandem.rng import Seed
from tandem.stages import judge, merge, reference

Answers = Mapping[str, Groups]


def examine_reward(
    model: Judge,
    held_out: Groups,
    *,
    members: tuple[Judge, ...] = (),
    seed: Seed,
    machine: Machine,
) -> dict[str, Any]:
    """Evaluate a reward on held-out judgments (METHODS section 2).

    Args:
        model: a scoring judge.
        held_out: groups with human preferences, of prompts that are not in its training data.
        members: the judges of an ensemble, to measure their disagreement.
        seed: presentation orders and resamples.

    Returns:
        `text`, the tables, and `numbers`, the same for JSON.
    """
    scored = Groups.of(judge(held_out, model, machine=machine))
    found = reward_evaluation(
        scored,
        members=[list(judge(held_out, m, machine=machine)) for m in members],
        other_prompts=judge(Groups.of(shuffled(scored)), model, machine=machine),
        seed=seed,
    )
    return {"text": str(found), "numbers": found.as_dict()}


def examine_curve(
    models: tuple[tuple[int, str, Judge], ...], held_out: Groups, *, seed: Seed, machine: Machine
) -> dict[str, Any]:
    """Lay a reward's quality against the number of labels and the size of the model.

    Args:
        models: (labels it was fitted to, its size by name, the scoring judge).
        held_out: groups with human preferences.

    Returns:
        `text`, the table and the fitted error a + b n^-c of each size, and `numbers`.
    """
    points = [
        (n, size, reward_evaluation(judge(held_out, model, machine=machine), seed=seed))
        for n, size, model in models
    ]
    table, curves = learning_table(points)
    fits = [f"{size}: error {c.a:.3f} + {c.b:.3g} n^-{c.c:.2f}" for size, c in curves.items()]
    return {"text": "\n".join([str(table), *fits]), "numbers": table.as_dicts()}


def examine_policies(
    answers: Answers,
    policies: Mapping[str, Checkpoint],
    *,
    judges: Mapping[str, Judge],
    opponents: tuple[str, ...],
    annotator: Judge | None = None,
    machine: Machine,
) -> dict[str, Any]:
    """Compare policies by their answers to the same prompts, paired by prompt.

    Args:
        answers: policy -> one or more answers to each evaluation prompt.
        policies: those of the authors that are models; their KL is measured to the main
            opponent, both log-probabilities by the kernel, because a sampler's differ in bf16.
        judges: column -> scoring judge: `truth`, `gold_rm`, `proxy`; the first decides who wins.
        opponents: policies that the others are compared with, the main one first.
        annotator: who compares each policy's first answer with the main opponent's, or None.

    Returns:
        `text`, the table and verdicts, and `numbers`, the same for JSON.
    """
    columns: dict[str, dict[str, Any]] = {}
    for name, groups in answers.items():
        columns[name] = {
            column: score_column(judge(groups, who, machine=machine))
            for column, who in judges.items()
        }
    for name, groups in answers.items():
        columns[name]["length"] = length_column(groups)
        for column in () if name == opponents[0] else list(judges)[1:]:
            columns[name][f"{column}_win"] = beats(columns[name], columns[opponents[0]], column)
        if name in policies and opponents[0] in policies:
            mine, main = policies[name], policies[opponents[0]]
            columns[name]["kl"] = kl_column(
                reference(mine, groups, machine=machine), reference(main, groups, machine=machine)
            )
        if annotator is not None and name != opponents[0]:
            columns[name]["annotator_win"] = wins(groups, answers[opponents[0]], annotator, machine)
    found = policy_evaluation(columns, opponents=opponents, judge=next(iter(judges)))
    return {"text": str(found), "numbers": found.as_dict()}


def beats(mine: Mapping[str, Any], theirs: Mapping[str, Any], column: str) -> np.ndarray:
    """Return [P] 1, .5 or 0: whether `mine` has the higher score with a judge, ties one half."""
    return (1 + np.sign(mine[column] - theirs[column])) / 2


def wins(mine: Groups, theirs: Groups, who: Judge, machine: Machine) -> np.ndarray:
    """Return [P] how much of each prompt's first comparison goes to `mine`: 1, .5 or 0."""
    first = (Groups.of(_first(g) for g in groups) for groups in (mine, theirs))
    both = Groups.of(merge(*first))
    return np.array([_share(g) for g in judge(both, who, machine=machine)])


@dataclass(frozen=True)
class Decoder:
    """How a question is answered: n completions at a temperature, marked apart or by vote."""

    n: int
    temperature: float
    vote: bool = False


def examine_solutions(
    answers: Mapping[str, Mapping[str, Groups]],
    decoders: Mapping[str, Decoder],
    *,
    read: Read,
    truth: Judge,
    machine: Machine,
) -> dict[str, Any]:
    """Mark stated answers, by decoder and by stratum, and compare with the first policy.

    "plurality right" are the questions on which that policy's commonest answer, by its first
    voting decoder, is the right one. Its own vote there is right by selection; the other
    decoders' draws are independent of it.

    Args:
        answers: policy -> decoder -> its completions, on the same questions.
        decoders: what each decoder is.
        read: how an answer is read from a text.
        truth: the judge that marks right answers 1 and others 0.

    Returns:
        `text`, the tables; `numbers`, the same for JSON; `solved`, every prompt's marks, and
        `parts`, which prompts are in which part, to be put together over seeds.
    """
    solved: dict[str, dict[str, np.ndarray]] = {}
    lines: list[str] = []
    for name, by in answers.items():
        solved[name] = {}
        for decoder, groups in by.items():
            marked = list(groups)
            if decoders[decoder].vote:
                counted = list(Votes(read)(marked))
                marked = elected(counted)
            right = score_column(judge(Groups.of(marked), truth, machine=machine))
            solved[name][decoder] = right
            if decoders[decoder].vote and (a := confidence_auroc(confidence(counted), right)):
                lines.append(f"{name}, {decoder}: confidence tells right from wrong, AUROC {a:.3f}")
    first = next(iter(answers))
    parts = strata(list(next(iter(answers[first].values()))))
    if votes := [d for d, by in decoders.items() if by.vote]:
        plural = solved[first][votes[0]] > 0.5
        parts |= {"plurality right": plural, "plurality wrong": ~plural}
    found = accuracy_evaluation(solved, parts, opponent=first)
    return {
        "text": "\n\n".join([str(found), "\n".join(lines)]).strip(),
        "numbers": found.as_dict(),
        "solved": {n: {d: v.tolist() for d, v in by.items()} for n, by in solved.items()},
        "parts": {name: inside.tolist() for name, inside in parts.items()},
    }


def _first(group: Group) -> Group:
    return group.keep([0])


def _share(group: Group) -> float:
    if not group.preferences:
        return 0.5
    vote = group.preferences[0]
    return vote.p if vote.i == 0 else 1 - vote.p
