"""The layout of attention: which tokens of a row see which, cut into blocks that stack.

The tokens of a pack lie in one row. The row is cut into blocks (a prompt; or some completions of
one prompt), blocks of similar size are stacked into one call, and nothing is computed between
strangers. Distances are between positions, so that sliding windows mean what they mean when each
sequence has a row of its own.

The last layer's states are read at a few tokens only: those that predict a trained token, or end
a completion. `AttentionPlan.tail` is the plan in which they alone ask, with filling.

Shapes: S tokens of the row, A tokens that ask (all S, or a tail's), B stacked blocks, Q queries,
K keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

QUERIES_PER_BLOCK = 96
"""Completions of a prompt are stacked until they have this many tokens; more waste more."""
CALL_COST = 1 << 15
"""Attention cells that one more call costs, for the choice between padding and calls."""
MULTIPLE = 32
"""Rows and tails are filled up to a multiple of so many tokens."""


def filling_tokens(tokens: int) -> int:
    """How many tokens of filling make a row or a tail full.

    A CPU's matrix library writes a kernel for each length that it has not seen, and the last
    tokens of an odd one cost more than the filling (ADR 16).
    """
    return -tokens % MULTIPLE


@dataclass(frozen=True, slots=True, eq=False)
class PlanBlock:
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
class PlanRow:
    """What a plan is made from, on the host.

    Attributes:
        spans: the segments, laid end to end.
        parent: for each segment the index of its prompt's segment, or -1 for a prompt.
        positions: [S] position of each token in its own prompt + completion.
        reads: name -> tokens whose last states are read under that name, in the reader's order.
    """

    spans: list[range]
    parent: Sequence[int]
    positions: np.ndarray
    reads: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class AttentionPlan:
    """How one row of segments is attended: its blocks, and the way back to row order.

    Attributes:
        row: the segments.
        blocks: the stacked blocks.
        queries: all the blocks' queries laid end to end.
        keys: all the blocks' keys laid end to end.
        back: [A] for each token that asks its place among `queries`.
        asking: [A] the tokens that ask, in row order; None if all do.
        windows: those that layers have asked for so far, None for a layer without one.
        masks: additive masks that were made, by (block, window, dtype, always).
        tails: plans of the last layer that were made, by the names that are read.
        tiles: by window, what FlexAttention keeps of a row for all layers.
    """

    row: PlanRow
    blocks: tuple[PlanBlock, ...]
    queries: Tensor
    keys: Tensor
    back: Tensor
    asking: Tensor | None = None
    masks: dict[tuple[int, int | None, torch.dtype, bool], Tensor | None] = field(
        default_factory=dict
    )
    tails: dict[tuple[str, ...], PlanTail] = field(default_factory=dict)
    windows: set[int | None] = field(default_factory=set)
    tiles: dict[int | None, Any] = field(default_factory=dict)

    def mask(
        self, block: int, window: int | None, dtype: torch.dtype, *, always: bool = False
    ) -> Tensor | None:
        """Return the block's additive mask, made once for all layers."""
        key = (block, window, dtype, always)
        if key not in self.masks:
            self.masks[key] = self.blocks[block].mask(window, dtype, always)
        return self.masks[key]

    def tail(self, *names: str) -> PlanTail:
        """Return the plan of a layer whose states are read under these names alone; made once."""
        if names not in self.tails:
            # who is read, each token once and in row order, with filling up to a multiple
            reads = {name: self.row.reads[name] for name in names}
            asking = _filled(np.unique(np.concatenate(list(reads.values()))), self.row)
            # the reader's tokens as places among those that ask
            at = {name: torch.from_numpy(np.searchsorted(asking, r)) for name, r in reads.items()}
            tail = PlanTail(_planned(self.row, asking), at)
            self.tails[names] = tail.to(self.back.device)
        return self.tails[names]

    def to(self, device: torch.device) -> AttentionPlan:
        """Move the index tensors."""
        if self.back.device == device:
            return self
        blocks = tuple(
            PlanBlock(
                b.queries.to(device),
                b.keys.to(device),
                b.causal,
                None if b.allowed is None else b.allowed.to(device),
                b.distance.to(device),
            )
            for b in self.blocks
        )
        queries, keys, back = (x.to(device) for x in (self.queries, self.keys, self.back))
        asking = None if self.asking is None else self.asking.to(device)
        return AttentionPlan(self.row, blocks, queries, keys, back, asking)


