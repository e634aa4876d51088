"""Preferences that circle: who can be exploited, and what it costs where they do not circle.

    python experiments/nash.py                     # goes on where it stopped
    python experiments/nash.py --again             # the page, from its JSON
    python experiments/nash.py --beside ranking    # half of it, beside the first command

Trials of the search that the page's JSON holds are not made again.

Two worlds, both of the micro task's summaries: in the *circle* every annotator stands in one of
three camps (`micro-tastes`, cyclic = 1), in the *ranking* all follow the truth with the noise of
Bradley and Terry (cyclic = 0). Their preference is known exactly, so win rates and best-of-n are
exact but for sampling. What is expected, and the rules of the comparison, were written down before
the first run: docs/log/nash.md.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from nash_page import read_record, write_page, write_record
from tandem.cli.run import default_configs
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.judges import Judge
from tandem.judges.open_preference import open_preference
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.methods import dpo, grpo, load_method, nash_md, ppo
from tandem.methods.best_response import BestResponseConfig
from tandem.methods.nash_ema import NashEMAConfig
from tandem.methods.nash_md import NashMDConfig
from tandem.methods.past_play import PastPlayConfig
from tandem.methods.self_play import SelfPlayConfig
from tandem.pipeline.inputs import Inputs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.environment import code_commit
from tandem.runs.events import Events
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.stages.evaluate_exploitability import play_all
from tandem.stages.sampling import sample
from tandem.statistics.best_of import best_of_n_curve
from tandem.tasks import Sizes
from tandem.tasks.load import load_task
from tandem.training.validation import Validation

WORLDS = {"circle": 1.0, "ranking": 0.0}
PILOT = 0
SEEDS = (1, 2, 3, 4, 5)
EXAM = 900
SIZES = {"demonstrations": 3000, "pairs": 8000, "held_out": 300, "prompts": 2000, "evaluation": 150}
ANSWERS, CANDIDATES, NS = 8, 64, (1, 4, 16, 64)
RATES = (1e-4, 3e-4)
"""The one search: every method gets these two learning rates, on the pilot seed."""
PRICE = 0.05
"""Of a nat of KL, in units of a Bradley-Terry reward; a quarter of it in units of win rate, since
near one half P - 1/2 is a quarter of a difference of rewards."""
ROUNDS, LONG = 20, 60
REWARD = ("PPO", "GRPO", "RLOO", "DPO")
GAMES = {
    "Nash-MD .125": lambda kw: NashMDConfig(share=0.125, **kw),
    "Nash-MD .25": lambda kw: NashMDConfig(share=0.25, **kw),
    "Nash-MD .5": lambda kw: NashMDConfig(share=0.5, **kw),
    "Nash-EMA": lambda kw: NashEMAConfig(decay=0.8, **kw),
    "past play": lambda kw: PastPlayConfig(keep=16, **kw),
    "self-play": lambda kw: SelfPlayConfig(**kw),
    "best response": lambda kw: BestResponseConfig(**kw),
}
ONLINE = ("online IPO",) if importlib.util.find_spec("tandem.methods.online_dpo") else ()
"""Needs `methods.online_dpo`."""
ARMS = (*REWARD, *GAMES, *ONLINE)


@dataclass(frozen=True)
class BeatsSFT:
    """Scores an answer by how likely it beats pi_sft's answers to the same prompt.

    Attributes:
        judge: who compares: the exact preference, or the model that a policy was trained on.
        answers: pi_sft's, a few a prompt.
    """

    judge: Any
    answers: Groups
    name: str = "beats SFT"
    machine: Machine = field(default=Machine(), compare=False)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with win rates in `scores`."""
        return self.open()(groups)

    def open(self) -> Any:
        """Open the judge once."""
        preference = open_preference(self.judge, self.machine)
        theirs = {g.id: g.completions for g in self.answers}

        def score(groups: Iterable[Group]) -> Iterator[Group]:
            asked = list(groups)
            others = [Group(g.prompt, theirs[g.id]) for g in asked]
            for group, p in zip(asked, preference.against(asked, others), strict=True):
                yield replace(group, scores=p.mean(axis=1))

        return score


