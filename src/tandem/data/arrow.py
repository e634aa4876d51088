"""The record in Arrow: its schema, and groups to and from record batches."""

# pyarrow ships no types
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownParameterType=false

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tandem.data.record import Completion, Group, Preference, Prompt

ROWS_PER_CHUNK = 1024


_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "prompt": pa.string(),
        "messages": pa.string(),
        "prompt_tokens": _INTS,
        "meta": pa.string(),
        "completions": pa.list_(pa.string()),
        "tokens": pa.list_(_INTS),
        "author": pa.list_(pa.string()),
        "logp": pa.list_(_FLOATS),
        "stopped": pa.list_(pa.bool_()),
        "mask": pa.list_(pa.list_(pa.bool_())),
        "weight": pa.list_(pa.float64()),
        "turns": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),
        "better": _INTS,
        "worse": _INTS,
        "p": pa.list_(pa.float64()),
        "margin": pa.list_(pa.float64()),
        "by": pa.list_(pa.string()),
        "clusters": _INTS,
    }
)


class _Lists:
    """A list column as numpy: row i is values[offsets[i]:offsets[i+1]]."""

    def __init__(self, array: pa.Array, *, strings: bool = False) -> None:
        self.valid = array.is_valid().to_numpy(zero_copy_only=False)
        self.offsets = array.offsets.to_numpy()
        self.inner = array.values
        self.values: Any = None
        if not strings and not pa.types.is_list(self.inner.type):
            self.values = self.inner.to_numpy(zero_copy_only=False)

    def span(self, i: int) -> tuple[int, int]:
        return int(self.offsets[i]), int(self.offsets[i + 1])

    def row(self, i: int) -> Any:
        if not self.valid[i]:
            return None
        a, b = self.span(i)
        return self.values[a:b]

    def strings(self, i: int) -> list[Any]:
        a, b = self.span(i)
        return cast("list[Any]", self.inner.slice(a, b - a).to_pylist())


