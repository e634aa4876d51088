"""From groups to packed batches: the only place that knows where a token lies.

Layout `shared` puts everything in one row: each prompt once, then its completions, and at the end
a few tokens of filling, up to a multiple of `attention_plan.MULTIPLE`. Layout `rows` gives each
completion a row behind a copy of its prompt; it is right for every architecture, also where a
prompt cannot be shared (state-space layers).

Shapes: S tokens of the row, R rows, L columns, T trained tokens, N completions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tandem.batching.attention_plan import filling_tokens, plan_attention
from tandem.batching.batch import FILL, Batch, Packed, Pairs
from tandem.batching.ragged import Ragged
from tandem.data.record import FloatArray, Group
from tandem.errors import DataError

Layout = Literal["shared", "rows"]
TokenColumns = Mapping[str, Sequence[Sequence[FloatArray | None]]]
"""Per-token numbers beside the groups: name -> one array a completion, aligned to its tokens."""
RAGGED = ("ref_logp", "old_logp", "advantages", "returns", "old_values")


def pack_groups(
    groups: Sequence[Group],
    layout: Layout = "shared",
    columns: TokenColumns | None = None,
    numbers: Sequence[int] | None = None,
) -> Batch:
    """Pack groups into one batch with the columns that judges wrote.

    Args:
        groups: groups whose prompts and completions carry tokens.
        layout: `shared` or `rows`.
        columns: per-token numbers under names of `RAGGED`, the fields of `Batch` that have them.
        numbers: the groups' numbers in the whole step; 0.. by default.

    Raises:
        DataError: a prompt or a completion has no tokens.
    """
    for group in groups:
        _check(group)
    # where every token lies; columns and pairs below follow the order of the completions
    tokens = _shared(groups) if layout == "shared" else _rows(groups)
    sizes = [len(g) for g in groups]
    ragged = {
        name: _column(groups, name, columns[name], tokens)
        for name in RAGGED
        if columns is not None and name in columns
    }
    return Batch(
        tokens=tokens,
        group=torch.repeat_interleave(
            torch.tensor(range(len(groups)) if numbers is None else numbers, dtype=torch.long),
            torch.tensor(sizes, dtype=torch.long),
        ),
        weight=torch.tensor([c.weight for g in groups for c in g.completions]),
        pairs=_pairs(groups, sizes),
        scores=_scores(groups),
        **ragged,  # type: ignore[arg-type]
    )


def _check(group: Group) -> None:
    empty = [k for k, c in enumerate(group.completions) if not len(c.tokens)]
    if not len(group.prompt.tokens) or empty or not group.completions:
        what = f"completion {empty[0]}" if empty else "the prompt"
        raise DataError(
            f"group `{group.id}`: {what} has no tokens",
            "the first token of a completion is predicted from the last token of its prompt, "
            "so both need at least one",
            "tokenise first with `tandem.encode`, and give the prompt at least one token",
        )


def _trained(group: Group) -> Iterator[np.ndarray]:
    """For each completion the places of its tokens that a loss counts."""
    for c in group.completions:
        yield np.arange(len(c.tokens)) if c.mask is None else np.flatnonzero(c.mask)


def _shared(groups: Sequence[Group]) -> Packed:
    """Lay all groups into one row: prompt, its completions, the next prompt, ..., filling."""
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    source: list[np.ndarray] = []
    target: list[np.ndarray] = []
    counts: list[int] = []
    last: list[int] = []
    lengths: list[int] = []
    parent: list[int] = []
    at = head = p = 0
    for group in groups:
        # the prompt is a segment without parent; `end` is its last token, `p` its length
        prompt = group.prompt.tokens
        head, end, p = len(lengths), at + len(prompt) - 1, len(prompt)
        ids.append(prompt)
        positions.append(np.arange(p))
        lengths.append(p)
        parent.append(-1)
        at += p
        for completion, trained in zip(group.completions, _trained(group), strict=True):
            # a completion is a segment of its own that goes on at the prompt's positions
            n = len(completion.tokens)
            ids.append(completion.tokens)
            positions.append(np.arange(p, p + n))
            lengths.append(n)
            parent.append(head)
            # a token is predicted by the one before it: the first by the prompt's last
            source.append(np.where(trained == 0, end, at + trained - 1))
            target.append(completion.tokens[trained])
            counts.append(len(trained))
            at += n
            last.append(at - 1)
    # filling: one more completion of the last prompt, which nobody reads
    empty = filling_tokens(at)
    ids.append(np.full(empty, FILL))
    positions.append(np.full(empty, p))
    lengths.append(empty)
    parent.append(head)
    where = torch.from_numpy(np.concatenate(positions))
    reads = {"source": _joined(source), "last": np.array(last)}
    return Packed(
        ids=_long(ids)[None],
        positions=where[None],
        real=torch.arange(at + empty)[None] < at,
        plan=plan_attention(lengths, parent, where, reads),
        source=torch.from_numpy(reads["source"]),
        target=_long(target),
        owner=_owner(counts),
        last=torch.from_numpy(reads["last"]),
        n=len(last),
    )


def _rows(groups: Sequence[Group]) -> Packed:
    """Give each completion a row behind a copy of its prompt, padded at the right."""
    whole = [
        (g.prompt.tokens, c, t)
        for g in groups
        for c, t in zip(g.completions, _trained(g), strict=True)
    ]
    width = max(len(p) + len(c.tokens) for p, c, _ in whole)
    ids = np.full((len(whole), width), FILL, np.int64)
    real = np.zeros((len(whole), width), np.bool_)
    source, target, last = [], [], []
    for r, (prompt, completion, trained) in enumerate(whole):
        n = len(prompt) + len(completion.tokens)
        ids[r, : len(prompt)], ids[r, len(prompt) : n] = prompt, completion.tokens
        real[r, :n] = True
        # flat indices: row r begins at r * width, and a token is predicted by the one before it
        source.append(r * width + len(prompt) + trained - 1)
        target.append(completion.tokens[trained])
        last.append(r * width + n - 1)
    return Packed(
        ids=torch.from_numpy(ids),
        positions=torch.arange(width).expand(len(whole), -1).contiguous(),
        real=torch.from_numpy(real),
        plan=None,
        source=_long(source),
        target=_long(target),
        owner=_owner([len(t) for _, _, t in whole]),
        last=torch.tensor(last),
        n=len(whole),
    )


def _pairs(groups: Sequence[Group], sizes: Sequence[int]) -> Pairs | None:
    """Number the preferences of all groups by the completions of the batch."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    votes = [(int(s), v) for s, g in zip(starts, groups, strict=False) for v in g.preferences]
    if not votes:
        return None
    said = any(v.margin is not None for _, v in votes)
    # a pair of which nobody said how much better is one of margin 0, whatever its neighbours have
    margin = torch.tensor([v.margin or 0.0 for _, v in votes], dtype=torch.float32)
    # a vote for the second completion is turned round, so that w is the likelier winner
    turned = [(s + v.winner, s + v.loser, max(v.p, 1 - v.p)) for s, v in votes]
    w, l, p = zip(*turned, strict=True)  # noqa: E741
    shares = torch.tensor(p, dtype=torch.float32)
    return Pairs(torch.tensor(w), torch.tensor(l), shares, margin if said else None)


