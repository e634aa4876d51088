"""Sampling with plain PyTorch, on whatever device the model is.

Two promises. Draws depend only on (seed, prompt id, i): completion i of a prompt consumes its own
stream of uniforms, one a token, so more completions, other neighbours or another order of
prompts change nothing but rounding. And work proceeds in fixed units, so rounding does not
change either: a unit is `max(1, unit_rows // n)` consecutive prompts, sampled from an empty
batch and yielded whole. Its arithmetic depends on its own prompts, n and the settings alone;
a resumed run that starts at a unit boundary is bit-identical to one uninterrupted run on the
same kind of machine and number of threads, and so are all processes of a launch: each draws all.

Inside a unit, prompts go longest first, each prefilled once. Finished completions leave the
batch at once; new prompts join when a quarter of it is free.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tandem.data.chat.ends import end_tokens, named_ends
from tandem.data.record import Completion, Group, IntArray
from tandem.engines import Sampling
from tandem.engines.hf_cache import HFCacheDecoder, decoder_for
from tandem.engines.running_batch import FinishedCompletion, RunningBatch, StopCondition
from tandem.engines.shared_prefix import SharedPrefixDecoder, shared_prefix_attention
from tandem.errors import ConfigError, EngineError, ModelError
from tandem.machine import Machine
from tandem.models.devices import cast_model
from tandem.models.folders import Source
from tandem.models.loading import load_policy
from tandem.rng import Seed
from tandem.runs.heartbeat import count_tokens

Weights = nn.Module | Source


class Decoder(Protocol):
    """What turns tokens into logits and remembers what it has read.

    P prompts and n completions each join; R completions step; those that are not alive leave.
    """

    can_join: bool

    def reset(self, max_tokens: int) -> None:
        """Forget everything."""
        ...

    def join(self, prompts: Sequence[IntArray], n: int) -> Tensor:
        """Return [P, V] logits of the first tokens."""
        ...

    def step(self, tokens: npt.NDArray[np.int64]) -> Tensor:
        """Read each completion's last token [R]; return [R, V] logits of the next."""
        ...

    def keep(self, alive: npt.NDArray[np.bool_]) -> None:
        """Drop completions, [R] False; the last ones take their places (`running_batch`)."""
        ...


