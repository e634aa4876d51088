"""One prompt, many completions: decoding with the prompt's keys and values stored once.

Every forward is one packed row of N tokens with their own positions: all new prompts in a
prefill, one token a completion in a decoding step. Linear layers then see no padding, and no
mask is built by the model. Attention is ours (`attend`, registered under `SHARED_PREFIX`): in a
decoding step a completion looks at its prompt's block and at its own block, each softmaxed apart
and merged by their log-sum-exp (the same identity as in FlashAttention, arXiv:2205.14135,
section 3.1). Rows that finish leave by moving the last row into their place; nothing else is
copied.

Shapes: P new prompts, S prompts held, R completions held, m the most completions of one prompt,
L prompt columns, T own columns, Hk key heads, g queries a key head, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from tandem.data.record import IntArray

SHARED_PREFIX = "tandem_forking"
MASKED_LOGIT = -1e30  # finite, so that a block with nothing to see merges with weight 0 and not NaN
PREFILL_TOKENS = {"cpu": 1024, "cuda": 16384}  # fills the device; a CPU's caches hold it
SHORT_COLUMNS = 256  # on a CPU, up to this many columns plain products beat the fused kernel
SlotIndices = npt.NDArray[np.int64]


def attend_shared(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    plan: DecodingPlan,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with the signature of transformers: heads [1, H, N, D] in, [1, N, H, D] out."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    look = AttentionView(scale, sliding_window, softcap)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return plan.attend(layer, query[0], key[0], value[0], look)[None], None


AttentionInterface.register(SHARED_PREFIX, attend_shared)


@dataclass(frozen=True, slots=True)
class AttentionView:
    """How a layer turns products into scores."""

    scale: float
    window: int | None
    softcap: float | None

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Return fp32 scores of [..., Q, D] queries over [..., L, D] keys."""
        s = torch.matmul(query, key.transpose(-1, -2)).float().mul_(self.scale)
        return s if self.softcap is None else s.div_(self.softcap).tanh_().mul_(self.softcap)


def weigh_values(s: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax(s) @ value in fp32 [..., Q, D], and the log-sum-exp [..., Q, 1] of s.

    The largest softmax weight is 1 / sum(exp(s - max s)), which gives the log-sum-exp without
    another pass of exponentials.
    """
    p = torch.softmax(s, -1)
    lse = s.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()
    return torch.matmul(p.to(value.dtype), value).float(), lse


@dataclass(slots=True)
class CacheStore:
    """Keys and values of one layer: [slots, Hk, columns, D], grown when too small."""

    keys: Tensor
    values: Tensor

    @staticmethod
    def fit(old: CacheStore | None, slots: int, columns: int, like: Tensor) -> CacheStore:
        """Return a store with room for N more columns, content kept; `like` is [Hk, N, D]."""
        have = wide = 0
        if old is not None and old.keys.dtype == like.dtype:
            have, _, wide, _ = old.keys.shape
            if have >= slots and wide >= columns:
                return old
        shape = (max(have, slots), like.shape[0], max(wide, columns), like.shape[2])
        new = CacheStore(like.new_zeros(shape), like.new_zeros(shape))
        if old is not None and have:
            new.keys[:have, :, :wide] = old.keys
            new.values[:have, :, :wide] = old.values
        return new

    def move(self, source: SlotIndices, target: SlotIndices) -> None:
        """Copy slots; one that is not there yet belongs to a newcomer and holds nothing."""
        held = source < len(self.keys)
        source, target = source[held], target[held]
        self.keys[target] = self.keys[source]
        self.values[target] = self.values[source]


def compaction_moves(alive: npt.NDArray[np.bool_]) -> tuple[SlotIndices, SlotIndices, int]:
    """Return (source, target, count): moves that bring the living to slots 0..count-1."""
    count = int(alive.sum())
    return count + np.flatnonzero(alive[count:]), np.flatnonzero(~alive[:count]), count


def cells_of_slots(owner: SlotIndices, prompts: int, per: int) -> tuple[SlotIndices, SlotIndices]:
    """Lay completions out by prompt, `per` cells each.

    Returns:
        place [R]: each completion's cell; cells [prompts * per]: who is in it, 0 where nobody is.
    """
    count = np.bincount(owner, minlength=prompts)
    order = np.argsort(owner, kind="stable")
    rank = np.empty_like(owner)
    rank[order] = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    place = owner * per + rank
    cells = np.zeros(prompts * per, np.int64)
    cells[place] = np.arange(len(place))
    return place, cells


class DecodingPlan:
    """What a forward needs to know: where each token's keys are and what it may see."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, look: AttentionView
    ) -> Tensor:
        """Return [N, H, D] for queries [H, N, D] over keys and values [Hk, N, D] and the stores."""
        raise NotImplementedError


