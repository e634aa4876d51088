"""Over-optimisation on one seed of the micro world: one reward climbed freely, and what holds it.

Every climb is PPO from the same SFT policy on the same prompts, with as many episodes; only the
lever differs. Everything is a stage of the seed's run, so a killed process resumes, and processes
may work on different seeds.

Shapes: P evaluation prompts, N answers of the pool, K members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tandem.cli.settings import with_table_values
from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.evaluation import reward_hacking
from tandem.judges import Judge
from tandem.judges.ensemble import Debiased, Ensemble, length_slope
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.methods import ppo, reward, sft
from tandem.pipeline.inputs import Inputs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.records import read_records
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.statistics import AggregateRule, aggregate_scores
from tandem.statistics.best_of import best_of_n_curve
from tandem.tasks import Sizes, Task, load
from tandem.training.validation import Validation

MEMBERS = 4
ANCHORS = 4
"""Answers of the SFT policy to every prompt, whose mean is each member's zero there."""
WEIGHT = {"ppo": 0.1, "best-of-n": 0.5}
"""Of the members' variance in `uncertainty`; see docs/theory/over_optimisation.md#levers."""
AGGREGATES: tuple[AggregateRule, ...] = ("mean", "worst", "uncertainty")
EVALUATION = Seed(20260)
"""Where the evaluation prompts come from: the same for every seed, so that seeds are crossed."""


@dataclass(frozen=True)
class Lever:
    """What differs from free optimisation of one reward model.

    Attributes:
        beta: KL coefficient; rewards have variance 1 on the pairs they were fitted to.
        members: how an ensemble is aggregated, or None for the single reward.
        debias: take the length slope of the SFT policy's answers out of the single reward.
    """

    beta: float = 0.001
    members: AggregateRule | None = None
    debias: bool = False


LEVERS: dict[str, Lever] = {
    "free": Lever(),
    "kl-low": Lever(beta=0.05),
    "kl-high": Lever(beta=0.2),
    "mean": Lever(members="mean"),
    "worst": Lever(members="worst"),
    "uncertainty": Lever(members="uncertainty"),
    "debiased": Lever(debias=True),
}


SIZES = Sizes(pairs=400, held_out=400, prompts=1024, evaluation=200, flips=0.25)


@dataclass(frozen=True)
class Plan:
    """Sizes of the experiment, the same for every lever.

    Attributes:
        sizes: of the world; `pairs` and `flips` make the reward exploitable.
        rounds: rounds of PPO, `prompts` episodes each.
        prompts: episodes a round.
        minibatch: episodes an optimiser step.
        lr: PPO's learning rate, constant.
        every: rounds between two evaluations.
        pool: answers a prompt for best-of-n.
        pooled: evaluation prompts that have a pool.
    """

    sizes: Sizes = SIZES
    rounds: int = 12
    prompts: int = 256
    minibatch: int = 64
    lr: float = 3e-4
    every: int = 2
    pool: int = 128
    pooled: int = 100

    @property
    def ns(self) -> tuple[int, ...]:
        """The n of best-of-n: powers of two up to the pool."""
        return tuple(2**k for k in range(self.pool.bit_length()))


def do(path: Path, seed: int, plan: Plan, machine: Machine = Machine()) -> None:
    """Do every stage of one seed that is not done yet.

    Raises:
        RunError: another process works on this seed, or its stages have other settings.
    """
    with Run(path, seed, machine=machine) as run:
        inputs = Inputs(run, _world(plan, seed), _configs())
        single, members = inputs.r_phi, _members(inputs)
        anchors = _anchors(inputs)
        slope = run("length-slope", fitted_slope, anchors, RewardModel(single))
        best_of(inputs, members, plan)
        for name, lever in LEVERS.items():
            r = _reward(lever, single, members, anchors, slope)
            run(
                f"climb-{name}", ppo.fit, inputs.pi_sft, inputs.prompts, r, _ppo(plan, lever),
                sampling=inputs.sampling, validation=_watching(inputs, plan),
            )  # fmt: skip


def done(path: Path) -> bool:
    """Whether a seed's run has every climb."""
    names = {r.name for r in read_records(path)} if path.exists() else set()
    return {f"climb-{name}" for name in LEVERS} <= names


