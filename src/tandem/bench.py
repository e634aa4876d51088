"""One method from its start to its table: what `tandem run` does.

A recipe names its inputs; `Start` makes what it names, in the scope `start` of the run, and
nothing else. Then policies are compared on prompts that no training saw, in the scope `table`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tandem.artifacts import Checkpoint
from tandem.engines import Sampling
from tandem.errors import DataError
from tandem.evaluation import (
    RewardEvaluation,
    Table,
    kl_column,
    length_column,
    policy_evaluation,
    reward_evaluation,
    score_column,
)
from tandem.groups import Groups
from tandem.judges import Judge
from tandem.judges.models import RewardModel
from tandem.machine import Machine
from tandem.methods import Method, load
from tandem.reading import reference
from tandem.runs import Events, Run
from tandem.stages import encode, judge, sample
from tandem.tasks import World

MADE_BY = {"pi_sft": "sft", "r_phi": "reward"}
"""Inputs that are themselves a method's result."""


class Start:
    """What a recipe may name, made when it is first asked for; see `methods.INPUTS`.

    Args:
        run: the scope in which it is made.
        world: the task, or your model and data.
        configs: method name -> its settings.
        sampling: how answers are drawn for the annotator.
    """

    def __init__(
        self, run: Run, world: World, configs: Mapping[str, Any], sampling: Sampling
    ) -> None:
        self.run, self.world, self.configs, self.sampling = run, world, configs, sampling
        self.base, self.truth, self.humans = world.base, world.truth, world.annotator
        self.demonstrations, self.x = world.demonstrations, world.prompts

    def given(self, recipe: Callable[..., Any]) -> dict[str, Any]:
        """Return the inputs that a recipe names."""
        names = list(inspect.signature(recipe).parameters)[1:-1]
        return {name: getattr(self, name) for name in names}

    @cached_property
    def pi_sft(self) -> Checkpoint:
        """The base model after SFT on the demonstrations."""
        return self._made("pi_sft")

    @cached_property
    def r_phi(self) -> Checkpoint:
        """A reward model fitted to D: the proxy of the table."""
        return self._made("r_phi")

    @cached_property
    def D(self) -> Groups:
        """Judged groups for training, in the policy's tokens."""
        return self._judged("preferences", self.world.preferences, self.world.asked)

    @cached_property
    def held_out(self) -> Groups:
        """Judged groups of other prompts."""
        return self._judged("held-out", self.world.held_out, self.world.asked_held_out)

    @property
    def judged(self) -> bool:
        """True if there are preferences, or somebody to ask for them."""
        return self.world.preferences is not None or self.humans is not None

    def _made(self, name: str) -> Checkpoint:
        method = load(MADE_BY[name])
        return method.recipe(self.run, **self.given(method.recipe), cfg=self.configs[method.name])

    def _judged(self, name: str, present: Groups | None, asked: Groups | None) -> Groups:
        if present is not None:
            return self.run(name, encode, present, self.base)
        if asked is None or self.humans is None:
            raise DataError(
                f"{self.world.name} has no preferences",
                "this method learns from comparisons between answers to one prompt",
                "give data with chosen and rejected answers, or run `sft`",
            )
        pairs = self.run(f"{name}-pairs", sample, self.pi_sft, asked, n=2, how=self.sampling)
        return self.run(name, judge, pairs, self.humans)


@dataclass(frozen=True)
class Report:
    """What a run ends with: tables to print, and the same as JSON.

    Attributes:
        policies: a row a policy, or None if the method fits no policy.
        reward: the reward model on held-out judgements, or None if there are none.
        result: what the method made.
    """

    policies: Table | None
    reward: RewardEvaluation | None
    result: Checkpoint

    def __str__(self) -> str:
        parts = [str(part) for part in (self.reward, self.policies) if part is not None]
        return "\n\n".join([*parts, f"{self.result}: {self.result.path}"])

    def as_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "result": str(self.result.path),
            "policies": None if self.policies is None else self.policies.as_dicts(),
            "reward": None if self.reward is None else self.reward.as_dict(),
        }


