"""The record: one prompt, its completions, and what a judge thinks of them.

A `Group` is a light view of one Arrow row: token arrays are numpy slices, nothing is copied and
no Python object exists per token. `Groups` is the collection; it is immutable, memory-mapped
when large, and its rows open as ordinary Parquet (`datasets.load_dataset("parquet", ...)`).

    n = 1 demonstrations and PPO    n = 2 preferences    n = k best-of-n, RSO, ReST, GRPO, RLP
"""

# pyarrow ships no types
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUnknownParameterType=false

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from tandem.errors import DataError

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.floating[Any]]
BoolArray = npt.NDArray[np.bool_]
Message = dict[str, Any]

ROWS_PER_CHUNK = 1024
MAP_ABOVE_BYTES = 64 << 20
NO_TOKENS: IntArray = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What is asked.

    Attributes:
        id: unique in a collection; seeds, splits and resumes hang on it.
        text: the prompt as the model reads it, rendered by the chat template where there is one.
        messages: the conversation it was rendered from, or None for plain text.
        tokens: [P] token ids, empty until a tokenizer has seen it.
        meta: anything JSON can hold: facts, answers, sources, topics.
    """

    id: str
    text: str
    messages: tuple[Message, ...] | None = None
    tokens: IntArray = field(default_factory=lambda: NO_TOKENS)
    meta: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One answer.

    Attributes:
        text: the answer without its end-of-sequence token.
        tokens: [T] ids including the end-of-sequence token when `stopped`.
        author: who wrote it: a policy's name, a person's pseudonym, a system.
        logp: [T] log-probabilities under the sampler that drew it, or None.
        stopped: True if it ended itself, False if it was cut at a length limit.
        mask: [T] True where a loss counts the token, or None for all of them.
        weight: its share in a weighted loss.
        turns: the messages it is made of where it is more than one plain answer (several turns
            of a conversation, tool calls), the first and the last by the assistant; else None.
    """

    text: str
    tokens: IntArray = field(default_factory=lambda: NO_TOKENS)
    author: str = ""
    logp: FloatArray | None = None
    stopped: bool = True
    mask: BoolArray | None = None
    weight: float = 1.0
    turns: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """One comparison: p = P(completion i is better than completion j); 1 a click, .5 a tie."""

    i: int
    j: int
    p: float = 1.0
    margin: float | None = None
    by: str = ""

    @property
    def winner(self) -> int:
        """Index of the completion with the larger share."""
        return self.i if self.p >= 0.5 else self.j

    @property
    def loser(self) -> int:
        """Index of the completion with the smaller share."""
        return self.j if self.p >= 0.5 else self.i


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A prompt with n completions and what one judge thinks of them.

    Attributes:
        scores: [n] one number a completion, or None.
        clusters: [n] the same number for completions that say the same, or None.
    """

    prompt: Prompt
    completions: tuple[Completion, ...] = ()
    scores: FloatArray | None = None
    preferences: tuple[Preference, ...] = ()
    clusters: IntArray | None = None

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def id(self) -> str:
        """The prompt's id."""
        return self.prompt.id

    def keep(self, indices: Sequence[int]) -> Group:
        """Return the group with these completions, in this order; columns and pairs follow."""
        where = {old: new for new, old in enumerate(indices)}
        return replace(
            self,
            completions=tuple(self.completions[i] for i in indices),
            scores=None if self.scores is None else self.scores[list(indices)],
            clusters=None if self.clusters is None else self.clusters[list(indices)],
            preferences=tuple(
                replace(p, i=where[p.i], j=where[p.j])
                for p in self.preferences
                if p.i in where and p.j in where
            ),
        )


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


