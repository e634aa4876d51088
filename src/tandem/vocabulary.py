"""The embedding table's rows that the data read: the others are not trained.

Comparisons hold some thousands of a vocabulary of 32,000 to 256,000. The gradient of every other
row is 0 at every step; its moments stay 0, and AdamW without weight decay leaves it where it is.
Yet a dense gradient, a part of its norm, two moments and an update are made of it each time. A
source that knows its tokens before the first step says so, and while it is fitted the table is a
smaller parameter: the rows that are read. Afterwards they are put back.

Exact where it is done. It is not done under weight decay, which moves all rows; where the table
is also the language head, whose gradient has all rows; for adapters, which leave it frozen; for
a table that is more than a look-up; and where less than half of the rows would be left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.groups import IntArray

FILL = 0
"""What rows of unequal length are filled with."""
MOST = 0.5
"""Of a table's rows: where more are read, the table is left as it is."""


class Rows(nn.Embedding):
    """Some rows [U, d] of a table [V, d], looked up by the table's own numbers.

    Args:
        table: the whole table; it keeps its values until `put_back`.
        ids: [U] the rows, different ones. Looking up another is an IndexError.
    """

    index: Tensor

    def __init__(self, table: nn.Embedding, ids: Tensor) -> None:
        index = torch.full((table.num_embeddings,), -1, device=ids.device)
        index[ids] = torch.arange(len(ids), device=ids.device)
        pad = -1 if table.padding_idx is None else int(index[table.padding_idx])
        super().__init__(
            len(ids),
            table.embedding_dim,
            padding_idx=pad if pad >= 0 else None,
            _weight=table.weight.detach()[ids],
        )
        self.register_buffer("index", index, persistent=False)
        self.whole, self.ids = (table,), ids  # in a tuple, so that it is no part of this module

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows: [...] -> [..., d]."""
        return super().forward(self.index[input])

    @torch.no_grad()
    def put_back(self) -> nn.Embedding:
        """Return the whole table, with these rows as they are now."""
        (table,) = self.whole
        table.weight[self.ids] = self.weight
        return table


@contextmanager
def narrowed(module: nn.Module, ids: IntArray | None, weight_decay: float) -> Iterator[None]:
    """Train only these rows of a module's input embeddings, where that is the same.

    Args:
        module: holds Hugging Face models.
        ids: the different tokens that it will read, or None if nobody knows them yet.
        weight_decay: of the table, as the optimiser will be told.
    """
    changed: list[tuple[PreTrainedModel, Rows]] = []
    models = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    heads = {id(getattr(m.get_output_embeddings(), "weight", None)) for m in models}
    if ids is not None and not weight_decay:
        for lm in models:
            table = _table(lm)
            if _a_look_up(table) and id(table.weight) not in heads and _few(ids, table):
                read = np.union1d(ids, FILL)
                rows = Rows(table, torch.from_numpy(read).long().to(table.weight.device))
                changed.append((lm, rows))
                lm.set_input_embeddings(rows)
    try:
        yield
    finally:
        for lm, rows in changed:
            lm.set_input_embeddings(rows.put_back())


def _table(lm: PreTrainedModel) -> Any:
    try:
        return lm.get_input_embeddings()
    except NotImplementedError:  # a part that reads no tokens
        return None


def _a_look_up(table: Any) -> bool:
    """Whether it is trained, and nothing but a table."""
    plain = type(table) is nn.Embedding and table.max_norm is None and not table.sparse
    return plain and not table.scale_grad_by_freq and table.weight.requires_grad


def _few(ids: IntArray, table: nn.Embedding) -> bool:
    return len(ids) < MOST * table.num_embeddings