def one(run: Run, method: Method, configs: Mapping[str, Any], world: World) -> Report:
    """Run one method: what comes before it, its recipe, and the comparison."""
    sampling: Sampling = configs["sampling"]
    start = Start(run.scope("start"), world, configs, sampling)
    inputs = {made: name for name, made in MADE_BY.items()}
    if method.name in inputs:
        result: Checkpoint = getattr(start, inputs[method.name])
    else:
        result = method.recipe(run, **start.given(method.recipe), cfg=configs[method.name])
    table = run.scope("table")
    reward = reward_report(table, start) if start.judged else None
    policies = None
    if method.row.fits == "policy":
        compared = {"base": start.base, "SFT": start.pi_sft}
        compared |= {} if result == start.pi_sft else {str(result): result}
        policies = policy_table(table, compared, start, _seconds(run, start))
    report = Report(policies, reward, result)
    (run.path / "report.json").write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")
    return report


def reward_report(run: Run, start: Start) -> RewardEvaluation:
    """Evaluate the reward model on judgements of prompts that it has not seen."""
    scored = run("held-out-scores", judge, start.held_out, RewardModel(start.r_phi, "proxy"))
    return reward_evaluation(scored, seed=run.seed.at("reward"))


def policy_table(
    run: Run,
    policies: Mapping[str, Checkpoint],
    start: Start,
    seconds: Mapping[str, float],
) -> Table:
    """Compare policies on the evaluation prompts: win rates against SFT, KL, length, seconds."""
    judges: dict[str, Judge] = {}
    if start.truth is not None:
        judges["truth"] = start.truth
    if start.judged:
        judges["proxy"] = RewardModel(start.r_phi, "proxy")
    columns = {
        name: measured(run, name, policy, start, judges) for name, policy in policies.items()
    }
    if start.world.references is not None and judges:
        answers = run("reference-answers", encode, start.world.references, start.base)
        if len(answers) == len(start.world.evaluation):
            columns["reference"] = scored_columns(run, "reference", answers, judges)
    wins = {
        kind: {
            row.name: row for row in policy_evaluation(columns, opponents=("SFT",), judge=kind).rows
        }
        for kind in judges
    }
    rows = [
        (
            name,
            *(wins[kind][name].wins.get("SFT") for kind in judges),
            *(wins[kind][name].means[kind] for kind in judges),
            float(column["kl"].mean()) if "kl" in column else None,
            float(column["length"].mean()),
            seconds.get(name),
        )
        for name, column in columns.items()
    ]
    heads = (*(f"{kind} win vs SFT" for kind in judges), *(f"mean {kind}" for kind in judges))
    prompts = len(start.world.evaluation)
    title = f"{prompts} prompts, one sample each, paired by prompt, 95 % intervals"
    return Table(("method", *heads, "KL to SFT", "length", "seconds"), tuple(rows), title)


def measured(
    run: Run, name: str, policy: Checkpoint, start: Start, judges: Mapping[str, Judge]
) -> dict[str, Any]:
    """Sample a policy on the evaluation prompts; return its columns, one number a prompt."""
    prompts = start.world.evaluation
    drawn = run(f"{name}-samples", sample, policy, prompts, n=1, how=start.sampling)
    under = run(f"{name}-under-sft", annotate, drawn, start.pi_sft)
    own = run(f"{name}-under-itself", annotate, drawn, policy)
    return {**scored_columns(run, name, drawn, judges), "kl": kl_column(own, under)}


def scored_columns(
    run: Run, name: str, drawn: Groups, judges: Mapping[str, Judge]
) -> dict[str, Any]:
    """Let judges score answers; return a column a judge, and the length."""
    scores = {
        kind: score_column(run(f"{name}-{kind}", judge, drawn, each))
        for kind, each in judges.items()
    }
    return {**scores, "length": length_column(drawn)}


def annotate(groups: Groups, policy: Checkpoint, *, machine: Machine, events: Events) -> Groups:
    """Write log-probabilities under a policy into the groups: a stage."""
    return reference(policy, groups, machine, events)


def _seconds(run: Run, start: Start) -> dict[str, float]:
    """Time of the stages that made each policy, without what came before it."""
    done = {record.name: record.seconds for record in start.run.records()}
    own = {str(r.load()): r for r in run.records() if r.result["kind"] == "checkpoint"}
    total = sum(record.seconds for record in run.records())
    return {"SFT": done.get("sft", 0.0), **dict.fromkeys(own, total)}


def folder(method: str, world: World, seed: int) -> Path:
    """Return where a run goes when nobody says where."""
    return Path("runs") / f"{method}-{world.name}-{seed}"
