"""Whether data holds the judgments that a method learns from: said before the first stage."""

from __future__ import annotations

import inspect

from tandem.data.groups import Groups
from tandem.errors import DataError
from tandem.methods import Method
from tandem.methods.kto import require_both_marks
from tandem.tasks import Task

COMPARED = {"D", "r_phi", "held_out", "validation"}
"""Inputs that are made from comparisons."""


def check_labels(method: Method, task: Task) -> None:
    """Refuse a method that learns from judgments which the task does not have.

    Raises:
        DataError: nothing is compared; or, for KTO, all answers are good, all are bad, or all
            are answers to one prompt.
    """
    if method.name == "kto" and task.preferences is not None:
        _require_two_prompts(task.preferences)
    wanted = COMPARED & set(inspect.signature(method.recipe).parameters)
    if not wanted or task.compared:
        return
    if method.name == "kto" and task.preferences is not None:
        require_both_marks(task.preferences)
        return
    marked = task.preferences is not None
    raise DataError(
        f"{task.name} holds {'single marked answers' if marked else 'no judgment'}, and "
        f"{method.name} learns from comparisons",
        "two answers to one prompt must be judged: chosen and rejected, ranks or scores",
        "train on the marks: `tandem run kto`" if marked else "train on it with `tandem run sft`",
    )


def _require_two_prompts(data: Groups) -> None:
    texts = {group.prompt.text for group in data}
    if len(texts) == 1:
        raise DataError(
            f"all {len(data)} rows that KTO would train on have one prompt",
            "KTO compares an answer with answers to other prompts, and there is none",
            "add answers to other prompts; or, with chosen and rejected answers, `tandem run dpo`",
        )
