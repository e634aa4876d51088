"""Nested state in one file: tensors as safetensors, all else as JSON in its header, with a digest.

    write_state(path, {"optimiser": optimiser.state_dict(), "step": 12})
    read_state(path)["step"]                                    # 12

Nothing in such a file can run code. It is flushed before it takes its name, and a byte that
changed on the disk is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tandem.errors import RunError
from tandem.runs.atomic_files import flush_to_disk

FORMAT = "tandem-state-1"


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested mappings, lists and tuples of tensors, numbers, strings, booleans and None.

    Raises:
        TypeError: something else is in it.
        OSError: it cannot be written; the former file is untouched.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_take_apart(state, tensors))
    header = {"format": FORMAT, "tree": tree, "digest": _digest(tree, tensors)}
    part = path.with_name(path.name + ".part")
    try:
        save_file(tensors, part, header)
        flush_to_disk(part)
        part.replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        part.unlink(missing_ok=True)
    flush_to_disk(path.parent)


def read_state(path: Path) -> dict[str, Any]:
    """Return what `write_state` wrote; tensors are on the CPU.

    Raises:
        RunError: it is damaged, or no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT or header["digest"] != _digest(header["tree"], tensors):
            raise ValueError("its content and its digest differ")
        return _put_together(json.loads(header["tree"]), tensors)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise RunError(
            f"{path} is damaged: {str(error)[:200]}",
            "a fit goes on from exactly the state that it wrote, or not at all",
            f"delete {path}; the stage then starts anew",
        ) from error


def _take_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a tree for JSON, its tensors put aside under numbers; a tensor met twice is one."""
    if isinstance(value, Tensor):
        held = value.detach().cpu().contiguous()
        for name, known in tensors.items():
            if known.data_ptr() == held.data_ptr() and _same_kind(known, held) and held.numel():
                return {"tensor": name}
        name = f"{len(tensors):06d}"
        shares = any(t.untyped_storage().data_ptr() == held.untyped_storage().data_ptr()
                     for t in tensors.values())  # fmt: skip
        tensors[name] = held.clone() if shares or held.storage_offset() else held
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"pairs": [[_take_apart(k, tensors), _take_apart(v, tensors)]
                          for k, v in value.items()]}  # fmt: skip
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_take_apart(v, tensors) for v in value]}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    raise TypeError(f"a state holds {type(value).__name__}, which cannot be written as data")


def _same_kind(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _put_together(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "pairs" in tree:
        return {_put_together(k, tensors): _put_together(v, tensors) for k, v in tree["pairs"]}
    if "float" in tree:
        return float(tree["float"])
    members = [_put_together(v, tensors) for v in tree.get("tuple", tree.get("list", ()))]
    return tuple(members) if "tuple" in tree else members


def _digest(tree: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(tree.encode(), digest_size=16)
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"\0{name} {x.dtype} {tuple(x.shape)}\0".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b"")
    return digest.hexdigest()
