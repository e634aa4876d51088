"""Open a task by its name."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import ConfigError, nearest_name
from tandem.judges import Judge
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.tasks import LEAST_GOLD, TASKS, UNUSED, WITHOUT_MODEL, Sizes, Task, constraints
from tandem.tasks.micro import ASSETS, Micro
from tandem.tasks.micro.annotators import Drift, Drifting, DriftingTruth
from tandem.tasks.micro.feedback import FEEDBACK_FORMATS

TASTES = "micro-tastes"
MICRO = {
    "micro": Micro("summaries"),
    "micro-shared": Micro("summaries", shared=0.9),
    TASTES: Micro("summaries"),
    "micro-rotation": Micro("summaries"),
    "micro-flip": Micro("summaries"),
    "micro-dialogue": Micro("dialogue"),
    "micro-arithmetic": Micro("arithmetic"),
    "micro-translation": Micro("translation"),
}

DRIFTS: dict[str, Drift] = {"micro-rotation": "rotation", "micro-flip": "flip"}
"""Tasks whose annotators' taste moves, and how; only `tandem iterate` has rounds."""


PEOPLE: dict[str, str] = {
    TASTES: "a population of which {cyclic:.0%} stand in three camps that rank lengths in a "
    "circle and the others follow the truth where it is plain. {flips:.0%} of the votes are "
    "written down wrong.",
    "micro-rotation": "people who err on {flips:.0%} of them. Their taste turns from round to "
    "round; here they are asked in the first, where it is the truth.",
    "micro-flip": "people who err on {flips:.0%} of them. They like summaries true and short, and "
    "would like them long from round 3 on; here they are asked in the first.",
    "micro-translation": "somebody who gives every answer one of five marks, by the truth with "
    "noise, and prefers the one with the higher mark; equal marks are ties. {flips:.0%} of the "
    "preferences are turned round.",
    "constraints": "an annotator who sees the truth, likes long answers a little, is unsure "
    "between answers of nearly one worth, and errs on {flips:.0%} of them.",
}
"""Who gives a task's labels, where it is not the annotator of `micro`."""
ANNOTATOR = (
    "an annotator who knows the truth and errs on {flips:.0%} of them. People err less evenly."
)


def describe_people(task: str, sizes: Sizes) -> str:
    """Say who gives a task's labels, for reports.

    >>> describe_people("micro", Sizes(pairs=20, flips=0.1))[:62]
    'The labels are simulated: 20 comparisons by an annotator who k'
    """
    who = PEOPLE.get(task, ANNOTATOR).format(flips=sizes.flips, cyclic=sizes.cyclic)
    return f"The labels are simulated: {sizes.pairs} comparisons by {who}"


def has_shipped_gold(task: str) -> bool:
    """Say whether a task brings the gold reward that ships with the package.

    That one knows the annotator's taste, and has read no translations.
    """
    return task in MICRO and task not in (TASTES, "micro-translation", *DRIFTS)


def task_settings(task: str | None) -> dict[str, Any]:
    """Return what a task changes in the methods' defaults, which are the papers'.

    A model of a million parameters learns with other rates than one of seven billion. The table
    `sizes` says how much of the task is used.
    """
    if task == "constraints":
        place = Path(constraints.__file__).parent
    elif task in MICRO:
        place = ASSETS.parent
    else:
        return {}
    settings = tomllib.loads((place / "settings.toml").read_text(encoding="utf-8"))
    own = settings.pop("task", {}).get(task, {})
    return {n: {**settings.get(n, {}), **own.get(n, {})} for n in (*settings, *own)}


def task_tallies(task: str | None) -> dict[str, Callable[[Group], float]]:
    """Return what can be counted in answers to a task: column -> a group's mean count."""
    if task == "constraints":
        return constraints.Constraints().tallies()
    return MICRO[task].tallies() if task in MICRO else {}


def load_task(
    name: str,
    sizes: Sizes = Sizes(),
    seed: Seed | int = 0,
    *,
    exam: Seed | None = None,
    model: Path | None = None,
) -> Task:
    """Open a task by name: its base model, data, prompts and judges.

    >>> load_task("micro", Sizes(pairs=20), seed=0).name
    'micro'

    Args:
        name: a row of `TASKS`.
        sizes: how much of it.
        seed: draws prompts and the annotator's answers.
        exam: draws the evaluation prompts, where several seeds are to meet the same.
        model: folder of your model, for tasks that come without one.

    Raises:
        ConfigError: there is no such task, or it needs a model, or brings its own; or a size is
            given that it has no use for.
    """
    check_task_model(name, None if model is None else str(model))
    if sizes.cyclic != UNUSED["cyclic"] and name != TASTES:
        raise ConfigError(
            f"sizes.cyclic = {sizes.cyclic:g} with the task {name}",
            f"only the people of {TASTES} stand in camps",
            f"leave sizes.cyclic out, or take --task {TASTES}",
        )
    at = (seed if isinstance(seed, Seed) else Seed(seed)).at("world", name)
    examined = at if exam is None else exam.at("world", name)
    if model is not None:
        return _load_constraints(model, sizes, at, examined)
    return _load_micro(name, sizes, at, examined)


