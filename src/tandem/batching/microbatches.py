"""A step cut into micro-batches that fit into a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tandem.data.record import Group

Piece = tuple[int, Group]
"""A group's number in its step, and the group or a part of it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a step is cut into micro-batches.

    Attributes:
        tokens: unique tokens of a micro-batch at most.
        parts: their number is a multiple of this, as far as there are groups and `tokens` allow:
            one a process.
    """

    tokens: int
    parts: int = 1


def unique_tokens(group: Group) -> int:
    """Tokens of a group when its prompt is encoded once."""
    return len(group.prompt.tokens) + sum(len(c.tokens) for c in group.completions)


def cut_step(groups: Sequence[Group], cut: Cut, *, divisible: bool = False) -> list[list[Piece]]:
    """Cut a step into micro-batches, longest groups first.

    Each is filled up to `cut.tokens`. For several processes groups are then dealt out anew, to
    micro-batches of about the same size, as many for each process.

    A single group above the budget forms its own micro-batch, unless `divisible`: then its
    completions are spread over several, each behind the prompt (losses without pairs). Where
    nothing is dealt out, the parts of a group come one after the other, in the order of its
    completions.
    """
    order = sorted(range(len(groups)), key=lambda i: unique_tokens(groups[i]), reverse=True)
    pieces = [
        (i, part)
        for i in order
        for part in (_parts(groups[i], cut.tokens) if divisible else (groups[i],))
    ]
    filled = list(_filled(pieces, cut.tokens))
    if cut.parts == 1 or not filled:
        return filled
    turns = -(-len(filled) // cut.parts)
    dealt = _dealt(pieces, min(turns * cut.parts, len(pieces)))
    most = max(cut.tokens, _tokens(pieces[:1]))
    return dealt if max(map(_tokens, dealt)) <= most else filled


def _tokens(pieces: Sequence[Piece]) -> int:
    return sum(unique_tokens(group) for _, group in pieces)


def _filled(pieces: Sequence[Piece], budget: int) -> Iterator[list[Piece]]:
    """Fill one micro-batch after the other."""
    micro: list[Piece] = []
    size = 0
    for piece in pieces:
        tokens = unique_tokens(piece[1])
        if micro and size + tokens > budget:
            yield micro
            micro, size = [], 0
        micro.append(piece)
        size += tokens
    if micro:
        yield micro


def _dealt(pieces: Sequence[Piece], parts: int) -> list[list[Piece]]:
    """Give each piece, the longest first, to the micro-batch that has the fewest tokens."""
    micro: list[list[Piece]] = [[] for _ in range(parts)]
    sizes = [0] * parts
    for piece in pieces:
        least = sizes.index(min(sizes))
        micro[least].append(piece)
        sizes[least] += unique_tokens(piece[1])
    return micro


def _parts(group: Group, budget: int) -> Iterator[Group]:
    if unique_tokens(group) <= budget:
        yield group
        return
    keep: list[int] = []
    size = len(group.prompt.tokens)
    for k, completion in enumerate(group.completions):
        if keep and size + len(completion.tokens) > budget:
            yield group.keep(keep)
            keep, size = [], len(group.prompt.tokens)
        keep.append(k)
        size += len(completion.tokens)
    yield group.keep(keep)
