"""Tandem's side of the comparison with TRL: the same rows, in the same order."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from meters import Meter
from workloads import Workload, share_even

from tandem.data import chat
from tandem.data.formats import read_data
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Sampling
from tandem.machine import Lora, Machine
from tandem.methods import grpo
from tandem.methods.kto import MismatchedSource, log_ratio
from tandem.models.forward import with_logprobs
from tandem.models.opening import open_policy, open_scalar
from tandem.models.packed import PackedModel
from tandem.models.tokenizers import load_tokenizer
from tandem.objectives.nll import nll
from tandem.objectives.pairwise import PAIRWISE
from tandem.objectives.reward import bradley_terry
from tandem.objectives.unpaired import kto, kto_z0
from tandem.operators import mismatch, unpair
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.loop import train
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource

OPTIM = Optim(lr=1e-5, schedule="linear", warmup=0.0)


class Ears:
    """Keeps what is logged; marks the end of each online round."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.lines = meter, []

    def log(self, kind: str, **numbers: Any) -> None:
        self.lines.append({"kind": kind, **numbers})
        if kind == "round":
            self.meter.tick()

    def progress(self, *args: Any, **kw: Any) -> None:
        pass

    def of(self, kind: str, name: str) -> list[float]:
        return [float(x[name]) for x in self.lines if x["kind"] == kind and name in x]


def run(what: str, work: Workload, folder: Path, precision: str) -> dict[str, Any]:
    """Train one epoch, or some rounds; return what the meter saw, losses and reference time."""
    machine = Machine(
        device="cpu",
        precision=precision,  # type: ignore[arg-type]
        tokens=work.tokens,
        lora=Lora(rank=work.lora, alpha=2.0 * work.lora) if work.lora else None,
        log_every=1,
        save_seconds=1e9,
    )
    meter = Meter(work.passes)
    ears = Ears(meter)
    ctx = StageContext.at(Path(tempfile.mkdtemp(dir=folder)), events=ears, machine=machine)
    if what == "grpo":
        return online(work, folder, groups(work, folder).prompts(), ctx, meter, ears)
    policy, data, reference = prepared(what, work, folder, machine)
    source = steps_of(in_order(what, work, meter), what, work, policy, data)
    train(policy, source, loss_of(what), OPTIM, ctx)
    found = {"losses": ears.of("train", f"{what}_loss"), "reference": reference}
    found["grad_norm"] = ears.of("train", "grad_norm")
    return found | meter.report() | {"useful_per_step": useful(data) / source.total}


def prepared(
    what: str, work: Workload, folder: Path, machine: Machine
) -> tuple[PackedModel, Groups, float]:
    """Open the model, lay out the rows as the method reads them; the reference's seconds a step."""
    data = groups(work, folder)
    if what == "sft":
        data = Groups.of(g.keep([0]) for g in data)
    if what == "kto":
        data = Groups.of(mismatch()(unpair()(data, Seed()), Seed()))
    policy = opened(what, folder, machine)
    return policy, *with_reference(what, work, folder, machine, data)


def steps_of(kind: Any, what: str, work: Workload, policy: PackedModel, data: Groups) -> Any:
    """One epoch over the rows, by a source of this kind."""
    return kind(
        data,
        size=work.size,
        epochs=1,
        seed=Seed(0),
        layout=policy.layout,
        tokens=work.tokens,
        logp_is="ref_logp" if what in ("dpo", "kto") else None,
    )


def groups(work: Workload, folder: Path) -> Groups:
    """The rows in the model's tokens."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in work.rows()), encoding="utf-8")
    tokenizer = load_tokenizer(folder)
    return chat.encode_groups(read_data(file).groups, tokenizer, max_length=work.max_length).groups


def useful(data: Groups) -> int:
    """Tokens when each prompt and each answer is read once."""
    return sum(len(g.prompt.tokens) + sum(len(c.tokens) for c in g.completions) for g in data)


def opened(what: str, folder: Path, machine: Machine) -> PackedModel:
    if what != "reward":
        return open_policy(folder, machine, train=True)
    return open_scalar(folder, machine, fresh=Seed(0), zero=True, train=True)


def with_reference(
    what: str, work: Workload, folder: Path, machine: Machine, data: Groups
) -> tuple[Groups, float]:
    """Write the reference's column where the loss reads one; return its seconds a step."""
    if what not in ("dpo", "kto"):
        return data, 0.0
    frozen = open_policy(folder, machine)
    began = time.perf_counter()
    data = Groups.of(with_logprobs(frozen, data, machine.tokens))
    return data, (time.perf_counter() - began) / -(-len(data) // work.size)


def loss_of(what: str) -> Any:
    def loss(out: Any, batch: Any) -> dict[str, Any]:
        if what == "sft":
            return {what: nll(out.logp)}
        if what == "reward":
            return {what: bradley_terry(out.score, batch.pairs)}
        if what == "dpo":
            return {what: PAIRWISE["sigmoid"](out.logp, batch.ref_logp, batch.pairs)}
        h, own = log_ratio(out, batch), batch.weight > 0
        return {what: kto(h[own], batch.scores[own], kto_z0(h[~own]), beta=0.1)}

    return loss


def in_order(what: str, work: Workload, meter: Meter) -> type:
    class InOrder(MismatchedSource if what == "kto" else DatasetSource):  # type: ignore[misc]
        def _indices(self, step: int) -> list[int]:
            return list(range(step * work.size, min((step + 1) * work.size, len(self.groups))))

        def steps(self, policy: Any) -> Iterator[Any]:
            for step in super().steps(policy):
                meter.tick()
                yield step
            meter.tick()

    return InOrder


@dataclass(frozen=True)
class Even:
    """Scores an answer by its share of even words."""

    name: str = "even"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for group in groups:
            yield replace(group, scores=np.array(share_even([c.text for c in group.completions])))


def online(
    work: Workload, folder: Path, prompts: Groups, ctx: StageContext, meter: Meter, ears: Ears
) -> dict[str, Any]:
    """GRPO: 4 prompts x 8 completions of 48 tokens a round, one optimiser step each."""
    rounds = 4
    cfg = grpo.GRPOConfig(
        4, 8, rounds, minibatch=4, beta=0.05, optim=replace(OPTIM, schedule="constant")
    )
    meter.tick()
    grpo.fit(Checkpoint(folder), prompts, Even(), cfg, sampling=Sampling(max_tokens=48), ctx=ctx)
    sampled = sum(ears.of("round", "sample_s")[1:]) / sum(np.diff(meter.ticks)[1:])
    found = meter.report()
    found["phases"] = {"sampling": sampled, **found["phases"]}
    found["phases"]["rest"] -= sampled
    mean = sum(len(g.prompt.tokens) for g in prompts) / len(prompts)
    return found | {
        "rewards": ears.of("round", "proxy"),
        "spread": ears.of("round", "spread"),
        "kl": ears.of("round", "kl"),
        "losses": ears.of("train", "policy_loss"),
        "grad_norm": ears.of("train", "grad_norm"),
        "reference": 0.0,
        "useful_per_step": 4 * mean + 32 * 48,
    }