class TorchEngine:
    """Draws completions from a causal language model of transformers.

    Args:
        lm: a live model (also one with PEFT adapters, sampled as they are switched) or a folder.
        tokenizer: its tokenizer; prompts bring their tokens, this one writes the text.
        dtype: sample from a copy in this dtype. None samples from the model itself, so that a
            policy in training is always current; a folder is then read in fp32.
        mixture: (other, b): sample from log p = (1 - b) log p_lm + b log p_other, renormalised
            at every token (Nash-MD's geometric mixture, arXiv:2312.00886, section 4). Temperature
            and truncation apply to the mixture.
        name: written as the completions' author.
        unit_rows: completions in a unit of work, at least one prompt's.
        max_rows: completions in the batch at once, at least one prompt's.
        compiled: steps of fixed shapes, on a GPU as CUDA graphs (`engines.cuda_graphs`).

    Raises:
        ModelError: a folder holds no model, a model's cache changes its logits, or a mixture's
            models differ in vocabulary.
        ConfigError: b is not between 0 and 1.
    """

    is_exact = True

    def __init__(
        self,
        lm: Weights,
        tokenizer: Any,
        *,
        dtype: torch.dtype | None = None,
        mixture: tuple[Weights, float] | None = None,
        name: str = "policy",
        unit_rows: int = 512,
        max_rows: int = 128,
        compiled: bool = False,
    ) -> None:
        self.tokenizer, self.dtype, self.name = tokenizer, dtype, name
        self.unit_rows, self.max_rows, self.compiled = unit_rows, max_rows, compiled
        self._other = None if mixture is None else _opened(mixture[0], dtype)
        self._share = 0.0 if mixture is None else mixture[1]
        if not 0 <= self._share <= 1:
            raise ConfigError(
                f"mixture share b = {self._share}",
                "a geometric mixture weighs the models by 1 - b and b",
                "give b between 0 and 1",
            )
        self._open(lm)

    def load(self, weights: Weights) -> None:
        """Sample from these weights from now on.

        A live module is used as it is, or, when `dtype` asks for a copy, copied into the copy
        that is already there; a folder is read.

        Raises:
            ModelError: as the constructor does.
        """
        live = isinstance(weights, nn.Module)
        if not live or not (weights is self.lm or self._refresh(weights)):
            self._open(weights)

    def _open(self, weights: Weights) -> None:
        self.lm = _opened(weights, self.dtype)
        self._owned = self.lm is not weights
        self._decoders: list[SharedPrefixDecoder | HFCacheDecoder] = [
            _decoder(self.lm, self.compiled)
        ]
        self._decoder: Decoder = self._decoders[0]
        if self._other is not None:
            _same_vocabulary(self.lm, self._other)
            self._decoders.append(_decoder(self._other, self.compiled))
            self._decoder = Mixture(self._decoders, (1 - self._share, self._share))

    def _refresh(self, live: nn.Module) -> bool:
        """Copy a live module's numbers into our copy of it; False if there is none that fits."""
        if not self._owned or _shape(self.lm) != _shape(live):
            return False
        ours, theirs = self.lm.state_dict(), live.state_dict()
        with torch.no_grad():
            for key, value in ours.items():
                value.copy_(theirs[key])
        return True

    def units(self, prompts: Iterable[Group], n: int) -> Iterator[list[Group]]:
        """Split prompts into the units of work: a function of their order and n alone."""
        return cut_units(prompts, n, self.unit_rows)

    def sample(
        self, prompts: Iterable[Group], n: int, sampling: Sampling, seed: Seed
    ) -> Iterator[Group]:
        """Yield each prompt with n new completions, in the order of the prompts.

        The groups hold the new completions alone; columns about earlier ones are dropped.

        Raises:
            EngineError: a prompt has no tokens, or does not fit the model's positions with
                `max_tokens` after it, or the model's logits are not numbers.
        """
        for unit in self.units(prompts, n):
            yield from self._unit(unit, n, sampling, seed)

    def _unit(self, unit: list[Group], n: int, sampling: Sampling, seed: Seed) -> list[Group]:
        for group in unit:
            self._check(group, sampling)
        ends = StopCondition(
            self.tokenizer, sorted(_end_tokens(self.lm, self.tokenizer)), sampling.stop
        )
        flight = RunningBatch(sampling, ends)
        waiting = deque(sorted(range(len(unit)), key=lambda g: -len(unit[g].prompt.tokens)))
        self._decoder.reset(sampling.max_tokens)
        with torch.inference_mode(), self._ready():
            while waiting or len(flight):
                start = len(flight)
                if self._admits(start, len(waiting), n):
                    new = self._next(waiting, start, n)
                    logits = self._decoder.join([unit[g].prompt.tokens for g in new], n)
                    logits = logits.repeat_interleave(n, 0)
                    flight.join([(g, i, unit[g].id) for g in new for i in range(n)], seed)
                else:
                    start, logits = 0, self._decoder.step(flight.last())
                alive = flight.draw(start, logits)
                count_tokens("drawn", len(logits))
                if not alive.all():
                    self._decoder.keep(alive)
                    flight.keep(alive)
        return [
            self._group(group, [flight.landed[g, i] for i in range(n)], ends)
            for g, group in enumerate(unit)
        ]

    def _admits(self, rows: int, waiting: int, n: int) -> bool:
        if not waiting or not rows:
            return bool(waiting)
        return self._decoder.can_join and self.max_rows - rows >= max(n, self.max_rows // 4)

    def _next(self, waiting: deque[int], rows: int, n: int) -> list[int]:
        room = max(1, (self.max_rows - rows) // n)
        return [waiting.popleft() for _ in range(min(room, len(waiting)))]

    def _group(
        self, group: Group, rows: Sequence[FinishedCompletion], ends: StopCondition
    ) -> Group:
        completions = tuple(
            Completion(ends.text(r.tokens), r.tokens, self.name, r.logp, r.stopped) for r in rows
        )
        return Group(group.prompt, completions)

    def _check(self, group: Group, sampling: Sampling) -> None:
        length = len(group.prompt.tokens)
        if length == 0:
            raise EngineError(
                f"prompt `{group.id}` has no tokens",
                "an engine reads token ids; the chat template and the tokenizer come before it",
                "tokenise the prompts first (`tandem.data.chat`), or give `Prompt(tokens=...)`",
            )
        room = getattr(_config(self.lm), "max_position_embeddings", None)
        if room is not None and length + sampling.max_tokens > room:
            raise EngineError(
                f"prompt `{group.id}` has {length} tokens, and max_tokens is {sampling.max_tokens}",
                f"the model has {room} positions; beyond them its numbers mean nothing",
                "shorten the prompt, or lower sampling.max_tokens",
            )

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Switch dropout off and our attention on, and leave the models as they were."""
        with ExitStack() as stack:
            for decoder in self._decoders:
                stack.enter_context(_evaluating(decoder.lm))
                if isinstance(decoder, SharedPrefixDecoder):
                    stack.enter_context(shared_prefix_attention(decoder.lm))
            yield


def cut_units(prompts: Iterable[Group], n: int, unit_rows: int) -> Iterator[list[Group]]:
    """Split prompts into units of `unit_rows` completions at most, or one prompt's."""
    size = max(1, unit_rows // n)
    unit: list[Group] = []
    for group in prompts:
        unit.append(group)
        if len(unit) == size:
            yield unit
            unit = []
    if unit:
        yield unit


class Mixture:
    """The geometric mixture of several decoders that read the same tokens, a cache each."""

    def __init__(self, decoders: Sequence[Decoder], shares: Sequence[float]) -> None:
        self.decoders, self.shares = decoders, shares
        self.can_join = all(d.can_join for d in decoders)

    def reset(self, max_tokens: int) -> None:
        """Forget every prompt and completion."""
        for d in self.decoders:
            d.reset(max_tokens)

    def join(self, prompts: Sequence[IntArray], n: int) -> Tensor:
        """Take prompts in; return [P, V] logits of the mixture."""
        return self._mixed([d.join(prompts, n) for d in self.decoders])

    def step(self, tokens: npt.NDArray[np.int64]) -> Tensor:
        """Feed each completion's last token; return [R, V] logits of the mixture."""
        return self._mixed([d.step(tokens) for d in self.decoders])

    def keep(self, alive: npt.NDArray[np.bool_]) -> None:
        """Let completions leave."""
        for d in self.decoders:
            d.keep(alive)

    def _mixed(self, logits: Sequence[Tensor]) -> Tensor:
        """Weigh the logits: each model's log-normaliser is constant and drops out."""
        mixed, *others = (x.float() * s for x, s in zip(logits, self.shares, strict=True))
        for term in others:
            mixed += term
        return mixed


def _opened(weights: Weights, dtype: torch.dtype | None) -> nn.Module:
    """Return the live module, a copy of it in another dtype, or the model in a folder."""
    if not isinstance(weights, nn.Module):
        return cast_model(load_policy(weights, Machine()), dtype or torch.float32).eval()
    return weights if dtype is None else cast_model(copy.deepcopy(weights), dtype).eval()


def _decoder(lm: nn.Module, compiled: bool) -> SharedPrefixDecoder | HFCacheDecoder:
    with torch.inference_mode(), _evaluating(lm):
        return decoder_for(lm, compiled=compiled)


def _shape(lm: nn.Module) -> tuple[Any, ...]:
    """What must agree before one model's numbers may be copied into another."""
    config = {k: v for k, v in _config(lm).to_dict().items() if k != "dtype"}
    return type(lm), config, {k: v.shape for k, v in lm.state_dict().items()}


@contextmanager
def _evaluating(lm: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the block."""
    training = [m for m in lm.modules() if m.training]
    lm.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _config(lm: nn.Module) -> Any:
    return lm.config.get_text_config()  # type: ignore[operator, union-attr]


def _end_tokens(lm: nn.Module, tokenizer: Any) -> set[int]:
    """Every token that ends an answer: the template's, the tokenizer's, the settings'."""
    return set(end_tokens(tokenizer, named_ends(getattr(lm, "generation_config", None))))


def _same_vocabulary(lm: nn.Module, other: nn.Module) -> None:
    sizes = _config(lm).vocab_size, _config(other).vocab_size
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the mixture's models have {sizes[0]} and {sizes[1]} tokens",
            "their probabilities are multiplied token by token, so the vocabularies must be one",
            "mix two checkpoints of the same model family",
        )