@dataclass
class PrefillPass(DecodingPlan):
    """P prompts in one packed row; their keys and values go to slots `first`, `first` + 1, ..."""

    stores: dict[int, CacheStore]
    lengths: IntArray
    first: int
    windows: set[int | None]

    def __post_init__(self) -> None:
        self.width = int(self.lengths.max())
        real = np.arange(self.width) < self.lengths[:, None]
        self.real = torch.from_numpy(np.flatnonzero(real))

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, look: AttentionView
    ) -> Tensor:
        """Attend causally inside each prompt, and fill the prompts' stores."""
        self.windows.add(look.window)
        q, k, v = (self._grid(x) for x in (query, key, value))
        store = CacheStore.fit(
            self.stores.get(layer), self.first + len(self.lengths), self.width, key
        )
        self.stores[layer] = store
        slots = slice(self.first, self.first + len(self.lengths))
        store.keys[slots, :, : self.width], store.values[slots, :, : self.width] = k, v
        out = _causal(q, k, v, look).transpose(1, 2).flatten(0, 1)
        return out if len(out) == len(self.real) else out[self.real.to(out.device)]

    def _grid(self, x: Tensor) -> Tensor:
        """[H, N, D] -> [P, H, width, D], zeros in the padding."""
        heads, n, width = x.shape
        rows, cells = x.transpose(0, 1).reshape(n, heads * width), len(self.lengths) * self.width
        if cells > n:
            rows = rows.new_zeros(cells, heads * width).index_copy_(0, self.real.to(x.device), rows)
        return rows.view(len(self.lengths), self.width, heads, width).transpose(1, 2)


def _causal(q: Tensor, k: Tensor, v: Tensor, look: AttentionView) -> Tensor:
    """Causal attention [P, H, L, D] with window and soft cap; padding at the right sees, unseen."""
    groups, length = q.shape[1] // k.shape[1], q.shape[2]
    narrow = look.window is not None and look.window < length
    short = q.device.type == "cpu" and length <= SHORT_COLUMNS
    if look.softcap is None and not narrow and not short:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=look.scale, enable_gqa=groups > 1
        )
    at = torch.arange(length, device=q.device)
    behind = at[:, None] - at
    seen = (behind >= 0) & (behind < (look.window or length))
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    p = look.scores(q, k).masked_fill_(~seen, MASKED_LOGIT).softmax(-1)
    return torch.matmul(p.to(v.dtype), v)


