"""Write a stage's result into its folder and read it back: groups, checkpoints, plain values.

A run hands handles from stage to stage: a `Checkpoint` (a folder that Hugging Face loads),
`Groups` (a Parquet file), or a plain value (JSON). `describe` turns any argument of a stage into
JSON that is equal exactly when the argument's content is equal; `fingerprint` hashes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import RunError, TandemError
from tandem.runs.checkpoint import Checkpoint, file_hash
from tandem.runs.names import as_recorded, find_recorded, is_known, recorded_name

GROUPS = "groups.parquet"


def store_artifact(value: object, folder: Path) -> dict[str, Any]:
    """Write a stage's result into its artifact folder; return what `load` needs to open it.

    Groups, and any lazy stream of `Group`, become `groups.parquet`; a checkpoint is already
    there (or elsewhere, and is then referred to); anything else becomes `value.json`.

    Raises:
        RunError: the value is neither of these.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(value, Groups):
        value.write(folder / GROUPS)
        return _describe_groups(value, folder)
    if isinstance(value, Iterator):
        stream = cast("Iterator[Group]", value)
        groups = Groups.stream(folder / GROUPS, stream)
        return _describe_groups(groups, folder)
    if isinstance(value, Checkpoint):
        return {"kind": "checkpoint", "hash": value.hash, "handle": _encode(value, folder)}
    text = json.dumps(_encode(value, folder), indent=1, ensure_ascii=False) + "\n"
    (folder / "value.json").write_text(text, encoding="utf-8")
    return {"kind": "value", "hash": _text_hash(text)}


def load_artifact(result: Mapping[str, Any], folder: Path, *, verify: bool = True) -> Any:
    """Open what `store_artifact` wrote.

    Args:
        result: what it returned.
        folder: where it wrote.
        verify: compare the content with the hash in `result`; old values have none.

    Raises:
        RunError: the artifact is damaged, or names a class that is none of Tandem's.
    """
    try:
        value, found = _open_artifact(result, folder, verify=verify)
    except RunError:
        raise
    except Exception as error:  # a damaged file raises what its format's reader raises
        what = error.what if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"
        raise _damaged(folder, what) from error
    if verify and result.get("hash") is not None and found != result["hash"]:
        raise _damaged(folder, f"its hash is {found}, and was {result['hash']}")
    if verify and result.get("file") is not None:
        bytes_now = file_hash(folder / GROUPS)
        if bytes_now != result["file"]:
            raise _damaged(folder, f"{GROUPS} has the hash {bytes_now}, and had {result['file']}")
    return value


def _describe_groups(groups: Groups, folder: Path) -> dict[str, Any]:
    kept = {"kind": "groups", "hash": groups.hash, "prompts": len(groups)}
    return {**kept, "file": file_hash(folder / GROUPS)}


def _open_artifact(
    result: Mapping[str, Any], folder: Path, *, verify: bool
) -> tuple[Any, str | None]:
    """Return the artifact and, where asked for, the hash of its content."""
    if result["kind"] == "groups":
        groups = Groups.read(folder / GROUPS)
        return groups, groups.hash if verify else None
    if result["kind"] == "checkpoint":
        checkpoint = _decode(result["handle"], folder)
        if not isinstance(checkpoint, Checkpoint):
            raise ValueError("its handle is no checkpoint")
        return checkpoint, checkpoint.hash if verify else None
    if result["kind"] != "value":
        raise ValueError(f"its kind is {result['kind']!r}")
    text = (folder / "value.json").read_text(encoding="utf-8")
    return _decode(json.loads(text), folder), _text_hash(text)


def _damaged(folder: Path, what: str) -> RunError:
    stage = folder.parent
    run = next((p for p in stage.parents if (p / "run.json").is_file()), stage.parent)
    place = stage.relative_to(run).as_posix()
    return RunError(
        f"the stage {place} is damaged: {what[:300]}",
        f"what {stage} holds is not what the stage left there, and nothing is built on it",
        f"bring the folder back from a copy; or `--redo {place}` has the stage done again",
    )


def _text_hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


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
