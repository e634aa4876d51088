"""A method from its start to its tables: what comes before it, its recipe, its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tandem.judges import Judge
from tandem.judges.open_preference import PairwiseJudge
from tandem.judges.preference_model import PreferenceModel
from tandem.judges.reward_model import RewardModel, reward_models
from tandem.machine import GIB
from tandem.methods import Method
from tandem.pipeline.costs import cost_table
from tandem.pipeline.evaluate_result import describe_gold, evaluate_against_start, evaluate_solver
from tandem.pipeline.inputs import Inputs, Start
from tandem.pipeline.quick import evaluate_quickly, known_policies, warn_of_weak_reward
from tandem.report.rounds_picture import draw_rounds
from tandem.runs.atomic_files import write_text
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.evaluate_cycles import evaluate_cycles
from tandem.stages.evaluate_marks import evaluate_marks
from tandem.stages.evaluate_reward import evaluate_preferences, evaluate_reward
from tandem.stages.sampling import sample
from tandem.tasks import Task

Evaluation = Literal["none", "quick", "full"]

CIRCLE_PROMPTS, CIRCLE_ANSWERS = 50, 8
"""Prompts, and SFT's answers to each, of which judges of pairs compare all with all."""


def run_method(
    run: Run,
    method: Method,
    configs: Mapping[str, Any],
    task: Task,
    *,
    start: Start = "sft",
    evaluation: Evaluation = "full",
    given_reward: Judge | None = None,
) -> str:
    """Do one method and everything before it, and return the tables that say how good it is.

    Args:
        run: where the stages are kept.
        method: as `load_method` opens it.
        configs: settings by name.
        task: the task, or your model and data.
        start: whether SFT comes before the method, or the model is taken as it is.
        evaluation: `full` has win rates by reward models; `quick` fits no judge; `none` trains
            alone.
        given_reward: what the method learns from in place of a reward fitted to comparisons.
    """
    inputs = Inputs(run, task, configs, start, given_reward)
    if evaluation == "quick":
        warn_of_weak_reward(inputs, method)
    result, spent = inputs.run_recipe(method)
    if isinstance(policy := getattr(result, "policy", result), Checkpoint):
        run.keep_result(policy)
    tables = _evaluated(inputs, method, result, spent, evaluation)
    if run.machine.keep_models == "result" and method.row.fits != "rounds":
        freed = run.remove_weights_except(policy, *reward_models(result))
        run.events.log("freed", text=f"models besides the result removed: {freed / GIB:.2f} GiB")
    return tables


def _evaluated(
    inputs: Inputs, method: Method, result: Any, spent: float, evaluation: Evaluation
) -> str:
    """Return the tables that say how good a method's result is."""
    if method.row.fits == "rounds":
        return tell_rounds(inputs.run)
    if evaluation == "none":
        return f"not evaluated, as asked\n\n{cost_table(inputs.run)}"
    if evaluation == "quick" and method.row.fits != "solver":
        return evaluate_quickly(inputs, method, result)
    return evaluate_fully(inputs, method, result, spent)


def evaluate_fully(inputs: Inputs, method: Method, result: Any, spent: float) -> str:
    """Examine a method's result with every judge that there is or that can be fitted."""
    run, task = inputs.run, inputs.task
    if method.row.fits == "preference":
        return compare_preference_models(inputs, result)
    parts: list[str] = []
    if method.row.fits == "solver":
        parts.append(evaluate_solver(inputs, method, result))
    elif inputs.labelled:
        exam = run(
            "reward-exam",
            evaluate_reward,
            RewardModel(result) if method.row.fits == "reward" else inputs.proxy,
            inputs.held_out,
            members=inputs.reward_ensemble,
        )
        parts.append(f"reward model on {len(inputs.held_out)} held-out comparisons\n{exam['text']}")
    if method.row.fits == "reward":
        parts.append(inputs.curve())
    if method.row.fits == "policy" and task.marked:
        exam = run("marks-exam", evaluate_marks, result, inputs.pi_sft, inputs.held_out)
        parts.append(f"held-out marks, scored by log pi - log pi_sft\n{exam['text']}")
    if method.row.fits == "policy":
        parts += describe_gold(inputs)
        policies = known_policies(inputs, result, sft=inputs.start == "sft")
        parts.append(evaluate_against_start(inputs, policies, spent))
    return "\n\n".join(parts)


def tell_rounds(run: Run) -> str:
    """Return the table of rounds, and draw it into the run's folder."""
    found = find_result(run, "rounds")
    picture = run.path / "rounds.svg"
    write_text(picture, draw_rounds(found["numbers"]))
    return f"{found['text']}\n\npicture: {picture}\n\n{cost_table(run)}"


def find_result(run: Run, stage: str) -> dict[str, Any]:
    """Return what a finished stage of this run found."""
    (found,) = (r for r in run.records() if r.name == stage)
    return found.load()


def compare_preference_models(inputs: Inputs, fitted: Checkpoint) -> str:
    """Lay a preference model beside the reward model that was fitted to the same comparisons."""
    run, people = inputs.run, inputs.humans
    judges = {str(fitted): PreferenceModel(fitted), "Bradley-Terry": inputs.proxy}
    exam = run("preference-exam", evaluate_preferences, judges, inputs.held_out)
    asked = inputs.eval_prompts[:CIRCLE_PROMPTS]
    many = run("circles", sample, inputs.pi_sft, asked, n=CIRCLE_ANSWERS, sampling=inputs.sampling)
    truth = people if isinstance(people, PairwiseJudge) else None
    circles = run("circles-exam", evaluate_cycles, judges, many, truth=truth)
    return f"{exam['text']}\n\n{circles['text']}\n\n{cost_table(run)}"
