# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Files, folders and hub ids as streams of rows, each with the place where it stands.

JSON Lines, JSON, CSV (each plain or gzipped), Parquet, folders that `datasets.save_to_disk`
wrote, folders of data files, and ids of the Hugging Face hub. Rows stream, so a file may be
larger than memory; only a `.json` file that holds one list is parsed whole.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tandem.data.arrow import SCHEMA
from tandem.data.formats.fields import DataRow, shorten_text
from tandem.data.formats.split_files import find_split_files
from tandem.errors import DataError, nearest_name

FILE_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CELL_CHARACTERS = 1 << 30
STRUCTURED = ("completions", "ranks", "scores", "annotations", "data", "messages", "conversations")
"""Columns that hold lists and objects in every format; in CSV they are written as JSON."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where rows come from.

    Attributes:
        name: short name for messages.
        rows: opens a fresh stream of rows.
        fingerprint: hash of the content.
        bytes: size on disk, to choose between memory and a file.
        notes: what was decided on the way in, for example which split.
        splits: names of the other splits of the same source.
        groups: the path, where the file already holds Tandem's own groups.
    """

    name: str
    rows: Callable[[], Iterator[DataRow]]
    fingerprint: str
    bytes: int
    notes: tuple[str, ...] = ()
    splits: tuple[str, ...] = field(default=())
    groups: Path | None = None


def open_source(source: str | Path, split: str | None = None) -> DataSource:
    """Open a file, a folder or a hub id.

    Raises:
        DataError: nothing is there, the kind is unknown, or the content is broken.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, split)
    if path.is_file():
        return _file(path)
    if isinstance(source, str) and _HUB_ID.fullmatch(source) and _kind(path) is None:
        return _hub(source, split)
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(
        f"no such file or folder: {source}",
        f"there is nothing to read.{nearest_name(path.name, there)}",
        "give the path of a data file or folder, or a hub id such as `owner/name`",
    )


def _kind(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind in FILE_ENDINGS if name.endswith(kind)), None)


def _file(path: Path) -> DataSource:
    kind = _kind(path)
    if kind is None:
        raise DataError(
            f"{path}: unknown kind of file `{''.join(path.suffixes) or path.name}`",
            f"the kind is read from the name's ending: {', '.join(FILE_ENDINGS)}, and .gz after it",
            "rename the file to what it holds, or convert it",
        )
    if path.stat().st_size == 0:
        raise DataError(
            f"{path} is empty (0 bytes)",
            "there is no row in it to detect a format from",
            "look at what wrote it; an interrupted download leaves such a file",
        )
    open_rows = {".json": _json, ".csv": _csv, ".parquet": _parquet}.get(kind, _lines)
    return DataSource(
        path.name,
        lambda: open_rows(path),
        _hash(path),
        path.stat().st_size * (4 if path.name.endswith(".gz") else 1),
        groups=path if kind == ".parquet" and _holds_groups(path) else None,
    )


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextmanager
def _sound(path: Path) -> Generator[None]:
    """Turn what a broken file raises into a DataError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        gzipped = _starts(path, b"\x1f\x8b") and not path.name.endswith(".gz")
        raise DataError(
            f"{path}: byte {shorten_text(error.object[error.start : error.start + 1])} at offset "
            f"{error.start} of a block is not UTF-8",
            "the file is gzipped but not named .gz" if gzipped else "text files are read as UTF-8",
            "add .gz to its name"
            if gzipped
            else f"convert it: iconv -f latin1 -t utf-8 {path.name}",
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: broken gzip: {error}",
            "the end of the data is missing or damaged; a part of it would be trained on silently",
            "fetch the file again, or test it with `gzip -t`",
        ) from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}",
            "the file is damaged, cut short, or not what its name says",
            "write or fetch it again",
        ) from error


def _starts(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _text(path: Path, newline: str | None = None) -> IO[str]:
    if path.name.endswith(".gz"):
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)


