"""The tensors of one step: packed tokens, a batch with its columns, a model's outputs, loss terms.

Shapes: T trained tokens, N completions, G groups, M pairs, K units of a loss, S tokens of a pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from tandem.batching.attention_plan import AttentionPlan
from tandem.batching.ragged import Ragged

_D = TypeVar("_D")
FILL = 0
"""The token that rows of unequal length are filled with; nobody attends to it."""


class Terms(NamedTuple):
    """What an objective returns, never reduced: the loop alone divides.

    Attributes:
        loss: [K] one number a unit (token, completion or pair), its share already in it.
        weight: [K] its share: the loop divides the sum of losses by the sum of weights over the
            whole step. It depends on the batch alone, never on outputs.
        metrics: name -> [K] numbers to be averaged over units, without gradient.
    """

    loss: Tensor
    weight: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Comparisons between completions of a batch.

    Attributes:
        w: [M] index of the first completion of a pair, the preferred one where p is 1.
        l: [M] index of the second.
        p: [M] probability that w is better than l.
        margin: [M] how much better, 0 where nobody said; None where nobody said it of any pair.
    """

    w: Tensor
    l: Tensor  # noqa: E741  the papers' letter
    p: Tensor
    margin: Tensor | None = None

    def __len__(self) -> int:
        return len(self.w)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Token ids of a batch laid out for one forward pass, and where each trained token lies.

    In layout `shared` there is one row: each prompt once, then its completions, and a token sees
    what precedes it in its own segment and its prompt. In layout `rows` each completion has a
    row of its own behind a copy of its prompt, padded at the right.

    Attributes:
        ids: [R, L] token ids.
        positions: [R, L] position of each token in its own prompt + completion.
        real: [R, L] False on padding.
        plan: how the row is attended within groups; None in layout `rows`.
        source: [T] flat index (row * L + column) of the state that predicts each trained token.
        target: [T] the trained tokens.
        owner: [T] completion of each trained token, non-decreasing.
        last: [N] flat index of each completion's last token.
        n: number of completions N.
    """

    ids: Tensor
    positions: Tensor
    real: Tensor
    plan: AttentionPlan | None
    source: Tensor
    target: Tensor
    owner: Tensor
    last: Tensor
    n: int

    @property
    def shared(self) -> bool:
        """True for the layout in which a prompt is encoded once."""
        return self.plan is not None

    @property
    def useful(self) -> int:
        """Number of tokens that are not padding."""
        return int(self.real.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One micro-batch: tokens and every frozen column that the loss reads.

    Attributes:
        tokens: the packed completions.
        group: [N] which group each completion belongs to; numbers are unique in the step.
        weight: [N] the completions' own weights.
        pairs: comparisons, or None.
        scores: [N] a judge's numbers, nan for completions that nobody scored; None where no
            completion of the micro-batch has one.
        ref_logp: log-probabilities under the reference, or None.
        old_logp: log-probabilities under the policy that sampled, or None.
        advantages: advantages, or None.
        returns: returns, or None.
        old_values: value estimates at sampling time, or None.
        shared: numbers that belong to the whole step, computed before it was split (KTO's z0).
    """

    tokens: Packed
    group: Tensor
    weight: Tensor
    pairs: Pairs | None = None
    scores: Tensor | None = None
    ref_logp: Ragged | None = None
    old_logp: Ragged | None = None
    advantages: Ragged | None = None
    returns: Ragged | None = None
    old_values: Ragged | None = None
    shared: dict[str, Tensor] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor."""
        return move_to_device(self, torch.device(device))


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What a forward pass of a model over a packed batch gives; a part not asked for is None.

    Attributes:
        logp: [T] log-probabilities of the trained tokens, fp32; None if there is no language head.
        entropy: entropy of each predicting distribution, when asked for.
        value: the value head at the state before each token, when there is one.
        score: [N] the scalar head at each completion's last token, when there is one.
        embedding: [N, 2k] further outputs of that head, of a model that has them.
        features: [N, d] last hidden state at each completion's last token, when asked for.
    """

    logp: Ragged | None = None
    entropy: Ragged | None = None
    value: Ragged | None = None
    score: Tensor | None = None
    embedding: Tensor | None = None
    features: Tensor | None = None


def move_to_device(x: _D, device: torch.device) -> _D:
    """Return a tensor, or a dataclass or dict of tensors, on another device."""
    if isinstance(x, (Tensor, AttentionPlan)):
        return x.to(device)  # type: ignore[return-value]
    if isinstance(x, dict):
        return {k: move_to_device(v, device) for k, v in x.items()}  # type: ignore[return-value]
    if is_dataclass(x) and not isinstance(x, type):
        return replace(x, **{k: move_to_device(v, device) for k, v in _columns(x)})
    return x


def _columns(x: Any) -> Iterator[tuple[str, Any]]:
    for f in fields(x):
        yield f.name, getattr(x, f.name)
