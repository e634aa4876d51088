"""The only container of per-token tensors: values, and which completion each belongs to.

Shapes: T tokens, N completions.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# (torch's own types are partly unknown)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Per-token numbers of N completions, without padding.

    Attributes:
        values: [T].
        owner: [T] int64, non-decreasing, in 0..n-1.
        n: number of completions; some may own no token.
    """

    values: Tensor
    owner: Tensor
    n: int

    def sum(self) -> Tensor:
        """[N] sums over each completion's tokens."""
        return self.values.new_zeros(self.n).index_add(0, self.owner, self.values)

    def count(self) -> Tensor:
        """[N] numbers of tokens."""
        return torch.bincount(self.owner, minlength=self.n).to(self.values.dtype)

    def mean(self) -> Tensor:
        """[N] means over each completion's tokens; 0 where there are none."""
        return self.sum() / self.count().clamp(min=1)

    def expand(self, x: Tensor) -> Ragged:
        """Give each token its completion's number: x is [N]."""
        return replace(self, values=x[self.owner])

    def map(self, f: Callable[[Tensor], Tensor]) -> Ragged:
        """Apply a function to the values."""
        return replace(self, values=f(self.values))

    def detach(self) -> Ragged:
        """Cut the gradient."""
        return self.map(Tensor.detach)

    def to(self, *args: object, **kwargs: object) -> Ragged:
        """Move values and owners to another device; dtypes change on values alone."""
        values = self.values.to(*args, **kwargs)  # type: ignore[arg-type]
        return Ragged(values, self.owner.to(values.device), self.n)

    def select(self, completions: Tensor) -> Ragged:
        """Keep these completions, renumbered 0.. in the given order: [M] indices."""
        order = torch.argsort(self.owner, stable=True)
        count = torch.bincount(self.owner, minlength=self.n)
        start = count.cumsum(0) - count
        lengths = count[completions]
        owner = torch.repeat_interleave(
            torch.arange(len(completions), device=lengths.device), lengths
        )
        inside = (
            torch.arange(len(owner), device=lengths.device) - (lengths.cumsum(0) - lengths)[owner]
        )
        return Ragged(
            self.values[order[start[completions][owner] + inside]], owner, len(completions)
        )

    @staticmethod
    def of(rows: list[Tensor]) -> Ragged:
        """Join one [T_i] tensor a completion."""
        lengths = torch.tensor([len(r) for r in rows])
        owner = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        values = torch.cat(rows) if rows else torch.empty(0)
        return Ragged(values, owner.to(values.device), len(rows))

    def rows(self) -> list[Tensor]:
        """Split into one [T_i] tensor a completion."""
        return list(self.values.split(torch.bincount(self.owner, minlength=self.n).tolist()))

    def __add__(self, other: Ragged | Tensor | float) -> Ragged:
        return self.map(lambda v: v + _values(other))

    def __sub__(self, other: Ragged | Tensor | float) -> Ragged:
        return self.map(lambda v: v - _values(other))

    def __mul__(self, other: Ragged | Tensor | float) -> Ragged:
        return self.map(lambda v: v * _values(other))

    def __truediv__(self, other: Ragged | Tensor | float) -> Ragged:
        return self.map(lambda v: v / _values(other))

    def __neg__(self) -> Ragged:
        return self.map(torch.neg)


def _values(x: Ragged | Tensor | float) -> Tensor | float:
    return x.values if isinstance(x, Ragged) else x
