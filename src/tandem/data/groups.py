"""The record: one prompt, its completions, and what a judge thinks of them.

A `Group` is a light view of one Arrow row: token arrays are numpy slices, nothing is copied and
no Python object exists per token. `Groups` is the collection; it is immutable, and its rows open as
ordinary Parquet (`datasets.load_dataset("parquet", ...)`). A large one lies in a file that is
mapped into memory, and whoever goes through it holds a few chunks of it at a time.

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
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from tandem.data.arrow import ROWS_PER_CHUNK, SCHEMA, GroupChunk, record_batches
from tandem.data.record import Group, IntArray
from tandem.errors import DataError
from tandem.machine import cache_folder

MAP_ABOVE_BYTES = 64 << 20


class Groups:
    """An immutable collection of groups: a data set, kept as an Arrow table.

    It is iterated, sliced and added like a list; `of` builds one, `write` and `read` keep it as
    Parquet.

    >>> from tandem import Completion, Group, Prompt
    >>> D = Groups.of(Group(Prompt(f"p{i}", "say hi"), (Completion("hi"),)) for i in range(3))
    >>> D
    Groups(3 prompts, 3 completions)
    >>> print(*[group.id for group in D[1:]])
    p1 p2
    >>> D.write(Path("D.parquet"))
    >>> Groups.read(Path("D.parquet")).hash == D.hash
    True
    """

    def __init__(self, table: pa.Table, mappings: tuple[mmap.mmap, ...] = ()) -> None:
        self.table = table
        self._mappings = mappings
        self._batches = [b for b in table.to_batches() if b.num_rows]
        sizes = (b.num_rows for b in self._batches)
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._decoded: dict[int, GroupChunk] = {}

    @classmethod
    def of(cls, groups: Iterable[Group]) -> Groups:
        """Build a collection: in memory, or in a file without a name above 64 MiB."""
        return groups if isinstance(groups, Groups) else cls._collect(record_batches(groups))

    @classmethod
    def _collect(cls, batches: Iterable[pa.RecordBatch]) -> Groups:
        """Keep batches in memory as long as they are few, else in a file of the cache folder."""
        kept, size, stream = list[pa.RecordBatch](), 0, iter(batches)
        for batch in stream:
            kept.append(batch)
            size += batch.nbytes
            if size > MAP_ABOVE_BYTES:
                break
        else:
            return cls(pa.Table.from_batches(kept, SCHEMA))
        place = cache_folder()
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            with ipc.new_file(file, SCHEMA) as sink:
                while kept:
                    sink.write_batch(kept.pop(0))
                for batch in stream:
                    sink.write_batch(batch)
            file.flush()
            return cls._map(file.fileno())

    @classmethod
    def _map(cls, descriptor: int) -> Groups:
        """Map an Arrow file into memory; the mapping lives on when the file is closed."""
        mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        file, batches = ipc.open_file(pa.BufferReader(pa.py_buffer(mapping))), []
        for k in range(file.num_record_batches):
            batches.append(file.get_batch(k))
            mapping.madvise(mmap.MADV_DONTNEED)
        return cls(pa.Table.from_batches(batches, SCHEMA), (mapping,))

    @classmethod
    def stream(cls, path: Path, groups: Iterable[Group]) -> Groups:
        """Write groups to a Parquet file as they come, then open it; memory stays bounded."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part_of(path)
        try:
            with pq.ParquetWriter(part, SCHEMA, compression="zstd") as writer:
                for batch in record_batches(groups):
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
            source = pq.ParquetFile(path, pre_buffer=False)  # else all of the file is kept
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"cannot read groups from {path}: {error}",
                "a collection of groups is one Parquet file in Tandem's schema",
                "give the path of a `groups.parquet`, or read other files with `tandem.read_data`",
            ) from error
        if source.schema_arrow.names != SCHEMA.names:
            raise DataError(
                f"{path} has the columns {source.schema_arrow.names}",
                "it is Parquet, but not a collection of groups",
                "read it with `tandem.read_data`",
            )
        parts = range(source.num_row_groups)
        if sum(source.metadata.row_group(k).total_byte_size for k in parts) <= MAP_ABOVE_BYTES:
            return cls(_cast(source.read(), path))
        mapped = path.with_suffix(".arrow")
        if not mapped.exists() or mapped.stat().st_mtime < path.stat().st_mtime:
            # ranks of one launch may open the same file at once
            part = _part_of(mapped)
            try:
                with ipc.new_file(part, SCHEMA) as sink:
                    for batch in source.iter_batches(ROWS_PER_CHUNK):
                        sink.write_batch(_cast(batch, path))
                part.replace(mapped)
            finally:
                part.unlink(missing_ok=True)
        with mapped.open("rb") as file:
            return cls._map(file.fileno())

    def write(self, path: Path) -> None:
        """Write one Parquet file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part_of(path)
        try:
            pq.write_table(self.table, part, compression="zstd", row_group_size=ROWS_PER_CHUNK)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

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
            chunk = GroupChunk(batch)
            for row in range(batch.num_rows):
                yield chunk.group(row)
            self._let_go()

    def _let_go(self) -> None:
        """Give pages back that were read from a mapped file; they are read again when needed."""
        for mapping in self._mappings:
            mapping.madvise(mmap.MADV_DONTNEED)

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> Groups: ...
    def __getitem__(self, index: int | slice) -> Group | Groups:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return Groups(self.table.slice(start, max(0, stop - start)), self._mappings)
            return self.take(range(start, stop, step))
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect.bisect_right(self._starts, index) - 1
        if which not in self._decoded:
            self._decoded[which] = GroupChunk(self._batches[which])
        return self._decoded[which].group(index - self._starts[which])

    def __add__(self, other: Groups) -> Groups:
        both = pa.concat_tables([self.table, other.table])
        return Groups(both, (*self._mappings, *other._mappings))

    def __repr__(self) -> str:
        n = self.table.column("completions").combine_chunks().flatten()
        return f"Groups({len(self)} prompts, {len(n)} completions)"

    def take(self, indices: Iterable[int]) -> Groups:
        """Return these rows, in this order."""
        return Groups.of(self[i] for i in indices)

    def keep_where(self, kept: npt.NDArray[np.bool_]) -> Groups:
        """Return the rows whose entry is True, in their order.

        Args:
            kept: [len(self)].
        """
        places = zip(self._batches, itertools.pairwise(self._starts), strict=True)
        return Groups._collect(self._filter(b, kept[slice(*place)]) for b, place in places)

    def _filter(self, batch: pa.RecordBatch, kept: npt.NDArray[np.bool_]) -> pa.RecordBatch:
        found = batch.filter(pa.array(kept))
        self._let_go()
        return found

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
            self._let_go()
        return digest.hexdigest()


Prompts = Groups
"""A collection of which only the prompts are read."""


def _cast(rows: Any, path: Path) -> Any:
    """Return a table or a batch in our schema."""
    try:
        return rows.cast(SCHEMA)
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: a column is of another type than groups have: {error}",
            "its columns have the names of Tandem's own groups, and hold something else",
            "write the file again with `Groups.write`, or name its columns otherwise",
        ) from error


def _part_of(path: Path) -> Path:
    """Return a name that no other process and no other thread writes to."""
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")


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
