"""Steps that a policy learns from its own samples: sample, turn into experience, train, repeat.

A round samples n completions of each of B prompts from the policy as it is, hands them to the
method's own `experience` (rewards, advantages: frozen columns), and goes over them for some epochs
in minibatches. The buffer of the round under way is part of the state, so a killed run resumes in
the middle of a round, bit for bit; a round that ended is closed (reported, validated) when the next
one would begin, so that a kill between the two loses no point of the curve.

A method that keeps only some of its samples (DAPO) has the round filled up with samples of the
prompts that come next. With `machine.rollouts_ahead` the next round's samples are drawn while this
one is trained on, by the policy of this round's beginning.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.microbatches import Cut, cut_step
from tandem.batching.packing import Layout, pack_groups
from tandem.batching.ragged import Ragged
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.engines import Engine, Sampling
from tandem.engines.cut_answers import log_cut_answers
from tandem.errors import ConfigError, RunError
from tandem.machine import world_size
from tandem.models.sharded_weights import whole_weights
from tandem.runs.context import StageContext
from tandem.training.prompt_draws import PromptDraws
from tandem.training.rollout_models import actor_of, token_column
from tandem.training.sources import StepSizes
from tandem.training.validation import Validation

MISMATCH_CAP = 2.0
"""Largest weight of a token that another engine than ours drew, or an older policy."""

SAME_SCORE = 0.01
"""How far two processes' scores of one answer may be apart: rounding, and not another opinion."""

ValidationFunction = Callable[[int, nn.Module], bool]
DRAWS = 10
"""How often a round samples at most until it is full, as in DAPO's own code."""


@dataclass(frozen=True)
class Experience:
    """What a round learned from its samples.

    Attributes:
        groups: the prompts with their judged completions.
        columns: per-token numbers over all completions in order, named as in `Batch`: ref_logp,
            old_logp, advantages, returns, old_values.
        metrics: means to be logged: reward, kl, length, ...
    """

    groups: list[Group]
    columns: dict[str, Ragged]
    metrics: dict[str, float]