def check_task_model(task: str, model: str | None) -> None:
    """Refuse a task that there is not, one without the model that it needs, or with one too many.

    Raises:
        ConfigError: there is no such task, or the task and the model do not go together.
    """
    if task not in TASKS:
        raise ConfigError(
            f"there is no task {task!r}.{nearest_name(task, TASKS)}",
            "a task is one of those in tandem/tasks",
            f"name one of: {', '.join(TASKS)}; or give --model and --data",
        )
    if task in WITHOUT_MODEL and model is None:
        raise ConfigError(
            f"--task {task} without --model",
            f"{task} asks a chat model of yours, and comes without one",
            f"give `--task {task} --model FOLDER`, a folder that `save_pretrained` wrote",
        )
    if task not in WITHOUT_MODEL and model is not None:
        raise ConfigError(
            f"--task {task} --model {model}",
            f"{task} brings its own model, which knows its language",
            f"leave --model out, or name a task that takes one: {', '.join(WITHOUT_MODEL)}",
        )


@lru_cache(maxsize=4)
def _load_micro(name: str, sizes: Sizes, at: Seed, examined: Seed) -> Task:
    task = MICRO[name]
    people, truth = _judges_of(name, task, sizes, at.at("annotator"))
    wanted = sizes.pairs + sizes.held_out
    gold = sizes.pairs if name == TASTES and sizes.pairs >= LEAST_GOLD else 0
    asked = task.prompts("preference", wanted + gold, at)
    evaluation = task.prompts("evaluation", sizes.evaluation, examined)
    return Task(
        name=name,
        base=Checkpoint(task.model(), "base"),
        demonstrations=task.demonstrations(sizes.demonstrations, at),
        preferences=None,
        held_out=None,
        asked=asked[: sizes.pairs],
        asked_held_out=asked[sizes.pairs : wanted],
        prompts=task.prompts("unlabelled", sizes.prompts, at),
        evaluation=evaluation,
        gold=task.gold() if has_shipped_gold(name) else None,
        asked_gold=asked[wanted:] if gold else None,
        weaker=sizes.weaker,
        references=_references(task, evaluation),
        annotator=people,
        truth=truth,
        wording=task.wording,
        formats=FEEDBACK_FORMATS,
        same=task.same(),
    )


def _references(task: Micro, prompts: Groups) -> Groups:
    """A translation's reference is the right one, as for BLEU; else somebody's demonstration."""
    return task.ideals(prompts) if task.skill == "translation" else task.references(prompts)


def _judges_of(name: str, task: Micro, sizes: Sizes, seed: Seed) -> tuple[Judge, Judge | None]:
    """Who compares answers, and the truth where there is one."""
    if name == TASTES:
        return task.tastes(cyclic=sizes.cyclic, flips=sizes.flips, seed=seed), None
    if name in DRIFTS:
        taste = Drifting(DRIFTS[name], flips=sizes.flips, seed=seed)
        return taste, DriftingTruth(taste)
    if task.skill == "translation":
        return task.rater(flips=sizes.flips, seed=seed), task.truth()
    return task.annotator(flips=sizes.flips, seed=seed), task.truth()


def _load_constraints(model: Path, sizes: Sizes, at: Seed, examined: Seed) -> Task:
    task = constraints.Constraints()
    wanted = sizes.pairs + sizes.held_out
    gold = sizes.pairs if sizes.pairs >= LEAST_GOLD else 0
    asked = task.prompts("preference", wanted + gold, at)
    return Task(
        name=task.name,
        base=Checkpoint(model, model.name),
        demonstrations=task.prompts("sft", sizes.demonstrations, at),
        preferences=None,
        held_out=None,
        asked=asked[: sizes.pairs],
        asked_held_out=asked[sizes.pairs : wanted],
        asked_gold=asked[wanted:] if gold else None,
        prompts=task.prompts("unlabelled", sizes.prompts, at),
        evaluation=task.prompts("evaluation", sizes.evaluation, examined),
        weaker=sizes.weaker,
        annotator=task.annotator(flips=sizes.flips, seed=at.at("annotator")),
        rater=task.rater(seed=at.at("rater")),
        truth=task.truth(),
    )