def examine(
    policy: Checkpoint,
    prompts: Groups,
    pool: Groups,
    main: Groups,
    judge: Judge,
    *,
    sampling: Sampling,
    seed: Seed,
    machine: Machine,
    events: Events,
) -> dict[str, Any]:
    """What the exact preference says of a policy, prompt by prompt.

    Args:
        policy: who answers.
        prompts: the evaluation prompts.
        pool: candidates of pi_sft, the same for every policy.
        main: pi_sft's answers.
        judge: the exact preference.
        sampling: how the policy is sampled.

    Returns:
        `win`, [P] over pi_sft; `exploit`, n -> [P] what best-of-n of the pool wins above one half,
        chosen by one half of the answers and measured on the other; mean `clauses` and `length`.
    """
    how: dict[str, Any] = {"sampling": sampling, "machine": machine, "events": events}
    mine = list(sample(policy, prompts, n=ANSWERS, seed=seed.at("answers"), **how))
    preference = open_preference(judge, machine)
    half = ANSWERS // 2
    tables = []
    for keep in (range(half), range(half, ANSWERS)):
        part = [g.keep(list(keep)) for g in mine]
        tables.append(np.stack([p.mean(1) for p in preference.against(list(pool), part)]))
    curve = best_of_n_curve(tables[0], tables[1], list(NS)) - 0.5
    win = [float(p.mean()) for p in preference.against(mine, list(main))]
    length = [float(np.mean([len(c.tokens) for c in g.completions])) for g in mine]
    clauses = [float(np.mean([c.text.count(",") + 1 for c in g.completions])) for g in mine]
    return {
        "win": win,
        "exploit": {str(n): curve[:, k].tolist() for k, n in enumerate(NS)},
        "length": length,
        "clauses": clauses,
    }


def compare_all(
    policies: Mapping[str, Checkpoint],
    prompts: Groups,
    judge: Judge,
    *,
    sampling: Sampling,
    seed: Seed,
    machine: Machine,
    events: Events,
) -> dict[str, list[float]]:
    """Let every policy play every other: "a / b" -> [P] how likely a beats b, exactly."""
    how: dict[str, Any] = {"sampling": sampling, "machine": machine, "events": events}
    answers = {
        name: Groups.of(sample(policy, prompts, n=4, seed=seed.at("answers"), **how))
        for name, policy in policies.items()
    }
    return {f"{a} / {b}": x.tolist() for (a, b), x in play_all(answers, judge, machine)}


@dataclass(frozen=True)
class World:
    """A seed of a world: what comes before every method."""

    run: Run
    inputs: Inputs
    configs: Mapping[str, Any]

    @property
    def exact(self) -> Judge:
        """The population's preference."""
        return self.inputs.task.annotator  # type: ignore[return-value]

    def fit(self, arm: str, rate: float, stage: str, **more: Any) -> Checkpoint:
        """Train an arm from pi_sft at a learning rate."""
        inputs, sampling = self.inputs, self.inputs.sampling
        pi, prompts, r_phi = inputs.pi_sft, inputs.prompts, inputs.r_phi
        if arm == "DPO":
            own = self.configs["dpo"]
            cfg = replace(own, beta=0.1, optim=replace(own.optim, lr=rate))
            return self.run(stage, dpo.fit, pi, inputs.D, cfg, name=arm)
        rounds = more.pop("rounds", ROUNDS)
        how = {"sampling": sampling, "name": arm, **more}
        if arm == "PPO":
            own = self.configs["ppo"]
            cfg = replace(own, beta=PRICE, rounds=rounds, optim=replace(own.optim, lr=rate))
            return self.run(stage, ppo.fit, pi, prompts, RewardModel(r_phi), cfg, **how)
        if arm == "GRPO":
            own = self.configs["grpo"]
            cfg = replace(own, beta=PRICE, rounds=rounds, optim=replace(own.optim, lr=rate))
            return self.run(stage, grpo.fit, pi, prompts, RewardModel(r_phi), cfg, **how)
        if arm == "RLOO":
            own, base = self.configs["grpo"], grpo.GRPO_VARIANTS["rloo"]
            cfg = replace(  # a step a round, on fresh samples: as many steps and samples
                base, prompts=own.minibatch, n=own.n, minibatch=own.minibatch,
                rounds=rounds * own.prompts // own.minibatch,
                beta=PRICE, optim=replace(own.optim, lr=rate, schedule="linear"),
            )  # fmt: skip
            return self.run(stage, grpo.fit, pi, prompts, RewardModel(r_phi), cfg, **how)
        own = self.configs["nash_md"]
        kw = {
            "prompts": own.prompts, "n": own.n, "rivals": own.rivals, "minibatch": own.minibatch,
            "rounds": rounds, "tau": PRICE / 4, "optim": replace(own.optim, lr=rate),
        }  # fmt: skip
        judge = self.inputs.preference_judge("cyclic", own.asking)
        if arm in ONLINE:
            online = importlib.import_module("tandem.methods.online_dpo")
            shared = {k: kw[k] for k in ("prompts", "n", "minibatch", "rounds", "optim")}
            cfg = online.OnlineDPOConfig(loss="ipo", beta=PRICE / 4, **shared)
            judge = replace(judge, pairs="all")  # type: ignore[type-var]
            return self.run(stage, online.fit, pi, prompts, judge, cfg, **how)
        return self.run(stage, nash_md.fit, pi, prompts, judge, GAMES[arm](kw), **how)


