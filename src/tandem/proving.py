"""Proving a task: its gates measured through the very stages that methods use.

`tandem tasks check micro` samples, fits and judges as any run would, in a run folder of its own
(so a second check is quick), and prints each promise of the world with the range it must lie in.
`tandem tasks check constraints` checks its prompts, and with --model how much a model has to learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tandem.artifacts import Checkpoint
from tandem.course import Course
from tandem.groups import Completion, Group, Groups, Prompt
from tandem.judges.models import RewardModel
from tandem.rng import Seed
from tandem.runs import Run
from tandem.stages import encode, judge, reference, sample
from tandem.tasks import Sizes, worlds
from tandem.tasks.constraints import Constraints
from tandem.tasks.constraints import gates as constraint_gates
from tandem.tasks.constraints.splits import SPLITS
from tandem.tasks.micro import Micro, posts, truth
from tandem.tasks.micro.annotators import known
from tandem.tasks.micro.feedback import compare
from tandem.tasks.micro.gates import Evidence, Gate, comparisons

ANSWERS = ("(A)", "(B)")
PROMPTS, OF_EACH = 64, 4
"""Prompts on which a model's room for `constraints` is measured, and its answers to each."""


def micro(path: Path, configs: Mapping[str, Any], seed: int = 0) -> list[Gate]:
    """Measure every gate of the micro world; about five minutes on two cores.

    Args:
        path: the run's folder.
        configs: settings of `sft`, `reward` and `sampling`.
        seed: root of every draw.
    """
    at = Seed(seed).at("gates")
    with Run(path, seed, machine=configs["machine"]) as run:
        summaries = _course(run, "micro", configs, at)
        dialogue = _course(run, "micro-dialogue", configs, at)
        base, how = summaries.base, summaries.how
        posts_ = Micro().prompts("evaluation", 200, at)
        problems = Micro("arithmetic").prompts("evaluation", 300, at)
        requests = Micro("dialogue").prompts("evaluation", 300, at)
        many = run("many", sample, summaries.pi_sft, posts_[:100], n=256, how=how)
        greedy = replace(how, temperature=0.0)
        return Evidence(
            solved=list(run("solved", sample, base, problems, n=1, how=greedy)),
            compared=_compared(run, base, how, at),
            summaries=list(run("summaries", sample, summaries.pi_sft, posts_, n=10, how=how)),
            replies=list(run("replies", sample, dialogue.pi_sft, requests, n=1, how=how)),
            scored=list(run("scored", judge, many, RewardModel(summaries.r_phi))),
        ).gates()


def _course(run: Run, task: str, configs: Mapping[str, Any], seed: Seed) -> Course:
    world = worlds.from_task(task, Sizes(), seed)
    return Course(run.scope(task), world, configs)


def _compared(run: Run, base: Checkpoint, how: Any, seed: Seed) -> dict[str, float]:
    """Ask the base which of two of its own summaries is better, in both orders."""
    prompts = Micro().prompts("evaluation", 400, seed.at("compared"))
    pairs = run("compared-pairs", sample, base, prompts, n=2, how=how)
    better = [(g, _truths(g)) for g in pairs]
    decided = [(g, t) for g, t in better if t[0] != t[1]]
    told = {}
    for name, order in (("forward", (0, 1)), ("swapped", (1, 0))):
        questions = Groups.of(_question(g, order) for g, _ in decided)
        asked = run(f"asked-{name}", encode, questions, base)
        said = run(f"said-{name}", reference, base, asked)
        told[name] = [_first(g) for g in said]
    return comparisons(told["forward"], told["swapped"], [bool(t[0] > t[1]) for _, t in decided])


def _truths(group: Group) -> list[float]:
    return [truth(known(group), c.text) for c in group.completions]


def _question(group: Group, order: tuple[int, int]) -> Group:
    """The comparison of two answers, with (A) and (B) as the possible replies."""
    a, b = (group.completions[i].text for i in order)
    text = compare(posts.question(known(group)), a, b)
    prompt = Prompt(group.id, text, messages=({"role": "user", "content": text},))
    return Group(prompt, tuple(Completion(answer) for answer in ANSWERS))


def _first(group: Group) -> float:
    """P("(A)") against "(B)", by the log-probability of the first token."""
    a, b = (c.logp[0] for c in group.completions if c.logp is not None)
    return float(1 / (1 + np.exp(b - a)))


def constraints_prompts(seed: int = 0, n: int = 500) -> list[Gate]:
    """Check n prompts of every split of `constraints`; no model is opened."""
    at = Seed(seed).at("gates")
    return constraint_gates.prompt_gates({s: Constraints().prompts(s, n, at) for s in SPLITS})


def constraints_answers(
    path: Path, model: Path, configs: Mapping[str, Any], seed: int = 0
) -> tuple[list[Gate], list[str]]:
    """Measure what a model keeps of `constraints` before any training.

    Args:
        path: the run's folder.
        model: the model's folder.
        configs: settings of `sampling`, `sizes` and `machine`.
        seed: root of every draw.

    Returns:
        the gates, and a table of the share kept by kind.
    """
    at, task, flips = Seed(seed).at("gates"), Constraints(), configs["sizes"].flips
    prompts = task.prompts("evaluation", PROMPTS, at)
    base, people = Checkpoint(model, model.name), task.annotator(flips=flips, seed=at)
    with Run(path, seed, machine=configs["machine"]) as run:
        drawn = run("answers", sample, base, prompts, n=OF_EACH, how=configs["sampling"])
        judged = list(run("judged", judge, drawn, people))
    table = list(constraint_gates.kind_lines(judged))
    return constraint_gates.answer_gates(judged, flips), table


def lines(gates: list[Gate]) -> Iterator[str]:
    """Yield the gates as lines, and how many hold."""
    yield from map(str, gates)
    yield f"{sum(g.holds for g in gates)} of {len(gates)} gates hold"
