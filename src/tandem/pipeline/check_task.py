"""Proving a task: its gates measured through the very stages that methods use.

`tandem tasks check micro` samples, fits and judges as any run would, in a run folder of its own
(so a second check is quick), and prints each promise of the world with the range it must lie in.
`tandem tasks check micro-translation` does the same for what that task's comparisons rest on, and
`tandem tasks check constraints` checks its prompts, and with --model how much a model has to learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.pipeline.inputs import Inputs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.stages.judging import judge, logprobs
from tandem.stages.sampling import sample
from tandem.tasks import load
from tandem.tasks.constraints import Constraints
from tandem.tasks.constraints import gates as constraint_gates
from tandem.tasks.constraints.splits import SPLITS
from tandem.tasks.micro import Micro, posts, true_worth
from tandem.tasks.micro.annotators import known_facts
from tandem.tasks.micro.feedback import compare_turn
from tandem.tasks.micro.gates import Evidence, Gate, order_consistency, translation_gates

ANSWERS = ("(A)", "(B)")
CHECK_PROMPTS, CHECK_ANSWERS = 64, 4
"""Prompts on which a model's room for `constraints` is measured, and its answers to each."""


def check_micro(path: Path, configs: Mapping[str, Any], seed: int = 0) -> list[Gate]:
    """Measure every gate of the micro world; about five minutes on two cores.

    Args:
        path: the run's folder.
        configs: settings of `sft`, `reward` and `sampling`.
        seed: root of every draw.
    """
    at = Seed(seed).at("gates")
    with Run(path, seed, machine=configs["machine"]) as run:
        summaries = _inputs(run, "micro", configs, at)
        dialogue = _inputs(run, "micro-dialogue", configs, at)
        base, sampling = summaries.base, summaries.sampling
        posts_ = Micro().prompts("evaluation", 200, at)
        problems = Micro("arithmetic").prompts("evaluation", 300, at)
        requests = Micro("dialogue").prompts("evaluation", 300, at)
        many = run("many", sample, summaries.pi_sft, posts_[:100], n=256, sampling=sampling)
        greedy = replace(sampling, temperature=0.0)
        return Evidence(
            solved=list(run("solved", sample, base, problems, n=1, sampling=greedy)),
            compared=_compared(run, base, sampling, at),
            summaries=list(
                run("summaries", sample, summaries.pi_sft, posts_, n=10, sampling=sampling)
            ),
            replies=list(run("replies", sample, dialogue.pi_sft, requests, n=1, sampling=sampling)),
            scored=list(run("scored", judge, many, summaries.proxy)),
        ).gates()


def check_translation(path: Path, configs: Mapping[str, Any], seed: int = 0) -> list[Gate]:
    """Measure what a comparison on `micro-translation` rests on: SFT and the learned reward.

    Args:
        path: the run's folder.
        configs: settings of `sft`, `reward`, `sampling` and `sizes`.
        seed: root of every draw.
    """
    with Run(path, seed, machine=configs["machine"]) as run:
        inputs = _inputs(run, "micro-translation", configs, Seed(seed).at("gates"))
        asked = inputs.eval_prompts.prompts()[:300]
        said = inputs.run(
            "translations", sample, inputs.pi_sft, asked, n=2, sampling=inputs.sampling
        )
        scored = list(inputs.run("scored", judge, said, inputs.proxy))
    return translation_gates([np.asarray(g.scores, np.float64) for g in scored], scored)


def _inputs(run: Run, name: str, configs: Mapping[str, Any], seed: Seed) -> Inputs:
    task = load.load_task(name, configs["sizes"], seed)
    return Inputs(run.scope(name), task, configs)


def _compared(run: Run, base: Checkpoint, sampling: Any, seed: Seed) -> dict[str, float]:
    """Ask the base which of two of its own summaries is better, in both orders."""
    prompts = Micro().prompts("evaluation", 400, seed.at("compared"))
    pairs = run("compared-pairs", sample, base, prompts, n=2, sampling=sampling)
    better = [(g, _truths(g)) for g in pairs]
    decided = [(g, t) for g, t in better if t[0] != t[1]]
    told = {}
    for name, order in (("forward", (0, 1)), ("swapped", (1, 0))):
        questions = Groups.of(_question(g, order) for g, _ in decided)
        asked = run(f"asked-{name}", encode, questions, base)
        said = run(f"said-{name}", logprobs, base, asked)
        told[name] = [_first(g) for g in said]
    return order_consistency(
        told["forward"], told["swapped"], [bool(t[0] > t[1]) for _, t in decided]
    )


def _truths(group: Group) -> list[float]:
    return [true_worth(known_facts(group), c.text) for c in group.completions]


def _question(group: Group, order: tuple[int, int]) -> Group:
    """The comparison of two answers, with (A) and (B) as the possible replies."""
    a, b = (group.completions[i].text for i in order)
    text = compare_turn(posts.post_question(known_facts(group)), a, b)
    prompt = Prompt(group.id, text, messages=({"role": "user", "content": text},))
    return Group(prompt, tuple(Completion(answer) for answer in ANSWERS))


def _first(group: Group) -> float:
    """P("(A)") against "(B)", by the log-probability of the first token."""
    a, b = (c.logp[0] for c in group.completions if c.logp is not None)
    return float(1 / (1 + np.exp(b - a)))


def check_constraint_prompts(seed: int = 0, n: int = 500) -> tuple[list[Gate], list[str]]:
    """Check n prompts of every split of `constraints`; no model is opened.

    Returns:
        the gates, and a table of what answers that say nothing keep.
    """
    at = Seed(seed).at("gates")
    splits = {s: Constraints().prompts(s, n, at) for s in SPLITS}
    table = constraint_gates.empty_answer_lines(splits["evaluation"])
    return constraint_gates.prompt_gates(splits), list(table)


def check_constraint_answers(
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
    prompts = task.prompts("evaluation", CHECK_PROMPTS, at)
    base, people = Checkpoint(model, model.name), task.annotator(flips=flips, seed=at)
    with Run(path, seed, machine=configs["machine"]) as run:
        sampling = configs["sampling"]
        drawn = run("answers", sample, base, prompts, n=CHECK_ANSWERS, sampling=sampling)
        judged = list(run("judged", judge, drawn, people))
    table = list(constraint_gates.kind_lines(judged))
    return constraint_gates.answer_gates(judged, flips), table


def gate_lines(gates: list[Gate]) -> Iterator[str]:
    """Yield the gates as lines, and how many hold."""
    yield from map(str, gates)
    yield f"{sum(g.holds for g in gates)} of {len(gates)} gates hold"
