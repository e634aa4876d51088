"""Memory and time of a step on a cluster, from sizes alone.

    seconds = max(operations / speed, bytes / bandwidth) a phase, + bytes over links / their speed

A phase does what takes longer: multiply, or move memory. Links are added, or hidden behind the
multiplying where transfers overlap it. Operations are those of matrix products: 2 a weight and
token forward, 4 backward, 2 more where activations are recomputed, and 2 d for each pair of tokens
that attend, in each layer, for scores and again for values. Speeds are measured ones, of the
shapes that are multiplied: a data sheet's are higher (`Cluster.efficiency`).

What is not in it: Python, kernels shorter than their launch, imbalance, file systems.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Spread = Literal["one", "ddp", "fsdp2"]

MASTER, COMPUTE = 4, 2
"""Bytes of a weight: of the optimiser, and of products in bf16."""
MOMENTS = 8
"""Bytes of Adam's two moments a weight."""
KEPT_PER_LAYER = 16
"""Numbers of the width that a layer keeps a token for its backward pass, about: norms, queries,
keys, values, attention's output, and three of the feed-forward's width."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Sizes of a decoder.

    >>> ModelSize.of_parameters(1_200_000_000).layers
    16

    Attributes:
        parameters: all weights, an embedding that is also the head once.
        layers: of the body.
        width: of the states.
        vocabulary: rows of the embedding.
        kv_width: of keys, and of values, in one layer.
        tied: whether the head is the embedding.
        trained: weights that are trained: adapters, or all where it is None.
    """

    parameters: int
    layers: int
    width: int
    vocabulary: int
    kv_width: int
    tied: bool = True
    trained: int | None = None

    @classmethod
    def of_parameters(cls, parameters: int, vocabulary: int = 128_256) -> ModelSize:
        """Return usual sizes for a number of parameters: 12 L d^2 + V d, with d near 128 L."""
        width = 128
        while 12 * (width // 128) * width**2 + vocabulary * width < parameters:
            width += 128
        layers = max(1, round((parameters - vocabulary * width) / (12 * width**2)))
        return cls(parameters, layers, width, vocabulary, max(64, width // 4))

    @property
    def body(self) -> int:
        """Weights that every token is multiplied with."""
        return self.parameters - self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def head(self) -> int:
        """Weights that a predicted token is multiplied with."""
        return self.vocabulary * self.width


@dataclass(frozen=True, slots=True)
class Cluster:
    """Devices and the links between them.

    Attributes:
        nodes: machines.
        devices: GPUs, or processes on CPUs, of each.
        flops: operations a second of one device.
        bandwidth: bytes a second of its memory.
        memory: its bytes.
        link: bytes a second between two devices of a node.
        network: bytes a second from node to node, for each device.
        efficiency: share of `flops` that is reached; 1 where `flops` was measured.
        overlaps: whether transfers run beside the multiplying, as NCCL's do.
    """

    nodes: int
    devices: int
    flops: float
    bandwidth: float
    memory: float
    link: float
    network: float
    efficiency: float = 1.0
    overlaps: bool = True

    @property
    def size(self) -> int:
        """Devices in all."""
        return self.nodes * self.devices

    @property
    def slowest_link(self) -> float:
        """Bytes a second of what a collective of all devices waits for."""
        return self.link if self.nodes == 1 else min(self.link, self.network)


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens of one optimiser step.

    Attributes:
        sequences: prompt-and-answer pairs that are read, over all devices.
        prompt: tokens of a prompt.
        answer: tokens of an answer.
        group: answers that share a prompt, which is then read once.
        scored: frozen models that read the same sequences: a reference, a reward.
        rollout: whether the answers are drawn first.
        epochs: passes over what was drawn.
        micro_tokens: unique tokens that one device reads at once.
        recompute: whether activations are computed again.
    """

    sequences: int
    prompt: int
    answer: int
    group: int = 1
    scored: int = 0
    rollout: bool = False
    epochs: int = 1
    micro_tokens: int = 16_384
    recompute: bool = False

    @property
    def tokens(self) -> float:
        """Unique tokens that are read."""
        return self.sequences * (self.prompt / self.group + self.answer)

    @property
    def predicted(self) -> int:
        """Tokens of answers."""
        return self.sequences * self.answer


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a step needs on one device.

    Attributes:
        layout: how weights are spread.
        memory: part -> bytes at the peak.
        seconds: phase -> seconds.
        fits: whether the bytes are there.
    """

    layout: Spread
    memory: dict[str, float]
    seconds: dict[str, float]
    fits: bool

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.seconds.values())


def predict_step(
    model: ModelSize, cluster: Cluster, step: Step, layout: Spread = "fsdp2"
) -> Prediction:
    """Predict memory and time of one step.

    Args:
        model: what is trained; frozen models are taken to be of its size.
        cluster: where.
        step: how much.
        layout: whole weights in each device (`ddp`), slices (`fsdp2`), or one device (`one`).
    """
    if layout == "one":
        cluster = replace(cluster, nodes=1, devices=1)
    memory = predict_memory(model, cluster, step, layout)
    seconds = predict_seconds(model, cluster, step, layout)
    return Prediction(layout, memory, seconds, sum(memory.values()) <= cluster.memory)


def predict_memory(
    model: ModelSize, cluster: Cluster, step: Step, layout: Spread
) -> dict[str, float]:
    """Return the bytes on one device, by part."""
    shards = cluster.size if layout == "fsdp2" else 1
    learn = model.parameters if model.trained is None else model.trained
    tokens = min(step.micro_tokens, step.tokens / cluster.size)
    layers = 1 + model.layers / KEPT_PER_LAYER if step.recompute else model.layers
    one_layer = model.body / model.layers * MASTER if layout == "fsdp2" else 0.0
    answers = tokens * step.predicted / step.tokens
    found = {
        "weights": model.parameters * MASTER / shards + one_layer,
        "gradients": learn * MASTER / shards,
        "moments": learn * MOMENTS / shards,
        "activations": tokens * layers * KEPT_PER_LAYER * model.width * COMPUTE,
        "logits": min(1 << 30, answers * model.vocabulary * COMPUTE),
        "frozen": step.scored * model.parameters * MASTER,
    }
    if step.rollout:
        drawn = step.sequences / cluster.size * (step.prompt / step.group + step.answer)
        found["cache"] = 2 * drawn * model.layers * model.kv_width * COMPUTE
        if layout == "fsdp2":  # whole while it samples
            found["gathered"] = model.parameters * MASTER
    return found


def predict_seconds(
    model: ModelSize, cluster: Cluster, step: Step, layout: Spread
) -> dict[str, float]:
    """Return the seconds of one step, by phase."""
    speed, size = cluster.flops * cluster.efficiency, cluster.size
    learn = model.parameters if model.trained is None else model.trained
    forward = forward_operations(model, step) / size
    backward = (2.0 if model.trained is None else 1.0) + (1.0 if step.recompute else 0.0)
    train = forward * (1 + backward) / speed * step.epochs
    links = _link_seconds(model, cluster, step, layout, learn) * step.epochs
    shards = size if layout == "fsdp2" else 1
    found = {
        "train": max(train, links) if cluster.overlaps else train,
        "links": 0.0 if cluster.overlaps else links,
        # weights, gradient and moments are read, and all but the gradient written
        "optimiser": step.epochs * learn * (2 * MASTER + MASTER + 2 * MOMENTS)
        / shards / cluster.bandwidth,
        "score": (step.scored + step.rollout) * forward / speed,
    }  # fmt: skip
    if step.rollout:
        found["rollout"] = _rollout_seconds(model, cluster, step)
    return found


def forward_operations(model: ModelSize, step: Step) -> float:
    """Operations of one forward pass over a step's tokens."""
    pairs = step.sequences * (
        step.prompt**2 / 2 / step.group + step.answer * (step.prompt + step.answer / 2)
    )
    attention = 4 * model.layers * model.width * pairs
    return 2 * model.body * step.tokens + 2 * model.head * step.predicted + attention


def _link_seconds(
    model: ModelSize, cluster: Cluster, step: Step, layout: Spread, learn: int
) -> float:
    """Seconds of the collectives of one pass: a ring moves (n-1)/n of the bytes a gather."""
    size = cluster.size
    if size == 1:
        return 0.0
    ring = (size - 1) / size / cluster.slowest_link
    passes = max(1, -(-int(step.tokens / size) // step.micro_tokens))
    if layout == "ddp":
        return 2 * learn * MASTER * ring
    gathers = 2 if model.trained is None else 1
    return passes * (gathers * model.parameters * MASTER + learn * MASTER) * ring


def _rollout_seconds(model: ModelSize, cluster: Cluster, step: Step) -> float:
    """Seconds to draw the answers: every token reads all weights once, and every row its cache."""
    speed = cluster.flops * cluster.efficiency
    rows = step.sequences / cluster.size
    read = (model.body + model.head) * COMPUTE
    cache = 2 * model.layers * model.kv_width * COMPUTE * (step.prompt + step.answer / 2)
    each = max(
        2 * (model.body + model.head) * rows / speed, (read + rows * cache) / cluster.bandwidth
    )
    prefill = 2 * model.body * rows * step.prompt / step.group / speed
    return prefill + step.answer * each


def compare_layouts(model: ModelSize, cluster: Cluster, step: Step) -> list[Prediction]:
    """Return the predictions of all layouts: those that fit first, then the quickest first."""
    layouts: tuple[Spread, ...] = ("one", "ddp", "fsdp2") if cluster.size > 1 else ("one",)
    found = [predict_step(model, cluster, step, layout) for layout in layouts]
    return sorted(found, key=lambda p: (not p.fits, p.total))
