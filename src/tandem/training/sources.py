"""Steps over a fixed collection: shuffled by seed, cut by tokens, resumable by position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, cast

import numpy as np
from torch import nn

from tandem.batching.batch import Batch
from tandem.batching.microbatches import Cut, Piece, cut_step, unique_tokens
from tandem.batching.packing import Layout, pack_groups
from tandem.data.groups import Groups
from tandem.data.record import FloatArray, Group, IntArray
from tandem.errors import DataError
from tandem.models.packed import PackedModel
from tandem.rng import Seed
from tandem.runs.context import StageContext

LOOKED_AT = 2000
"""Groups of a collection whose lengths are read, evenly spread."""


@dataclass(frozen=True, slots=True)
class StepSizes:
    """What the steps of a source hold at most, for an estimate of memory.

    Attributes:
        longest: unique tokens of the largest group, which is not cut.
        largest: unique tokens of the largest step, or more.
        trained: share of the tokens that are trained.
        sample: some groups of usual and large size, to be measured.
    """

    longest: int
    largest: int
    trained: float = 1.0
    sample: tuple[Group, ...] = ()

    def most(self, tokens: int) -> int:
        """Return the tokens of the largest micro-batch where `tokens` are allowed."""
        return max(self.longest, min(tokens, self.largest))


def sizes_of_groups(groups: Sequence[Group], size: int, *, divisible: bool) -> StepSizes:
    """Measure a collection whose steps hold `size` groups.

    Args:
        groups: the collection, with tokens.
        size: groups of a step.
        divisible: True if a group's completions may be trained apart.
    """
    few = [groups[i] for i in range(0, len(groups), -(-len(groups) // LOOKED_AT))]
    few = sorted((g for g in few if len(g)), key=unique_tokens)
    if not few:
        return StepSizes(0, 0)
    lengths = [unique_tokens(g) for g in few]
    alone = [len(g.prompt.tokens) + max(len(c.tokens) for c in g.completions) for g in few]
    answers = sum(len(c.tokens) for g in few for c in g.completions)
    usual = [few[int(q * (len(few) - 1))] for q in (0.5, 0.8, 0.9)]
    return StepSizes(
        longest=max(alone if divisible else lengths),
        largest=size * (sum(lengths[-size:]) // len(lengths[-size:])),
        trained=answers / sum(lengths),
        sample=tuple(usual) if len(few) > 1 else (),
    )


class DatasetSource:
    """A `BatchSource` over a collection of groups: shuffled each epoch, cut into micro-batches.

    Args:
        groups: the collection, with tokens.
        size: groups per optimiser step.
        epochs: passes over the data.
        steps: optimiser steps instead of epochs, or None.
        seed: orders each epoch; the last step of an epoch may be smaller.
        layout: the layout that the probe chose.
        tokens: unique tokens per micro-batch.
        logp_is: what the completions' `logp` column holds, if the loss reads it.
        divisible: True if a group's completions may be trained apart (no pairs).

    Raises:
        DataError: the collection is empty.
    """

    def __init__(
        self,
        groups: Groups,
        *,
        size: int,
        epochs: int,
        steps: int | None = None,
        seed: Seed,
        layout: Layout,
        tokens: int,
        logp_is: Literal["ref_logp", "old_logp"] | None = None,
        divisible: bool = False,
    ) -> None:
        if not len(groups):
            raise DataError(
                "there is no group to train on",
                "every optimiser step needs at least one",
                "look at what the stages before kept, and why the rest was dropped",
            )
        self.groups, self.size, self.epochs, self.seed = groups, size, epochs, seed
        self.total_steps = steps
        self.layout: Layout = layout
        self.cut = Cut(tokens)
        self.logp_is, self.divisible = logp_is, divisible
        self.position = 0

    @classmethod
    def of(
        cls,
        groups: Groups,
        model: PackedModel,
        ctx: StageContext,
        *,
        size: int,
        epochs: int,
        steps: int | None = None,
        logp_is: Literal["ref_logp", "old_logp"] | None = None,
        divisible: bool = False,
    ) -> Self:
        """Batch a collection for a model that is trained in a stage.

            batches = DatasetSource.of(data, policy, ctx, size=cfg.batch, epochs=cfg.epochs)

        Args:
            groups: the collection, with tokens.
            model: its layout is the batches'.
            ctx: the stage: its seed orders the epochs, its machine says how many tokens fit.
            size: groups per optimiser step; the rest as for the constructor.
        """
        return cls(
            groups,
            size=size,
            epochs=epochs,
            steps=steps,
            seed=ctx.seed,
            layout=model.layout,
            tokens=ctx.machine.tokens,
            logp_is=logp_is,
            divisible=divisible,
        )

    @property
    def per_epoch(self) -> int:
        """Steps per epoch."""
        return -(-len(self.groups) // self.size)

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.per_epoch * self.epochs if self.total_steps is None else self.total_steps

    def steps(self, policy: nn.Module) -> Iterator[list[Batch]]:
        """Yield the steps that are left, each as its micro-batches, longest first."""
        for step in range(self.position, self.total):
            self.position = step + 1
            yield self.batches([self.groups[i] for i in self._indices(step)])

    def batches(self, groups: Sequence[Group]) -> list[Batch]:
        """Pack the groups of one step into its micro-batches."""
        return self._packed(cut_step(groups, self.cut, divisible=self.divisible))

    def reads(self) -> IntArray:
        """The different tokens of the collection."""
        return self.groups.vocabulary()

    def sizes(self) -> StepSizes:
        """What a step holds at most."""
        return sizes_of_groups(
            cast("Sequence[Group]", self.groups), self.size, divisible=self.divisible
        )

    def state_dict(self) -> dict[str, Any]:
        """The position: steps already given out."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after these steps."""
        self.position = int(state["position"])

    def _indices(self, step: int) -> list[int]:
        epoch, inside = divmod(step, self.per_epoch)
        order = self.seed.at("epoch", epoch).rng().permutation(len(self.groups))
        return order[inside * self.size : (inside + 1) * self.size].tolist()

    def _packed(self, micro: list[list[Piece]]) -> list[Batch]:
        return [self._pack([n for n, _ in m], [g for _, g in m]) for m in micro]

    def _pack(self, numbers: list[int], groups: list[Group]) -> Batch:
        columns: dict[str, list[list[FloatArray | None]]] = {}
        if self.logp_is is not None:
            columns[self.logp_is] = [[c.logp for c in g.completions] for g in groups]
        return pack_groups(groups, self.layout, columns, numbers)


