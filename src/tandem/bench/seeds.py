"""One seed of a comparison: every method from the same start, examined on the same prompts.

Each entry works in a scope of its own with the seed's own draws, so that what two entries have in
common (SFT, preferences, the reward model, a pool of samples) is done once and found again by
what it was made from. An entry that fails is written down and does not take the others along.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tandem.bench.finished import FAILED, JUDGED, NEEDED
from tandem.bench.plan import BASE, OPPONENT, Entry, Plan
from tandem.bench.progress import describe_seed
from tandem.data.groups import Groups
from tandem.errors import ConfigError, Pending, RunError, TandemError
from tandem.judges import Judge
from tandem.judges.ai_feedback import AIFeedback
from tandem.machine import Machine
from tandem.methods import Method, load_method
from tandem.pipeline.inputs import SFT_STAGES, Inputs
from tandem.pipeline.quick import compare_policies
from tandem.rng import Seed
from tandem.runs.atomic_files import write_json, write_text
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.display import Display
from tandem.runs.names import folder_name
from tandem.runs.run import Run
from tandem.runs.trackers import open_trackers
from tandem.stages.evaluate_policy import evaluate_answers, kl_temperature
from tandem.stages.evaluate_reward import evaluate_reward
from tandem.stages.sampling import Policy, sample
from tandem.statistics import explain_few_prompts
from tandem.tasks import Task
from tandem.tasks import load as worlds
from tandem.tasks.own_data import task_from_files

LOOK = "look.txt"
"""What is seen of a seed's policies where no judge is asked."""
OBSERVING_STAGES = ("evaluation", "watched", "held-out", "reward-held", "gold")
"""Stages that only look on, and those named after them: no part of what a method costs."""


def run_seed(
    plan: Plan,
    seed: int,
    out: Path,
    machine: Machine,
    display: Display | None = None,
    trackers: tuple[str, ...] = (),
    redo: tuple[str, ...] = (),
) -> None:
    """Do every entry of a plan with one seed; finished stages are kept."""
    task, folder = open_plan_task(plan, seed), plan.folder(out, seed)
    follow = partial(open_trackers, trackers, folder, {"title": plan.title, "seed": seed})
    again = [place for place in redo if any(folder.glob(f"{place}*"))]
    with Run(folder, seed, redo=again, machine=machine, display=display, follow=follow) as run:
        if told := explain_few_prompts(len(task.evaluation)):
            run.events.log("few-prompts", text=told)
        if plan.evaluate != "full":
            look_at_seed(run, plan, task)
            return
        main = judge_start(run, plan, task, exam_ensemble=seed == plan.seeds[0])
        for done, entry in enumerate(plan.entries, 1):
            run_entry(run, plan, task, entry, main)
            if display is None and done < len(plan.entries):
                run.say(describe_seed(plan, out, seed, done) + "\n")


def open_inputs(run: Run, plan: Plan, task: Task, name: str, entry: Entry | None = None) -> Inputs:
    """Open what comes before a policy, in a scope of its own; the first entry's settings if none.

    Args:
        run: the seed's.
        plan: what is compared.
        task: of this seed.
        name: the policy's.
        entry: whose settings count.
    """
    configs = (entry or plan.entries[0]).configs
    start = "model" if plan.start == "model" else "sft"
    return Inputs(run.scope(folder_name(name), run.seed), task, configs, start)


def judge_start(run: Run, plan: Plan, task: Task, *, exam_ensemble: bool) -> Groups:
    """Judge what every method starts from, and the base; return the start's answers."""
    start = open_inputs(run, plan, task, plan.opponent)
    stages = SFT_STAGES if plan.opponent == OPPONENT else ()
    write_json(start.run.path / NEEDED, {"stages": list(stages)})
    main = answer_prompts(start, start.pi_sft)
    judge_answers(plan, start, main, main, start.pi_sft)
    if start.labelled:
        members = start.reward_ensemble if exam_ensemble else ()  # reported of one seed alone
        start.run("reward-exam", evaluate_reward, start.proxy, start.held_out, members=members)
        _ = start.gold_exam
    if plan.opponent != BASE:
        base = open_inputs(run, plan, task, BASE)
        judge_answers(plan, base, answer_prompts(base, base.base), main, base.base)
    return main