def open_world(out: Path, name: str, seed: int) -> World:
    """Open a seed of a world; everybody's evaluation prompts are the same."""
    sizes = Sizes(**SIZES, flips=0.0, cyclic=WORLDS[name])
    task = load_task("micro-tastes", sizes, seed, exam=Seed(EXAM))
    configs: dict[str, Any] = {}
    for method in ("ppo", "grpo", "dpo", "nash_md"):
        configs |= default_configs(load_method(method), "micro-tastes")
    own, cyclic = configs["reward"], configs["cyclic_preference"]
    configs["reward"] = replace(own, epochs=cyclic.epochs, optim=cyclic.optim)
    run = Run(out / f"{name}-{seed}", seed, machine=configs["machine"])
    return World(run, Inputs(run, task, configs), configs)


def examined(world: World, arm: str, policy: Checkpoint, stage: str) -> dict[str, Any]:
    """Examine a policy by the exact preference."""
    inputs, run = world.inputs, world.run
    how = {"sampling": inputs.sampling}
    pool = run("candidates", sample, inputs.pi_sft, inputs.eval_prompts, n=CANDIDATES, **how)
    main = run("sft-answers", sample, inputs.pi_sft, inputs.eval_prompts, n=4, **how)
    asked = inputs.eval_prompts.prompts()
    return run(stage, examine, policy, asked, pool, main, world.exact, **how)


def stage_name(*words: str) -> str:
    """Join words to the name of a stage."""
    return "-".join(words).lower().replace(" ", "-").replace(".", "")


def search(out: Path, tried: Mapping[str, Any]) -> dict[str, Any]:
    """Try every rate with every arm on the pilot seed of both worlds; the best mean win is kept.

    Args:
        out: the folder of the runs.
        tried: arm -> rate -> mean win of trials that are on the page already: not made again.
    """
    rows: dict[str, dict[str, float]] = {arm: dict(tried.get(arm, {})) for arm in ARMS}
    left = [(arm, rate) for arm in ARMS for rate in RATES if f"{rate:g}" not in rows[arm]]
    for name in WORLDS if left else ():
        world = open_world(out, name, PILOT)
        with world.run:
            for arm, rate in left:
                stage = stage_name("pilot", arm, f"{rate:g}")
                policy = world.fit(arm, rate, stage)
                won = float(np.mean(examined(world, arm, policy, f"exam-{stage}")["win"]))
                rows[arm][f"{rate:g}"] = rows[arm].get(f"{rate:g}", 0.0) + won / len(WORLDS)
                print(f"pilot {name}: {stage}: {won:.3f} over SFT", flush=True)
    chosen = {arm: max(RATES, key=lambda r, a=arm: rows[a][f"{r:g}"]) for arm in ARMS}
    return {"win over SFT": rows, "chosen": chosen}


