"""Completions being written: their tokens so far, their own random numbers, and when they end.

Shapes: R completions in flight, T = `max_tokens`, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tandem.data.record import FloatArray, IntArray
from tandem.engines import Sampling
from tandem.engines.decoding import choose_tokens, uniform_numbers
from tandem.engines.shared_prefix import compaction_moves
from tandem.errors import EngineError
from tandem.rng import Seed

Bools = npt.NDArray[np.bool_]

SEAM = 8
"""Characters at the start of a decoded tail that may differ from the whole text's: a dropped
space, or the rest of a character whose first bytes were cut off."""


@dataclass(frozen=True, slots=True)
class FinishedCompletion:
    """A finished completion: tokens and log-probabilities [t], and whether it ended itself."""

    tokens: IntArray
    logp: FloatArray
    stopped: bool


class StopCondition:
    """Says which completions end themselves: an end-of-sequence token, or a stop string.

    A stop string counts when the text holds it for the first time, also when the token that
    completes it goes on beyond it. It was not there a token ago, or the row would have ended; so
    only as much of the end is decoded as a new occurrence can reach back.
    """

    def __init__(self, tokenizer: Any, eos: Sequence[int], stop: Sequence[str]) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.eos = np.array(sorted(eos), np.int64)
        self.reach = max((len(s) for s in stop), default=0) + SEAM

    def __call__(self, rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Bools:
        """[R] True where a row of tokens [R, T], of which the first `lengths` count, has ended."""
        last = rows[np.arange(len(rows)), lengths - 1]
        ended = np.isin(last, self.eos)
        if self.stop:
            for r in np.flatnonzero(~ended):
                tail = self._tail(rows[r, : lengths[r]])
                ended[r] = any(s in tail for s in self.stop)
        return ended

    def _tail(self, tokens: npt.NDArray[Any]) -> str:
        """Decode the last tokens: `reach` characters before the newest token, if there are."""
        count = self.reach + 1
        while count < len(tokens) and len(self.text(tokens[-count:-1])) < self.reach:
            count *= 2
        return self.text(tokens[-count:])

    def text(self, tokens: npt.NDArray[Any]) -> str:
        """Decode without the token that ended it and without special tokens."""
        said = tokens[:-1] if np.isin(tokens[-1:], self.eos).any() else tokens
        return self.tokenizer.decode(
            said.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


class RunningBatch:
    """The rows of a batch, in the decoder's order.

    Attributes:
        landed: (prompt's place in the unit, i) -> what it became.
    """

    def __init__(self, sampling: Sampling, ends: StopCondition) -> None:
        self.sampling, self.ends = sampling, ends
        self.landed: dict[tuple[int, int], FinishedCompletion] = {}
        self.names: list[tuple[int, int, str]] = []
        self.count = np.empty(0, np.int64)
        self.tokens = np.empty((0, sampling.max_tokens), np.int64)
        self.logp = np.empty((0, sampling.max_tokens), np.float32)
        self.u = np.empty((0, sampling.max_tokens))

    def __len__(self) -> int:
        return len(self.names)

    def join(self, names: Sequence[tuple[int, int, str]], seed: Seed) -> None:
        """Add rows: (prompt's place in the unit, i, prompt id)."""
        length = self.sampling.max_tokens
        self.names += names
        u = np.stack([uniform_numbers(seed, id, i, length) for _, i, id in names])
        self.u = np.concatenate([self.u, u])
        self.count = np.append(self.count, np.zeros(len(names), np.int64))
        self.tokens = np.concatenate([self.tokens, np.zeros(u.shape, np.int64)])
        self.logp = np.concatenate([self.logp, np.zeros(u.shape, np.float32)])

    def last(self) -> npt.NDArray[np.int64]:
        """[R] last tokens."""
        return self.tokens[np.arange(len(self)), self.count - 1]

    def draw(self, start: int, logits: Tensor) -> Bools:
        """Draw a token for every row from `start` on; return [R] which rows fly on."""
        rows = np.arange(start, len(self))
        at = self.count[start:]
        u = torch.from_numpy(self.u[rows, at]).to(logits.device)
        token, logp = choose_tokens(logits, self.sampling, u)
        self.tokens[rows, at] = token.cpu().numpy()
        self.logp[rows, at] = drawn = logp.cpu().numpy()
        if not np.isfinite(drawn).all():
            self._refuse(start + int(np.flatnonzero(~np.isfinite(drawn))[0]))
        self.count[start:] += 1
        alive = np.ones(len(self), np.bool_)
        ended = self.ends(self.tokens[start:], self.count[start:])
        alive[start:] = ~ended & (self.count[start:] < self.sampling.max_tokens)
        for r in np.flatnonzero(~alive):
            self._land(int(r), bool(ended[r - start]))
        return alive

    def keep(self, alive: Bools) -> None:
        """Keep only the rows that still run, in order, as the decoder's state does."""
        source, target, count = compaction_moves(alive)
        for column in (self.count, self.tokens, self.logp, self.u):
            column[target] = column[source]
        for s, t in zip(source, target, strict=True):
            self.names[t] = self.names[s]
        self.names = self.names[:count]
        self.count, self.tokens = self.count[:count], self.tokens[:count]
        self.logp, self.u = self.logp[:count], self.u[:count]

    def _land(self, row: int, stopped: bool) -> None:
        place, i, _ = self.names[row]
        length = self.count[row]
        tokens = self.tokens[row, :length].astype(np.int32)
        self.landed[place, i] = FinishedCompletion(tokens, self.logp[row, :length].copy(), stopped)

    def _refuse(self, row: int) -> None:
        _, i, prompt = self.names[row]
        raise EngineError(
            f"the model's logits are not numbers: completion {i} of `{prompt}`, "
            f"token {int(self.count[row])}",
            "a law with NaN or infinite logits cannot be sampled; training has probably diverged",
            "look at the loss and the gradient norm, and resume from an earlier checkpoint",
        )
