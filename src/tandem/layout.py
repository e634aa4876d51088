"""The layout of attention: which tokens of a row see which, cut into blocks that stack.

The tokens of a pack lie in one row. The row is cut into blocks (a prompt; or some completions of
one prompt), blocks of similar size are stacked into one call, and nothing is computed between
strangers. Distances are between positions, so that sliding windows mean what they mean when each
sequence has a row of its own.

Shapes: S tokens of the row, B stacked blocks, Q queries, K keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

QUERIES_PER_BLOCK = 96
"""Completions of a prompt are stacked until they have this many tokens; more waste more."""
CALL_COST = 1 << 15
"""Attention cells that one more call costs, for the choice between padding and calls."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """B stacked blocks of queries and the keys they may see.

    Attributes:
        queries: [B, Q] token indices; padding repeats a real token and is thrown away.
        keys: [B, K] token indices.
        causal: True if key order alone decides (prompts), so that no mask is needed.
        allowed: [B, Q, K] which key each query sees, or None where `causal`.
        distance: [B, Q, K] position of the query minus position of the key, for windows.
    """

    queries: Tensor
    keys: Tensor
    causal: bool
    allowed: Tensor | None
    distance: Tensor

    def mask(self, window: int | None, dtype: torch.dtype, always: bool) -> Tensor | None:
        """[B, 1, Q, K] additive mask; None when causality is enough, unless `always`."""
        enough = self.causal and (window is None or int(self.distance.max()) < window)
        if enough and not always:
            return None
        seen = self.distance >= 0 if self.allowed is None else self.allowed
        if window is not None:
            seen = seen & (self.distance < window)
        zero = torch.zeros((), dtype=dtype, device=seen.device)
        lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=seen.device)
        return torch.where(seen, zero, lowest).unsqueeze(1)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How one row of segments is attended: its blocks, and the way back to row order.

    Attributes:
        blocks: the stacked blocks.
        queries: all the blocks' queries laid end to end.
        keys: all the blocks' keys laid end to end.
        back: [S] for each token its place among `queries`.
    """

    blocks: tuple[Block, ...]
    queries: Tensor
    keys: Tensor
    back: Tensor
    masks: dict[tuple[int, int | None, torch.dtype, bool], Tensor | None] = field(
        default_factory=dict
    )

    def mask(
        self, block: int, window: int | None, dtype: torch.dtype, *, always: bool = False
    ) -> Tensor | None:
        """Return the block's additive mask, made once for all layers."""
        key = (block, window, dtype, always)
        if key not in self.masks:
            self.masks[key] = self.blocks[block].mask(window, dtype, always)
        return self.masks[key]

    @property
    def windows(self) -> set[int | None]:
        """The windows that layers have asked for so far, None for a layer without one."""
        return {window for _, window, *_ in self.masks}

    def to(self, device: torch.device) -> Plan:
        """Move the index tensors."""
        if self.back.device == device:
            return self
        blocks = tuple(
            Block(
                b.queries.to(device),
                b.keys.to(device),
                b.causal,
                None if b.allowed is None else b.allowed.to(device),
                b.distance.to(device),
            )
            for b in self.blocks
        )
        queries, keys, back = (x.to(device) for x in (self.queries, self.keys, self.back))
        return Plan(blocks, queries, keys, back)


@dataclass(slots=True)
class _Piece:
    """Queries of one block: a prompt, or a run of completions with their prompt as keys."""

    prompt: range
    completions: list[range]

    @property
    def queries(self) -> int:
        return sum(map(len, self.completions)) if self.completions else len(self.prompt)

    @property
    def keys(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))

    @property
    def cells(self) -> int:
        return self.queries * self.keys