@dataclass(frozen=True)
class RolloutShape:
    """How much is sampled in on-policy training, and how often it is gone over.

    Attributes:
        prompts: prompts per round, B.
        n: completions per prompt.
        rounds: how often to sample.
        epochs: passes over a round's samples.
        minibatch: prompts per optimiser step, at most; a pass is cut evenly.
    """

    prompts: int
    n: int
    rounds: int
    epochs: int
    minibatch: int

    def __post_init__(self) -> None:
        if min(self.prompts, self.n, self.rounds, self.epochs, self.minibatch) < 1:
            raise ConfigError(
                f"online training of {self}",
                "every count is at least 1",
                "raise the one that is 0 or less",
            )

    @property
    def per_pass(self) -> int:
        """Optimiser steps per pass over a round's samples."""
        return -(-self.prompts // self.minibatch)

    @property
    def per_round(self) -> int:
        """Optimiser steps per round."""
        return self.epochs * self.per_pass


@dataclass(frozen=True)
class RolloutConfig:
    """How a policy is sampled while it trains, and how it is validated.

        RolloutConfig(RolloutShape(prompts=64, n=8, rounds=40, epochs=1, minibatch=64))

    Attributes:
        shape: prompts, completions, rounds, epochs and minibatches.
        sampling: how episodes are drawn: whole distributions, temperature above 0.
        validation: held-out prompts and judges, or None.

    Raises:
        ConfigError: the episodes would be greedy or truncated.
    """

    shape: RolloutShape
    sampling: Sampling = Sampling()
    validation: Validation | None = None

    def __post_init__(self) -> None:
        how = self.sampling
        if how.temperature == 0 or how.top_k or how.top_p < 1 or how.min_p:
            raise ConfigError(
                f"episodes were to be sampled with {how}",
                "a policy gradient is right for samples of the policy itself; greedy or truncated "
                "ones come from another law, whose probabilities are not what is trained",
                "set temperature above 0, top_k = 0, top_p = 1 and min_p = 0; truncate when "
                "deploying",
            )


class Algorithm(Protocol):
    """What makes an on-policy method: from samples to experience, and from experience to a loss.

    Attributes:
        controllers: parts with a state of their own (an adaptive beta), saved and resumed with
            the run; mostly none.

    One whose `is_policy_gradient` is True weighs each sample by its advantage, so that samples of
    another engine than ours, or of an older policy, can be weighed by `correct_mismatch`.
    """

    controllers: dict[str, Any]

    def experience(self, groups: list[Group]) -> Experience:
        """Turn fresh samples into frozen columns."""
        ...

    def loss(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """The terms that are minimised."""
        ...


@runtime_checkable
class SelectiveAlgorithm(Algorithm, Protocol):
    """An algorithm that trains on some of its samples: the round is filled up with others."""

    def part_groups(self, groups: list[Group]) -> tuple[list[Group], list[Group]]:
        """Judge fresh samples; return those to train on and the others, judged."""
        ...


class RolloutSource:
    """Steps over samples of the policy that they train: a `BatchSource`.

    Args:
        prompts: tokenised prompts, gone over in seeded order.
        engine: draws completions; it is given the policy's weights at the start of each round.
        algorithm: from samples to columns.
        rollout: how many samples, and how they are drawn.
        layout: the layout that the policy can read.
        ctx: the stage: its seed orders prompts, draws and minibatches, its machine says how many
            tokens fit, its events take times and numbers of each round.
        validator: called with (rounds done, policy) before the first round and after every one;
            True ends the training.
    """

    def __init__(
        self,
        prompts: Groups,
        engine: Engine,
        algorithm: Algorithm,
        rollout: RolloutConfig,
        layout: Layout,
        ctx: StageContext,
        validator: ValidationFunction | None = None,
    ) -> None:
        self.prompts, self.algorithm = prompts, algorithm
        self.shape, self.sampling = rollout.shape, rollout.sampling
        self.draws = PromptDraws(prompts, engine, self.shape.n, self.sampling, ctx.seed)
        self.ahead = ctx.machine.rollouts_ahead
        self.corrects = getattr(algorithm, "is_policy_gradient", False) and (
            self.ahead or not engine.is_exact
        )
        self.layout: Layout = layout
        self.cut, self.seed, self.events = Cut(ctx.machine.tokens), ctx.seed, ctx.events
        self.validator = validator
        self.step = 0
        self.buffer: Experience | None = None
        self.metrics: dict[str, float] = {}
        self.began = time.monotonic()

    @property
    def total(self) -> int:
        """Optimiser steps in all."""
        return self.shape.rounds * self.shape.per_round

    def steps(self, policy: nn.Module) -> Iterator[list[Batch]]:
        """Yield the steps that are left, sampling when a round begins."""
        self.began = time.monotonic()
        while True:
            turn, inside = divmod(self.step, self.shape.per_round)
            if inside == 0:
                enough = self._close(turn, policy)
                if enough or self.step >= self.total:
                    return
            if inside == 0 or self.buffer is None:
                self.buffer = self._sampled(policy)
                self.began = time.monotonic()
            self.step += 1
            yield self._batches(turn, inside, self.buffer)

    def _close(self, turn: int, policy: nn.Module) -> bool:
        """Report the round that ended, and validate the policy; True if it is enough."""
        if turn > 0:
            metrics = {**self.metrics, "train_s": round(time.monotonic() - self.began, 4)}
            self.events.log("round", round=turn, **metrics)
        if self.validator is None:
            return False
        self.draws.wait()
        with whole_weights(policy):
            return self.validator(turn, policy)

    def _sampled(self, policy: nn.Module) -> Experience:
        with whole_weights(policy):
            return self._draw(policy)

    def _draw(self, policy: nn.Module) -> Experience:
        start = time.monotonic()
        self.draws.waited = self.draws.drawing = 0.0
        with torch.no_grad():
            self.draws.load(actor_of(policy))
            groups, drawn = self._filled_round()
            waited, drawing = self.draws.waited, self.draws.drawing
            if self.ahead and self.step + self.shape.per_round < self.total:
                self.draws.begin(self.shape.prompts)
            found = self.algorithm.experience(groups)
            if self.corrects:
                found = correct_mismatch(found)
            check_same_samples(found)
        answers = [c for g in drawn for c in g.completions]
        if self.step == 0:
            cut = sum(not c.stopped for c in answers)
            log_cut_answers(self.events, cut, len(answers), self.sampling.max_tokens)
        tokens = sum(len(c.tokens) for c in answers)
        times = {
            "sample_s": round(waited, 4),
            "score_s": round(time.monotonic() - start - waited, 4),
            "sample_tokens_per_s": round(tokens / max(drawing, 1e-9), 1),
        }
        self.metrics = {**times, **found.metrics}
        if isinstance(self.algorithm, SelectiveAlgorithm):
            self.metrics["drawn"] = float(len(drawn))
        return found

    def _filled_round(self) -> tuple[list[Group], list[Group]]:
        """Return the round's groups, and all groups that were drawn.

        Where the algorithm keeps only some, prompts are drawn on until there are enough of them;
        how many more follows from the share that was kept so far. If `DRAWS` times bring too
        few, the round is smaller; one group for every minibatch there is always.
        """
        room = self.shape.prompts
        groups, spare, drawn = list[Group](), list[Group](), list[Group]()
        for _ in range(DRAWS):
            share = max(len(groups), 1) / max(len(drawn), 1)
            missing = math.ceil((room - len(groups)) / share)
            fresh = self.draws.take(min(room, missing))
            drawn += fresh
            algorithm = self.algorithm
            kept, left = (
                algorithm.part_groups(fresh)
                if isinstance(algorithm, SelectiveAlgorithm)
                else (fresh, [])
            )
            groups, spare = groups + kept, spare + left
            if len(groups) >= room:
                break
        fewest = max(0, self.shape.per_pass - len(groups))
        return (groups + spare[:fewest])[:room], drawn

    def _batches(self, turn: int, inside: int, buffer: Experience) -> list[Batch]:
        epoch, which = divmod(inside, self.shape.per_pass)
        order = self.seed.at("minibatches", turn, epoch).rng().permutation(len(buffer.groups))
        chosen = np.array_split(order, self.shape.per_pass)[which].tolist()
        starts = np.cumsum([0, *(len(g) for g in buffer.groups)])
        rows = {name: column.rows() for name, column in buffer.columns.items()}
        batches: list[Batch] = []
        for micro in cut_step([buffer.groups[i] for i in chosen], self.cut):
            own = [chosen[k] for k, _ in micro]
            columns = {
                name: [[r.numpy() for r in values[starts[i] : starts[i + 1]]] for i in own]
                for name, values in rows.items()
            }
            batches.append(
                pack_groups([g for _, g in micro], self.layout, columns, [k for k, _ in micro])
            )
        return batches

    def reads(self) -> None:
        """Samples may have any token."""

    def sizes(self) -> StepSizes:
        """What a step holds where every answer is as long as it may be."""
        answers = self.shape.n * self.sampling.max_tokens
        longest = max((len(g.prompt.tokens) for g in self.prompts), default=0) + answers
        return StepSizes(longest, self.shape.minibatch * longest, answers / longest)

    def state_dict(self) -> dict[str, Any]:
        """Step, draws, the buffer of the round under way, controllers and validator."""
        state: dict[str, Any] = {
            "step": self.step,
            "numbers": dict(self.metrics),
            **self.draws.state_dict(),
        }
        parts = {**self.algorithm.controllers, **_stateful(self.validator)}
        state["controllers"] = {name: part.state_dict() for name, part in parts.items()}
        if self.buffer is not None and self.step % self.shape.per_round:
            state["buffer"] = _saved(self.buffer)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step at which the state was taken."""
        self.step, self.metrics = int(state["step"]), dict(state["numbers"])
        rounds = -(-self.step // self.shape.per_round)  # of states that did not count prompts
        self.draws.load_state_dict({"asked": rounds * self.shape.prompts, **state})
        for name, part in {**self.algorithm.controllers, **_stateful(self.validator)}.items():
            part.load_state_dict(state["controllers"][name])
        self.buffer = _restored(state["buffer"]) if "buffer" in state else None


def check_same_samples(found: Experience) -> None:
    """Refuse to go on where the processes of a launch drew other samples, or judged them otherwise.

    Each draws and judges the round itself, and takes its share of the steps. Were the rounds not
    the same, gradients of unrelated batches would be averaged.

    Raises:
        RunError: they are not the same.
    """
    if world_size() == 1 or not dist.is_initialized():
        return
    digest, scores = hashlib.blake2b(digest_size=16), list[float]()
    for group in found.groups:
        for completion in group.completions:
            digest.update(completion.tokens.tobytes())
        scores += [] if group.scores is None else group.scores.tolist()
    every: list[Any] = [None] * world_size()
    dist.all_gather_object(every, (digest.digest(), scores))
    if not is_one_round(every):  # the same answer in every process
        raise RunError(
            f"the {world_size()} processes of this launch drew or judged other samples",
            "each draws the round itself, and a GPU of another kind or a judge that answers twice "
            "otherwise makes another round of it",
            "use processors of one kind and a judge that answers the same, or train in one process",
        )


def is_one_round(told: Sequence[tuple[bytes, Sequence[float]]]) -> bool:
    """Say whether processes have the same samples, and scores that differ by rounding alone.

    >>> is_one_round([(b"a", [1.0]), (b"a", [1.0001])]), is_one_round([(b"a", []), (b"b", [])])
    (True, False)

    Args:
        told: of every process, a digest of its samples, and their scores.
    """
    samples, scores = told[0]
    return all(
        theirs == samples and np.allclose(own, scores, atol=SAME_SCORE, equal_nan=True)
        for theirs, own in told
    )


def correct_mismatch(found: Experience, cap: float = MISMATCH_CAP) -> Experience:
    """Weigh each token's advantage by min(pi/q, cap), q the law that it was drawn from.

    Truncated importance sampling (Yao et al., 2025): a surrogate is linear in
    its advantages, so the weight may stand there. Its mean, its largest value, and the mismatch
    KL(q || pi) in nats a token are logged with the round.

    Args:
        found: the experience of a round; its completions hold log q, its columns log pi.
        cap: the largest weight.
    """
    drawn = token_column([[c.logp for c in g.completions] for g in found.groups])
    ratio = (found.columns["old_logp"] - drawn).values
    weight = ratio.exp().clamp(max=cap)
    A = found.columns["advantages"]
    columns = {**found.columns, "advantages": replace(A, values=A.values * weight)}
    metrics = {
        "mismatch_nats": float((ratio.exp() - 1 - ratio).mean()),
        "mismatch_weight": float(weight.mean()),
        "mismatch_capped": float((ratio.exp() > cap).float().mean()),
    }
    return replace(found, columns=columns, metrics={**found.metrics, **metrics})


def _stateful(validator: ValidationFunction | None) -> dict[str, Any]:
    return {"watch": validator} if hasattr(validator, "state_dict") else {}


def _saved(buffer: Experience) -> dict[str, Any]:
    return {
        "groups": torch.from_numpy(Groups.of(buffer.groups).to_bytes().copy()),
        "columns": {name: c.values for name, c in buffer.columns.items()},
        "numbers": buffer.metrics,
    }


def _restored(state: dict[str, Any]) -> Experience:
    groups = list(Groups.from_bytes(state["groups"].numpy()))
    lengths = torch.tensor([len(c.tokens) for g in groups for c in g.completions])
    owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    columns = {n: Ragged(values, owner, len(lengths)) for n, values in state["columns"].items()}
    return Experience(groups, columns, dict(state["numbers"]))
