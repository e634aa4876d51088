"""`tandem plan --params 70B --nodes 8`: memory and time of a step on a cluster, on paper.

The arithmetic is `tandem.training.roofline`. Devices are described by their data sheets: nothing
was measured on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, get_type_hints

from tandem.cli.settings import field_docs, make_parser, parse_words
from tandem.errors import ConfigError, nearest_name
from tandem.errors.ranges import Count, CountOrZero, Range, check_ranges
from tandem.machine import GIB
from tandem.runs.display import spell_duration
from tandem.training.roofline import Cluster, ModelSize, Prediction, Step, compare_layouts

GPUS: dict[str, tuple[float, float, float, float, float]] = {
    "a100": (312e12, 2.04e12, 80e9, 300e9, 25e9),
    "h100": (989e12, 3.35e12, 80e9, 450e9, 50e9),
    "h200": (989e12, 4.8e12, 141e9, 450e9, 50e9),
    "l40s": (362e12, 0.864e12, 48e9, 32e9, 25e9),
    "rtx4090": (165e12, 1.01e12, 24e9, 16e9, 3e9),
}
"""Data sheets: dense bf16 operations, bytes of memory, both a second; bytes of memory; bytes a
second one way to a device of the same node, and to another node for each device."""
UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000, "T": 10**12}
ADAPTED = 17.5
"""Weights of adapters in a layer, for each rank and unit of width: four matrices of attention with
keys of a fourth of the width, and three that widen it by 8/3."""


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """What a step is planned for.

    Attributes:
        params: weights of the policy: 70B, 1.5B, 135M.
        nodes: machines.
        gpus: GPUs of each.
        gpu: which: a100, h100, h200, l40s, rtx4090.
        efficiency: share of the data sheet's operations that products reach.
        prompts: prompts of a step, over all GPUs.
        n: answers a prompt.
        prompt: tokens of a prompt.
        answer: tokens of an answer.
        scored: frozen models of the policy's size that read the answers: a reference, a reward.
        rollout: whether the answers are drawn first, as PPO and GRPO do.
        epochs: passes over the answers.
        micro_tokens: tokens that a GPU reads at once.
        recompute: whether activations are computed again instead of kept.
        lora: rank of adapters, 0 to train all weights.
    """

    params: str
    nodes: Count = 1
    gpus: Count = 8
    gpu: str = "h100"
    efficiency: Annotated[float, Range(0, 1, above=True)] = 0.4
    prompts: Count = 64
    n: Count = 8
    prompt: Count = 512
    answer: Count = 512
    scored: CountOrZero = 1
    rollout: bool = True
    epochs: Count = 1
    micro_tokens: Count = 16_384
    recompute: bool = False
    lora: CountOrZero = 0

    def __post_init__(self) -> None:
        check_ranges(self, "")
        if self.gpu not in GPUS:
            raise ConfigError(
                f"--gpu {self.gpu}.{nearest_name(self.gpu, GPUS)}",
                "a prediction needs the device's speed, memory and links",
                f"name one of: {', '.join(GPUS)}",
            )

    @property
    def model(self) -> ModelSize:
        """The policy's sizes, as usual for its number of weights."""
        size = ModelSize.of_parameters(_count(self.params))
        if not self.lora:
            return size
        trained = int(self.lora * ADAPTED * size.width * size.layers)
        return replace(size, trained=min(trained, size.parameters))

    @property
    def cluster(self) -> Cluster:
        """The devices and their links."""
        return Cluster(self.nodes, self.gpus, *GPUS[self.gpu], efficiency=self.efficiency)

    @property
    def step(self) -> Step:
        """The tokens of a step."""
        return Step(
            self.prompts * self.n, self.prompt, self.answer, self.n, self.scored, self.rollout,
            self.epochs, self.micro_tokens, self.recompute,
        )  # fmt: skip


def cluster_command(words: Sequence[str]) -> int:
    """Print memory and time of a step by layout; 1 where no layout fits."""
    parser = make_parser(
        "plan",
        "Memory by part and time by phase of one step on a cluster, by arithmetic from sizes and "
        "data sheets. Nothing of it is measured.",
    )
    hints, docs = get_type_hints(ClusterPlan), field_docs(ClusterPlan)
    for f in fields(ClusterPlan):
        default = None if f.name == "params" else f.default
        kind = str | None if f.name == "params" else hints[f.name]
        parser.add_argument(f"--{f.name}", type=kind, default=default, help=docs[f.name])
    options = parse_words(parser, words)
    if options.params is None:
        raise ConfigError(
            "a cluster without a model", "memory and time follow from its size", "give --params 7B"
        )
    plan = ClusterPlan(**{f.name: options[f.name] for f in fields(ClusterPlan)})
    found = compare_layouts(plan.model, plan.cluster, plan.step)
    print("\n".join(_lines(plan, found)))
    return 0 if found[0].fits else 1


def _lines(plan: ClusterPlan, found: Sequence[Prediction]) -> Iterator[str]:
    model, step = plan.model, plan.step
    yield (
        f"{model.parameters / 1e9:,.3g} billion weights ({model.layers} layers of width "
        f"{model.width:,}), {plan.nodes} x {plan.gpus} {plan.gpu}, {step.sequences:,} answers "
        "a step"
    )
    yield "on paper, from data sheets: nothing of this was measured"
    for layout in found:
        fits = "fits" if layout.fits else "does not fit"
        yield (
            f"\n{layout.layout}: {sum(layout.memory.values()) / GIB:,.1f} of "
            f"{plan.cluster.memory / GIB:,.1f} GiB a GPU, {fits}; {_spell(layout.total)} a step"
        )
        parts = sorted(layout.memory.items(), key=lambda x: -x[1])
        yield "  memory  " + _row((f"{name} {size / GIB:,.1f}" for name, size in parts if size))
        phases = sorted(layout.seconds.items(), key=lambda x: -x[1])
        yield "  time    " + _row((f"{name} {_spell(took)}" for name, took in phases if took))
    yield ""
    yield _advice(plan, found)


def _advice(plan: ClusterPlan, found: Sequence[Prediction]) -> str:
    best = found[0]
    if best.fits:
        return f"best: {best.layout}"
    ways = [
        "" if plan.recompute else "--recompute true",
        "" if plan.lora else "--lora 16",
        f"--nodes {2 * plan.nodes}",
        f"--micro_tokens {plan.micro_tokens // 2}" if plan.micro_tokens > 1024 else "",
    ]
    return f"nothing fits. What makes it smaller: {', '.join(filter(None, ways))}"


def _row(cells: Iterator[str]) -> str:
    return ", ".join(cells)


def _spell(seconds: float) -> str:
    return spell_duration(seconds) if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _count(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMBT]?)", text.strip().upper())
    number = 0 if found is None else round(float(found[1]) * UNITS[found[2]])
    if not 100_000 <= number <= 10**15:
        raise ConfigError(
            f"--params {text[:40]}",
            "a model's size is a number of weights, from 100K to 1000T",
            "write it as 135M, 7B or 70B",
        )
    return number
