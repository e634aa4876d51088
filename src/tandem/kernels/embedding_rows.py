"""The embedding table's rows that the data read: the others are not trained.

Comparisons hold some thousands of a vocabulary of 32,000 to 256,000. The gradient of every other
row is 0 at every step; its moments stay 0, and AdamW without weight decay leaves it where it is.
Yet a dense gradient, a part of its norm, two moments and an update are made of it each time. A
source that knows its tokens before the first step says so, and while the module is trained on
them its table is a smaller parameter: the rows that are read. Afterwards they are put back.

Every weight ends where it would have, to the bit on a CPU. It is not done under weight decay,
which moves all rows; where the table is also the language head, whose gradient has all rows; for
adapters, which leave it frozen; for a table that is more than a look-up; and where half of the
rows or more are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tandem.batching.batch import FILL
from tandem.data.record import IntArray

MOST = 0.5
"""Of a table's rows: where as many are read, the table is left as it is."""


class EmbeddingRows(nn.Embedding):
    """Some rows [U, d] of a table [V, d], looked up by the table's own numbers.

    Args:
        table: the whole table, which is not touched.
        ids: [U] the rows, different ones. Looking up another is an IndexError on a CPU, and an
            assertion of the device elsewhere.
    """

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
        self.index = index  # not a buffer: DDP would send it to all ranks at every step

    def forward(self, input: Tensor) -> Tensor:
        """Look up rows: [...] -> [..., d]."""
        if self.index.device != input.device:
            self.index = self.index.to(input.device)
        return super().forward(self.index[input])


@contextmanager
def train_only_rows(module: nn.Module, ids: IntArray | None, weight_decay: float) -> Iterator[None]:
    """Train only these rows of a module's input embeddings, where that is the same.

    Args:
        module: holds Hugging Face models.
        ids: the different tokens that it will read, or None if nobody knows them yet.
        weight_decay: of the table, as the optimiser will be told.
    """
    if ids is None or weight_decay:
        yield
        return
    models = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    heads = {id(getattr(m.get_output_embeddings(), "weight", None)) for m in models}
    changed: list[tuple[PreTrainedModel, nn.Embedding, Tensor]] = []
    try:
        for lm in models:
            table = _table(lm)
            if _a_look_up(table) and id(table.weight) not in heads and _few(ids, table):
                read = torch.from_numpy(np.union1d(ids, FILL)).long().to(table.weight.device)
                changed.append((lm, table, read))
                lm.set_input_embeddings(EmbeddingRows(table, read))
        yield
    finally:
        for lm, table, read in changed:
            _put_back(lm, table, read)


@torch.no_grad()
def _put_back(lm: PreTrainedModel, table: nn.Embedding, ids: Tensor) -> None:
    """Give the model its table again, with the rows as they are now."""
    rows = lm.get_input_embeddings()
    if isinstance(rows, EmbeddingRows):
        table.to(rows.weight.device).weight[ids.to(rows.weight.device)] = rows.weight
        lm.set_input_embeddings(table)


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
