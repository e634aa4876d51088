"""Decoding through the model's own cache, for models that `shared_prefix` cannot serve exactly.

Prompts are padded at the left and prefilled once; their cache is forked to n rows. Completions
leave early, but new prompts wait until the batch is empty. State-space layers, position biases,
attention sinks and chunked attention land here: `decoder_for` asks the model, not a list.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tandem.data.record import IntArray
from tandem.engines.cuda_graphs import CudaGraphDecoder
from tandem.engines.shared_prefix import (
    SharedPrefixDecoder,
    compaction_moves,
    shared_prefix_attention,
)
from tandem.errors import ModelError
from tandem.models.lora import unwrap_adapters
from tandem.rng import Seed

PLAIN_LAYERS = {"full_attention", "sliding_attention"}
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}  # others: 5e-2


class HFCacheDecoder:
    """Decodes with one model through its own key-value cache."""

    can_join = False

    def __init__(self, lm: nn.Module) -> None:
        self.lm = lm
        takes = inspect.signature(unwrap_adapters(lm).forward).parameters
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
        source, target, count = compaction_moves(alive)
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
        if self._cache is None or self._cache_name == "past_key_values":
            where["attention_mask"] = (
                self._seen
            )  # a state-space layer needs it in the prefill alone
        out = self.lm(
            input_ids=ids.to(self.device),
            use_cache=True,
            logits_to_keep=1,
            **where,
        )
        self._cache = getattr(out, self._cache_name)
        return out.logits[:, -1]


def decoder_for(lm: nn.Module, *, compiled: bool = False) -> SharedPrefixDecoder | HFCacheDecoder:
    """Return the fastest decoder whose logits are the model's own.

    Args:
        lm: the model.
        compiled: try steps of fixed shapes first.

    Raises:
        ModelError: with none of them are they.
    """
    rows = HFCacheDecoder(lm)
    for forking in [CudaGraphDecoder(lm)] * compiled + [SharedPrefixDecoder(lm)]:
        with shared_prefix_attention(lm):
            forked = _try(forking)
        if _says_its_windows(lm, forking) and _agrees(lm, forked):
            return forking
    if _agrees(lm, _try(rows)):
        return rows
    raise ModelError(
        f"{type(lm).__name__} gives other logits with its cache than without",
        "sampling from them would be sampling from another model, and log-probabilities would lie",
        "use an engine made for this architecture, or report the model to transformers",
    )


def _says_its_windows(lm: nn.Module, decoder: SharedPrefixDecoder) -> bool:
    """False for what three steps cannot show: chunks, and a window that never reaches `attend`."""
    config = _config(lm)
    kinds = set(getattr(config, "layer_types", None) or ())
    windowed = "sliding_attention" in kinds or (not kinds and getattr(config, "sliding_window", 0))
    hidden = kinds - PLAIN_LAYERS or getattr(config, "attention_chunk_size", None)
    return not hidden and not (windowed and decoder.windows <= {None})


def _toys(lm: nn.Module) -> tuple[list[IntArray], npt.NDArray[np.int64]]:
    """Two prompts of 7 and 4 tokens, and three forced tokens for two completions of each."""
    rng, size = Seed(0).at("decoder probe").rng(), _config(lm).vocab_size
    prompts = [rng.integers(0, size, k).astype(np.int32) for k in (7, 4)]
    return prompts, rng.integers(0, size, (4, 3))


def _try(decoder: SharedPrefixDecoder | HFCacheDecoder) -> Tensor | None:
    """Return [4, 3, V] logits on the toys, or None where the model refuses the decoder's call."""
    prompts, forced = _toys(decoder.lm)
    try:
        decoder.reset(4)
        decoder.join(prompts, 2)
        return torch.stack([decoder.step(t) for t in forced.T], 1)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return None


def _agrees(lm: nn.Module, ours: Tensor | None) -> bool:
    """Compare with plain forwards of whole sequences, one at a time.

    Logits that are not numbers agree with anything: the draw refuses them by the prompt's name.
    """
    if ours is None:
        return False
    prompts, forced = _toys(lm)
    rows = [np.append(prompts[r // 2], forced[r])[None].astype(np.int64) for r in range(4)]
    theirs = torch.cat(
        [lm(input_ids=torch.from_numpy(r).to(ours.device)).logits[:, -3:] for r in rows]
    )
    known = bool(theirs.isfinite().all())
    return not known or _relative(ours, theirs) < TOLERANCE.get(theirs.dtype, 5e-2)


def _config(lm: nn.Module) -> Any:
    return lm.config.get_text_config()  # type: ignore[operator, union-attr]


def _relative(ours: Tensor, theirs: Tensor) -> float:
    a, b = (x.float().log_softmax(-1) for x in (ours, theirs))
    spread = (b - b.mean(-1, keepdim=True)).square().mean().sqrt()
    return float((a - b).square().mean().sqrt() / spread.clamp(min=1e-6))