class ZippedSource:
    """Joins two sources step by step: each optimiser step holds the micro-batches of both.

    RLP-UML trains on comparisons and on views in one step.

    Args:
        main: has as many steps as there will be.
        other: has as many or more.
    """

    def __init__(self, main: DatasetSource, other: Any) -> None:
        self.main, self.other = main, other

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.main.total

    @property
    def cut(self) -> Cut:
        """How the steps of either are cut."""
        return self.main.cut

    @cut.setter
    def cut(self, cut: Cut) -> None:
        self.main.cut = self.other.cut = cut

    def steps(self, policy: nn.Module) -> Iterator[list[Batch]]:
        """Yield the steps that are left: the micro-batches of both."""
        for mine, theirs in zip(self.main.steps(policy), self.other.steps(policy), strict=False):
            yield [*mine, *theirs]

    def reads(self) -> IntArray | None:
        """The tokens of both."""
        mine, theirs = self.main.reads(), self.other.reads()
        return None if theirs is None else np.union1d(mine, theirs)

    def sizes(self) -> StepSizes | None:
        """What a step of the first holds: its rows are the longer ones."""
        return self.main.sizes()

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"main": self.main.state_dict(), "other": self.other.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue both."""
        self.main.load_state_dict(state["main"])
        self.other.load_state_dict(state["other"])


class BatchSource(Protocol):
    """Yields optimiser steps; offline sources ignore the policy, online ones sample from it."""

    @property
    def cut(self) -> Cut:
        """How a step is cut into micro-batches; the loop sets it before the first step."""
        ...

    @cut.setter
    def cut(self, cut: Cut) -> None: ...

    @property
    def total(self) -> int:
        """Number of optimiser steps in all."""
        ...

    def steps(self, policy: nn.Module) -> Iterator[list[Batch]]:
        """Yield the steps that are left, each as its micro-batches."""
        ...

    def reads(self) -> IntArray | None:
        """Return the different tokens of all steps, or None where nobody knows them before."""
        ...

    def sizes(self) -> StepSizes | None:
        """Return what a step holds at most, or None where nobody knows it before."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Position, buffers, controllers: numbers, strings, tensors, lists and dicts of them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step at which the state was taken."""
        ...
