"""Does a scalar plus cyclic model hold what Bradley-Terry cannot, and what does it cost?

    python experiments/cyclic_preferences.py --page docs/results/cyclic-preferences.md

Summaries of one to five clauses are written by program, some facts wrong, and compared by the
people of `micro-tastes`: in the *circle* all stand in three camps, in the *ranking* all follow the
truth with Bradley-Terry noise. Models learn from the same 8,000 votes, from the same base, with the
same rate and passes: a Bradley-Terry reward, the scalar plus cyclic model, and with `--pairs` (it
takes longer than all else together) the model of two arguments. They are examined on 400 pairs of
other prompts by the exact preference: a model's credit for a pair is the share of the population
that agrees with its choice. Five seeds, crossed with the pairs.

Expected, written before the first run: in the circle both preference models beat Bradley-Terry in
credit; in the ranking nobody differs from it; a group of sixteen answers costs the cyclic model at
most 1.3 times the reward model's time, and the model of two arguments more than ten times.

A first run had 1,000 votes and no search, and nobody learned its circle (docs/log/nash.md).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from tandem.cli.run import default_configs
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group
from tandem.judges import Judge
from tandem.judges.open_preference import open_preference
from tandem.judges.preference_model import PreferenceModel
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.methods import cyclic_preference, load_method, preference, reward
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.environment import code_commit
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.stages.judging import judge
from tandem.statistics import mean_of, paired_difference
from tandem.statistics.games import PreferenceMatrix, cyclic_triples
from tandem.tasks.micro import Micro, Tastes, posts

WORLDS = {"circle": 1.0, "ranking": 0.0}
MODELS = ("Bradley-Terry", "cyclic", "two arguments")
TRAIN, TEST, GROUP = 8000, 400, 16
RATE, EPOCHS = 1e-3, 2
"""Of all models: the best of three settings on the ranking's seed 0, for both that were tried."""
CLAUSES = ((1, 0.2), (2, 0.25), (3, 0.3), (4, 0.15), (5, 0.1))
WRONG = 0.15


def written(prompts: Groups, n: int, seed: Seed) -> Groups:
    """Give each prompt n summaries of random length."""
    return Groups.of(
        replace(g, completions=tuple(_summary(g, seed.at(g.id, k).rng()) for k in range(n)))
        for g in prompts
    )


def _summary(group: Group, rng: Generator) -> Completion:
    meta = group.prompt.meta
    counts, shares = zip(*CLAUSES, strict=True)
    facts = [*posts.told_targets(meta)]
    rng.shuffle(facts)
    claims = [
        posts.false_claim(meta, rng) if rng.random() < WRONG else facts[k % len(facts)]
        for k in range(int(rng.choice(counts, p=shares)))
    ]
    return Completion(posts.render_summary(claims), author="writer")


def examine(
    models: dict[str, Judge], pairs: Groups, sixteen: Groups, exact: Judge, *, machine: Machine
) -> dict[str, Any]:
    """Examine models by the exact preference.

    Args:
        models: by name.
        pairs: M prompts with two answers each.
        sixteen: a few prompts with sixteen answers each.
        exact: the population.

    Returns:
        model -> `credit` and `log_loss`, [M], and `cyclic`, [G] the share of triples that it
        sees going in a circle; of `exact` the same.
    """
    both = [(0, 1)]
    truth = np.array([p[0] for p in open_preference(exact, machine)((g, both) for g in pairs)])
    found: dict[str, Any] = {}
    for name, model in {"exact": exact, **models}.items():
        opened = open_preference(model, machine)
        p = np.array([x[0] for x in opened((g, both) for g in pairs)])
        credit = np.where(p > 0.5, truth, np.where(p < 0.5, 1 - truth, 0.5))
        q = p.clip(1e-9, 1 - 1e-9)
        loss = -truth * np.log(q) - (1 - truth) * np.log(1 - q)
        cyclic = [_cyclic(m) for m in opened.matrices(sixteen)]
        columns = {"credit": credit, "log_loss": loss, "cyclic": np.array(cyclic)}
        found[name] = {key: x.round(5).tolist() for key, x in columns.items()}
    return found


def _cyclic(matrix: np.ndarray) -> float:
    names = [str(k) for k in range(len(matrix))]
    circles, triples = cyclic_triples(PreferenceMatrix(names, matrix))
    return circles / triples


