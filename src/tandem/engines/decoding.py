"""From logits to tokens: truncation, inverse-CDF draws, and the uniforms that drive them.

A draw needs one uniform number, not one number a vocabulary entry: the first token whose
cumulative probability exceeds it. The uniforms of completion i of a prompt come from a
counter-based generator keyed by (seed, prompt id, i), so they depend on nothing else.

Shapes: R rows, V vocabulary, K tokens that survive truncation (K = V without any).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tandem.engines import Sampling
from tandem.rng import Seed

VOCABULARY_BLOCK = 128
CACHED = 2**18  # logits worked on at a time on a CPU: 1 MiB stays in its cache, and is no new page
BELOW_ONE = 1.0 - 2.0**-52  # times any total, still below that total in float64


def uniform_numbers(seed: Seed, prompt_id: str, i: int, count: int) -> npt.NDArray[np.float64]:
    """[count] numbers in [0, 1) for completion i; the first k do not depend on `count`."""
    generator = np.random.Generator(np.random.Philox(key=seed.at(prompt_id, i).value))
    return generator.random(count)


def choose_tokens(logits: Tensor, sampling: Sampling, u: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row; return it with its log-probability under the distribution it came from.

    Args:
        logits: [R, V].
        sampling: temperature and truncation, applied in the order temperature, top-k, top-p, min-p.
        u: [R] float64 uniforms.

    Returns:
        tokens [R] int64 and log-probabilities [R] fp32, after temperature and truncation, of
        what was drawn. Greedy decoding is a law with one outcome: its log-probability is 0.
        Logits that are not numbers give log-probabilities that are not.
    """
    rows = max(1, CACHED // logits.shape[-1]) if logits.device.type == "cpu" else len(logits)
    drawn = [
        _choose(x, sampling, v) for x, v in zip(logits.split(rows), u.split(rows), strict=True)
    ]
    return torch.cat([t for t, _ in drawn]), torch.cat([p for _, p in drawn])


def _choose(logits: Tensor, sampling: Sampling, u: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.float()
    if sampling.temperature == 0:
        top, token = logits.max(-1)
        return token, top - top
    p, ids = token_weights(logits, sampling)
    column, total = invert_cumulative(p, u)
    drawn = p.gather(-1, column[:, None])[:, 0].double()
    token = column if ids is None else ids.gather(-1, column[:, None])[:, 0]
    return token, (drawn / total).log().float()


def token_weights(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """Return the weights that survive truncation and which tokens they belong to.

    Args:
        logits: [R, V] fp32.
        sampling: a temperature above 0 and the truncations. Exactly `top_k` tokens are kept, ties
            included; top-p keeps a token while the mass before it is below `top_p`.

    Returns:
        weights [R, K], not renormalised, 0 where truncated; token ids [R, K], or None where
        column and token id are the same.
    """
    ids = None
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, ids = logits.topk(sampling.top_k, -1)
    p = torch.softmax(logits if sampling.temperature == 1 else logits / sampling.temperature, -1)
    if sampling.top_p < 1:
        p, ids = _nucleus(p, ids, sampling.top_p)
    if sampling.min_p > 0:
        p = p.where(p >= sampling.min_p * p.amax(-1, keepdim=True), 0.0)
    return p, ids


def invert_cumulative(p: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Find the first column whose cumulative weight exceeds u times the total.

    Wide rows are searched twice: for the block of 128 columns, then inside it, so that no
    cumulative sum over the vocabulary is ever built.

    Args:
        p: [R, K] weights, not all 0 in any row. A column of weight 0 is never found.
        u: [R] float64 in [0, 1).

    Returns:
        columns [R] int64 and totals [R] float64.
    """
    if p.shape[-1] <= 2 * VOCABULARY_BLOCK:
        cdf = p.double().cumsum(-1)
        return _first_above(cdf, u * cdf[:, -1]), cdf[:, -1]
    cdf = _block_sums(p).double().cumsum(-1)
    target = u * cdf[:, -1]
    block = _first_above(cdf, target)[:, None]
    upper = cdf.gather(-1, block)[:, 0]
    lower = torch.where(block[:, 0] > 0, cdf.gather(-1, (block - 1).clamp(min=0))[:, 0], 0.0)
    columns = block * VOCABULARY_BLOCK + torch.arange(VOCABULARY_BLOCK, device=p.device)
    inside = p.gather(-1, columns.clamp(max=p.shape[-1] - 1)).double()
    inner = inside.where(columns < p.shape[-1], 0.0).cumsum(-1)
    share = (target - lower) / (upper - lower)
    column = block[:, 0] * VOCABULARY_BLOCK + _first_above(inner, share * inner[:, -1])
    return column.clamp_(max=p.shape[-1] - 1), cdf[:, -1]


def _first_above(cdf: Tensor, target: Tensor) -> Tensor:
    below_total = torch.minimum(target, cdf[:, -1] * BELOW_ONE)
    found = torch.searchsorted(cdf, below_total[:, None], right=True)[:, 0]
    return found.clamp_(max=cdf.shape[-1] - 1)  # matters to NaN alone, which the caller refuses


def _block_sums(p: Tensor) -> Tensor:
    whole = p.shape[-1] // VOCABULARY_BLOCK * VOCABULARY_BLOCK
    sums = p[:, :whole].unflatten(-1, (-1, VOCABULARY_BLOCK)).sum(-1)
    if whole == p.shape[-1]:
        return sums
    return torch.cat([sums, p[:, whole:].sum(-1, keepdim=True)], -1)


def _nucleus(p: Tensor, ids: Tensor | None, top_p: float) -> tuple[Tensor, Tensor]:
    """Keep the likeliest tokens while the mass before them is below `top_p`."""
    if ids is None:
        k, size = min(VOCABULARY_BLOCK, p.shape[-1]), p.shape[-1]
        head, ids = p.topk(k, -1)
        while k < size and bool((head.sum(-1) < top_p).any()):
            k = min(8 * k, size)
            head, ids = p.topk(k, -1)
        p = head
    before = p.cumsum(-1) - p
    return p.where(before < top_p, 0.0), ids
