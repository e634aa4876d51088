"""What a stage leaves behind, and how its arguments are told apart.

A run hands handles from stage to stage: a `Checkpoint` (a folder that Hugging Face loads),
`Groups` (a Parquet file), or a plain value (JSON). `describe` turns any argument of a stage into
JSON that is equal exactly when the argument's content is equal; `fingerprint` hashes it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import ModelError, RunError
from tandem.runs.names import as_recorded, find_recorded, is_known, recorded_name

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A handle on a model folder in Hugging Face's layout; no weights are in memory.

    Attributes:
        path: the folder.
        name: the model's name in tables and in `Completion.author`.
    """

    path: Path
    name: str = ""

    def files(self) -> list[Path]:
        """Return the model's files, sorted.

        Raises:
            ModelError: the folder is missing or holds no model files.
        """
        found = sorted({f for pattern in MODEL_FILES for f in self.path.rglob(pattern)})
        if not found:
            raise ModelError(
                f"{self.path} holds no model",
                "a checkpoint is a folder with config.json and safetensors weights",
                "give the folder that `save_pretrained` wrote; for a model of the hub, "
                "`hf download ID --local-dir FOLDER` first",
            )
        return found

    @property
    def hash(self) -> str:
        """Hash of the content: weights, configuration, tokenizer; not of the place.

        Raises:
            ModelError: the folder is missing or holds no model files.
        """
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files():
            digest.update(f"{file.relative_to(self.path).as_posix()}\0".encode())
            digest.update(file_hash(file).encode())
        return digest.hexdigest()

    def __str__(self) -> str:
        return self.name or self.path.name


def file_hash(file: Path) -> str:
    """Hash a file's content; read once a process unless its size or time changes."""
    stat = file.stat()
    return _file_hash(file.resolve(), (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=4096)
def _file_hash(file: Path, state: tuple[int, int, int]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(description: object) -> str:
    """Hash a description that `describe` made."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def describe(value: object) -> Any:
    """Return JSON that is equal exactly when the value's content is equal.

    Dataclasses (configs, judges, operators) are read field by field, without the fields declared
    `compare=False`; collections and checkpoints by content hash; files and folders likewise;
    functions of a module by name.

    Raises:
        RunError: a type whose content cannot be known.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Enum):
        return {"enum": f"{recorded_name(type(value))}.{value.name}"}
    if isinstance(value, np.generic):
        return describe(cast("Any", value).item())
    if isinstance(value, Groups):
        return {"groups": value.hash, "prompts": len(value)}
    if isinstance(value, Checkpoint):
        return {"checkpoint": value.hash, "name": str(value)}
    if isinstance(value, Path):
        return {"path": _path_hash(value), "name": value.name}
    return _describe_composite(value)


def _describe_composite(value: object) -> Any:
    kind = recorded_name(value.__class__)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {"mapping": {str(k): describe(v) for k, v in pairs}}
    if isinstance(value, tuple | list):
        return [describe(v) for v in cast("Iterable[object]", value)]
    if isinstance(value, set | frozenset):
        members = cast("Iterable[object]", value)
        return {"set": sorted((describe(v) for v in members), key=json.dumps)}
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        data = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()
        return {"array": data, "shape": list(array.shape), "dtype": str(array.dtype)}
    if isinstance(value, FunctionType | type) and "<" not in value.__qualname__:
        return {"name": recorded_name(value)}
    if is_dataclass(value) and not isinstance(value, type):
        record = cast("Any", value)
        columns = {f.name: describe(getattr(record, f.name)) for f in fields(record) if f.compare}
        return {"class": kind, **columns}
    raise RunError(
        f"a stage was given {value!r} of type {kind}",
        "a run remembers stages by the content of their arguments, and this content is unknown",
        "pass a frozen dataclass, a Checkpoint, Groups, a path, a number, a string or a tuple",
    )


def _path_hash(path: Path) -> str:
    if path.is_file():
        return file_hash(path)
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file())
        return fingerprint([[f.relative_to(path).as_posix(), file_hash(f)] for f in files])
    raise RunError(
        f"a stage was given the path {path}, which does not exist",
        "a run remembers files by their content",
        "check the path",
    )


def store(value: object, folder: Path) -> dict[str, Any]:
    """Write a stage's result into its artifact folder; return what `load` needs to open it.

    Groups, and any lazy stream of `Group`, become `groups.parquet`; a checkpoint is already
    there (or elsewhere, and is then referred to); anything else becomes `value.json`.

    Raises:
        RunError: the value is neither of these.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(value, Groups):
        value.write(folder / "groups.parquet")
        return {"kind": "groups", "hash": value.hash, "prompts": len(value)}
    if isinstance(value, Iterator):
        stream = cast("Iterator[Group]", value)
        groups = Groups.stream(folder / "groups.parquet", stream)
        return {"kind": "groups", "hash": groups.hash, "prompts": len(groups)}
    if isinstance(value, Checkpoint):
        return {"kind": "checkpoint", "hash": value.hash, "handle": _encode(value, folder)}
    text = json.dumps(_encode(value, folder), indent=1, ensure_ascii=False)
    (folder / "value.json").write_text(text + "\n", encoding="utf-8")
    return {"kind": "value"}


def load(result: Mapping[str, Any], folder: Path) -> Any:
    """Open what `store` wrote."""
    if result["kind"] == "groups":
        return Groups.read(folder / "groups.parquet")
    if result["kind"] == "checkpoint":
        return _decode(result["handle"], folder)
    return _decode(json.loads((folder / "value.json").read_text(encoding="utf-8")), folder)


def _encode(value: object, folder: Path) -> Any:
    """Plain JSON; dataclasses, paths and non-finite numbers carry a tag."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic):
        return _encode(cast("Any", value).item(), folder)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"__float__": str(value)}
    if isinstance(value, Path):
        inside = value.resolve().is_relative_to(folder.resolve())
        place = os.path.relpath(value, folder) if inside else str(value.resolve())
        return {"__path__": place}
    if isinstance(value, tuple | list):
        return [_encode(v, folder) for v in cast("Iterable[object]", value)]
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {str(k): _encode(v, folder) for k, v in pairs}
    if is_dataclass(value) and not isinstance(value, type) and is_known(type(value)):
        columns = {f.name: _encode(getattr(value, f.name), folder) for f in fields(value)}
        return {"__class__": recorded_name(type(value)), **columns}
    raise RunError(
        f"a stage returned {recorded_name(type(value))}",
        "a run keeps Groups, checkpoints and plain values (numbers, strings, lists), and reads "
        "back only classes that it knows by name",
        'return one of these; decorate a dataclass of your own with `record_as("a name")`',
    )


def _decode(value: Any, folder: Path, *, frozen: bool = False) -> Any:
    """Undo `_encode`; sequences inside dataclasses are tuples, elsewhere lists."""
    if isinstance(value, list):
        members = [_decode(v, folder, frozen=frozen) for v in cast("list[Any]", value)]
        return tuple(members) if frozen else members
    if not isinstance(value, dict):
        return value
    table = cast("dict[str, Any]", value)
    if "__float__" in table:
        return float(table["__float__"])
    if "__path__" in table:
        return Path(os.path.normpath(folder / table["__path__"]))
    if "__class__" in table:
        kind = find_recorded(table["__class__"])
        own = as_recorded(table)
        columns = {k: _decode(v, folder, frozen=True) for k, v in own.items() if k[:2] != "__"}
        return kind(**columns)
    return {k: _decode(v, folder, frozen=frozen) for k, v in table.items()}