def look_at_seed(run: Run, plan: Plan, task: Task) -> None:
    """Train every entry, and look at the policies without a judge where that is asked for.

    What was seen is written to `look.txt` in the seed's folder.
    """
    start = open_inputs(run, plan, task, plan.opponent)
    policies: dict[str, Policy] = {BASE: start.base}
    if plan.opponent == OPPONENT:
        policies[OPPONENT] = start.pi_sft
    lines = [f"seed {run.seed}"]
    for entry in plan.entries:
        if (policy := fit_entry(run, plan, task, entry)) is not None:
            policies[entry.name] = policy
        else:
            lines.append(f"{entry.name} failed")
    lines += [f"{name}: {p.path}" for name, p in policies.items() if isinstance(p, Checkpoint)]
    if plan.evaluate == "quick":
        lines += compare_policies(start, policies, plan.opponent)
    write_text(run.path / LOOK, "\n\n".join(lines) + "\n")


def open_plan_task(plan: Plan, seed: int) -> Task:
    """Open the task for a seed: its own training prompts, everybody's evaluation prompts.

    Raises:
        ConfigError: nobody could judge the answers.
    """
    if plan.task is not None:
        own = None if plan.model is None else Path(plan.model)
        at, exam = Seed(seed), Seed(plan.exam)
        return worlds.load_task(plan.task, plan.sizes, at, exam=exam, model=own)
    assert plan.model is not None and plan.data is not None  # noqa: PT018
    task = task_from_files(plan.model, plan.data, plan.sizes, plan.reading)
    if task.truth is None and task.preferences is None and plan.evaluate == "full":
        raise ConfigError(
            f"nobody can judge answers to {plan.data}",
            "it holds neither preferences, from which a reward could be learned, nor answers "
            "that can be checked",
            "give data with preferences or scores, or --evaluate quick",
        )
    return task


def run_entry(run: Run, plan: Plan, task: Task, entry: Entry, main: Groups) -> None:
    """Do one entry and judge its answers, or write down why it failed."""

    def judged(inputs: Inputs, policy: Policy) -> None:
        judge_answers(plan, inputs, answer_prompts(inputs, policy), main, policy)

    fit_entry(run, plan, task, entry, judged)


def fit_entry(
    run: Run,
    plan: Plan,
    task: Task,
    entry: Entry,
    then: Callable[[Inputs, Policy], None] | None = None,
) -> Policy | None:
    """Do one entry, and what comes `then`; write down why, and return None, where it failed."""
    inputs = open_inputs(run, plan, task, entry.name, entry)
    scope = inputs.run
    told = scope.path / FAILED
    told.unlink(missing_ok=True)
    try:
        result, _ = inputs.run_recipe(open_method(entry))
        write_json(
            scope.path / NEEDED,
            {"stages": [s for s in scope.called if not s.startswith(OBSERVING_STAGES)]},
        )
        policy = replace(result, name=entry.name)
        if then is not None:
            then(inputs, policy)
    except (Pending, RunError):
        raise
    except Exception as error:
        reason = error.what if isinstance(error, TandemError) else f"{error!r}"
        write_json(told, {"reason": reason, "traceback": traceback.format_exc()})
        scope.events.log("failed", text=f"{entry.name} failed: {reason}")
        return None
    return policy


def open_method(entry: Entry) -> Method:
    """Open an entry's method, with the recipe that the entry names.

    Raises:
        ConfigError: the recipe cannot be imported.
    """
    method = load_method(entry.method)
    if entry.recipe is None:
        return method
    module, _, function = entry.recipe.partition(":")
    try:
        own = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"entry {entry.name!r}: recipe = {entry.recipe!r}",
            f"a recipe is a function that can be imported: {error}",
            'write it as "package.module:function"',
        ) from error
    return replace(method, recipe=own)


def answer_prompts(inputs: Inputs, policy: Policy) -> Groups:
    """Sample one answer to each evaluation prompt."""
    return inputs.run("answers", sample, policy, inputs.eval_prompts, n=1, sampling=inputs.sampling)


def judge_answers(
    plan: Plan, inputs: Inputs, answers: Groups, main: Groups, policy: Policy
) -> None:
    """Let every judge see the answers, beside the opponent's."""
    judges = inputs.judges()
    comparers: dict[str, Judge] = {}
    if inputs.humans is not None:
        comparers["annotator"] = inputs.humans
    if plan.referee:
        formats = inputs.formats
        comparers["llm"] = AIFeedback(hard=True).labeller(
            inputs.base, formats.compare, formats.principles
        )
    heat = kl_temperature(inputs.sampling)
    who = {"policy": policy, "opponent": inputs.pi_sft, "temperature": heat}
    inputs.run(JUDGED, evaluate_answers, answers, main, judges=judges, comparers=comparers, **who)
