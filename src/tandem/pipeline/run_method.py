"""A method from its start to its tables: what comes before it, its recipe, its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.judges.preference_model import PreferenceModel
from tandem.judges.reward_model import RewardModel, reward_models
from tandem.machine import GIB
from tandem.methods import Method
from tandem.pipeline.costs import cost_table
from tandem.pipeline.evaluate_result import evaluate_against_sft, evaluate_solver
from tandem.pipeline.inputs import Inputs
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.evaluate_marks import evaluate_marks
from tandem.stages.evaluate_reward import evaluate_preferences, evaluate_reward
from tandem.tasks import Task


def run_method(run: Run, method: Method, configs: Mapping[str, Any], task: Task) -> str:
    """Do one method and everything before it, and return the tables that say how good it is."""
    inputs = Inputs(run, task, configs)
    result, spent = inputs.run_recipe(method)
    tables = _evaluated(inputs, method, result, spent)
    if run.machine.keep_models == "result":
        policy = getattr(result, "policy", result)  # of a way of decoding one, with its judge
        freed = run.remove_weights_except(policy, *reward_models(result))
        run.events.log("freed", text=f"models besides the result removed: {freed / GIB:.2f} GiB")
    return tables


def _evaluated(inputs: Inputs, method: Method, result: Any, spent: float) -> str:
    """Return the tables that say how good a method's result is."""
    run, task = inputs.run, inputs.task
    if method.row.fits == "preference":
        return compare_preference_models(inputs, result)
    parts: list[str] = []
    if method.row.fits == "solver":
        parts.append(evaluate_solver(inputs, method, result))
    elif inputs.labelled:
        r_phi = result if method.row.fits == "reward" else inputs.r_phi
        exam = run(
            "reward-exam",
            evaluate_reward,
            RewardModel(r_phi),
            inputs.held_out,
            members=inputs.members,
        )
        parts.append(f"reward model on {len(inputs.held_out)} held-out comparisons\n{exam['text']}")
    if method.row.fits == "reward":
        parts.append(inputs.curve())
    if method.row.fits == "policy" and task.marked:
        exam = run("marks-exam", evaluate_marks, result, inputs.pi_sft, inputs.held_out)
        parts.append(f"held-out marks, scored by log pi - log pi_sft\n{exam['text']}")
    if method.row.fits == "policy":
        parts.append(
            evaluate_against_sft(inputs, {"SFT": inputs.pi_sft, str(result): result}, spent)
        )
    return "\n\n".join(parts)


def compare_preference_models(inputs: Inputs, fitted: Checkpoint) -> str:
    """Lay a preference model beside the reward model that was fitted to the same comparisons."""
    judges = {str(fitted): PreferenceModel(fitted), "Bradley-Terry": RewardModel(inputs.r_phi)}
    exam = inputs.run("preference-exam", evaluate_preferences, judges, inputs.held_out)
    return f"{exam['text']}\n\n{cost_table(inputs.run)}"
