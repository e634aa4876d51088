"""The tables that say how good a method's result is, beside where it began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tandem.data.groups import Groups
from tandem.data.verifiable import PromptStyle, QuestionFormat
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.judges import Judge
from tandem.methods import Method
from tandem.pipeline.costs import cost_table, stage_seconds
from tandem.pipeline.inputs import SFT_STAGES, Inputs
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.names import folder_name
from tandem.runs.records import read_value
from tandem.runs.run import Run
from tandem.stages.encoding import ask_questions
from tandem.stages.evaluate_policy import evaluate_policies, kl_temperature
from tandem.stages.evaluate_solutions import DecodingRule, evaluate_solutions
from tandem.stages.sampling import Policy, sample


def describe_gold(inputs: Inputs) -> list[str]:
    """Say how often the gold reward is right on held-out comparisons, and whether it judges."""
    if (exam := inputs.gold_exam) is None:
        return []
    measured = read_value(exam, "numbers", "measures", "accuracy")
    used = "" if inputs.gold_rm else ": no better than a coin, so it judges nobody"
    return [
        f"gold_rm, which trained nothing, is right on {_cell(measured, interval=True)} of "
        f"{read_value(exam, 'numbers', 'judgments')} held-out comparisons{used}"
    ]


def evaluate_solver(inputs: Inputs, method: Method, result: Checkpoint) -> str:
    """Examine a solver beside the base, on questions with one checkable answer."""
    form, wording = inputs.wording.asking(method.row.asks), inputs.wording
    if inputs.truth is None:
        raise ConfigError(
            f"{inputs.task.name} has no answer key",
            "a solver is examined by how many questions it answers right",
            "use data with answers (GSM8K), or --task micro-arithmetic",
        )
    solvers = {"base": Solver(inputs.base, wording.forms[0])}
    if form != wording.forms[0]:
        solvers |= {f"base {form.name}": Solver(inputs.base, form)}
    solvers |= {str(result): Solver(result, form)}
    exam = solve_questions(
        inputs.run, solvers, inputs.eval_prompts, wording, inputs.truth, inputs.sampling
    )
    heading = f"{len(inputs.eval_prompts)} evaluation questions"
    return f"{heading}\n{exam['text']}\n\n{cost_table(inputs.run)}"


def evaluate_against_start(inputs: Inputs, trained: Mapping[str, Policy], spent: float) -> str:
    """Sample every policy on the evaluation prompts and compare them with what they began with."""
    run, task, start = inputs.run, inputs.task, inputs.start_name
    answers: dict[str, Groups] = {}
    for name, policy in trained.items():
        stage = f"answers-{folder_name(name)}"
        answers[name] = run(
            stage, sample, policy, inputs.eval_prompts, n=1, sampling=inputs.sampling
        )
    opponents = [start]
    if task.references is not None:
        answers["reference"] = inputs.eval_prompts
        opponents.append("reference")
    judges = inputs.judges()
    if not judges:
        return f"nobody judges: no preferences, no truth\n\n{cost_table(run)}"
    exam = run(
        "policy-evaluation",
        evaluate_policies,
        answers,
        trained,
        judges=judges,
        opponents=tuple(opponents),
        annotator=task.annotator,
        temperature=kl_temperature(inputs.sampling),
    )
    taken = dict.fromkeys(trained, spent)
    taken["base"] = 0.0
    if start == "SFT":
        taken["SFT"] = stage_seconds(run, SFT_STAGES)
    parts = (
        f"policies on {len(inputs.eval_prompts)} evaluation prompts\n{exam['text']}",
        cost_table(run),
        summary_table(exam, taken),
    )
    return "\n\n".join(parts)


def summary_table(exam: Mapping[str, Any], spent: Mapping[str, float]) -> str:
    """The table to take away: one row a policy, win rates against the start with intervals."""
    rows, start = exam["numbers"]["policies"], exam["numbers"]["opponents"][0]
    shown = {
        f"win vs {start}": f"{exam['numbers']['judge']} win vs {start}",
        "gold_rm_win": f"gold_rm win vs {start}",
        "proxy_win": f"proxy win vs {start}",
        "kl": "KL",
        "length": "length",
    }
    columns = {
        key: name for key, name in shown.items() if any(row.get(key) is not None for row in rows)
    }
    lines = [("method", *columns.values(), "seconds")]
    for row in rows:
        cells = [_cell(row.get(k), interval="win" in k) for k in columns]
        took = f"{spent[row['policy']]:.1f}" if row["policy"] in spent else "-"
        lines.append((row["policy"], *cells, took))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: Any, *, interval: bool) -> str:
    if not isinstance(value, Mapping):
        return "-"
    if not interval:
        return f"{value['mean']:.2f}"
    if value["low"] is None:
        return f"{value['mean']:.1%} [-]"
    return f"{value['mean']:.1%} [{value['low']:.1%}, {value['high']:.1%}]"


DECODERS: dict[str, DecodingRule] = {
    "greedy": DecodingRule(1, 0.0),
    "sampled": DecodingRule(4, 1.0),
    "vote-0.7": DecodingRule(15, 0.7, vote=True),
    "vote-1.2": DecodingRule(15, 1.2, vote=True),
}
"""LMSI's paper votes at .7 before training and at 1.2 after it, when the model is sharper. Here
every policy is decoded in both ways."""


@dataclass(frozen=True)
class Solver:
    """A policy, and the form in which it is asked."""

    policy: Checkpoint
    form: PromptStyle


def solve_questions(
    run: Run,
    solvers: Mapping[str, Solver],
    questions: Groups,
    wording: QuestionFormat,
    truth: Judge,
    sampling: Sampling,
    decoders: Mapping[str, DecodingRule] = DECODERS,
) -> dict[str, Any]:
    """Examine solvers on questions that none was trained on; the first is the one to beat.

    Returns:
        `text`, the tables, and `numbers`, for JSON: among them every prompt's marks.
    """
    answers: dict[str, dict[str, Groups]] = {}
    first = next(iter(solvers.values())).policy
    room = sampling.max_tokens
    for name, solver in solvers.items():
        form, policy = solver.form, solver.policy
        asked = run(f"exam-{form.name}", ask_questions, questions, wording, form, first, room=room)
        answers[name] = {
            decoder: run(
                f"solved-{name.replace(' ', '-')}-{decoder.replace('.', '')}",
                sample,
                policy,
                asked,
                n=by.n,
                sampling=replace(sampling, temperature=by.temperature),
            )
            for decoder, by in decoders.items()
        }
    return run(
        "solutions-exam",
        evaluate_solutions,
        answers,
        dict(decoders),
        read=wording.read,
        truth=truth,
    )
