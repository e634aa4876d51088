"""When two stages are one: their arguments described as JSON, hashed, and compared."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import numpy as np

from tandem.data.groups import Groups
from tandem.errors import RunError
from tandem.machine import WHEN_CHANGED
from tandem.runs.checkpoint import Checkpoint, file_hash
from tandem.runs.names import recorded_name


def fingerprint(description: object) -> str:
    """Hash a description that `describe` made."""
    text = json.dumps(description, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def describe_value(value: object) -> Any:
    """Return JSON that is equal exactly when the value's content is equal.

    Dataclasses (configs, judges, operators) are read field by field, without the fields declared
    `compare=False`, and without newer fields (`machine.WHEN_CHANGED`) that are at their default,
    so that folders made before them are kept; collections and checkpoints by content hash; files
    and folders likewise; functions of a module by name.

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
        return describe_value(cast("Any", value).item())
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
        return {"mapping": {str(k): describe_value(v) for k, v in pairs}}
    if isinstance(value, tuple | list):
        return [describe_value(v) for v in cast("Iterable[object]", value)]
    if isinstance(value, set | frozenset):
        members = cast("Iterable[object]", value)
        return {"set": sorted((describe_value(v) for v in members), key=json.dumps)}
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        data = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()
        return {"array": data, "shape": list(array.shape), "dtype": str(array.dtype)}
    if isinstance(value, FunctionType | type) and "<" not in value.__qualname__:
        return {"name": recorded_name(value)}
    if is_dataclass(value) and not isinstance(value, type):
        record = cast("Any", value)
        columns = {
            f.name: describe_value(getattr(record, f.name))
            for f in fields(record)
            if f.compare
            and not (WHEN_CHANGED in f.metadata and getattr(record, f.name) == f.default)
        }
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


def list_differences(old: object, new: object, where: str = "") -> Iterator[str]:
    """Yield `cfg.beta: 0.1 -> 0.2` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        a, b = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        for key in dict.fromkeys([*a, *b]):
            inner = f"{where}.{key}" if where else key
            yield from list_differences(a.get(key, "absent"), b.get(key, "absent"), inner)
    elif json.dumps(old) != json.dumps(new):
        yield f"{where.removeprefix('arguments.')}: {json.dumps(old)} -> {json.dumps(new)}"
