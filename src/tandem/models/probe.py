"""Which layout of packed rows a model can read, found by trying."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tandem.batching.attention_plan import AttentionPlan
from tandem.batching.batch import Packed
from tandem.batching.packing import Layout, pack_groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ModelError
from tandem.kernels import attention
from tandem.kernels.last_layer import find_last_layer
from tandem.models.loading import switch_off_chance
from tandem.models.packed import PackedModel

SAME_MODE = 1e-3
"""Nats that a reading in training mode may differ by."""
LOUD = 16.0
"""So many times as large as they are, the states are given to the head once."""


def probe_layout(trunk: PackedModel, *, compiled: bool = False) -> Layout:
    """Choose the layout in which this model reads packs, by trying both.

    The model first keeps its stock attention and reads two toy groups one sequence a row; then
    it takes the within-group attention and reads them in one row. The layout is `shared` if
    log-probabilities (or states, without a language head) agree to 1e-3 nats, and if everything
    about an answer stays the same to the last bit when its neighbours in the row become others.
    With `compiled` it takes FlexAttention, or blocks where that fails or does not agree.

    Raises:
        ModelError: the architecture is not read in this way; or the log-probabilities differ from
            the model's own logits: the kernel does not know what it does to them.
    """
    groups = toy_groups(int(trunk.inner.config.vocab_size))
    dtype, trunk.dtype = trunk.dtype, torch.float32
    training = trunk.training
    trunk.eval()
    stock = trunk.inner.config._attn_implementation
    try:
        with torch.no_grad():
            rows = pack_groups(groups, "rows").to(trunk.device).tokens
            wanted = _first_reading(trunk, rows)
            _same_as_own_logits(trunk, rows)
            trunk.layout = "rows"
            ways = (attention.COMPILED,) * compiled + (attention.IMPLEMENTATION,)
            if any(_shares(trunk, way, groups, wanted) for way in ways):
                trunk.layout = "shared"
                trunk.narrow = _narrows(trunk, groups, wanted)
            else:
                trunk.inner.set_attn_implementation(stock)  # type: ignore[arg-type]
    finally:
        trunk.dtype = dtype
        trunk.train(training)
    return trunk.layout


def check_training_mode(trunk: PackedModel) -> None:
    """Refuse a model that is another function while it is trained.

    Dropout is off everywhere. A model that hides more of it, or another source of chance, would be
    trained as one policy and sampled as another. Some read it from their configuration in every
    forward pass: it is then set to 0 there as well.

    Raises:
        ModelError: it says something else in training mode.
    """
    if _training_gap(trunk) < SAME_MODE:
        return
    switch_off_chance(trunk.inner.config)
    if not (gap := _training_gap(trunk)) < SAME_MODE:
        raise ModelError(
            f"{type(trunk.inner).__name__} says something else while it is trained: {gap:.3g} nats",
            "a policy that is sampled and a policy that is trained have to be one function",
            "set every dropout of its config.json to 0; or take another model, where that is so",
        )


def _training_gap(trunk: PackedModel) -> float:
    groups = toy_groups(int(trunk.inner.config.vocab_size))
    tokens = pack_groups(groups, trunk.layout).to(trunk.device).tokens
    dtype, trunk.dtype, training = trunk.dtype, torch.float32, trunk.training
    try:
        with torch.no_grad():
            still, moved = (_reading(trunk.train(mode), tokens) for mode in (False, True))
    finally:
        trunk.dtype = dtype
        trunk.train(training)
    return float((still - moved).abs().max())


def _first_reading(trunk: PackedModel, rows: Packed) -> Tensor:
    try:
        return _reading(trunk, rows)
    except (AssertionError, AttributeError, TypeError, ValueError, LookupError) as error:
        raise ModelError(
            f"{type(trunk.inner).__name__} cannot be read: {type(error).__name__}: "
            f"{str(error)[:200]}",
            "a body below the head takes tokens and their positions, and gives states",
            "use a decoder such as Llama, Qwen, Gemma, Mistral or GPT-2",
        ) from error


def _shares(trunk: PackedModel, way: str, groups: list[Group], wanted: Tensor) -> bool:
    try:
        trunk.inner.set_attn_implementation(way)
        tokens = pack_groups(groups, "shared").to(trunk.device).tokens
        got = _reading(trunk, tokens)
    except (AssertionError, AttributeError, TypeError, ValueError, RuntimeError):
        return False
    same = got.shape == wanted.shape and bool((got - wanted).abs().max() < 1e-3)
    if not same or not _asks_for_windows(trunk.inner.config, tokens.plan):
        return False
    return _ignores_neighbours(trunk, groups)


def _ignores_neighbours(trunk: PackedModel, groups: list[Group]) -> bool:
    """True if nothing in the model moves at all, at the tokens of one answer a group, when every
    other answer of the row is replaced.

    A tolerance would not do: what leaks from a neighbour grows with the weights, and in a model
    that is not trained yet it is lost in the rounding of its log-probabilities. So every module's
    own output is compared, to the last bit.
    """
    changed = [_with_others(group, kept=1) for group in groups]
    before, after = (_kept_outputs(trunk, part, kept=1) for part in (groups, changed))
    return before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )


def _kept_outputs(trunk: PackedModel, groups: list[Group], kept: int) -> dict[str, Tensor]:
    """Return what each module puts out at the tokens of each group's completion `kept`."""
    tokens = pack_groups(groups, "shared").to(trunk.device).tokens
    places, at = list[int](), 0
    for group in groups:
        at += len(group.prompt.tokens)
        for k, completion in enumerate(group.completions):
            n = len(completion.tokens)
            places += range(at, at + n) if k == kept else ()
            at += n
    where, length = torch.tensor(places, device=trunk.device), tokens.ids.shape[1]
    found: dict[str, Tensor] = {}

    def keep(name: str, out: Any) -> None:
        out = out[0] if isinstance(out, tuple) and out else out
        if isinstance(out, Tensor) and out.ndim == 3 and out.shape[:2] == (1, length):
            found[name] = out[0, where]

    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: keep(name, out))
        for name, module in trunk.named_modules()
    ]
    try:
        found["numbers"] = _at_kept(_reading(trunk, tokens), groups, kept)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _at_kept(numbers: Tensor, groups: list[Group], kept: int) -> Tensor:
    """Return the rows, one a token or one a completion, of each group's completion `kept`."""
    each = [(k == kept, len(c.tokens)) for g in groups for k, c in enumerate(g.completions)]
    whole = len(numbers) == len(each)
    rows = [own for own, n in each for _ in range(1 if whole else n)]
    return numbers[torch.tensor(rows, device=numbers.device)]