@dataclass(frozen=True, slots=True, eq=False)
class PlanTail:
    """The plan of the last layer, and where its states are read.

    Attributes:
        plan: the plan in which the read tokens alone ask.
        at: name -> the reader's tokens as indices into `plan.asking`.
    """

    plan: AttentionPlan
    at: dict[str, Tensor]

    @property
    def asking(self) -> Tensor:
        """[A] the tokens whose states are made."""
        assert self.plan.asking is not None
        return self.plan.asking

    def to(self, device: torch.device) -> PlanTail:
        """Move the index tensors."""
        return PlanTail(self.plan.to(device), {name: x.to(device) for name, x in self.at.items()})


@dataclass(slots=True)
class _Piece:
    """Queries of one block: a prompt's, or those of some completions that see their prompt."""

    prompt: range
    completions: list[range]
    asking: np.ndarray

    @property
    def queries(self) -> int:
        return len(self.asking)

    @property
    def own(self) -> int:
        return sum(map(len, self.completions))

    @property
    def keys(self) -> int:
        return len(self.prompt) + self.own

    @property
    def cells(self) -> int:
        return self.queries * self.keys


def plan_attention(
    lengths: Sequence[int],
    parent: Sequence[int],
    positions: Tensor,
    reads: Mapping[str, np.ndarray] | None = None,
) -> AttentionPlan:
    """Plan attention over segments laid end to end.

    Args:
        lengths: tokens of each segment.
        parent: for each segment the index of its prompt's segment, or -1 for a prompt.
        positions: [S] position of each token in its own prompt + completion.
        reads: name -> tokens whose last states are read under that name.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)])
    spans = [range(int(a), int(b)) for a, b in itertools.pairwise(starts)]
    return _planned(PlanRow(spans, parent, positions.numpy(), reads or {}), None)


def _filled(asking: np.ndarray, row: PlanRow) -> np.ndarray:
    """Add the row's last tokens to those that ask, as filling up to a multiple of `MULTIPLE`."""
    others = np.setdiff1d(np.arange(len(row.positions)), asking, assume_unique=True)
    missing = min(filling_tokens(len(asking)), len(others))
    return np.union1d(asking, others[len(others) - missing :])


def _planned(row: PlanRow, asking: np.ndarray | None) -> AttentionPlan:
    """Cut the row into pieces, stack similar pieces into blocks, lay the blocks end to end."""
    stacks = [list(stack) for pieces in _pieces(row, asking) for stack in _stacks(pieces)]
    blocks = tuple(_block(stack, row.positions, whole=asking is None) for stack in stacks)
    queries, keys = (
        torch.cat([torch.empty(0, dtype=torch.long), *(x.flatten() for x in of)])
        for of in ([b.queries for b in blocks], [b.keys for b in blocks])
    )
    back = _way_back(blocks, stacks, len(row.positions))
    if asking is None:
        return AttentionPlan(row, blocks, queries, keys, back)
    who = torch.from_numpy(asking)
    return AttentionPlan(row, blocks, queries, keys, back[who], who)