class Groups:
    """An immutable collection of groups on Arrow.

    Iterable, sliceable, concatenable (`D + D_hat`); `of` builds it, `write` and `read` keep it.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._batches = [b for b in table.to_batches() if b.num_rows]
        sizes = (b.num_rows for b in self._batches)
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._decoded: dict[int, _Chunk] = {}

    @classmethod
    def of(cls, groups: Iterable[Group]) -> Groups:
        """Build a collection in memory."""
        if isinstance(groups, Groups):
            return groups
        return cls(pa.Table.from_batches(list(_record_batches(groups)), SCHEMA))

    @classmethod
    def stream(cls, path: Path, groups: Iterable[Group]) -> Groups:
        """Write groups to a Parquet file as they come, then open it; memory stays bounded."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(path.suffix + ".part")
        try:
            with pq.ParquetWriter(part, SCHEMA, compression="zstd") as writer:
                for batch in _record_batches(groups):
                    writer.write_batch(batch)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return cls.read(path)

    @classmethod
    def read(cls, path: Path) -> Groups:
        """Open a file that `write` or `stream` made.

        Files above 64 MiB (uncompressed) are decoded once into an Arrow file beside them and
        memory-mapped.

        Raises:
            DataError: the file is missing or does not hold groups.
        """
        try:
            source = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"cannot read groups from {path}: {error}",
                "a collection of groups is one Parquet file in Tandem's schema",
                "give the path of a `groups.parquet`, or import other files with `tandem.data.formats`",
            ) from error
        if source.schema_arrow.names != SCHEMA.names:
            raise DataError(
                f"{path} has the columns {source.schema_arrow.names}",
                "it is Parquet, but not a collection of groups",
                "import it with `tandem.data.formats.read`",
            )
        parts = range(source.num_row_groups)
        if sum(source.metadata.row_group(k).total_byte_size for k in parts) <= MAP_ABOVE_BYTES:
            return cls(source.read().cast(SCHEMA))
        mapped = path.with_suffix(".arrow")
        if not mapped.exists() or mapped.stat().st_mtime < path.stat().st_mtime:
            # ranks of one launch may open the same file at once
            part = mapped.with_suffix(f".arrow.{os.getpid()}.part")
            with ipc.new_file(part, SCHEMA) as sink:
                for batch in source.iter_batches(ROWS_PER_CHUNK):
                    sink.write_batch(batch.cast(SCHEMA))
            part.replace(mapped)
        return cls(ipc.open_file(pa.memory_map(str(mapped))).read_all())

    def write(self, path: Path) -> None:
        """Write one Parquet file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(path.suffix + ".part")
        pq.write_table(self.table, part, compression="zstd", row_group_size=ROWS_PER_CHUNK)
        part.replace(path)

    def to_bytes(self) -> npt.NDArray[np.uint8]:
        """Return the collection as bytes, for a checkpoint's state."""
        sink = pa.BufferOutputStream()
        with ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(self.table)
        return np.frombuffer(sink.getvalue(), np.uint8)

    @classmethod
    def from_bytes(cls, data: npt.NDArray[np.uint8]) -> Groups:
        """Undo `to_bytes`."""
        return cls(ipc.open_stream(pa.py_buffer(data.tobytes())).read_all())

    def vocabulary(self) -> IntArray:
        """Return the different tokens of all prompts and completions, in order."""
        read = set[int]()
        for batch in self._batches:
            asked, said = batch["prompt_tokens"].flatten(), batch["tokens"].flatten().flatten()
            for tokens in (asked, said):
                read.update(tokens.unique().to_pylist())
        return np.array(sorted(read), np.int32)

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Group]:
        for batch in self._batches:
            chunk = _Chunk(batch)
            for row in range(batch.num_rows):
                yield chunk.group(row)

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> Groups: ...
    def __getitem__(self, index: int | slice) -> Group | Groups:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return Groups(self.table.slice(start, max(0, stop - start)))
            return self.take(range(start, stop, step))
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect.bisect_right(self._starts, index) - 1
        if which not in self._decoded:
            self._decoded[which] = _Chunk(self._batches[which])
        return self._decoded[which].group(index - self._starts[which])

    def __add__(self, other: Groups) -> Groups:
        return Groups(pa.concat_tables([self.table, other.table]))

    def __repr__(self) -> str:
        n = self.table.column("completions").combine_chunks().flatten()
        return f"Groups({len(self)} prompts, {len(n)} completions)"

    def take(self, indices: Iterable[int]) -> Groups:
        """Return these rows, in this order."""
        return Groups.of(self[i] for i in indices)

    def map(self, change: Callable[[Group], Group]) -> Groups:
        """Return the collection with every group changed."""
        return Groups.of(change(g) for g in self)

    def prompts(self) -> Groups:
        """Return the prompts alone."""
        return self.map(lambda g: Group(g.prompt))

    @functools.cached_property
    def hash(self) -> str:
        """Hash of the content: the same whatever the chunking or the file it came from."""
        digest = hashlib.blake2b(digest_size=16)
        for start in range(0, len(self), ROWS_PER_CHUNK):
            part = self.table.slice(start, ROWS_PER_CHUNK).combine_chunks()
            for name in SCHEMA.names:
                column = part.column(name)
                array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
                _digest(array, digest.update)
        return digest.hexdigest()


Prompts = Groups
"""A collection of which only the prompts are read."""


def _digest(array: pa.Array, update: Callable[[bytes], None]) -> None:
    update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_list(array.type):
        lengths = np.diff(array.offsets.to_numpy())
        update(lengths.astype(np.int32).tobytes())
        _digest(array.flatten(), update)
    elif pa.types.is_string(array.type):
        values = [v or "" for v in array.to_pylist()]
        update(np.array([len(v) for v in values], np.int32).tobytes())
        update("".join(values).encode())
    else:
        update(array.drop_null().to_numpy(zero_copy_only=False).tobytes())


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


class _Chunk:
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


def _record_batches(groups: Iterable[Group]) -> Iterator[pa.RecordBatch]:
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