class GroupChunk:
    """One record batch, opened so that a row becomes a Group without copying tokens."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        column = {name: batch.column(name) for name in SCHEMA.names}
        self.ids, self.texts = column["id"], column["prompt"]
        self.messages, self.meta = column["messages"], column["meta"]
        self.prompt_tokens = _Lists(column["prompt_tokens"])
        self.completions = _Lists(column["completions"], strings=True)
        self.author = _Lists(column["author"], strings=True)
        self.by = _Lists(column["by"], strings=True)
        self.turns = _Lists(column["turns"], strings=True)
        self.numbers = {
            name: _Lists(column[name])
            for name in ("stopped", "weight", "scores", "better", "worse", "p", "margin")
        }
        self.clusters = _Lists(column["clusters"])
        nested = {name: _Lists(column[name]) for name in ("tokens", "logp", "mask")}
        self.nested = {name: (outer, _Lists(outer.inner)) for name, outer in nested.items()}

    def group(self, row: int) -> Group:
        """Return one row as a group; its arrays are views of the chunk."""
        messages = self.messages[row].as_py()
        meta = self.meta[row].as_py()
        prompt = Prompt(
            id=self.ids[row].as_py(),
            text=self.texts[row].as_py(),
            messages=None if messages is None else tuple(json.loads(messages)),
            tokens=self.prompt_tokens.row(row),
            meta={} if meta is None else json.loads(meta),
        )
        n = self.numbers
        better, worse, p, margin = (n[k].row(row) for k in ("better", "worse", "p", "margin"))
        by = self.by.strings(row)
        return Group(
            prompt=prompt,
            completions=tuple(self._completions(row)),
            scores=n["scores"].row(row),
            preferences=tuple(
                Preference(
                    int(better[k]),
                    int(worse[k]),
                    float(p[k]),
                    None if np.isnan(margin[k]) else float(margin[k]),
                    by[k],
                )
                for k in range(len(by))
            ),
            clusters=self.clusters.row(row),
        )

    def _completions(self, row: int) -> Iterator[Completion]:
        texts, authors = self.completions.strings(row), self.author.strings(row)
        turns = self.turns.strings(row)
        stopped, weight = self.numbers["stopped"].row(row), self.numbers["weight"].row(row)
        spans = {name: outer.span(row)[0] for name, (outer, _) in self.nested.items()}
        for k, text in enumerate(texts):
            inner = {name: pair[1].row(spans[name] + k) for name, pair in self.nested.items()}
            yield Completion(
                text=text,
                tokens=inner["tokens"],
                author=authors[k],
                logp=inner["logp"],
                stopped=bool(stopped[k]),
                mask=None if inner["mask"] is None else inner["mask"].astype(np.bool_),
                weight=float(weight[k]),
                turns=None if turns[k] is None else tuple(json.loads(turns[k])),
            )


def _offsets(lengths: Iterable[int]) -> pa.Array:
    return pa.array(np.cumsum([0, *lengths]), pa.int32())


def _lists(rows: Sequence[npt.NDArray[Any] | None], kind: pa.DataType) -> pa.Array:
    """Build a list column from numpy rows without a Python object per number."""
    lengths = [0 if r is None else len(r) for r in rows]
    present = [r for r in rows if r is not None and len(r)]
    values = pa.array(np.concatenate(present) if present else np.empty(0), kind, from_pandas=False)
    missing = pa.array([r is None for r in rows]) if any(r is None for r in rows) else None
    return pa.ListArray.from_arrays(_offsets(lengths), values, mask=missing)


def record_batches(groups: Iterable[Group]) -> Iterator[pa.RecordBatch]:
    """Yield the groups as Arrow batches of at most `ROWS_PER_CHUNK` rows."""
    stream = iter(groups)
    while rows := list(itertools.islice(stream, ROWS_PER_CHUNK)):
        yield _record_batch(rows)


def _record_batch(rows: list[Group]) -> pa.RecordBatch:
    flat = [c for g in rows for c in g.completions]
    per_group = _offsets(len(g) for g in rows)

    def nested(arrays: Sequence[npt.NDArray[Any] | None], kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(per_group, _lists(arrays, kind))

    def column(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(per_group, pa.array(values, kind))

    votes = [p for g in rows for p in g.preferences]
    per_vote = _offsets(len(g.preferences) for g in rows)

    def vote(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(per_vote, pa.array(values, kind, from_pandas=False))

    columns = {
        "id": pa.array([g.prompt.id for g in rows], pa.string()),
        "prompt": pa.array([g.prompt.text for g in rows], pa.string()),
        "messages": pa.array([_dumped(g.prompt.messages) for g in rows], pa.string()),
        "prompt_tokens": _lists([g.prompt.tokens for g in rows], pa.int32()),
        "meta": pa.array([json.dumps(g.prompt.meta) for g in rows], pa.string()),
        "completions": column([c.text for c in flat], pa.string()),
        "tokens": nested([c.tokens for c in flat], pa.int32()),
        "author": column([c.author for c in flat], pa.string()),
        "logp": nested([c.logp for c in flat], pa.float32()),
        "stopped": column([c.stopped for c in flat], pa.bool_()),
        "mask": nested([c.mask for c in flat], pa.bool_()),
        "weight": column([c.weight for c in flat], pa.float64()),
        "turns": column([_dumped(c.turns) for c in flat], pa.string()),
        "scores": _lists([g.scores for g in rows], pa.float64()),
        "better": vote([v.i for v in votes], pa.int32()),
        "worse": vote([v.j for v in votes], pa.int32()),
        "p": vote([v.p for v in votes], pa.float64()),
        "margin": vote([np.nan if v.margin is None else v.margin for v in votes], pa.float64()),
        "by": vote([v.by for v in votes], pa.string()),
        "clusters": _lists([g.clusters for g in rows], pa.int32()),
    }
    return pa.RecordBatch.from_arrays([columns[n] for n in SCHEMA.names], schema=SCHEMA)


def _dumped(said: object) -> str | None:
    return None if said is None else json.dumps(said)
