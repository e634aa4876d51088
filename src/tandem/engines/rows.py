"""Decoding through the model's own cache, for models that `forking` cannot serve exactly.

Prompts are padded at the left and prefilled once; their cache is forked to n rows. Completions
leave early, but new prompts wait until the batch is empty. State-space layers, position biases,
attention sinks and chunked attention land here: `forks_exactly` asks the model, not a list.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tandem.engines.forking import ForkingDecoder, attention, holes
from tandem.groups import IntArray
from tandem.rng import Seed

PLAIN_LAYERS = {"full_attention", "sliding_attention"}
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}  # others: 5e-2


class RowsDecoder:
    """Decodes with one model through its own key-value cache."""

    can_join = False

    def __init__(self, lm: nn.Module) -> None:
        self.lm = lm
        takes = inspect.signature(_inner(lm).forward).parameters
        self._positions = "position_ids" in takes
        self._cache_name = "past_key_values" if "past_key_values" in takes else "cache_params"
        self.reset(1)

    def reset(self, max_tokens: int) -> None:
        """Forget every prompt and completion."""
        self._cache: Any = None
        self._seen = torch.empty(0)

    def join(self, prompts: Sequence[IntArray], n: int) -> Tensor:
        """Take prompts in, with n completions each; return [P, V] logits of the first tokens."""
        longest = max(len(p) for p in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, p in enumerate(prompts):
            ids[row, longest - len(p) :] = torch.from_numpy(np.asarray(p, np.int64))
            seen[row, longest - len(p) :] = 1
        self._cache, self._seen = None, seen.to(self.device)
        logits = self._forward(ids)
        self._pick(np.repeat(np.arange(len(prompts)), n))
        return logits

    def step(self, tokens: npt.NDArray[np.int64]) -> Tensor:
        """Feed each completion's last token [R]; return [R, V] logits of the next."""
        self._seen = torch.cat([self._seen, self._seen.new_ones(len(tokens), 1)], 1)
        return self._forward(torch.from_numpy(tokens)[:, None])

    def keep(self, alive: npt.NDArray[np.bool_]) -> None:
        """Let completions leave, [R] False."""
        source, target, count = holes(alive)
        order = np.arange(count)
        order[target] = source
        if count:
            self._pick(order)
        else:
            self.reset(1)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.lm.parameters()).device

    def _pick(self, order: npt.NDArray[np.int64]) -> None:
        index = torch.from_numpy(order).to(self.device)
        self._cache.reorder_cache(index)
        self._seen = self._seen[index]

    def _forward(self, ids: Tensor) -> Tensor:
        where: dict[str, Any] = {self._cache_name: self._cache}
        if self._positions:
            at = (self._seen.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            where["position_ids"] = at
        out = self.lm(
            input_ids=ids.to(self.device),
            attention_mask=self._seen,
            use_cache=True,
            logits_to_keep=1,
            **where,
        )
        self._cache = getattr(out, self._cache_name)
        return out.logits[:, -1]


def _inner(lm: nn.Module) -> nn.Module:
    """Return the causal language model inside an adapter's wrapper, or the model itself."""
    unwrap = getattr(lm, "get_base_model", None)
    return unwrap() if unwrap is not None else lm


def forks_exactly(lm: nn.Module) -> bool:
    """Try `ForkingDecoder` on two toy prompts against plain forwards of whole sequences.

    Prompts of 7 and 4 tokens, two completions each, three steps. Layers whose kind or window
    three steps cannot show (chunked attention, a window that never reaches us) count as inexact.
    """
    config = lm.config.get_text_config()  # type: ignore[operator, union-attr]
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - PLAIN_LAYERS or getattr(config, "attention_chunk_size", None):
        return False
    decoder = ForkingDecoder(lm)
    rng = Seed(0).at("fork probe").rng()
    prompts = [rng.integers(0, config.vocab_size, k).astype(np.int32) for k in (7, 4)]
    forced = rng.integers(0, config.vocab_size, (4, 3))
    try:
        with attention(lm):
            decoder.reset(4)
            decoder.join(prompts, 2)
            ours = torch.stack([decoder.step(t) for t in forced.T], 1)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    windowed = "sliding_attention" in kinds or (not kinds and getattr(config, "sliding_window", 0))
    if windowed and decoder.windows <= {None}:
        return False
    rows = [np.append(prompts[r // 2], forced[r])[None].astype(np.int64) for r in range(4)]
    theirs = torch.cat(
        [lm(input_ids=torch.from_numpy(r).to(ours.device)).logits[:, -3:] for r in rows]
    )
    return _relative(ours, theirs) < TOLERANCE.get(theirs.dtype, 5e-2)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    a, b = (x.float().log_softmax(-1) for x in (ours, theirs))
    spread = (b - b.mean(-1, keepdim=True)).square().mean().sqrt()
    return float((a - b).square().mean().sqrt() / spread.clamp(min=1e-6))
