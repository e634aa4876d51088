"""Every method, killed at an operation on a file or at any moment, then done to its end."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from fuzz.corpus import Corpus
from fuzz.run_folders import digest_results
from fuzz.verdicts import Verdict, name_changes
from fuzz.victims import Ending, Order, Victims
from tandem.methods import METHODS

SMALL = (
    "--seed=3", "--machine.device=cpu", "--machine.precision=fp32", "--machine.save_seconds=0.02",
    "--machine.log_every=1", "--machine.tokens=512", "--sizes.demonstrations=24",
    "--sizes.pairs=12", "--sizes.held_out=6", "--sizes.prompts=12", "--sizes.evaluation=6",
    "--sampling.max_tokens=8", "--sft.epochs=1", "--sft.batch=8", "--reward.epochs=1",
    "--reward.batch=4",
)  # fmt: skip
OWN: dict[str, tuple[str, ...]] = {
    "preference": ("--preference.epochs=1", "--preference.batch=4"),
    "dpo": ("--dpo.epochs=1", "--dpo.batch=4"),
    "kto": ("--kto.epochs=1", "--kto.batch=8"),
    "ppo": ("--ppo.rounds=2", "--ppo.prompts=4", "--ppo.minibatch=4"),
    "grpo": ("--grpo.rounds=2", "--grpo.prompts=3", "--grpo.n=2", "--grpo.minibatch=3"),
    "best_of_n": ("--best_of_n.n=2", "--best_of_n.pool=4"),
    "rso": ("--rso.pool=4", "--rso.keep=2", "--rso.dpo.batch=8"),
    "raft": ("--raft.stages=2", "--raft.prompts=6", "--raft.k=2", "--raft.sft.epochs=1"),
    "rest": ("--rest.grow=1", "--rest.improve=2", "--rest.n=2"),
    "lmsi": ("--lmsi.m=4", "--lmsi.sft.steps=2", "--lmsi.sft.batch=4", "--sampling.max_tokens=64"),
    "star": ("--star.loops=2", "--star.steps=2", "--star.warmup=0", "--sampling.max_tokens=64"),
    "direct": ("--direct.sft.steps=3", "--direct.sft.batch=4"),
    "rlaif": ("--rlaif.pairs=6", "--rlaif.learn=dpo", "--dpo.epochs=1", "--dpo.batch=4"),
    "cai": ("--cai.K=1", "--rlaif.pairs=6", "--rlaif.learn=dpo", "--dpo.epochs=1"),
    "cyclic_preference": ("--cyclic_preference.epochs=1", "--cyclic_preference.batch=4"),
    "online_dpo": ("--online_dpo.rounds=2", "--online_dpo.prompts=4", "--online_dpo.minibatch=4"),
    "xpo": ("--xpo.rounds=2", "--xpo.prompts=4", "--xpo.minibatch=4"),
    "iterative_dpo": (
        "--iterative_dpo.iterations=2", "--iterative_dpo.prompts=4", "--iterative_dpo.n=2",
        "--iterative_dpo.dpo.epochs=1", "--iterative_dpo.dpo.batch=4",
    ),
    "iterated_rlhf": (
        "--iterated_rlhf.rounds=2", "--iterated_rlhf.labels=8", "--ppo.rounds=1",
        "--ppo.prompts=4", "--ppo.minibatch=4",
    ),
    "rlp": (
        "--rlp.n=3", "--rlp.gamma=0.0", "--ppo.rounds=1", "--ppo.prompts=4", "--ppo.minibatch=4",
    ),
}  # fmt: skip
"""What makes each method as brief as it can be."""
TASKS = {"cai": "micro-dialogue"}
"""Methods that need a task of their own, beside solvers."""
PLAYED = ("rounds=2", "prompts=4", "n=2", "minibatch=4")
GAMES = {
    **dict.fromkeys(("ipo_md", "sppo"), PLAYED),
    **dict.fromkeys(
        ("nash_md", "nash_ema", "self_play", "best_response", "past_play"), (*PLAYED, "rivals=1")
    ),
}
OWN |= {
    game: (*OWN["cyclic_preference"], *(f"--{game}.{setting}" for setting in settings))
    for game, settings in GAMES.items()
}
REACHES = (1, 2, 4, 8)
"""With a reach of 4 a run is killed within the time of a fourth of it, up to eight times."""


@dataclass(frozen=True)
class Calm:
    """A run that nobody killed: what it left, and how much it did."""

    results: dict[str, bytes]
    operations: int
    seconds: float


class Kills:
    """A run that is killed up to sixteen times, and then left to end."""

    name, goal, deadline = "kills", 300, 1200.0

    def __init__(self, corpus: Corpus) -> None:
        del corpus
        self.victims: Victims | None = None
        self.calm: dict[str, Calm] = {}

    def prepare(self, home: Path) -> None:
        """Know where calm runs are kept."""
        self.home = home / "calm"

    def check(self, dice: random.Random, folder: Path) -> Verdict:
        """Kill a run, go on, and compare it with a calm one."""
        method = dice.choice(list(METHODS))
        calm = self._calm(method)
        verdict = Verdict("same", told={"method": method, "kills": []})
        kills, code = 0, -9
        reach = dice.choice(REACHES)
        for _ in range(dice.randint(1, 2 * reach)):
            late = dice.uniform(0.02, calm.seconds / reach) if dice.random() < 0.4 else 0.0
            at = 0 if late else dice.randint(1, calm.operations // reach)
            ended = self._do(method, folder, "torn", operation=at, seconds=late)
            code = ended.code
            if code >= 0:
                break
            kills += 1
            verdict.told["kills"].append(f"at {at}" if at else f"after {late:.3f} s")
        if code < 0:
            code = self._do(method, folder, "torn").code
        verdict.counts = {"kills": kills, f"kills of {method}": kills}
        if code != 0:
            verdict.blame("wrong code", f"{code}: {(folder / 'torn.log').read_text()[-2000:]}")
        elif changes := name_changes(calm.results, digest_results(folder / "torn")):
            verdict.blame("differs", ", ".join(changes))
        return verdict

    def _calm(self, method: str) -> Calm:
        if method not in self.calm:
            place, told = self.home / method, self.home / f"{method}.json"
            if not told.exists():
                shutil.rmtree(place, ignore_errors=True)
                self.home.mkdir(parents=True, exist_ok=True)
                self._do(method, self.home, method)  # the first loads what the second finds loaded
                shutil.rmtree(place)
                ended = self._do(method, self.home, method)
                if ended.code != 0:
                    raise RuntimeError((self.home / f"{method}.log").read_text()[-2000:])
                shown = {"operations": ended.operations, "seconds": ended.seconds}
                told.write_text(json.dumps(shown), encoding="utf-8")
            self.calm[method] = Calm(digest_results(place), **json.loads(told.read_text()))
        return self.calm[method]

    def _do(
        self, method: str, folder: Path, name: str, *, operation: int = 0, seconds: float = 0.0
    ) -> Ending:
        if self.victims is None:
            self.victims = Victims()
        task = (
            "micro-arithmetic" if METHODS[method].fits == "solver" else TASKS.get(method, "micro")
        )
        own = (f"--task={task}", *SMALL, *OWN.get(method, ()), f"--out={folder / name}")
        words = ["run", method, *own]
        return self.victims.do(Order(words, str(folder / f"{name}.log"), operation, seconds))
