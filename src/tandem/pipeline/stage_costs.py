"""What the stages of a run will cost, said before the first one: tokens, and about how long.

    seconds = (6 P trained + 2 P read + 2 P drawn x SLOW) / speed

P weights; trained, read and drawn are tokens; the speed is a matrix product's, measured here, of
which training reaches a part. It is an estimate to choose sizes by, no promise. Methods that
sample in ways of their own are named without a number.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tandem.data.chat import encode_groups
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import TandemError
from tandem.machine import Machine
from tandem.methods import Method
from tandem.models.devices import resolve_device, resolve_precision
from tandem.models.folders import UNREADABLE, read_config, without_warnings
from tandem.models.tokenizers import load_tokenizer
from tandem.pipeline.inputs import CURVE_SHARES, ENSEMBLE_SIZE, VALIDATION_PROMPTS
from tandem.pipeline.quick import SHOWN_PROMPTS
from tandem.runs.display import spell_duration
from tandem.tasks import Task

SAMPLED_GROUPS = 64
"""Groups whose lengths stand for all."""
REACHED = 0.4
"""Share of a matrix product's speed that training reaches on the models that were measured."""
SLOW = 4.0
"""A drawn token costs about this many read ones: a step reads all weights for a few rows."""
MEASURED_SECONDS = 0.05


@dataclass(frozen=True)
class PlannedStage:
    """One stage, in tokens.

    Attributes:
        name: as it will be called.
        work: in words.
        trained: tokens with a backward pass.
        read: tokens without one.
        drawn: tokens that are sampled, at most.
        known: False where the method samples in ways of its own.
    """

    name: str
    work: str
    trained: float = 0.0
    read: float = 0.0
    drawn: float = 0.0
    known: bool = True


def plan_stages(
    method: Method,
    task: Task,
    configs: Mapping[str, Any],
    start: str,
    evaluation: str,
    *,
    given_reward: bool = False,
) -> list[PlannedStage]:
    """List the stages that cost something, in order.

    Args:
        method: what will be run.
        task: the task, or your model and data.
        configs: settings by name.
        start: `sft` or `model`.
        evaluation: `none`, `quick` or `full`.
        given_reward: the user gave one, so none is fitted and no comparison is read.
    """
    sizes = _Lengths.of(task, configs)
    wanted = set(method.read_inputs(configs[method.name]))
    if given_reward:
        wanted -= {"D", "r_phi", "validation"}
    stages: list[PlannedStage] = []
    if "pi_sft" in wanted and start == "sft":
        stages.append(_sft("sft", configs["sft"], sizes))
    if task.preferences is None and task.asked is not None and {"D", "r_phi"} & wanted:
        asked = len(task.asked)
        stages.append(
            PlannedStage("preferences", f"{asked:,} x 2 answers", drawn=2 * asked * sizes.longest)
        )
    rewards = sum(name in wanted for name in ("r_phi", "validation")) if task.compared else 0
    if rewards:
        stages.append(_rewards("reward", rewards, configs["reward"], sizes))
    stages.append(_method(method, configs, sizes))
    members = 0 if given_reward else ENSEMBLE_SIZE + (not rewards and method.row.fits == "policy")
    stages += _evaluations(method, task, configs, sizes, evaluation, members)
    return stages


def cost_lines(stages: Iterable[PlannedStage], model: Path, machine: Machine) -> list[str]:
    """Lay the stages out as lines, with about how long each will take on this machine.

    Args:
        stages: what `plan_stages` listed.
        model: the folder whose size counts.
        machine: where it will run.
    """
    weights, speed = count_weights(model), measure_speed(machine)
    lines, total, rest = list[str](), 0.0, False
    for stage in stages:
        tokens = 6 * stage.trained + 2 * stage.read + 2 * SLOW * stage.drawn
        seconds = weights * tokens / (REACHED * speed)
        total, rest = total + seconds, rest or not stage.known
        about = f"about {spell_duration(seconds)}" if stage.known else "not estimated"
        lines.append(f"  {stage.name:<14} {about:<15} {stage.work}")
    more = " and what is not estimated" if rest else ""
    head = (
        f"cost: about {spell_duration(total)}{more}, for {weights / 1e6:,.3g} million weights at "
        f"{REACHED * speed / 1e9:,.3g} billion operations a second (measured here, an estimate)"
    )
    return [head, *lines]


def count_weights(model: Path) -> int:
    """Return how many weights a model has, from its configuration; 0 where it has none."""
    try:
        with torch.device("meta"), without_warnings():
            lm = AutoModelForCausalLM.from_config(read_config(model), trust_remote_code=False)
    except (TandemError, *UNREADABLE):
        return 0
    return sum(weight.numel() for weight in lm.parameters())


def measure_speed(machine: Machine) -> float:
    """Return operations a second of a matrix product in the machine's precision, measured now."""
    device, dtype = resolve_device(machine), resolve_precision(machine)
    a = torch.ones(768, 768, device=device, dtype=dtype)
    _ = a @ a
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < MEASURED_SECONDS:
        b = a @ a
        done += 1
        if device.type != "cpu":
            _ = float(b[0, 0])
    return done * 2 * 768**3 / spent


