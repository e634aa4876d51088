"""Stages that compare policies on the same prompts by several judges, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.evaluation import (
    kl_column,
    length_column,
    policy_evaluation,
    score_column,
)
from tandem.judges import Judge
from tandem.machine import Machine
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events
from tandem.stages.combining import merge
from tandem.stages.judging import judge, logprobs
from tandem.stages.sampling import BestOf, Policy, sample
from tandem.statistics import outcomes_of
from tandem.statistics.best_of import kl_bound

GroupsByPolicy = Mapping[str, Groups]


def evaluate(
    policies: Policy | Sequence[Policy],
    prompts: Groups,
    judges: Judge | Sequence[Judge],
    *,
    opponent: Policy,
    n: int = 1,
    annotator: Judge | None = None,
    sampling: Sampling = Sampling(),
    seed: Seed,
    machine: Machine,
    events: Events,
) -> dict[str, Any]:
    """Sample policies on the same prompts and compare them with an opponent, with intervals.

        result = run("evaluation", evaluate, policy, prompts, truth, opponent=pi_sft)
        print(result["text"])

    Every policy answers the same prompts with the same seeds, so that comparisons are paired.

    Args:
        policies: one checkpoint (or `BestOf`), or several; each is a row under its name.
        prompts: groups of which only the prompts are read; none was trained on.
        judges: one scoring judge, or several with names of their own; the first decides who wins.
        opponent: the policy that the others are compared with, usually the one before training.
        n: answers per prompt; a judge's score is their mean.
        annotator: who compares each policy's first answer with the opponent's, or None.
        sampling: temperature, truncation, longest answer.

    Returns:
        `text`, a table and its verdicts, and `numbers`, the same for JSON.

    Raises:
        ConfigError: two policies or two judges have one name.
    """
    rows = [opponent, *([policies] if isinstance(policies, Policy) else policies)]
    columns = [judges] if isinstance(judges, Judge) else list(judges)
    check_different("policies", map(str, rows))
    check_different("judges", (each.name for each in columns))
    given = {"n": n, "sampling": sampling, "machine": machine, "events": events}
    drawn = {
        str(policy): Groups.of(sample(policy, prompts, seed=seed.at("draws"), **given))
        for policy in rows
    }
    return evaluate_policies(
        drawn,
        {str(policy): policy for policy in rows},
        judges={each.name: each for each in columns},
        opponents=(str(opponent),),
        annotator=annotator,
        temperature=kl_temperature(sampling),
        machine=machine,
    )


def kl_temperature(sampling: Sampling) -> float | None:
    """Return the temperature at which a KL of sampled answers is read, or None where there is none.

    At a temperature of its own a policy is another policy, and so is the one that it is compared
    with. Greedy and truncated answers are not drawn from whole distributions: the mean of their
    log-ratios is no KL.
    """
    whole = not sampling.top_k and sampling.top_p == 1 and not sampling.min_p
    return sampling.temperature if whole and sampling.temperature > 0 else None


def check_different(what: str, names: Iterable[str]) -> None:
    """Ask for names of which no two are the same, since each is a row or a column of a table.

    Raises:
        ConfigError: two are.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(
            f"two {what} are called {twice[0]!r}",
            "each is one row or one column of the table, found by its name",
            "give one of them another `name`; the opponent is a policy too, and is given once",
        )


def evaluate_policies(
    answers: GroupsByPolicy,
    policies: Mapping[str, Policy],
    *,
    judges: Mapping[str, Judge],
    opponents: tuple[str, ...],
    annotator: Judge | None = None,
    temperature: float | None = 1.0,
    machine: Machine,
) -> dict[str, Any]:
    """Compare policies by their answers to the same prompts, paired by prompt.

    Args:
        answers: policy -> one or more answers to each evaluation prompt.
        policies: those of the authors that are policies; their KL is measured to the main
            opponent, both log-probabilities by a forward pass, because a sampler's differ in bf16.
            That of `BestOf` the main opponent is its bound.
        judges: column -> scoring judge: `truth`, `gold_rm`, `proxy`; the first decides who wins.
        opponents: policies that the others are compared with, the main one first.
        annotator: who compares each policy's first answer with the main opponent's, or None.
        temperature: at which answers were sampled and both policies are read for the KL; None
            leaves the KL out, see `kl_temperature`.

    Returns:
        `text`, the table and verdicts, and `numbers`, the same for JSON.
    """
    main = opponents[0]
    humans = {} if annotator is None else {"annotator": annotator}
    columns = {
        name: evaluate_answers(
            groups,
            answers[main],
            judges=judges,
            comparers={} if name == main else humans,
            policy=policies.get(name),
            opponent=policies.get(main),
            temperature=temperature,
            machine=machine,
        )
        for name, groups in answers.items()
    }
    for column in list(judges)[1:]:
        for name in answers.keys() - {main}:
            won = outcomes_of(columns[name][column], columns[main][column])
            columns[name][f"{column}_win"] = won.tolist()
    arrays = {
        name: {k: np.array(v, np.float64) for k, v in own.items()} for name, own in columns.items()
    }
    found = policy_evaluation(arrays, opponents=opponents, judge=next(iter(judges)))
    return {"text": "\n".join([str(found), *_caveats(policies)]), "numbers": found.as_dict()}