def climbs(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a seed's climbs: lever -> rounds -> column -> [P], with the round beside them."""
    stages = {r.name: r.folder.name for r in read_records(path)}
    log = path / "events.jsonl"
    found: dict[str, list[dict[str, Any]]] = {}
    for name in LEVERS:
        stage = stages[f"climb-{name}"]
        turns = [p["round"] for p in reward_hacking.read_curve(log, stage)]
        rows = reward_hacking.read_curve_by_prompt(log, stage)
        found[name] = [{"round": t, **row} for t, row in zip(turns, rows, strict=True)]
    return found


def pools(path: Path) -> dict[str, Any]:
    """Read a seed's best-of-n: choice -> column -> [n's, P]; and the n's."""
    return next(r for r in read_records(path) if r.name == "best-of-n").load()


def _configs() -> dict[str, Any]:
    """The micro world's own settings; rewards are scaled, so that betas mean the same."""
    table = load.task_settings("micro")
    r = with_table_values(reward.RewardConfig(), table["reward"])
    return {
        "sft": with_table_values(sft.SFTConfig(), table["sft"]),
        "reward": replace(r, unit_variance=True),
        "sampling": with_table_values(Sampling(), table["sampling"]),
    }


def _ppo(plan: Plan, lever: Lever) -> ppo.PPOConfig:
    own = {
        "prompts": plan.prompts,
        "rounds": plan.rounds,
        "minibatch": plan.minibatch,
        "beta": lever.beta,
        "optim": {"lr": plan.lr, "schedule": "constant"},
    }
    return with_table_values(ppo.PPOConfig(), load.task_settings("micro")["ppo"] | own)


def _world(plan: Plan, seed: int) -> Task:
    """The seed's own prompts, pairs and flips; everybody's evaluation prompts."""
    same = load.load_task("micro", plan.sizes, EVALUATION)
    own = load.load_task("micro", plan.sizes, Seed(seed))
    return replace(own, evaluation=same.evaluation, references=None)


def _watching(inputs: Inputs, plan: Plan) -> Validation:
    """The last policy is exported: which round is best is asked afterwards, of the curves."""
    assert inputs.truth is not None
    judges = (
        ("single", RewardModel(inputs.r_phi)),
        ("held_out", RewardModel(inputs.r_held)),
        ("truth", inputs.truth),
    )
    return Validation(inputs.eval_prompts, judges, every=plan.every)


def _members(inputs: Inputs) -> tuple[Judge, ...]:
    """The single reward and others fitted to the same pairs with other seeds."""
    cfg, names = inputs.configs["reward"], [f"member-{k}" for k in range(2, MEMBERS + 1)]
    fits = [inputs.run(n, reward.fit, inputs.pi_sft, inputs.D, cfg, name=n) for n in names]
    return tuple(RewardModel(fit) for fit in (inputs.r_phi, *fits))


def _anchors(inputs: Inputs) -> Groups:
    prompts = inputs.prompts + inputs.eval_prompts
    return inputs.run(
        "anchors", sample, inputs.pi_sft, prompts, n=ANCHORS, sampling=inputs.sampling
    )


def _reward(
    lever: Lever, single: Checkpoint, members: tuple[Judge, ...], anchors: Groups, slope: float
) -> Judge:
    if lever.members is not None:
        return Ensemble(members, lever.members, WEIGHT["ppo"], "prompt", anchors)
    if lever.debias:
        return Debiased(RewardModel(single), slope)
    return RewardModel(single)


def fitted_slope(anchors: Groups, single: Judge, *, machine: Machine) -> float:
    """Score a token of length, within prompts, on answers of the SFT policy."""
    return length_slope(judge(anchors, single, machine=machine))


def best_of(inputs: Inputs, members: tuple[Judge, ...], plan: Plan) -> dict[str, Any]:
    """Best-of-n for every n from one pool, chosen by the single reward and by each aggregate."""
    run, prompts = inputs.run, inputs.eval_prompts[: plan.pooled]
    pool = run("pool", sample, inputs.pi_sft, prompts, n=plan.pool, sampling=inputs.sampling)
    columns = {"truth": inputs.truth, "held_out": RewardModel(inputs.r_held)}
    return run("best-of-n", choices, pool, members, columns, plan.ns)


def choices(
    pool: Groups,
    members: tuple[Judge, ...],
    columns: Mapping[str, Judge],
    ns: tuple[int, ...],
    *,
    machine: Machine,
) -> dict[str, Any]:
    """Judge a pool, and return choice -> column -> [n's, P] of what the chosen answer is worth.

    `proxy` is what chose; every member is centred per prompt before they are aggregated.
    """
    raw = np.stack([_scores(pool, m, machine) for m in members])
    centred = raw - raw.mean(axis=-1, keepdims=True)
    worth = {name: _scores(pool, j, machine) for name, j in columns.items()}
    flat = centred.reshape(len(members), -1)
    chosen = {
        sampling: aggregate_scores(flat, sampling, WEIGHT["best-of-n"]) for sampling in AGGREGATES
    }
    found: dict[str, Any] = {"n": list(ns)}
    for name, s in {"single": centred[0], **chosen}.items():
        s = np.reshape(s, raw.shape[1:])
        found[name] = {
            column: np.round(best_of_n_curve(s, gold, ns), 5).T.tolist()
            for column, gold in {"proxy": s, **worth}.items()
        }
    return found


def _scores(pool: Groups, who: Judge, machine: Machine) -> np.ndarray:
    """[P, N] scores of a pool."""
    return np.stack([g.scores for g in judge(pool, who, machine=machine) if g.scores is not None])