def _with_others(group: Group, kept: int) -> Group:
    """Turn every completion around but one."""
    completions = tuple(
        c if k == kept else replace(c, tokens=c.tokens[::-1].copy())
        for k, c in enumerate(group.completions)
    )
    return replace(group, completions=completions)


def _narrows(trunk: PackedModel, groups: list[Group], wanted: Tensor) -> bool:
    """Narrow the last layer, and keep it so if that changes no number."""
    tokens = pack_groups(groups, "shared").to(trunk.device).tokens
    last = find_last_layer(trunk.body, lambda: _reading(trunk, tokens))
    if last is None:
        return False
    last.narrow()
    trunk.narrow = True
    try:
        same = bool((_reading(trunk, tokens) - wanted).abs().max() < 1e-3)
    except (TypeError, ValueError, RuntimeError, IndexError):
        same = False
    if not same:
        last.widen()
    return same


def _asks_for_windows(config: Any, plan: AttentionPlan | None) -> bool:
    """False if layers leave their windows to a mask, which the plan replaces.

    The toys are shorter than most windows, so that their agreement cannot show it.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    has = "sliding_attention" in kinds or bool(not kinds and getattr(config, "sliding_window", 0))
    asked = plan is not None and plan.windows != {None}
    return "chunked_attention" not in kinds and (asked or not has)


def _reading(trunk: PackedModel, tokens: Packed) -> Tensor:
    out = trunk(tokens, features=True)
    return out.features if out.logp is None else out.logp.values


def _same_as_own_logits(trunk: PackedModel, rows: Packed) -> None:
    """Compare the kernel with the model's own logits, as they are and with louder states.

    A cap on the logits does next to nothing to a model that was never trained, and much to one
    that was. So the states are also given to the head `LOUD` times as large.
    """
    head = trunk.inner.get_output_embeddings()
    if head is None:
        return
    states = trunk.states(rows, "source")["source"]
    gap = max(_gap_to_own_logits(trunk, rows, states, head, loud) / loud for loud in (1.0, LOUD))
    if not gap < 1e-3:
        raise ModelError(
            f"log-probabilities of {type(trunk.inner).__name__} differ from its own "
            f"by {gap:.3g} nats",
            "it changes its logits in a way that the kernel does not know; training on them "
            "would optimise another model than the one that is saved",
            "use an architecture with a plain, scaled or soft-capped language head",
        )


def _gap_to_own_logits(
    trunk: PackedModel, rows: Packed, states: Tensor, head: nn.Module, loud: float
) -> float:
    ours, _ = trunk.read_head(states * loud, rows.target)
    hook = head.register_forward_pre_hook(lambda _, given: (given[0] * loud, *given[1:]))
    try:
        own = trunk.inner(input_ids=rows.ids, attention_mask=rows.real.long()).logits.float()
    finally:
        hook.remove()
    logp = (own / trunk.temperature).log_softmax(-1).flatten(0, 1)[rows.source]
    return float((logp.gather(1, rows.target[:, None])[:, 0] - ours).abs().max())


def toy_groups(vocabulary: int) -> list[Group]:
    """Two groups whose read tokens fill a tail that is shorter than their row."""
    rng = np.random.default_rng(0)
    draw = lambda n: rng.integers(0, vocabulary, n).astype(np.int32)  # noqa: E731
    return [
        Group(Prompt("a", "", tokens=draw(45)), tuple(Completion("", draw(n)) for n in (5, 9, 2))),
        Group(Prompt("b", "", tokens=draw(3)), tuple(Completion("", draw(n)) for n in (14, 1))),
    ]