def one_seed(out: Path, name: str, seed: int, chosen: Mapping[str, float]) -> dict[str, Any]:
    """Do every arm of a seed of a world."""
    world = open_world(out, name, seed)
    with world.run as run:
        policies = {"SFT": world.inputs.pi_sft}
        exams: dict[str, Any] = {}
        for arm in ARMS:
            policies[arm] = world.fit(arm, chosen[arm], stage_name(arm))
        for arm, policy in policies.items():
            exams[arm] = examined(world, arm, policy, stage_name("exam", arm))
            gain = np.mean(exams[arm]["exploit"]["64"])
            win = np.mean(exams[arm]["win"])
            print(f"{name} {seed}: {arm}: win {win:.3f}, exploited {gain:.3f}", flush=True)
        asked = world.inputs.eval_prompts.prompts()
        sampling = world.inputs.sampling
        wins = run("win-matrix", compare_all, policies, asked, world.exact, sampling=sampling)
        return {"exams": exams, "wins": wins}


def curves(out: Path, name: str, seed: int) -> dict[str, Any]:
    """Train RLOO and Nash-MD three times as long, and follow proxy and truth."""
    world = open_world(out, name, seed)
    found: dict[str, Any] = {}
    with world.run as run:
        inputs = world.inputs
        held_out = inputs.task.asked_held_out
        assert held_out is not None
        sampling = inputs.sampling
        prompts = run("followed", encode, held_out[:150], inputs.base, room=sampling.max_tokens)
        asked = run("followed-sft", sample, inputs.pi_sft, prompts, n=4, sampling=sampling)
        models = {
            "RLOO": RewardModel(inputs.r_phi),
            "Nash-MD .125": inputs.preference_judge("cyclic", world.configs["nash_md"].asking),
        }
        for arm, model in models.items():
            judges = (("model", BeatsSFT(model, asked)), ("exact", BeatsSFT(world.exact, asked)))
            follow = Validation(asked.prompts(), judges, every=4)
            stage = stage_name("long", arm)
            world.fit(arm, max(RATES), stage, rounds=LONG, validation=follow)
            events = (run.path / "events.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in events]
            points = {
                e["round"]: {k: e[k] for k in ("round", "model", "exact", "kl", "length")}
                for e in rows if e["kind"] == "watch" and str(e["stage"]).endswith(stage)
            }  # fmt: skip
            found[arm] = [points[k] for k in sorted(points)]
    return found


def gather(out: Path, seeds: Sequence[int], chosen: Mapping[str, float]) -> dict[str, Any]:
    """Do all seeds of both worlds."""
    found: dict[str, Any] = {name: {} for name in WORLDS}
    for seed in seeds:
        for name in WORLDS:
            found[name][str(seed)] = one_seed(out, name, seed, chosen)
    return found


def main() -> None:
    """Do what is left, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/nash"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/nash.md"))
    parser.add_argument(
        "--beside", choices=WORLDS, help="do this world's seeds, the last first, and no page"
    )
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--again", action="store_true", help="the page, from its JSON alone")
    parser.add_argument(
        "--curves", type=int, default=0, help="seeds of the long runs (default: those of the page)"
    )
    options = parser.parse_args()
    stored = options.page.with_suffix(".json")
    before = read_record(stored) if stored.exists() else {}
    if options.beside:
        tried = search(options.out, before.get("search", {}).get("win over SFT", {}))
        for seed in SEEDS[: options.seeds][::-1]:
            one_seed(options.out, options.beside, seed, tried["chosen"])
        return
    if options.again:
        record = before
    else:
        seeds = SEEDS[: options.seeds]
        tried = search(options.out, before.get("search", {}).get("win over SFT", {}))
        record = {
            "date": date.today().isoformat(), "commit": code_commit(), "seeds": list(seeds),
            "sizes": SIZES, "search": tried,
            "found": gather(options.out, seeds, tried["chosen"]),
            "curves": {
                name: {str(s): curves(options.out, name, s) for s in SEEDS[: options.curves]}
                for name in WORLDS
            } if options.curves else before.get("curves", {}),
        }  # fmt: skip
        write_record(record, stored)
        record = read_record(stored)
    write_page(record, options.page)
    print(options.page)


if __name__ == "__main__":
    main()
