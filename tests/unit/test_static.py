"""Steps of fixed shapes, and their recording: emulated on a CPU, where no CUDA graph is.

A tape keeps the operations of one run with the very tensors that they read and wrote, and a replay
does them again on that memory and on nothing else, as a CUDA graph does. What was computed in
Python between them, a mask or a moved store, is seen as stale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_engine import V, _assert_same, _engine, _model, _prompts
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tandem.engines import Sampling
from tandem.engines.cuda_graphs import CudaGraphDecoder, RecordedGraphs
from tandem.engines.shared_prefix import SharedPrefixDecoder, shared_prefix_attention
from tandem.rng import Seed

WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"}
"""Operations that wait for a device, which no recording may hold."""


class Tape(TorchDispatchMode):
    """Keeps operations with what they read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, f: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert f._schema.name not in WAITS, f"{f} waits for the device"
        out = f(*args, **(kwargs or {}))
        self.calls.append((f, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Do all of it again, on the same memory."""
        for f, args, kwargs, out in self.calls:
            for old, new in zip(tree_leaves(out), tree_leaves(f(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let `Recorded` record and replay; gives the number of replays."""
    count = [0]

    def call(self: Any) -> Tensor:
        if self._graph is None:
            self._run()
            with Tape() as self._graph:
                self._out = self._run()
        else:
            count[0] += 1
            self._out.fill_(torch.nan)
            self._graph.replay()
        return self._out

    monkeypatch.setattr(RecordedGraphs, "__call__", call)
    return count


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral window", "gemma2"])
def test_a_replayed_step_draws_the_same_tokens(family: str, replayed: list[int]) -> None:
    """Rows leave one by one, prompts join, stores grow: the free decoder's tokens, logp to 1e-5."""
    lm, sampling = _model(family), Sampling(max_tokens=14)
    prompts = _prompts((9, 3, 14, 9, 1, 20, 6, 2, 2, 11))
    for rows in (7, 16):
        ours, theirs = (
            list(
                _engine(lm, max_rows=rows, compiled=compiled).sample(prompts, 3, sampling, Seed(1))
            )
            for compiled in (True, False)
        )
        _assert_same(ours, theirs)
    assert replayed[0] > 20


def test_replayed_logits_through_any_joins_and_departures(replayed: list[int]) -> None:
    """Prompts of 1 to 24 tokens with 1 to 4 completions come, and completions go at random."""
    rng = np.random.default_rng(5)
    ours, free = (
        kind(_model("mistral window")) for kind in (CudaGraphDecoder, SharedPrefixDecoder)
    )
    with torch.inference_mode(), shared_prefix_attention(ours.lm), shared_prefix_attention(free.lm):
        ours.reset(30), free.reset(30)
        for _ in range(60):
            if not len(free.owner) or rng.random() < 0.2:
                n, lengths = int(rng.integers(1, 5)), rng.integers(1, 25, rng.integers(1, 4))
                new = [rng.integers(3, V, int(k)).astype(np.int32) for k in lengths]
                ours.join(new, n), free.join(new, n)
            tokens = rng.integers(3, V, len(free.owner))
            torch.testing.assert_close(ours.step(tokens), free.step(tokens), atol=1e-4, rtol=1e-4)
            alive = (rng.random(len(tokens)) < 0.85) & (free.age < 28)
            ours.keep(alive), free.keep(alive)
    assert replayed[0] > 5


def test_recordings_go_with_the_last_completion() -> None:
    decoder = CudaGraphDecoder(_model("llama"))
    with torch.inference_mode(), shared_prefix_attention(decoder.lm):
        decoder.reset(8)
        decoder.join([np.array([3, 4], np.int32)], 2)
        decoder.step(np.array([5, 6]))
        assert decoder._steps
        decoder.keep(np.array([False, True]))
        assert decoder._steps
        decoder.keep(np.array([False]))
        assert not decoder._steps
