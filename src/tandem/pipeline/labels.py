"""Whether data holds the judgments and prompts that a run needs: said before the first stage."""

from __future__ import annotations

from typing import Any

from tandem.data.chat.transcripts import is_whole_text
from tandem.data.groups import Groups
from tandem.errors import ConfigError, DataError
from tandem.judges.answer_key import has_truth
from tandem.methods import REWARDED, Method
from tandem.methods.kto import require_both_marks
from tandem.statistics import explain_few_prompts
from tandem.tasks import Task

TEACHERS = (
    "let a language model judge (`tandem run rlaif --rlaif.learn dpo`), or score answers in Python "
    "(examples/grpo_with_your_reward.py)"
)
COMPARED = {"D", "r_phi", "held_out", "validation"}
"""Inputs that are made from comparisons."""
FITTED = {"preference_judge", *COMPARED}


def check_labels(
    method: Method, task: Task, cfg: Any = None, *, given_reward: bool = False
) -> None:
    """Refuse a method that learns from judgments which the task does not have.

    Args:
        method: the method.
        task: its data and judges.
        cfg: the method's settings, which may say who is asked.
        given_reward: the user gave a reward, so nothing is fitted to judgments.

    Raises:
        DataError: nothing is compared; or, for KTO, all answers are good, all are bad, or all
            are answers to one prompt.
        ConfigError: somebody is to be asked, and the task brings nobody.
    """
    if getattr(cfg, "annotator", None) == "task" and task.annotator is None:
        raise ConfigError(
            f"{method.name}.annotator = task, and {task.name} brings nobody to ask",
            "every round has new answers compared",
            f"give --{method.name}.annotator people, or model",
        )
    if getattr(cfg, "labels", None) == 0 and task.preferences is None:
        raise ConfigError(
            f"{method.name}.labels = 0, and {task.name} brings no comparisons",
            "the first reward is fitted to something",
            f"give --{method.name}.labels 100 or more, or data with comparisons",
        )
    if method.name == "kto" and task.preferences is not None:
        _require_two_prompts(task.preferences)
    wanted = set(method.inputs)
    if FITTED & wanted == {"validation"}:
        wanted -= {"validation"}  # a language model judges, and people only look on
    if given_reward or not COMPARED & wanted or task.compared:
        return
    if method.name == "kto" and task.preferences is not None:
        require_both_marks(task.preferences)
        return
    marked = task.preferences is not None
    alone = not len(task.demonstrations)
    raise DataError(
        f"{task.name} holds {'single marked answers' if marked else 'no judgment'}, and "
        f"{method.name} learns from comparisons",
        "two answers to one prompt must be judged: chosen and rejected, ranks or scores",
        "train on the marks: `tandem run kto`"
        if marked
        else f"{_other_rewards(task)}; or give data with `chosen` and `rejected`"
        if method.name in REWARDED
        else f"{TEACHERS}, or give data with `chosen` and `rejected`"
        if alone
        else "train on it with `tandem run sft`; or, where prompts have two answers each, have "
        "people judge them: `tandem label serve FILE`",
    )


def _other_rewards(task: Task) -> str:
    """Say which reward a method can learn from where nothing is compared."""
    own = "a reward of your own: --reward FOLDER or URL, or one in Python "
    own += "(examples/grpo_with_your_reward.py)"
    keyed = has_truth(task.truth, task.prompts)
    return f"learn from the answer key: --reward truth; or give {own}" if keyed else f"give {own}"


def check_demonstrations(method: Method, task: Task, start: str) -> None:
    """Refuse prompts alone where answers are to be imitated.

    Args:
        method: the method.
        task: its data.
        start: what methods start from, `sft` or `model`.

    Raises:
        DataError: there is no answer in the data.
    """
    wanted = set(method.inputs)
    imitates = "demonstrations" in wanted or ("pi_sft" in wanted and start == "sft")
    if not imitates or task.rater is not None or len(task.demonstrations):
        return
    before = "" if method.name == "sft" else "--start model starts from the model as it is; "
    raise DataError(
        f"{task.name} holds prompts alone, and {method.name} begins with answers to imitate",
        "supervised fine-tuning learns from prompts with a good answer each",
        f"{before}give data with answers (`completion`, or `messages`), or {TEACHERS}",
    )


def check_prompts(method: Method, task: Task) -> None:
    """Refuse data whose prompts are not what a method answers.

    Args:
        method: the method.
        task: its data.

    Raises:
        DataError: the method samples answers to prompts, and the data holds whole texts; or it
            needs questions with one checkable answer, and there are none.
    """
    wanted = set(method.inputs)
    if "prompts" in wanted and any(is_whole_text(g.prompt) for g in task.prompts[:1]):
        raise DataError(
            f"{task.name} holds whole texts without a prompt, and {method.name} answers prompts",
            "there is nothing to answer",
            "train on the texts with `tandem run sft`, or give data with `prompt` or `messages`",
        )
    if "wording" not in wanted:
        return
    keyed = "truth" in wanted or method.row.asks == "answer"  # learns from the keys themselves
    known = all("answer" in g.prompt.meta for g in task.prompts[:1])
    if task.wording is not None and (known or not keyed):
        return
    rows = 'give --data with rows like {"question": "...", "answer": "... #### 42"}'
    alone = "or add --eval_data FILE, a test set of such rows: it learns from questions alone"
    raise DataError(
        f"{task.name} holds no questions with one checkable answer, and {method.name} needs them",
        "it learns from answers that are right by a key"
        if keyed
        else "what came out is examined by how many questions with a key it answers right",
        f"{rows}; {'' if keyed else f'{alone}; '}to see how it goes, "
        f"`tandem run {method.name} --task micro-arithmetic`",
    )


def explain_few_held_out(method: Method, task: Task) -> str:
    """Say why the prompts that a method is examined on cannot decide anything; empty if they can.

    Policies and solvers answer the evaluation prompts; rewards and preference models are examined
    on the held-out comparisons.
    """
    if method.row.fits in ("policy", "solver"):
        return explain_few_prompts(len(task.evaluation))
    held_out = task.held_out if task.asked_held_out is None else task.asked_held_out
    return explain_few_prompts(0 if held_out is None else len(held_out))


def _require_two_prompts(data: Groups) -> None:
    texts = {group.prompt.text for group in data}
    if len(texts) == 1:
        raise DataError(
            f"all {len(data)} rows that KTO would train on have one prompt",
            "KTO compares an answer with answers to other prompts, and there is none",
            "add answers to other prompts; or, with chosen and rejected answers, `tandem run dpo`",
        )
