"""Exams: the stages that measure a reward model or some policies on prompts nobody trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.data.verifiable import Read
from tandem.evaluation import (
    accuracy_evaluation,
    confidence,
    confidence_auroc,
    elected,
    kl_column,
    learning_table,
    length_column,
    pairwise_evaluation,
    policy_evaluation,
    reward_evaluation,
    score_column,
    shuffled,
    strata,
)
from tandem.judges import Judge
from tandem.judges.agreement import Agreement, Stated
from tandem.machine import Machine
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.stages.combining import merge
from tandem.stages.judging import judge, reference
from tandem.stages.sampling import BestOf, Policy
from tandem.statistics import outcomes_of
from tandem.statistics.best_of import kl_bound

Answers = Mapping[str, Groups]
EPSILON = float(np.finfo(np.float64).eps)
"""As near to 0 and 1 as a probability can be told from them."""


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


def examine_preferences(
    models: Mapping[str, Judge], held_out: Groups, *, seed: Seed, machine: Machine
) -> dict[str, Any]:
    """Compare judges of pairs on held-out judgments, paired: does a reward lose anything?

    Args:
        models: name -> a judge that writes preferences or scores, the one of interest first.
        held_out: groups with human preferences, of prompts that are in nobody's training data.

    Returns:
        `text`, a row a judge and the differences to the first, and `numbers`, the same for JSON.
    """
    apart = Groups.of(one for group in held_out for one in one_by_one(group))
    opinions = {
        name: [
            replace(with_margin(said), preferences=asked.preferences)
            for asked, said in zip(apart, judge(unjudged(apart), who, machine=machine), strict=True)
        ]
        for name, who in models.items()
    }
    found = pairwise_evaluation(opinions, seed=seed)
    return {"text": str(found), "numbers": found.as_dict()}


def one_by_one(group: Group) -> Iterator[Group]:
    """Yield a group for each judged pair of a group, under the same prompt."""
    for vote in group.preferences:
        yield replace(group, scores=None, preferences=(vote,)).keep([vote.i, vote.j])


def unjudged(groups: Groups) -> Groups:
    """Return the groups without anybody's preferences."""
    return groups.map(lambda g: replace(g, preferences=()))


def with_margin(group: Group) -> Group:
    """Return a judged pair with scores that differ by its judge's log-odds."""
    if group.scores is not None:
        return group
    (vote,) = group.preferences
    p = float(np.clip(vote.p, EPSILON, 1 - EPSILON))
    half = 0.5 * float(np.log(p) - np.log1p(-p))
    return replace(group, scores=np.array([half, -half]))


def examine_policies(
    answers: Answers,
    policies: Mapping[str, Policy],
    *,
    judges: Mapping[str, Judge],
    opponents: tuple[str, ...],
    annotator: Judge | None = None,
    machine: Machine,
) -> dict[str, Any]:
    """Compare policies by their answers to the same prompts, paired by prompt.

    Args:
        answers: policy -> one or more answers to each evaluation prompt.
        policies: those of the authors that are policies; their KL is measured to the main
            opponent, both log-probabilities by the kernel, because a sampler's differ in bf16.
            That of `BestOf` the main opponent is its bound.
        judges: column -> scoring judge: `truth`, `gold_rm`, `proxy`; the first decides who wins.
        opponents: policies that the others are compared with, the main one first.
        annotator: who compares each policy's first answer with the main opponent's, or None.

    Returns:
        `text`, the table and verdicts, and `numbers`, the same for JSON.
    """
    main = opponents[0]
    humans = {} if annotator is None else {"annotator": annotator}
    columns = {
        name: examine_answers(
            groups,
            answers[main],
            judges=judges,
            comparers={} if name == main else humans,
            policy=policies.get(name),
            opponent=policies.get(main),
            machine=machine,
        )
        for name, groups in answers.items()
    }
    for column in list(judges)[1:]:
        for name in answers.keys() - {main}:
            won = outcomes_of(columns[name][column], columns[main][column])
            columns[name][f"{column}_win"] = won.tolist()
    arrays = {name: {k: np.array(v) for k, v in own.items()} for name, own in columns.items()}
    found = policy_evaluation(arrays, opponents=opponents, judge=next(iter(judges)))
    return {"text": "\n".join([str(found), *_caveats(policies)]), "numbers": found.as_dict()}


def _kl(
    mine: Policy | None, main: Policy | None, groups: Groups, machine: Machine
) -> np.ndarray | None:
    """Return [P] log-ratios of the answers, the bound for best-of-n, or None if nobody knows."""
    if isinstance(mine, Checkpoint) and isinstance(main, Checkpoint):
        two = (reference(policy, groups, machine=machine) for policy in (mine, main))
        return kl_column(*two)
    if isinstance(mine, BestOf) and mine.policy == main:
        return np.full(len(groups), kl_bound(mine.n))
    return None


def _caveats(policies: Mapping[str, Policy]) -> list[str]:
    return [
        f"{name}: KL <= log n - (n - 1)/n at n = {p.n}; equal where no two answers tie in score"
        for name, p in policies.items()
        if isinstance(p, BestOf)
    ]


def examine_answers(
    answers: Groups,
    against: Groups,
    *,
    judges: Mapping[str, Judge],
    comparers: Mapping[str, Judge],
    policy: Policy | None = None,
    opponent: Policy | None = None,
    machine: Machine,
) -> dict[str, list[float]]:
    """Measure one policy's answers, beside an opponent's answers to the same prompts.

    Args:
        answers: one or more answers to each evaluation prompt.
        against: the opponent's answers, in the same order.
        judges: column -> scoring judge.
        comparers: column -> who compares the first answers of both.
        policy: who answered, where that is known; a model's KL is measured to the opponent,
            both log-probabilities by the kernel, because a sampler's differ in bf16.
        opponent: the opponent.

    Returns:
        [P] numbers by column: each judge's score, length, KL, and for each comparer `X_win`, the
        outcome against the opponent.
    """
    columns: dict[str, np.ndarray] = {}
    for name, who in judges.items():
        columns[name] = score_column(judge(answers, who, machine=machine))
    columns["length"] = length_column(answers)
    if (kl := _kl(policy, opponent, answers, machine)) is not None:
        columns["kl"] = kl
    for name, who in comparers.items():
        columns[f"{name}_win"] = wins(answers, against, who, machine)
    return {name: [float(x) for x in column] for name, column in columns.items()}


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
            voting = decoders[decoder].vote
            counted = list(Agreement(Stated(read))(groups)) if voting else list(groups)
            said = Groups.of(elected(counted) if voting else counted)
            right = score_column(judge(said, truth, machine=machine))
            solved[name][decoder] = right
            if voting and (a := confidence_auroc(confidence(counted), right)) is not None:
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