def _scores(groups: Sequence[Group]) -> Tensor | None:
    """Join what judges wrote; a group that nobody scored has nan, and takes no other's away."""
    if all(g.scores is None for g in groups):
        return None
    rows = [np.full(len(g), np.nan) if g.scores is None else g.scores for g in groups]
    return torch.from_numpy(np.concatenate(rows)).float()


def _column(
    groups: Sequence[Group],
    name: str,
    values: Sequence[Sequence[FloatArray | None]],
    tokens: Packed,
) -> Ragged:
    """Take a per-token column at the trained tokens alone, in the order of `Packed.owner`."""
    rows: list[np.ndarray] = []
    for group, arrays in zip(groups, values, strict=True):
        for k, (trained, array) in enumerate(zip(_trained(group), arrays, strict=True)):
            if array is None or len(array) != len(group.completions[k].tokens):
                have = "no numbers" if array is None else f"{len(array)} numbers"
                raise DataError(
                    f"column `{name}` of group `{group.id}`, completion {k}: {have} "
                    f"for {len(group.completions[k].tokens)} tokens",
                    "a per-token column has one number for each token of the completion",
                    "compute it again on the same tokens",
                )
            rows.append(array[trained])
    values_t = torch.from_numpy(np.concatenate(rows)).float() if rows else torch.empty(0)
    return Ragged(values_t, tokens.owner, tokens.n)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64)


def _long(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(_joined(parts))


def _owner(counts: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(
        torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long)
    )
