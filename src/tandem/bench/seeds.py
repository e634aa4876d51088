"""One seed of a comparison: every method from the same start, examined on the same prompts.

Each entry works in a scope of its own with the seed's own draws, so that what two entries have in
common (SFT, preferences, the reward model, a pool of samples) is done once and found again by
what it was made from. An entry that fails is written down and does not take the others along.
"""

from __future__ import annotations

import importlib
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

from tandem.bench.finished import FAILED, NEEDED
from tandem.bench.plan import OPPONENT, Entry, Plan, slug
from tandem.course import TO_SFT, Course
from tandem.durable import write_json
from tandem.errors import ConfigError, Pending, TandemError
from tandem.events import Display
from tandem.exams import examine_answers, examine_reward
from tandem.groups import Groups
from tandem.judges import Judge
from tandem.judges.asking import Asking
from tandem.judges.models import RewardModel
from tandem.machine import Machine
from tandem.methods import Method, load
from tandem.rng import Seed
from tandem.runs import Run
from tandem.stages import Policy, sample
from tandem.tasks import World, worlds
from tandem.trackers import open_trackers

WATCHED = ("evaluation", "watched", "held-out", "reward-held")
"""Stages that only look on, and those named after them: no part of what a method costs."""


def run_seed(
    plan: Plan,
    seed: int,
    out: Path,
    machine: Machine,
    display: Display | None = None,
    trackers: tuple[str, ...] = (),
) -> None:
    """Do every entry of a plan with one seed; finished stages are kept."""
    world = open_world(plan, seed)
    configs, folder = plan.entries[0].configs, plan.folder(out, seed)
    follow = partial(open_trackers, trackers, folder, {"title": plan.title, "seed": seed})
    with Run(folder, seed, machine=machine, display=display, follow=follow) as run:
        start = Course(run.scope(slug(OPPONENT), run.seed), world, configs)
        write_json(start.run.path / NEEDED, {"stages": list(TO_SFT)})
        main = answer(start, start.pi_sft)
        examine(plan, start, main, main, start.pi_sft)
        if start.labelled:
            judge = RewardModel(start.r_phi)
            start.run("reward-exam", examine_reward, judge, start.held_out, members=start.members)
        base = Course(run.scope("base", run.seed), world, configs)
        examine(plan, base, answer(base, base.base), main, base.base)
        for entry in plan.entries:
            attempt(run, plan, world, entry, main)


def open_world(plan: Plan, seed: int) -> World:
    """Open the task for a seed: its own training prompts, everybody's evaluation prompts.

    Raises:
        ConfigError: nobody could judge the answers.
    """
    if plan.task is not None:
        own = None if plan.model is None else Path(plan.model)
        at, exam = Seed(seed), Seed(plan.exam)
        return worlds.from_task(plan.task, plan.sizes, at, exam=exam, model=own)
    assert plan.model is not None and plan.data is not None  # noqa: PT018
    world = worlds.from_files(Path(plan.model), plan.data, plan.sizes)
    if world.truth is None and world.preferences is None:
        raise ConfigError(
            f"nobody can judge answers to {plan.data}",
            "it holds neither preferences, from which a reward could be learned, nor answers "
            "that can be checked",
            "give data with preferences or scores",
        )
    return world


def attempt(run: Run, plan: Plan, world: World, entry: Entry, main: Groups) -> None:
    """Do one entry, or write down why it failed."""
    scope = run.scope(entry.scope, run.seed)
    course = Course(scope, world, entry.configs)
    told = scope.path / FAILED
    told.unlink(missing_ok=True)
    try:
        result, _ = course.do(found(entry))
        write_json(
            scope.path / NEEDED, {"stages": [s for s in scope.called if not s.startswith(WATCHED)]}
        )
        policy = replace(result, name=entry.name)
        examine(plan, course, answer(course, policy), main, policy)
    except Pending:
        raise
    except Exception as error:
        reason = error.what if isinstance(error, TandemError) else f"{error!r}"
        write_json(told, {"reason": reason, "traceback": traceback.format_exc()})
        scope.events.log("failed", text=f"{entry.name} failed: {reason}")


def found(entry: Entry) -> Method:
    """Open an entry's method, with the recipe that the entry names.

    Raises:
        ConfigError: the recipe cannot be imported.
    """
    method = load(entry.method)
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


def answer(course: Course, policy: Policy) -> Groups:
    """Sample one answer to each evaluation prompt."""
    return course.run("answers", sample, policy, course.exam, n=1, how=course.how)


def examine(plan: Plan, course: Course, answers: Groups, main: Groups, policy: Policy) -> None:
    """Let every judge see the answers, beside the opponent's."""
    judges: dict[str, Judge] = {}
    if course.truth is not None:
        judges["truth"] = course.truth
    if course.labelled:
        judges |= {"gold_rm": course.gold_rm, "proxy": RewardModel(course.r_phi)}
    comparers: dict[str, Judge] = {}
    if course.humans is not None:
        comparers["annotator"] = course.humans
    if plan.referee:
        formats = course.formats
        comparers["llm"] = Asking(hard=True).labeller(
            course.base, formats.compare, formats.principles
        )
    who = {"policy": policy, "opponent": course.pi_sft}
    course.run("exam", examine_answers, answers, main, judges=judges, comparers=comparers, **who)
