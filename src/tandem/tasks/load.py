"""Open a task by name, or make one of your model and your data."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tandem.data.formats import split_groups
from tandem.data.formats.options import ReadingOptions
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import ConfigError, DataError, nearest_name
from tandem.judges.answer_key import AnswerKey
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.tasks import TASKS, WITHOUT_MODEL, Sizes, Task, constraints, gsm8k
from tandem.tasks.micro import ASSETS, Micro
from tandem.tasks.micro.feedback import FEEDBACK_FORMATS

MICRO = {
    "micro": Micro("summaries"),
    "micro-shared": Micro("summaries", shared=0.9),
    "micro-dialogue": Micro("dialogue"),
    "micro-arithmetic": Micro("arithmetic"),
    "micro-translation": Micro("translation"),
}


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
    return tomllib.loads((place / "settings.toml").read_text(encoding="utf-8"))


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
        ConfigError: there is no such task, or it needs a model, or brings its own.
    """
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}.{nearest_name(name, TASKS)}",
            "a task is one of those in tandem/tasks",
            f"name one of: {', '.join(TASKS)}; or give --model and --data",
        )
    check_task_model(name, None if model is None else str(model))
    at = (seed if isinstance(seed, Seed) else Seed(seed)).at("world", name)
    examined = at if exam is None else exam.at("world", name)
    if model is not None:
        return _load_constraints(model, sizes, at, examined)
    return _load_micro(name, sizes, at, examined)


def check_task_model(task: str, model: str | None) -> None:
    """Refuse a task without the model that it needs, and one with a model that it does not.

    Raises:
        ConfigError: the task and the model do not go together.
    """
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
    asked = task.prompts("preference", sizes.pairs + sizes.held_out, at)
    evaluation = task.prompts("evaluation", sizes.evaluation, examined)
    return Task(
        name=name,
        base=Checkpoint(task.model(), "base"),
        demonstrations=task.demonstrations(sizes.demonstrations, at),
        preferences=None,
        held_out=None,
        asked=asked[: sizes.pairs],
        asked_held_out=asked[sizes.pairs :],
        prompts=task.prompts("unlabelled", sizes.prompts, at),
        evaluation=evaluation,
        weaker=sizes.weaker,
        references=task.references(evaluation),
        annotator=(
            task.rater(seed=at.at("rater"))
            if task.skill == "translation"
            else task.annotator(flips=sizes.flips, seed=at.at("annotator"))
        ),
        truth=task.truth(),
        wording=task.wording,
        formats=FEEDBACK_FORMATS,
        same=task.same(),
    )


def _load_constraints(model: Path, sizes: Sizes, at: Seed, examined: Seed) -> Task:
    task = constraints.Constraints()
    asked = task.prompts("preference", sizes.pairs + sizes.held_out, at)
    return Task(
        name=task.name,
        base=Checkpoint(model, model.name),
        demonstrations=task.prompts("sft", sizes.demonstrations, at),
        preferences=None,
        held_out=None,
        asked=asked[: sizes.pairs],
        asked_held_out=asked[sizes.pairs :],
        prompts=task.prompts("unlabelled", sizes.prompts, at),
        evaluation=task.prompts("evaluation", sizes.evaluation, examined),
        weaker=sizes.weaker,
        annotator=task.annotator(flips=sizes.flips, seed=at.at("annotator")),
        rater=task.rater(seed=at.at("rater")),
        truth=task.truth(),
    )


def task_from_files(
    model: Path | str,
    data: Path | str,
    sizes: Sizes = Sizes(),
    reading: ReadingOptions = ReadingOptions(),
) -> Task:
    """Make a task of your model and your data; a share of the prompts is held out.

    Prompts are split by a hash of their text. The best answer of every training group is its
    demonstration. Questions with an answer key (GSM8K's columns) bring a judge that knows it.

    Args:
        model: a Hugging Face folder.
        data: a file, folder or hub id, as `read_data` takes it.
        sizes: `held_out_share` alone is read.
        reading: its columns, split and format, where they do not say it themselves.

    Raises:
        DataError: the data cannot be read, or nobody judged it.
    """
    found = reading.read(data)
    share = sizes.held_out_share
    parts = split_groups(found.groups, {"train": 1 - share, "held_out": share})
    train, held_out = parts["train"], parts["held_out"]
    for name, part in parts.items():
        if not len(part):
            raise DataError(
                f"{data}: no prompt falls into the part `{name}` of {len(found.groups)} groups",
                f"a share of {share:g} of the prompts is held out by a hash of their text",
                "give more data, or another --sizes.held_out_share",
            )
    model = Path(model)
    wording = gsm8k.GSM8K_WORDING if found.format == "gsm8k" else None
    judged = any(g.preferences or g.scores is not None for g in train)
    return Task(
        name=Path(data).name.partition(".")[0],
        base=Checkpoint(model, model.name),
        demonstrations=best_answers(train, data),
        preferences=train if judged else None,
        held_out=held_out if judged else None,
        asked=None,
        asked_held_out=None,
        prompts=train.prompts(),
        evaluation=held_out.prompts(),
        references=_references(held_out),
        truth=None if wording is None else AnswerKey(wording.read),
        wording=wording,
        notes=(f"{data}: {found.format}, because {found.why}", *found.notes.lines()),
    )


def best_answers(groups: Groups, source: Path | str) -> Groups:
    """Return each group with its best completion alone; of marked answers, the good ones.

    Raises:
        DataError: every answer is marked bad.
    """
    good = Groups.of(best_answer(g) for g in groups if not is_marked_bad(g))
    if not len(good):
        raise DataError(
            f"{source}: all {len(groups)} answers are marked bad",
            "there is no answer to imitate, and nothing to tell the bad ones from",
            "add good answers (label true)",
        )
    return good


def is_marked_bad(group: Group) -> bool:
    """True for one answer alone that somebody marked bad (score 0)."""
    return len(group) == 1 and group.scores is not None and float(group.scores[0]) == 0.0


def _references(groups: Groups) -> Groups | None:
    """Return one good answer for each prompt, or None where some prompt has none."""
    if any(is_marked_bad(g) for g in groups):
        return None
    return Groups.of(best_answer(g) for g in groups)


def best_answer(group: Group) -> Group:
    """Return the group with its best completion alone: by score, else by wins, else the first."""
    if group.scores is not None:
        which = int(np.argmax(group.scores))
    else:
        wins = np.zeros(len(group))
        for p in group.preferences:
            wins[p.i] += p.p
            wins[p.j] += 1 - p.p
        which = int(np.argmax(wins))
    alone = group.keep([which])
    return replace(alone, scores=None, preferences=(), clusters=None)
