"""Run a frozen model over groups: log-probabilities, scores, features, in bounded memory.

Everything frozen is a column. Chunks are composed by the data alone, so a column is the same
whoever computes it; reference log-probabilities are kept in a cache by content, model x data.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from tandem.batching.batch import Outputs, Packed, move_to_device
from tandem.batching.microbatches import Cut, cut_step
from tandem.batching.packing import Layout, pack_groups
from tandem.batching.ragged import Ragged
from tandem.data.record import FloatArray, Group
from tandem.models.packed import PackedModel
from tandem.runs.heartbeat import count_tokens

GROUPS_PER_CHUNK = 256


@dataclass(frozen=True, slots=True)
class GroupOutputs:
    """A model's outputs for one group: log-probabilities, scores, values, features.

    Attributes:
        logp: for each completion [T] log-probabilities, 0 where the loss mask is False; or None.
        score: [n] scalar head, or None.
        embedding: [n, 2k] further outputs of that head, or None.
        value: for each completion [T] value head before each token; or None.
        features: [n, d] last hidden states, or None.
    """

    logp: tuple[FloatArray, ...] | None = None
    score: FloatArray | None = None
    embedding: FloatArray | None = None
    value: tuple[FloatArray, ...] | None = None
    features: FloatArray | None = None


class PackedReader(Protocol):
    """What reads a packed batch: a `PackedModel`, an `ActorCritic`, or one without its adapters."""

    @property
    def layout(self) -> Layout:
        """How its batches are laid out."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def __call__(self, tokens: Packed, **want: bool) -> Outputs:
        """Read one pack."""
        ...


def forward_groups(
    trunk: PackedReader, groups: Iterable[Group], tokens: int = 16384, **want: bool
) -> Iterator[tuple[Group, GroupOutputs]]:
    """Read groups in order, a chunk at a time, without gradient.

    Args:
        trunk: the model.
        groups: groups with tokens; those without completions pass through unread.
        tokens: unique tokens per forward pass.
        want: what is computed besides log-probabilities (`features=True`, `logp=False`).
    """
    stream = iter(groups)
    while chunk := list(itertools.islice(stream, GROUPS_PER_CHUNK)):
        parts: dict[int, list[GroupOutputs]] = {}
        present = [g for g in chunk if len(g)]
        where = [i for i, g in enumerate(chunk) if len(g)]
        for micro in cut_step(present, Cut(tokens), divisible=True):
            pieces = [g for _, g in micro]
            with torch.inference_mode():
                packed = pack_groups(pieces, trunk.layout).tokens
                out = trunk(move_to_device(packed, trunk.device), **want)
            count_tokens("read", packed.useful)
            for (n, _), reading in zip(micro, _readings(pieces, out), strict=True):
                parts.setdefault(where[n], []).append(reading)
        for i, group in enumerate(chunk):
            yield group, _joined(parts.get(i, []))


def with_logprobs(
    trunk: PackedModel, groups: Iterable[Group], tokens: int = 16384
) -> Iterator[Group]:
    """Yield the groups with every completion's `logp` column written by this model."""
    for group, reading in forward_groups(trunk, groups, tokens):
        logp = reading.logp or ()
        completions = (replace(c, logp=x) for c, x in zip(group.completions, logp, strict=True))
        yield replace(group, completions=tuple(completions))


def _readings(groups: list[Group], out: Outputs) -> Iterator[GroupOutputs]:
    logp, value = _rows(out.logp), _rows(out.value)
    score, embedding, features = (
        None if x is None else x.float().cpu().numpy()
        for x in (out.score, out.embedding, out.features)
    )
    at = 0
    for group in groups:
        span = slice(at, at + len(group))
        at += len(group)
        yield GroupOutputs(
            logp=_per_token(group, logp, span),
            score=None if score is None else score[span],
            embedding=None if embedding is None else embedding[span],
            value=_per_token(group, value, span),
            features=None if features is None else features[span],
        )


def _rows(x: Ragged | None) -> list[FloatArray] | None:
    return None if x is None else [r.float().cpu().numpy() for r in x.rows()]


def _per_token(
    group: Group, rows: list[FloatArray] | None, span: slice
) -> tuple[FloatArray, ...] | None:
    if rows is None:
        return None
    return tuple(_aligned(c.mask, x) for c, x in zip(group.completions, rows[span], strict=True))


def _aligned(mask: Any, values: FloatArray) -> FloatArray:
    """Put the numbers of trained tokens at their places among all tokens of the completion."""
    if mask is None:
        return values
    full = np.zeros(len(mask), values.dtype)
    full[np.flatnonzero(mask)] = values
    return full


def _joined(parts: list[GroupOutputs]) -> GroupOutputs:
    """Put the parts of a group that was read in several passes together."""
    if len(parts) == 1:
        return parts[0]
    chain = itertools.chain.from_iterable
    logp = [p.logp for p in parts if p.logp is not None]
    value = [p.value for p in parts if p.value is not None]
    score = [p.score for p in parts if p.score is not None]
    embedding = [p.embedding for p in parts if p.embedding is not None]
    features = [p.features for p in parts if p.features is not None]
    return GroupOutputs(
        logp=tuple(chain(logp)) if logp else None,
        score=np.concatenate(score) if score else None,
        embedding=np.concatenate(embedding) if embedding else None,
        value=tuple(chain(value)) if value else None,
        features=np.concatenate(features) if features else None,
    )
