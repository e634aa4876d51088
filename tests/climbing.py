"""Small climbs for tests of on-policy methods: prompts, judges, and an ear for what is logged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.groups import Groups
from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.machine import Machine
from tandem.models import loading
from tandem.models.tokenise import mark_tokenizer
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.optim import Optim
from tiny import spelled, tokens

FP32 = Machine(device="cpu", precision="fp32", save_seconds=0.0, log_every=1)
FAST = Optim(lr=3e-3, schedule="linear", warmup=0.0, eps=1e-5)
SHORT = Sampling(max_tokens=6)


@dataclass(frozen=True)
class Letters:
    """Scores an answer by its share of letters in the first half of the alphabet."""

    name: str = "letters"
    sign: float = 1.0

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for group in groups:
            early = [sum(x < "n" for x in c.text) for c in group.completions]
            length = [max(1, len(c.text)) for c in group.completions]
            yield replace(group, scores=self.sign * np.array(early) / np.array(length))


@dataclass
class Heard:
    """Keeps what was logged, and dies (as by a kill) when it hears of a step."""

    dies_at: int | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)

    def log(self, kind: str, **numbers: Any) -> None:
        self.lines.append({"kind": kind, **numbers})
        if kind == "train" and numbers["step"] == self.dies_at:
            raise KeyboardInterrupt

    def progress(self, done: int, total: int | None, unit: str, **numbers: Any) -> None:
        pass

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["kind"] == kind]


def prompts(folder: Path, count: int, seed: int = 0) -> Groups:
    """Random prompts of 2 to 8 tokens in the folder's own tokens."""
    rng = np.random.default_rng(seed)
    whose = tokenizer_hash(load_tokenizer(folder))
    asked = [tokens(rng, int(rng.integers(2, 9))) for _ in range(count)]
    return Groups.of(
        mark_tokenizer(Group(Prompt(f"p{i}", spelled(x), tokens=x)), whose)
        for i, x in enumerate(asked)
    )


def somewhere(events: Any, machine: Machine = FP32) -> StageContext:
    """A place to fit a model that nobody looks at afterwards."""
    return StageContext.at(Path(tempfile.mkdtemp()), events=events, machine=machine)


def climbed(
    method: Any, cfg: Any, init: Path, place: Path, reward: Any = Letters(),
    machine: Machine = FP32, heard: Heard | None = None, sampling: Sampling = SHORT, **more: Any,
) -> Checkpoint:  # fmt: skip
    """Run a method's `fit` in a folder of its own, where it may be resumed."""
    ctx = StageContext.at(place, seed=Seed(5), events=heard or Heard(), machine=machine)
    return method.fit(
        Checkpoint(init), prompts(init, 6), reward, cfg, sampling=sampling, ctx=ctx, **more
    )


def drawn(init: Path, n: int = 1, count: int = 6, sampling: Sampling = SHORT) -> list[Group]:
    engine = TorchEngine(loading.load_policy(init, FP32), load_tokenizer(init))
    return list(engine.sample(prompts(init, count), n, sampling, Seed(2)))