def one_seed(out: Path, world: str, seed: int, names: Sequence[str]) -> dict[str, Any]:
    """Fit the models of a seed and examine them."""
    configs: dict[str, Any] = {}
    for name in ("reward", "preference", "cyclic_preference"):
        configs |= default_configs(load_method(name), "micro-tastes")
    task, at = Micro(), Seed(seed).at("cyclic", world)
    base = Checkpoint(task.model(), "base")
    people = Tastes(cyclic=WORLDS[world], seed=at.at("people"))
    with Run(out / f"{world}-{seed}", seed, machine=configs["machine"]) as run:
        train = written(task.prompts("preference", TRAIN, at), 2, at.at("train"))
        test = task.prompts("evaluation", TEST, Seed(900))
        D = run("D", judge, run("train", encode, train, base), people)
        pairs = run("test", encode, written(test, 2, at.at("test")), base)
        many = written(test[:20], GROUP, at.at("many"))
        sixteen = run("sixteen", encode, many, base)
        fits: dict[str, tuple[Any, Any, Callable[[Checkpoint], Judge]]] = {
            "Bradley-Terry": (reward, configs["reward"], RewardModel),
            "cyclic": (cyclic_preference, configs["cyclic_preference"], PreferenceModel),
            "two arguments": (preference, configs["preference"], PreferenceModel),
        }
        models = {}
        for name in names:
            method, own, as_judge = fits[name]
            cfg = replace(own, epochs=EPOCHS, optim=replace(own.optim, lr=RATE))
            stage = name.lower().replace(" ", "-")
            models[name] = as_judge(run(stage, method.fit, base, D, cfg, name=stage))
        found = run("exam", examine, models, pairs, sixteen, people)
        told = {k: round(float(np.mean(v["credit"])), 3) for k, v in found.items()}
        print(world, seed, told, flush=True)
        return {"exam": found, "models": {k: str(m.checkpoint.path) for k, m in models.items()}}


def timed(models: dict[str, Judge], groups: Sequence[Group], rounds: int) -> dict[str, float]:
    """Seconds a group of sixteen answers, whole matrix, alternating; medians."""
    machine = Machine(device="cpu", precision="fp32")
    opened = {name: open_preference(m, machine) for name, m in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, p in opened.items():
            began = time.process_time()
            for _ in p.matrices(groups):
                pass
            if turn:
                taken[name].append((time.process_time() - began) / len(groups))
    return {name: statistics.median(t) for name, t in taken.items()}


def page(record: dict[str, Any]) -> str:
    """The page of results."""
    parts = [
        "# Bradley-Terry, scalar plus cyclic, two arguments",
        "<!-- Made by `python experiments/cyclic_preferences.py`. -->",
        f"{len(record['seeds'])} seeds, {record['date']}, commit `{record['commit']}`. What was "
        "expected, and how it is measured, stands at the head of the script. Credit is the share "
        f"of the population that agrees with a model's choice, on {TEST} pairs a seed.",
    ]
    for world in WORLDS:
        parts += [f"## The {world}", _table(record, world), "\n".join(_gains(record, world))]
    seconds = record["seconds"]
    base = seconds["Bradley-Terry"]
    parts += ["## Time", "Processor time for the matrix of one group of 16 answers, fp32:"]
    parts += [
        "\n".join(f"- {k}: {1e3 * s:.1f} ms, {s / base:.2f} of it" for k, s in seconds.items())
    ]
    return "\n\n".join(parts) + "\n"


def _rows(record: dict[str, Any], world: str, name: str, what: str) -> np.ndarray:
    return np.array([s["exam"][name][what] for s in record["found"][world].values()])


def _table(record: dict[str, Any], world: str) -> str:
    lines = ["| model | credit | log-loss | cyclic triples |", "| --- | --- | --- | --- |"]
    for name in ("exact", *record["models"]):
        cells = (mean_of(_rows(record, world, name, k)) for k in ("credit", "log_loss", "cyclic"))
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _gains(record: dict[str, Any], world: str) -> Iterator[str]:
    base = _rows(record, world, "Bradley-Terry", "credit")
    for name in record["models"][1:]:
        gain = paired_difference(_rows(record, world, name, "credit"), base)
        yield f"- {name} less Bradley-Terry: {gain}, {'' if gain.resolved else 'not '}resolved"


def main() -> None:
    """Do what is left, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/cyclic-preferences"))
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", action="store_true", help="also the model of two arguments")
    parser.add_argument("--rounds", type=int, default=5, help="of the clock")
    parser.add_argument("--again", action="store_true", help="the page, from its JSON alone")
    options = parser.parse_args()
    stored = options.page.with_suffix(".json")
    if not options.again:
        record = measure(options)
        stored.write_text(json.dumps(record) + "\n", encoding="utf-8")
    record = json.loads(stored.read_text(encoding="utf-8"))
    options.page.write_text(page(record), encoding="utf-8")
    print(options.page)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Do what is left of all seeds, and return what the page is made of."""
    seeds = list(range(1, options.seeds + 1))
    names = MODELS if options.pairs else MODELS[:2]
    found = {w: {str(s): one_seed(options.out, w, s, names) for s in seeds} for w in WORLDS}
    paths = found["circle"]["1"]["models"]
    kinds: dict[str, Callable[[Checkpoint], Judge]] = dict.fromkeys(MODELS, PreferenceModel)
    kinds["Bradley-Terry"] = RewardModel
    models = {name: kinds[name](Checkpoint(Path(path))) for name, path in paths.items()}
    groups = written(Micro().prompts("evaluation", 16, Seed(900)), GROUP, Seed(7))
    record = {
        "date": date.today().isoformat(), "commit": code_commit(), "seeds": seeds, "found": found,
        "models": list(names),
        "seconds": timed(models, list(groups), options.rounds),
    }  # fmt: skip
    for seed in (s for w in found.values() for s in w.values()):
        del seed["models"]
    return record


if __name__ == "__main__":
    main()