@dataclass
class DecodingStep(DecodingPlan):
    """One new token for each of R completions.

    `owner` [R] is the slot of each completion's prompt, `lengths` [S] the prompts' lengths and
    `age` [R] the column where this token's key goes. Own blocks are kept in fp32 on a CPU: a
    product with a single query is 2 to 5 times slower there in bf16.
    """

    prompts: dict[int, CacheStore]
    own: dict[int, CacheStore]
    lengths: IntArray
    owner: SlotIndices
    age: SlotIndices
    columns: int
    device: torch.device
    _masks: dict[int | None, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.per = int(np.bincount(self.owner).max())
        place, cells = cells_of_slots(self.owner, len(self.lengths), self.per)
        self.dense = len(cells) == len(place) and bool((place == np.arange(len(place))).all())
        self.place, self.cells = self._on(place), self._on(cells)
        self.rows, self.column = self._on(np.arange(len(place))), self._on(self.age)
        self.level = int(self.age[0]) if (self.age == self.age[0]).all() else None
        self.longest, self.oldest = int(self.lengths.max()), int(self.age.max()) + 1

    def _on(self, x: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(x).to(self.device)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, look: AttentionView
    ) -> Tensor:
        """Attend to each completion's own block, then merge in its prompt's."""
        like = key.float() if key.device.type == "cpu" else key  # the class says why
        own = CacheStore.fit(self.own.get(layer), len(self.age), self.columns, like)
        self.own[layer] = own
        self._write(own, key, value)
        prompt_mask, own_mask = self._mask(look.window)
        heads, n, width = query.shape
        q = query.transpose(0, 1).reshape(n, len(key), heads // len(key), width)
        s = look.scores(q.to(like.dtype), own.keys[:n, :, : self.oldest])
        if own_mask is not None:
            s.add_(own_mask)
        out, lse = weigh_values(s, own.values[:n, :, : self.oldest])
        far, far_lse = self._prompt(self.prompts[layer], q, look, prompt_mask)
        out += torch.sigmoid(far_lse - lse) * (far - out)
        return out.to(query.dtype).view(n, heads, width)

    def _write(self, own: CacheStore, key: Tensor, value: Tensor) -> None:
        for store, new in ((own.keys, key), (own.values, value)):
            if self.level is None:
                store[self.rows, :, self.column] = new.transpose(0, 1).to(store.dtype)
            else:
                store[: new.shape[1], :, self.level] = new.transpose(0, 1)

    def _prompt(
        self, store: CacheStore, q: Tensor, look: AttentionView, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Look at the prompts: completions of one prompt are queries of one product."""
        held, per, groups = len(self.lengths), self.per, q.shape[2]
        grid = (q if self.dense else q[self.cells]).unflatten(0, (held, per)).transpose(1, 2)
        keys, values = (x[:held, :, : self.longest] for x in (store.keys, store.values))
        s = look.scores(grid.flatten(2, 3), keys)
        if mask is not None:
            s = s.unflatten(2, (per, groups)).add_(mask).flatten(2, 3)
        return tuple(self._rows(x.unflatten(2, (per, groups))) for x in weigh_values(s, values))  # type: ignore[return-value]

    def _rows(self, x: Tensor) -> Tensor:
        """[S, Hk, m, g, ...] -> [R, Hk, g, ...]."""
        rows = x.transpose(1, 2).flatten(0, 1)
        return rows if self.dense else rows[self.place]

    def _mask(self, window: int | None) -> tuple[Tensor | None, Tensor | None]:
        """Additive masks over prompt columns [S, 1, m, 1, L] and own columns [R, 1, 1, T]."""
        if window not in self._masks:
            self._masks[window] = self._prompt_mask(window), self._own_mask(window)
        return self._masks[window]

    def _own_mask(self, window: int | None) -> Tensor | None:
        behind = self.age[:, None] - np.arange(self.oldest)
        hidden = (behind < 0) | (behind >= (window or self.oldest))
        return self._additive(hidden[:, None, None])

    def _prompt_mask(self, window: int | None) -> Tensor | None:
        at = np.arange(self.longest)
        hidden = (at >= self.lengths[:, None])[:, None]
        if window is not None and (self.lengths[self.owner] + self.age >= window).any():
            age = self.age[self.cells.cpu().numpy()].reshape(len(self.lengths), -1)
            now = self.lengths[:, None] + age
            hidden = hidden | (now[:, :, None] - at >= window)
        return self._additive(hidden[:, None, :, None])

    def _additive(self, hidden: npt.NDArray[np.bool_]) -> Tensor | None:
        if not hidden.any():
            return None
        return self._on(np.where(hidden, np.float32(MASKED_LOGIT), np.float32(0)))


class SharedPrefixDecoder:
    """Decodes with one model; prompts and completions may join and leave between steps."""

    can_join = True

    def __init__(self, lm: nn.Module) -> None:
        self.lm = lm
        self.windows: set[int | None] = set()
        self.reset(1)

    def reset(self, max_tokens: int) -> None:
        """Forget everything; memory too, so that its strides do not depend on the past."""
        self._prompts: dict[int, CacheStore] = {}
        self._own: dict[int, CacheStore] = {}
        self.columns = max(1, max_tokens - 1)
        self.lengths: IntArray = np.empty(0, np.int32)
        self.owner: SlotIndices = np.empty(0, np.int64)
        self.age: SlotIndices = np.empty(0, np.int64)

    def join(self, prompts: Sequence[IntArray], n: int) -> Tensor:
        """Take prompts in, with n completions each; return [P, V] logits of the first tokens."""
        most = PREFILL_TOKENS.get(self.device.type, 4096)
        logits = [self._prefill(chunk) for chunk in _chunks(prompts, most)]
        held = len(self.lengths)
        self.owner = np.append(self.owner, np.repeat(np.arange(held - len(prompts), held), n))
        self.age = np.append(self.age, np.zeros(len(prompts) * n, np.int64))
        return torch.cat(logits)

    def _prefill(self, prompts: Sequence[IntArray]) -> Tensor:
        lengths = np.array([len(p) for p in prompts], np.int32)
        plan = PrefillPass(self._prompts, lengths, len(self.lengths), self.windows)
        positions = np.concatenate([np.arange(n) for n in lengths])
        self.lengths = np.append(self.lengths, lengths)
        return self._forward(plan, np.concatenate(prompts), positions, np.cumsum(lengths) - 1)

    def step(self, tokens: SlotIndices) -> Tensor:
        """Feed each completion's last token [R]; return [R, V] logits of the next."""
        plan = DecodingStep(
            self._prompts, self._own, self.lengths, self.owner, self.age, self.columns, self.device
        )
        positions = self.lengths[self.owner] + self.age
        logits = self._forward(plan, tokens, positions, None)
        self.age = self.age + 1
        return logits

    def keep(self, alive: npt.NDArray[np.bool_]) -> None:
        """Let completions leave, [R] False, and prompts that have none left."""
        source, target, count = compaction_moves(alive)
        for store in self._own.values():
            store.move(source, target)
        for x in (self.owner, self.age):
            x[target] = x[source]
        self.owner, self.age = self.owner[:count], self.age[:count]
        used = np.bincount(self.owner, minlength=len(self.lengths)) > 0
        source, target, count = compaction_moves(used)
        for store in self._prompts.values():
            store.move(source, target)
        moved = np.arange(len(used))
        moved[source] = target
        self.lengths[target] = self.lengths[source]
        self.lengths, self.owner = self.lengths[:count], moved[self.owner]

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.lm.parameters()).device

    def _forward(
        self, plan: DecodingPlan, tokens: IntArray | SlotIndices, positions: Any, last: Any | None
    ) -> Tensor:
        """Run one packed row; return the logits at `last`, or at every token."""
        ids, at = (torch.from_numpy(np.asarray(x, np.int64)) for x in (tokens, positions))
        keep = 0 if last is None else torch.from_numpy(last).to(self.device)
        out = self.lm(
            input_ids=ids[None].to(self.device),
            position_ids=at[None].to(self.device),
            use_cache=False,
            logits_to_keep=keep,
            plan=plan,
        )
        return out.logits[0]


def _chunks(prompts: Sequence[IntArray], most: int) -> Iterator[list[IntArray]]:
    """Split prompts into forwards of `most` tokens at most, or of one prompt."""
    chunk: list[IntArray] = []
    size = 0
    for p in prompts:
        if chunk and size + len(p) > most:
            yield chunk
            chunk, size = [], 0
        chunk.append(p)
        size += len(p)
    yield chunk


@contextmanager
def shared_prefix_attention(lm: nn.Module) -> Iterator[None]:
    """Let the model's layers call `attend` inside the block."""
    configs = {id(c): c for m in lm.modules() if (c := getattr(m, "config", None)) is not None}
    before = [
        (c, c._attn_implementation) for c in configs.values() if hasattr(c, "_attn_implementation")
    ]
    try:
        for c, _ in before:
            c._attn_implementation_internal = SHARED_PREFIX
        yield
    finally:
        for c, name in before:
            c._attn_implementation_internal = name