def _kl(
    mine: Policy | None,
    main: Policy | None,
    groups: Groups,
    temperature: float | None,
    machine: Machine,
) -> np.ndarray | None:
    """Return [P] log-ratios of the answers, the bound for best-of-n, or None if nobody knows."""
    if isinstance(mine, Checkpoint) and isinstance(main, Checkpoint):
        if temperature is None:
            return None
        given = {"temperature": temperature, "machine": machine}
        return kl_column(*(logprobs(policy, groups, **given) for policy in (mine, main)))
    if isinstance(mine, BestOf) and mine.policy == main:
        return np.full(len(groups), kl_bound(mine.n))
    return None


def _caveats(policies: Mapping[str, Policy]) -> list[str]:
    return [
        f"{name}: KL <= log n - (n - 1)/n at n = {p.n}; equal where no two answers tie in score"
        for name, p in policies.items()
        if isinstance(p, BestOf)
    ]


def evaluate_answers(
    answers: Groups,
    against: Groups,
    *,
    judges: Mapping[str, Judge],
    comparers: Mapping[str, Judge],
    policy: Policy | None = None,
    opponent: Policy | None = None,
    temperature: float | None = 1.0,
    machine: Machine,
) -> dict[str, list[float]]:
    """Measure one policy's answers, beside an opponent's answers to the same prompts.

    Args:
        answers: one or more answers to each evaluation prompt.
        against: the opponent's answers, in the same order.
        judges: column -> scoring judge.
        comparers: column -> who compares the first answers of both.
        policy: who answered, where that is known; a model's KL is measured to the opponent,
            both log-probabilities by a forward pass, because a sampler's differ in bf16.
        opponent: the opponent.
        temperature: at which the answers were sampled and both are read; None: no KL.

    Returns:
        [P] numbers by column: each judge's score, length, KL, and for each comparer `X_win`, the
        outcome against the opponent, None where its verdict could not be read.
    """
    columns: dict[str, np.ndarray] = {}
    for name, who in judges.items():
        columns[name] = score_column(judge(answers, who, machine=machine))
    columns["length"] = length_column(answers)
    if (kl := _kl(policy, opponent, answers, temperature, machine)) is not None:
        columns["kl"] = kl
    for name, who in comparers.items():
        columns[f"{name}_win"] = win_credit(answers, against, who, machine)
    return {name: list(map(_number, column)) for name, column in columns.items()}


def _number(x: Any) -> Any:
    """A number for JSON, which has no nan."""
    return None if np.isnan(x) else float(x)


def win_credit(mine: Groups, theirs: Groups, who: Judge, machine: Machine) -> np.ndarray:
    """Return [P] how much of each prompt's first comparison goes to `mine`.

    It is the judge's label, from 0 to 1; of a judge that scores 1, .5 or 0. It is nan where there
    is no label: the verdict could not be read, or the question failed.
    """
    first = (Groups.of(_first(g) for g in groups) for groups in (mine, theirs))
    both = Groups.of(merge(*first))
    return np.array([_share(g) for g in judge(both, who, machine=machine)])


def _first(group: Group) -> Group:
    return group.keep([0])


def _share(group: Group) -> float:
    if not group.preferences and group.scores is not None:
        return 0.5 + 0.5 * float(np.sign(group.scores[0] - group.scores[1]))
    if not group.preferences:
        return float("nan")
    vote = group.preferences[0]
    return vote.p if vote.i == 0 else 1 - vote.p
