# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Files, folders, hub ids and addresses as streams of rows, each with the place where it stands.

JSON Lines, JSON, CSV (each plain or gzipped), Parquet, Arrow, folders that
`datasets.save_to_disk` wrote, folders of data files, ids of the Hugging Face hub, and addresses of
stores (`s3://...`), whose files are fetched first. Rows stream, so a file may be larger than
memory; only a file that holds one list of JSON is parsed whole.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tandem.data.arrow import SCHEMA
from tandem.data.formats.csv_files import read_csv
from tandem.data.formats.fields import DataRow, shorten_text
from tandem.data.formats.split_files import find_split_files
from tandem.data.formats.structured_text import RepeatedKey, parse_json
from tandem.data.formats.text_files import open_text, sound_file, starts_with
from tandem.data.remote_files import fetch_files, is_address
from tandem.errors import DataError, nearest_name

FILE_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
WRAPPERS = ("data", "rows", "examples", "instances", "records", "train", "test", "validation")
"""Names under which a .json file may hold its rows."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LONG_INTEGER = re.compile(r"\d{4301}")


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
    """Open a file, a folder, a hub id or an address.

    Raises:
        DataError: nothing is there, the kind is unknown, or the content is broken.
    """
    if is_address(source):
        source = fetch_files(str(source), DataError)
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
        "give the path of a data file or folder, a hub id such as `owner/name`, or an address such "
        "as s3://bucket/name.jsonl",
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
    open_rows = READERS.get(kind, _lines)
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


def _lines(path: Path) -> Iterator[DataRow]:
    with sound_file(path), open_text(path, newline="\n") as stream:
        filled = ((n, line) for n, line in enumerate(stream, 1) if line.strip())
        first = next(filled, None)
        if first is not None and _opens_list(first[1]):
            yield from _list(path)
            return
        for number, line in itertools.chain([first] if first else [], filled):
            place = f"{path.name}:{number}"
            yield _row(place, _parsed(place, line))


def _opens_list(line: str) -> bool:
    """True for the first line of one list of objects, which is JSON and not JSON Lines."""
    return line.strip() == "[" or line.lstrip().startswith(("[{", "[ {"))


def _parsed(
    place: str, text: str, rule: str = "each line of a JSON Lines file is an object"
) -> Any:
    try:
        return parse_json(text)
    except RepeatedKey as error:
        raise DataError(
            f"{place}: the key `{shorten_text(str(error))}` is given twice in one object",
            "one of its two values would be lost without a word",
            "keep the one that is meant, or give the other a name of its own",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{place}: not JSON: {_json_reason(error, text)}; it begins {shorten_text(text[:60])}",
            rule,
            "mend that place, or rename the file to what it holds",
        ) from error


def _json_reason(error: Exception, text: str) -> str:
    said = str(error)
    if isinstance(error, json.JSONDecodeError | RecursionError):
        return said
    found = _LONG_INTEGER.search(text)
    line = text.count("\n", 0, found.start()) + 1 if found else 1
    return f"an integer in line {line} has too many digits ({said.partition(';')[0]})"


def _row(place: str, value: Any) -> DataRow:
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: the row is {shorten_text(value)} ({type(value).__name__})",
            "a row is an object: column names with values",
            'write each row as {"column": value, ...}',
        )
    return DataRow(place, value)


def _json(path: Path) -> Iterator[DataRow]:
    with sound_file(path), open_text(path) as stream:
        first = stream.readline()
    if first.lstrip().startswith("{") and _is_row(first):
        yield from _lines(path)
    else:
        yield from _list(path)


def _list(path: Path) -> Iterator[DataRow]:
    """Read a file that is parsed whole: one list, or an object in which one list is alone."""
    with sound_file(path), open_text(path) as stream:
        found = _parsed(path.name, stream.read(), "a .json file holds one list of objects")
    inside = _row_lists(found)
    rows = found[inside[0]] if len(inside) == 1 else found
    if not isinstance(rows, list):
        lists = f"; of its lists ({', '.join(map(str, inside))}) one is read" if inside else ""
        raise DataError(
            f"{path}: the top level is {shorten_text(rows)} ({type(rows).__name__})",
            f"a .json file holds one list of objects, or one object a line{lists}",
            "write each list into a file of its own" if inside else "put the rows into a list",
        )
    for index, value in enumerate(rows):
        yield _row(f"{path.name}{' ' + inside[0] if inside else ''}[{index}]", value)


def _row_lists(value: Any) -> list[str]:
    """Return the names in an object under which lists of rows stand."""
    lists = {k: v for k, v in value.items() if k in WRAPPERS} if isinstance(value, dict) else {}
    return [k for k, v in lists.items() if isinstance(v, list) and v and isinstance(v[0], dict)]


def _is_row(text: str) -> bool:
    """True for a first line that is an object, and no object around the rows."""
    try:
        return not _row_lists(json.loads(text))
    except json.JSONDecodeError:
        return False
    except (ValueError, RecursionError):
        return True  # it is JSON that cannot be read: the reading names its line


def _parquet(path: Path) -> Iterator[DataRow]:
    index = itertools.count()
    with sound_file(path), pq.ParquetFile(path, pre_buffer=False) as table:
        for batch in table.iter_batches(1024):
            for values in batch.to_pylist():
                yield DataRow(f"{path.name}[{next(index)}]", values)


def _arrow(path: Path) -> Iterator[DataRow]:
    """Read an Arrow file (Feather), or a stream, as `datasets` writes them."""
    index = itertools.count()
    opener = pa.ipc.open_file if starts_with(path, b"ARROW1") else pa.ipc.open_stream
    with sound_file(path), pa.memory_map(str(path)) as stream, opener(stream) as table:
        kept = table.num_record_batches if starts_with(path, b"ARROW1") else None
        batches = table if kept is None else map(table.get_batch, range(kept))
        for batch in batches:
            for values in batch.to_pylist():
                yield DataRow(f"{path.name}[{next(index)}]", values)


READERS: dict[str, Callable[[Path], Iterator[DataRow]]] = {
    ".json": _json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}


def _holds_groups(path: Path) -> bool:
    with sound_file(path):
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
