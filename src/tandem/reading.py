"""Reading frozen columns off a model: log-probabilities, scores, features, in bounded memory.

Everything frozen is a column. Chunks are composed by the data alone, so a column is the same
whoever computes it; reference log-probabilities are kept in a cache by content, model x data.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tandem.artifacts import Checkpoint, describe, fingerprint
from tandem.batch import Outputs, moved
from tandem.durable import alone
from tandem.groups import FloatArray, Group, Groups
from tandem.kernel import Trunk, open_policy
from tandem.machine import Machine
from tandem.packing import pack, split
from tandem.runs import Events

GROUPS_PER_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model says of one group.

    Attributes:
        logp: for each completion [T] log-probabilities, 0 where the loss mask is False; or None.
        score: [n] scalar head, or None.
        features: [n, d] last hidden states, or None.
    """

    logp: tuple[FloatArray, ...] | None
    score: FloatArray | None
    features: FloatArray | None


def read(
    trunk: Trunk, groups: Iterable[Group], tokens: int = 16384, **want: bool
) -> Iterator[tuple[Group, Reading]]:
    """Read groups in order, a chunk at a time, without gradient.

    Args:
        trunk: the model.
        groups: groups with tokens; those without completions pass through unread.
        tokens: unique tokens per forward pass.
        want: what the kernel computes besides log-probabilities (`features=True`, `logp=False`).
    """
    stream = iter(groups)
    while chunk := list(itertools.islice(stream, GROUPS_PER_CHUNK)):
        parts: dict[int, list[Reading]] = {}
        present = [g for g in chunk if len(g)]
        where = [i for i, g in enumerate(chunk) if len(g)]
        for micro in split(present, tokens, divisible=True):
            pieces = [g for _, g in micro]
            with torch.inference_mode():
                packed = pack(pieces, trunk.layout).tokens
                out = trunk(moved(packed, trunk.device), **want)
            for (n, _), reading in zip(micro, _readings(pieces, out), strict=True):
                parts.setdefault(where[n], []).append(reading)
        for i, group in enumerate(chunk):
            yield group, _joined(parts.get(i, []))


def log_probs(trunk: Trunk, groups: Iterable[Group], tokens: int = 16384) -> Iterator[Group]:
    """Yield the groups with every completion's `logp` column written by this model."""
    for group, reading in read(trunk, groups, tokens):
        logp = reading.logp or ()
        completions = (replace(c, logp=x) for c, x in zip(group.completions, logp, strict=True))
        yield replace(group, completions=tuple(completions))


def reference(
    policy: Checkpoint, groups: Groups, machine: Machine, events: Events | None = None
) -> Groups:
    """Return the groups with `logp` under a frozen reference policy.

    The column is kept in the cache folder (`TANDEM_CACHE`, by default ~/.cache/tandem) under the
    hash of model, data and precision, and found there by later runs, losses and epochs. Of
    several processes on a machine that need the same column, one computes and the others wait.
    """
    key = fingerprint([policy.hash, groups.hash, describe(machine)])
    path = cache() / "reference" / f"{key}.parquet"
    with alone(path):
        if path.exists():
            return Groups.read(path)
        trunk = open_policy(policy.path, replace(machine, lora=None))
        columns = log_probs(trunk, groups, machine.tokens)
        if events is not None:
            columns = _counted(columns, len(groups), events)
        return Groups.stream(path, columns)


def cache() -> Path:
    """Return the folder where columns are kept between runs."""
    return Path(os.environ.get("TANDEM_CACHE", "~/.cache/tandem")).expanduser()


def _counted(groups: Iterable[Group], total: int, events: Events) -> Iterator[Group]:
    for n, group in enumerate(groups, 1):
        yield group
        if n % GROUPS_PER_CHUNK == 0 or n == total:
            events.progress(n, total, "reference")


def _readings(groups: list[Group], out: Outputs) -> Iterator[Reading]:
    logp = None if out.logp is None else [r.cpu().numpy() for r in out.logp.rows()]
    score = None if out.score is None else out.score.float().cpu().numpy()
    features = None if out.features is None else out.features.float().cpu().numpy()
    at = 0
    for group in groups:
        span = slice(at, at + len(group))
        at += len(group)
        yield Reading(
            None
            if logp is None
            else tuple(
                _aligned(c.mask, x) for c, x in zip(group.completions, logp[span], strict=True)
            ),
            None if score is None else score[span],
            None if features is None else features[span],
        )


def _aligned(mask: Any, values: FloatArray) -> FloatArray:
    """Put the numbers of trained tokens at their places among all tokens of the completion."""
    if mask is None:
        return values
    full = np.zeros(len(mask), values.dtype)
    full[np.flatnonzero(mask)] = values
    return full


def _joined(parts: list[Reading]) -> Reading:
    if not parts:
        return Reading(None, None, None)
    if len(parts) == 1:
        return parts[0]
    logp = [p.logp for p in parts if p.logp is not None]
    score = [p.score for p in parts if p.score is not None]
    features = [p.features for p in parts if p.features is not None]
    return Reading(
        tuple(itertools.chain.from_iterable(logp)) if logp else None,
        np.concatenate(score) if score else None,
        np.concatenate(features) if features else None,
    )
