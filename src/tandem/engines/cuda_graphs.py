"""Decoding steps of fixed shapes, recorded as CUDA graphs: what a GPU has in place of free ones.

A step of a small model is some hundreds of kernels that are shorter than their launches. A CUDA
graph launches all of them at once, but can only do the same work on the same memory again. So
completions and prompts are rounded up to powers of two, the stores are read whole, masks are made
on the device from ages and lengths, and what changes from step to step is copied into tensors
that stay where they are. Rows that are there for the shape alone write where nobody looks.

The first step of a shape runs freely, in which the stores find their size; then it is recorded.
On a CPU nothing is recorded, and the same step is computed. On a GPU it was not run yet, for want
of one: `machine.compiled` asks for it, and `decoder_for` compares logits before it is trusted.

Shapes: as in `shared_prefix`; R completions and S prompts are rounded up here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tandem.data.record import IntArray
from tandem.engines.shared_prefix import (
    MASKED_LOGIT,
    CacheStore,
    DecodingStep,
    SharedPrefixDecoder,
    SlotIndices,
    cells_of_slots,
)


@dataclass
class FixedShapeStep(DecodingStep):
    """A step of R rows, S prompts and `most` completions a prompt; `follow` brings its numbers."""

    most: int = 1
    tokens: Tensor = field(init=False)
    positions: Tensor = field(init=False)
    known: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.dense, self.level, self.per = False, None, self.most
        self.longest = next(iter(self.prompts.values())).keys.shape[2]
        self.oldest = self.columns
        rows, held = len(self.age), len(self.lengths)
        self.rows = self._on(np.arange(rows))
        sizes = [rows, rows, rows, rows, held, held * self.per]
        self._host = np.zeros(sum(sizes), np.int64)
        self._there = self._on(self._host.copy())
        self._parts = np.split(self._host, np.cumsum(sizes)[:-1])
        there = self._there.split(sizes)
        self.tokens, self.positions, self.place, self.column, self.known, self.cells = there

    def follow(
        self, tokens: SlotIndices, lengths: IntArray, owner: SlotIndices, age: SlotIndices
    ) -> None:
        """Copy the numbers of R' <= R completions of S' <= S prompts to where the step looks."""
        place, cells = cells_of_slots(owner, len(lengths), self.per)
        new = tokens, lengths[owner] + age, place, age, lengths, cells
        for part, numbers in zip(self._parts, new, strict=True):
            part[: len(numbers)] = numbers
        self._there.copy_(torch.from_numpy(self._host))

    def _own_mask(self, window: int | None) -> Tensor:
        behind = self.column[:, None] - torch.arange(self.oldest, device=self.device)
        hidden = (behind < 0) | (behind >= (window or self.oldest))
        return _additive(hidden[:, None, None])

    def _prompt_mask(self, window: int | None) -> Tensor:
        at = torch.arange(self.longest, device=self.device)
        hidden = (at >= self.known[:, None])[:, None]
        if window is not None:
            now = self.known[:, None] + self.column[self.cells].view(len(self.known), -1)
            hidden = hidden | (now[:, :, None] - at >= window)
        return _additive(hidden[:, None, :, None])


def _additive(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, MASKED_LOGIT)


class CudaGraphDecoder(SharedPrefixDecoder):
    """A `SharedPrefixDecoder` whose steps have few shapes, each recorded once."""

    def reset(self, max_tokens: int) -> None:
        """Forget everything, recordings too."""
        super().reset(max_tokens)
        self._steps: dict[tuple[int, int, int], tuple[FixedShapeStep, RecordedGraphs]] = {}
        self._most = 1
        self._home: list[int] = []
        self._pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def join(self, prompts: Sequence[IntArray], n: int) -> Tensor:
        """Take prompts in, with n completions each; return [P, V] logits of the first tokens."""
        self._most = max(self._most, n)
        return super().join(prompts, n)

    def step(self, tokens: SlotIndices) -> Tensor:
        """Feed each completion's last token [R']; return [R', V] logits of the next."""
        shape = _rounded(len(tokens)), _rounded(len(self.lengths)), self._most
        for stores, slots in ((self._own, shape[0]), (self._prompts, shape[1])):
            for layer, store in stores.items():
                stores[layer] = CacheStore.fit(store, slots, 0, store.keys[0])
        if self._home != self._addresses():
            self._steps.clear()
        if shape not in self._steps:
            self._steps[shape] = self._begun(*shape)
        step, recorded = self._steps[shape]
        step.follow(tokens, self.lengths, self.owner, self.age)
        logits = recorded()
        self._home = self._addresses()
        self.age = self.age + 1
        return logits[: len(tokens)].clone()

    def keep(self, alive: npt.NDArray[np.bool_]) -> None:
        """Let completions leave, [R] False; with the last one the recordings go."""
        super().keep(alive)
        if not len(self.owner):
            self._steps.clear()

    def _addresses(self) -> list[int]:
        """Where the stores lie: a recording reads and writes there and nowhere else."""
        return [s.keys.data_ptr() for of in (self._prompts, self._own) for s in of.values()]

    def _begun(self, rows: int, prompts: int, most: int) -> tuple[FixedShapeStep, RecordedGraphs]:
        nobody, empty = np.zeros(rows, np.int64), np.zeros(prompts, np.int32)
        stores = self._prompts, self._own
        step = FixedShapeStep(*stores, empty, nobody, nobody, self.columns, self.device, most=most)

        def run() -> Tensor:
            step._masks.clear()
            out = self.lm(
                input_ids=step.tokens[None],
                position_ids=step.positions[None],
                use_cache=False,
                logits_to_keep=0,
                plan=step,
            )
            return out.logits[0]

        return step, RecordedGraphs(run, self.device, self._pool)


class RecordedGraphs:
    """A function of tensors that stay where they are; on a GPU replayed as one CUDA graph.

    Args:
        run: does the same to the same memory every time, and may be run twice.
        device: where.
        pool: memory that recordings share, since the result of one is read before the next runs.
    """

    def __init__(self, run: Callable[[], Tensor], device: torch.device, pool: Any) -> None:
        self._run, self._device, self._pool = run, device, pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out = torch.empty(0)

    def __call__(self) -> Tensor:
        """Return what `run` returns; on a GPU in memory that the next call writes again."""
        if self._device.type != "cuda":
            return self._run()
        with torch.cuda.device(self._device):
            if self._graph is None:
                self._graph = self._record()
            self._graph.replay()
        return self._out

    def _record(self) -> torch.cuda.CUDAGraph:
        """Run freely on a stream of its own, as recording asks for; then record.

        A model that waits for the device inside is refused by the free run: a recording that
        fails leaves PyTorch's allocator in its state.
        """
        graph, own = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        own.wait_stream(torch.cuda.current_stream())
        mode = torch.cuda.get_sync_debug_mode()
        with torch.cuda.stream(own):
            torch.cuda.set_sync_debug_mode("error")
            try:
                self._run()
            finally:
                torch.cuda.set_sync_debug_mode(mode)
            with torch.cuda.graph(graph, pool=self._pool, stream=own):
                self._out = self._run()
        torch.cuda.current_stream().wait_stream(own)
        return graph


def _rounded(n: int) -> int:
    return 1 << (n - 1).bit_length()