def plan(lengths: Sequence[int], parent: Sequence[int], positions: Tensor) -> Plan:
    """Plan attention over segments laid end to end.

    Args:
        lengths: tokens of each segment.
        parent: for each segment the index of its prompt's segment, or -1 for a prompt.
        positions: [S] position of each token in its own prompt + completion.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)])
    spans = [range(int(a), int(b)) for a, b in itertools.pairwise(starts)]
    prompts = [_Piece(spans[s], []) for s in range(len(spans)) if parent[s] < 0 and spans[s]]
    runs: list[_Piece] = []
    last_parent = -2
    for s, span in enumerate(spans):
        if parent[s] < 0 or not span:
            continue
        if parent[s] == last_parent and runs[-1].queries + len(span) <= QUERIES_PER_BLOCK:
            runs[-1].completions.append(span)
        else:
            runs.append(_Piece(spans[parent[s]], [span]))
        last_parent = parent[s]
    where = positions.numpy()
    stacks = [*_stacks(prompts), *_stacks(runs)]
    blocks = tuple(_block(stack, where) for stack in stacks)
    queries, keys = (
        torch.cat([torch.empty(0, dtype=torch.long), *(x.flatten() for x in of)])
        for of in ([b.queries for b in blocks], [b.keys for b in blocks])
    )
    return Plan(blocks, queries, keys, _way_back(blocks, stacks, len(where)))


def _stacks(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Put pieces of similar size together while padding is cheaper than another call."""
    stack: list[_Piece] = []
    queries = cells = 0
    for piece in sorted(pieces, key=lambda p: (p.keys, p.queries), reverse=True):
        queries, cells = max(queries, piece.queries), cells + piece.cells
        padded = (len(stack) + 1) * queries * (stack or [piece])[0].keys
        if stack and padded > cells * 1.15 + CALL_COST:
            yield stack
            stack, queries, cells = [], piece.queries, piece.cells
        stack.append(piece)
    if stack:
        yield stack


def _block(stack: list[_Piece], positions: np.ndarray) -> Block:
    rows, width = max(p.queries for p in stack), max(p.keys for p in stack)
    queries = np.zeros((len(stack), rows), np.int64)
    keys = np.zeros((len(stack), width), np.int64)
    causal = not stack[0].completions
    own_q = np.full((len(stack), rows), -1, np.int32)
    own_k = np.full((len(stack), width), -2, np.int32)
    for b, piece in enumerate(stack):
        parts = piece.completions or [piece.prompt]
        q = np.concatenate([np.arange(s.start, s.stop) for s in parts])
        queries[b], queries[b, : len(q)] = q[0], q
        k = (
            np.concatenate([np.arange(piece.prompt.start, piece.prompt.stop), q])
            if not causal
            else q
        )
        keys[b], keys[b, : len(k)] = k[0], k
        if not causal:
            own = np.repeat(np.arange(len(parts)), [len(s) for s in parts])
            own_q[b], own_q[b, : len(q)] = 0, own
            own_k[b, : len(piece.prompt)] = -1
            own_k[b, len(piece.prompt) : len(k)] = own
    distance = positions[queries][:, :, None].astype(np.int32) - positions[keys][:, None, :]
    if causal:
        distance = np.arange(rows)[None, :, None] - np.arange(width)[None, None, :]
        return Block(
            torch.from_numpy(queries),
            torch.from_numpy(keys),
            True,
            None,
            torch.from_numpy(distance),
        )
    same = own_q[:, :, None] == own_k[:, None, :]
    allowed = (own_k == -1)[:, None, :] | (same & (distance >= 0))
    tensors = map(torch.from_numpy, (queries, keys, allowed, distance))
    q_t, k_t, allowed_t, distance_t = tensors
    return Block(q_t, k_t, False, allowed_t, distance_t)


def _way_back(blocks: tuple[Block, ...], stacks: list[list[_Piece]], total: int) -> Tensor:
    back = torch.zeros(total, dtype=torch.long)
    base = 0
    for block, stack in zip(blocks, stacks, strict=True):
        n = torch.tensor([p.queries for p in stack])
        real = torch.arange(block.queries.shape[1])[None, :] < n[:, None]
        place = torch.arange(block.queries.numel()).view_as(block.queries) + base
        back[block.queries[real]] = place[real]
        base += block.queries.numel()
    return back