def _lines(path: Path) -> Iterator[DataRow]:
    with _sound(path), _text(path, newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                place = f"{path.name}:{number}"
                yield _row(place, _parsed(place, line))


class _RepeatedKey(Exception):
    """An object gives a key a second time."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return table


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except _RepeatedKey as error:
        raise DataError(
            f"{place}: the key `{shorten_text(str(error))}` is given twice in one object",
            "one of its two values would be lost without a word",
            "keep the one that is meant, or give the other a name of its own",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{place}: not JSON: {_json_reason(error)}; it begins {shorten_text(text[:60])}",
            "each line of a JSON Lines file is one whole object",
            "mend that line, or rename the file to what it holds",
        ) from error


def _json_reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, json.JSONDecodeError | RecursionError):
        return text
    return f"an integer in it has too many digits ({text.partition(';')[0]})"


def _row(place: str, value: Any) -> DataRow:
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: the row is {shorten_text(value)} ({type(value).__name__})",
            "a row is an object: column names with values",
            'write each row as {"column": value, ...}',
        )
    return DataRow(place, value)


def _json(path: Path) -> Iterator[DataRow]:
    with _sound(path), _text(path) as stream:
        first = stream.readline()
        if first.lstrip().startswith("{") and _is_json(first):
            yield from _lines(path)
            return
        rows = _parsed(path.name, first + stream.read())
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: the top level is {shorten_text(rows)} ({type(rows).__name__})",
            "a .json file holds one list of objects, or one object a line",
            "put the rows into a list",
        )
    for index, value in enumerate(rows):
        yield _row(f"{path.name}[{index}]", value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):
        return True  # it is JSON that cannot be read: the reading names its line
    return True


def _csv(path: Path) -> Iterator[DataRow]:
    csv.field_size_limit(_CELL_CHARACTERS)
    with _sound(path), _text(path, newline="") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            _refuse_repeated_columns(path, list(reader.fieldnames or ()))
            for values in reader:
                yield _csv_row(f"{path.name}:{reader.line_num}", values)
        except csv.Error as error:
            raise DataError(
                f"{path.name}, after line {reader.line_num}: not CSV: {error}",
                "a quote is not closed as CSV (RFC 4180) asks, so rows would run together",
                'double the quotes inside a cell ("") or use JSON Lines',
            ) from error


def _refuse_repeated_columns(path: Path, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"{path.name}:1: the column `{shorten_text(name)}` is there twice",
                "one of its two values would be lost without a word",
                "remove one of the columns, or give it a name of its own",
            )


def _csv_row(place: str, values: dict[Any, Any]) -> DataRow:
    if None in values or None in values.values():
        raise DataError(
            f"{place}: the row has {'more' if None in values else 'fewer'} cells than the header",
            "its values would land in the wrong columns",
            "quote cells that hold commas or line ends, or use JSON Lines",
        )
    opened = {k: _open_cell(v) if k in STRUCTURED else v for k, v in values.items()}
    return DataRow(place, opened, strings=True)


def _open_cell(cell: str) -> Any:
    """Return the list or the object that a cell spells as JSON; else the cell."""
    if not cell.startswith(("[", "{")):
        return cell
    try:
        return json.loads(cell, object_pairs_hook=_unique_keys)
    except (_RepeatedKey, ValueError, RecursionError):
        return cell  # whoever reads the column says what is wrong with it


def _parquet(path: Path) -> Iterator[DataRow]:
    index = itertools.count()
    with _sound(path), pq.ParquetFile(path, pre_buffer=False) as table:
        for batch in table.iter_batches(1024):
            for values in batch.to_pylist():
                yield DataRow(f"{path.name}[{next(index)}]", values)


def _holds_groups(path: Path) -> bool:
    with _sound(path):
        return pq.read_schema(path).names == SCHEMA.names


def _folder(path: Path, split: str | None) -> DataSource:
    import datasets

    saved = (path / "state.json").exists() or (path / "dataset_dict.json").exists()
    if saved:
        return _dataset(str(path), split, lambda: datasets.load_from_disk(str(path)))
    names = [p.name for p in path.rglob("*") if p.is_file()]
    if not any(_kind(Path(name)) for name in names):
        raise DataError(
            f"{path} is a folder without data ({', '.join(sorted(names)[:5]) or 'no files'})",
            "a data folder was saved by `datasets`, or holds files that end in "
            f"{', '.join(FILE_ENDINGS)}",
            "give the path of the data itself",
        )
    splits = find_split_files(path)
    if splits and all(_kind(file) for files in splits.values() for file in files):
        return _files(path, splits, split)
    return _dataset(str(path), split, lambda: datasets.load_dataset(str(path)))


def _files(path: Path, splits: dict[str, list[Path]], split: str | None) -> DataSource:
    """Read a folder's files of one split one after the other, each as if it were given alone."""
    wanted, notes, others = _choose_split(str(path), list(splits), split)
    parts = [_file(file) for file in splits[wanted]]
    used = {file.resolve() for files in splits.values() for file in files}
    every = sorted(p for p in path.rglob("*") if p.is_file() and _kind(p))
    left = [p.relative_to(path).as_posix() for p in every if p.resolve() not in used]
    if left:
        notes += (f"warning: not read, because their names name no split: {', '.join(left)}",)
    digest = hashlib.blake2b("".join(p.fingerprint for p in parts).encode(), digest_size=16)
    return DataSource(
        path.name,
        lambda: itertools.chain.from_iterable(part.rows() for part in parts),
        digest.hexdigest(),
        sum(part.bytes for part in parts),
        notes,
        others,
    )


def _choose_split(
    name: str, names: list[str], split: str | None
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return the split that is read, a note about it, and the others."""
    wanted = split or ("train" if "train" in names else names[0])
    if wanted not in names:
        raise DataError(
            f"{name} has no split `{wanted}`",
            f"it has {', '.join(names)}.{nearest_name(wanted, names)}",
            "give one of them: --split NAME",
        )
    others = tuple(n for n in names if n != wanted)
    return wanted, (f"split `{wanted}` of {', '.join(names)}",) if others else (), others


def _hub(name: str, split: str | None) -> DataSource:
    import datasets

    return _dataset(name, split, lambda: datasets.load_dataset(name))


def _dataset(name: str, split: str | None, load: Callable[[], Any]) -> DataSource:
    try:
        data = load()
    except Exception as error:  # `datasets` raises what its many back ends raise
        raise DataError(
            f"`datasets` cannot open {name}: {type(error).__name__}: "
            f"{shorten_text(str(error), 300)}",
            "it is no local path, so it was looked for on the hub"
            if not Path(name).exists()
            else "the folder is not what `datasets` wrote, or its files do not fit together",
            "check the name and the network, log in with `hf auth login`, or give a local file",
        ) from error
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    if isinstance(data, dict):
        wanted, notes, others = _choose_split(name, [str(key) for key in data], split)
        data = data[wanted]
    label = Path(name).name

    def rows() -> Iterator[DataRow]:
        for index, values in enumerate(data):
            yield DataRow(f"{label}[{index}]", values)

    return DataSource(label, rows, data._fingerprint, int(data.data.nbytes), notes, others)
