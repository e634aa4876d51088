"""A quick look at what came out: losses on held-out answers and a few samples.

No judge is fitted that the method does not need itself. `--evaluate full` adds win rates by reward
models, which have to be fitted first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.data.groups import Groups
from tandem.evaluation.samples import lay_out_samples
from tandem.judges.preference_model import PreferenceModel
from tandem.judges.reward_model import RewardModel
from tandem.methods import Method
from tandem.pipeline.costs import cost_table
from tandem.pipeline.inputs import Inputs
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.names import folder_name
from tandem.runs.records import read_exam_text, read_value
from tandem.stages.evaluate_held_out import evaluate_held_out
from tandem.stages.evaluate_marks import evaluate_marks
from tandem.stages.evaluate_reward import evaluate_preferences, evaluate_reward
from tandem.stages.sampling import Policy, sample

SHOWN_PROMPTS = 8
"""Held-out prompts that every policy answers."""


def evaluate_quickly(inputs: Inputs, method: Method, result: Any) -> str:
    """Examine a method's result without a judge that the method does not need."""
    fits = method.row.fits
    parts: list[str] = []
    if fits == "reward":
        exam = inputs.run("reward-exam", evaluate_reward, RewardModel(result), inputs.held_out)
        parts.append(_reward_text(inputs, exam))
    elif fits == "preference":
        judges = {str(result): PreferenceModel(result)}
        exam = inputs.run("preference-exam", evaluate_preferences, judges, inputs.held_out)
        parts.append(read_exam_text(exam))
    else:
        if (exam := _examine_climbed_reward(inputs, method)) is not None:
            parts.append(_reward_text(inputs, exam))
        parts += _policy_parts(inputs, result)
    judges = "reward models" if inputs.given_reward is None else "the reward"
    more = "" if fits == "solver" else f"\nwin rates by {judges}: --evaluate full"
    return "\n\n".join([*parts, f"{cost_table(inputs.run)}{more}"])


def _reward_text(inputs: Inputs, exam: dict[str, Any]) -> str:
    return f"reward model on {len(inputs.held_out)} held-out comparisons\n{read_exam_text(exam)}"


def warn_of_weak_reward(inputs: Inputs, method: Method) -> None:
    """Say, before a method climbs a fitted reward, where that reward knows nothing."""
    exam = _examine_climbed_reward(inputs, method)
    if exam is None:
        return
    low = read_value(exam, "numbers", "measures", "accuracy", "low")
    if low is None or low <= 0.5:
        text = (
            "the reward is not seen to be better than a coin on held-out comparisons: what climbs "
            "it climbs noise. Give more comparisons, or a larger --reward.optim.lr"
        )
        inputs.run.events.log("note", text=text)


def _examine_climbed_reward(inputs: Inputs, method: Method) -> dict[str, Any] | None:
    """Examine the reward that a method reads; None where it reads none that was fitted."""
    read = method.read_inputs(inputs.configs[method.name])
    fitted = inputs.given_reward is None and inputs.labelled
    if method.row.fits != "policy" or not fitted or "r_phi" not in read:
        return None
    return inputs.run("reward-exam", evaluate_reward, inputs.proxy, inputs.held_out)


def _policy_parts(inputs: Inputs, result: Policy) -> list[str]:
    policies = known_policies(inputs, result, sft="sft" in inputs.run.called)
    before = "SFT" in policies and str(result) != "SFT"
    start, parts = "SFT" if before else "base", list[str]()
    if inputs.task.marked and isinstance(result, Checkpoint):
        exam = inputs.run("marks-exam", evaluate_marks, result, inputs.pi_sft, inputs.held_out)
        parts.append(f"held-out marks, scored by log pi - log pi_0\n{read_exam_text(exam)}")
    else:
        return compare_policies(inputs, policies, start)
    return [*parts, show_samples(inputs, policies)]


def compare_policies(inputs: Inputs, policies: Mapping[str, Policy], start: str) -> list[str]:
    """Read held-out answers with policies where there are any, and show samples of all.

    Args:
        inputs: whose held-out answers and prompts are taken.
        policies: by name; ways of decoding one are shown, and read nothing.
        start: the policy that training started from.
    """
    models = {name: p for name, p in policies.items() if isinstance(p, Checkpoint)}
    parts: list[str] = []
    if (held := _answered(inputs)) is not None:
        exam = inputs.run("held-out-exam", evaluate_held_out, models, held, start=start)
        parts.append(read_exam_text(exam))
    return [*parts, show_samples(inputs, policies)]


def known_policies(inputs: Inputs, result: Policy, *, sft: bool) -> dict[str, Policy]:
    """Return the policies of a run by name: the model as it came, SFT, the method's result.

    Args:
        inputs: what comes before the method.
        result: of the method.
        sft: with the model after SFT, which is trained where nobody has asked for it yet.
    """
    found: dict[str, Policy] = {"base": inputs.base}
    if sft:
        found["SFT"] = inputs.pi_sft
    return found | {str(result): result}


def show_samples(inputs: Inputs, policies: Mapping[str, Policy]) -> str:
    """Let policies answer a few held-out prompts, and lay the answers side by side."""
    shown = inputs.eval_prompts[:SHOWN_PROMPTS]
    answers = {
        name: inputs.run(
            f"samples-{folder_name(name)}", sample, policy, shown, n=1, sampling=inputs.sampling
        )
        for name, policy in policies.items()
    }
    return f"answers to {len(shown)} held-out prompts\n\n{lay_out_samples(answers)}"


def _answered(inputs: Inputs) -> Groups | None:
    """Return held-out prompts with answers, in tokens; None where there are none."""
    if inputs.task.held_out is not None:
        return inputs.held_out
    return inputs.eval_prompts if inputs.task.references is not None else None