def _pieces(row: PlanRow, asking: np.ndarray | None) -> tuple[list[_Piece], list[_Piece]]:
    """Return the prompts, and runs of completions, as far as any of their tokens ask."""
    prompts: list[_Piece] = []
    runs: list[_Piece] = []
    last_parent = -2
    for span, parent in zip(row.spans, row.parent, strict=True):
        # the tokens of this segment that ask: all, or those in `asking`, which is sorted
        who = np.arange(span.start, span.stop)
        if asking is not None:
            who = asking[np.searchsorted(asking, span.start) : np.searchsorted(asking, span.stop)]
        if parent < 0 and len(who):
            prompts.append(_Piece(span, [], who))
        if parent < 0 or not len(who):
            continue
        # completions of one prompt share a piece, and so the prompt's keys, while it is small
        if parent == last_parent and runs[-1].own + len(span) <= QUERIES_PER_BLOCK:
            runs[-1].completions.append(span)
            runs[-1].asking = np.concatenate([runs[-1].asking, who])
        else:
            runs.append(_Piece(row.spans[parent], [span], who))
        last_parent = parent
    return prompts, runs


def _stacks(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Put pieces of similar size together while padding is cheaper than another call."""
    stack: list[_Piece] = []
    queries = cells = 0
    # largest first, so that the first piece of a stack has its width in keys
    for piece in sorted(pieces, key=lambda p: (p.keys, p.queries), reverse=True):
        queries, cells = max(queries, piece.queries), cells + piece.cells
        padded = (len(stack) + 1) * queries * (stack or [piece])[0].keys
        if stack and padded > cells * 1.15 + CALL_COST:
            yield stack
            stack, queries, cells = [], piece.queries, piece.cells
        stack.append(piece)
    if stack:
        yield stack


def _block(stack: list[_Piece], positions: np.ndarray, *, whole: bool) -> PlanBlock:
    """Lay pieces on each other, padded; `whole` prompts need no more than causality."""
    # own_q and own_k say whose a token is: -1 the prompt, 0, 1, ... a completion, -2 padding
    rows, width = max(p.queries for p in stack), max(p.keys for p in stack)
    queries = np.zeros((len(stack), rows), np.int64)
    keys = np.zeros((len(stack), width), np.int64)
    own_q = np.empty((len(stack), rows), np.int32)
    own_k = np.full((len(stack), width), -2, np.int32)
    for b, piece in enumerate(stack):
        q = piece.asking
        spans = [piece.prompt, *piece.completions]
        k = np.concatenate([np.arange(s.start, s.stop) for s in spans])
        # padding repeats the first token, so that every index is a real one
        queries[b], queries[b, : len(q)] = q[0], q
        keys[b], keys[b, : len(k)] = k[0], k
        own = np.repeat(np.arange(-1, len(piece.completions)), [len(s) for s in spans])
        own_k[b, : len(k)] = own
        asked = own[np.searchsorted(k, q)]
        own_q[b], own_q[b, : len(q)] = asked[0], asked
    # prompts alone: query i sees key j <= i, which is causal attention without a mask
    if whole and not stack[0].completions:
        q, k = np.arange(rows, dtype=np.int32), np.arange(width, dtype=np.int32)
        distance = q[None, :, None] - k[None, None, :]
        q_t, k_t, distance_t = map(torch.from_numpy, (queries, keys, distance))
        return PlanBlock(q_t, k_t, True, None, distance_t)
    # else a query sees keys of its own completion and of the prompt, none behind itself
    place = positions.astype(np.int32)
    distance = place[queries][:, :, None] - place[keys][:, None, :]
    known = (own_q[:, :, None] == own_k[:, None, :]) | (own_k == -1)[:, None, :]
    allowed = known & (distance >= 0)
    tensors = map(torch.from_numpy, (queries, keys, allowed, distance))
    q_t, k_t, allowed_t, distance_t = tensors
    return PlanBlock(q_t, k_t, False, allowed_t, distance_t)


def _way_back(blocks: tuple[PlanBlock, ...], stacks: list[list[_Piece]], total: int) -> Tensor:
    """For each token of the row its place among the blocks' queries; padding has none."""
    back = torch.zeros(total, dtype=torch.long)
    base = 0
    for block, stack in zip(blocks, stacks, strict=True):
        n = torch.tensor([p.queries for p in stack])
        real = torch.arange(block.queries.shape[1])[None, :] < n[:, None]
        place = torch.arange(block.queries.numel()).view_as(block.queries) + base
        back[block.queries[real]] = place[real]
        base += block.queries.numel()
    return back
