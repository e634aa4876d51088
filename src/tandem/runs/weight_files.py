"""Which files of a model folder hold the weights that are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from tandem.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_JSON = 256 << 20
LARGEST_NUMBER = 1e30
"""Bytes of a configuration or an index above which it is none."""


def loaded_weights(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads from a folder, sorted; maybe none.

    That is what config.json names in `transformers_weights`, else model.safetensors, else every
    file that the index names.

    Raises:
        ModelError: the configuration or the index names something that is not a safetensors file
            of this folder.
    """
    named = read_model_json(folder / "config.json").get("transformers_weights")
    main = SINGLE if named is None else str(named)
    if named is not None and not main.endswith((".safetensors", ".safetensors.index.json")):
        raise _not_safetensors(folder / "config.json", main)
    if named is None and not (folder / main).is_file():
        main = INDEX
    if not main.endswith(".json"):
        return [_checked(folder, main, folder / "config.json")] if (folder / main).is_file() else []
    if not (folder / main).is_file():
        return []
    index = read_model_json(folder / main).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ModelError(
            f"{folder / main} has no `weight_map`",
            "an index says in which file each weight lies",
            "save the model again with `save_pretrained`",
        )
    files = sorted({str(file) for file in cast("dict[str, Any]", index).values()})
    return [_checked(folder, file, folder / main) for file in files]


def read_model_json(path: Path) -> dict[str, Any]:
    """Read a table of a model folder; one that is missing is empty.

    Raises:
        ModelError: it is there and no JSON table, or its architectures or Tandem's own settings
            are of another type than they should be.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}",
            "a model folder describes itself in JSON",
            "fetch or save the model again",
        ) from error
    if not isinstance(table, dict):
        raise ModelError(
            f"{path} holds a {type(table).__name__}, not a table",
            "a model folder describes itself in tables of names and values",
            "fetch or save the model again",
        )
    found = cast("dict[str, Any]", table)
    names: Any = found.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in cast("list[Any]", names)):
        raise ModelError(
            f"{path}: architectures = {str(names)[:60]}",
            "the names of the model's classes stand there, as a list of texts",
            "fetch or save the model again",
        )
    own: Any = found.get("tandem") or {}
    numbers = [own.get(k, 0.0) for k in ("gain", "bias")] if isinstance(own, dict) else [""]
    if not all(isinstance(x, int | float) and abs(x) < LARGEST_NUMBER for x in numbers):
        raise ModelError(
            f"{path}: tandem = {str(own)[:60]}",
            "what Tandem says of a reward stands there: a table with the numbers gain and bias",
            "fetch or save the model again",
        )
    return found


def _checked(folder: Path, name: str, source: Path) -> Path:
    if not name.endswith(".safetensors"):
        raise _not_safetensors(source, name)
    file = folder / name
    if Path(name).name != name or not file.is_file():
        raise ModelError(
            f"{source} names the weights {name!r}, which are no file of {folder}",
            "weights lie beside the configuration, so that one digest covers all of the model",
            "fetch the missing file, or save the model again with `save_pretrained`",
        )
    return file


def _not_safetensors(source: Path, name: str) -> ModelError:
    return ModelError(
        f"{source} names the weights {name!r}, which are not safetensors",
        "pickled weights can run code when they are opened",
        "convert them: model.save_pretrained(FOLDER) with a current transformers",
    )