@dataclass(frozen=True)
class _Lengths:
    """Mean tokens of prompts, answers and pairs, and how many there are."""

    prompt: float
    answer: float
    pairs: int
    demonstrations: int
    held_out: int
    evaluation: int
    longest: int

    @property
    def pair(self) -> float:
        return self.prompt + 2 * self.answer

    @property
    def single(self) -> float:
        return self.prompt + self.answer

    @classmethod
    def of(cls, task: Task, configs: Mapping[str, Any]) -> _Lengths:
        prompt, answer = _mean_lengths(task, configs["sampling"].max_tokens)
        judged, held = task.preferences, task.held_out
        return cls(
            prompt,
            answer,
            len(judged if judged is not None else task.asked or ()),
            len(task.demonstrations),
            len(held if held is not None else task.asked_held_out or ()),
            len(task.evaluation),
            configs["sampling"].max_tokens,
        )


def _mean_lengths(task: Task, longest: int) -> tuple[float, float]:
    some: list[Group] = list(itertools.islice(task.demonstrations, SAMPLED_GROUPS))
    tokenizer = load_tokenizer(task.base.path)
    try:
        encoded = list(encode_groups(Groups.of(some), tokenizer, max_length=None).groups)
    except TandemError:
        encoded = []  # the stage that encodes all of them will say what is wrong
    prompts = [len(g.prompt.tokens) for g in encoded]
    answers = [len(c.tokens) for g in encoded for c in g.completions] or [longest]
    return float(np.mean(prompts or [longest])), float(np.mean(answers))


def _sft(name: str, cfg: Any, sizes: _Lengths) -> PlannedStage:
    n = sizes.demonstrations
    groups = cfg.epochs * n if cfg.steps is None else cfg.steps * cfg.batch
    how = f"{cfg.epochs} passes over {n:,} answers" if cfg.steps is None else f"{cfg.steps} steps"
    return PlannedStage(name, how, trained=groups * sizes.single)


def _rewards(name: str, n: int, cfg: Any, sizes: _Lengths) -> PlannedStage:
    pairs = cfg.epochs * sizes.pairs
    what = "a reward model" if n == 1 else f"{n} reward models"
    return PlannedStage(name, f"{what} on {sizes.pairs:,} pairs", trained=n * pairs * sizes.pair)


def _method(method: Method, configs: Mapping[str, Any], sizes: _Lengths) -> PlannedStage:
    cfg, name = configs[method.name], method.name
    if name == "sft":
        return _sft(name, cfg, sizes)
    if name == "reward":
        return _rewards(name, 1, cfg, sizes)
    if name in ("dpo", "kto", "preference"):
        tokens = cfg.epochs * sizes.pairs * sizes.pair
        how = f"{cfg.epochs} passes over {sizes.pairs:,} pairs"
        return PlannedStage(name, how, trained=tokens, read=tokens / cfg.epochs)
    if name in ("ppo", "grpo"):
        n = cfg.prompts * getattr(cfg, "n", 1) * cfg.rounds
        tokens = n * (sizes.prompt + sizes.longest)
        models = 2 if name == "ppo" else 1
        return PlannedStage(
            name, f"{cfg.rounds} rounds, {n:,} answers drawn and learned from",
            trained=models * cfg.inner * tokens, read=3 * tokens, drawn=n * sizes.longest,
        )  # fmt: skip
    if name == "best_of_n":
        n = cfg.pool * min(VALIDATION_PROMPTS, sizes.held_out)
        return PlannedStage(
            name, f"{n:,} answers for the curve over n",
            read=n * sizes.single, drawn=n * sizes.longest,
        )  # fmt: skip
    return PlannedStage(name, "samples as its page says", known=False)


def _evaluations(
    method: Method,
    task: Task,
    configs: Mapping[str, Any],
    sizes: _Lengths,
    evaluation: str,
    members: int,
) -> list[PlannedStage]:
    policy = method.row.fits == "policy"
    if evaluation == "none":
        return []
    if evaluation == "quick":
        shown = min(SHOWN_PROMPTS, sizes.evaluation)
        work = f"{sizes.held_out:,} held-out prompts read"
        work += f", {shown} answered by each policy" if policy else ""
        drawn = 3 * shown * sizes.longest if policy else 0
        read = (3 if policy else 1) * sizes.held_out * sizes.pair
        return [PlannedStage("evaluate quick", work, read=read, drawn=drawn)]
    found: list[PlannedStage] = []
    if task.compared and method.row.fits in ("policy", "reward"):
        n = members + (task.gold_labels is not None or task.asked_gold is not None)
        found += [_rewards("its rewards", n, configs["reward"], sizes)] if n else []
    if method.row.fits == "reward":
        share = 2 * sum(1 / s for s in CURVE_SHARES)
        tokens = share * sizes.pairs * sizes.pair
        found.append(PlannedStage("its curve", "reward models on shares", trained=tokens))
    if policy:
        n = 3 * sizes.evaluation
        found.append(
            PlannedStage(
                "evaluate full",
                f"{n:,} answers drawn and judged",
                read=6 * n * sizes.single,
                drawn=n * sizes.longest,
            )
        )
    return found
