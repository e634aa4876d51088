"""Folders whose weights somebody has packed: those of bitsandbytes in 4 bits are opened.

A packed matrix is several tensors in a file, which say how to read each other:

    q_proj.weight                                  two codes a byte
    q_proj.weight.absmax                           a scale a block
    q_proj.weight.quant_map                        16 numbers that codes stand for
    q_proj.weight.quant_state.bitsandbytes__nf4    JSON: shape, block size, dtype
    q_proj.weight.nested_absmax, .nested_quant_map where scales are packed themselves

What unpacks them reads as far as the JSON says, so their sizes are checked before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from tandem.errors import ModelError
from tandem.models.folders import Source, read_config
from tandem.models.quantised import INSTALL, has_bitsandbytes
from tandem.runs.weight_files import loaded_weights, read_model_json

PACKED = (
    ".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".absmax",
    ".quant_map", ".SCB", ".input_scale", "_blocks", "_scales",
)  # fmt: skip
"""How the names of packed weights, and of what unpacks them, end."""
NOTES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files beside config.json in which some programs say how they quantised."""
NOTE = "quantization_config"
"""Where config.json speaks of packed weights."""
STATE = ".quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")
LARGEST_STATE = 4096
"""Bytes of the JSON about one matrix."""
NESTED = 256
"""Scales that share a scale of their own."""
Stored = Mapping[str, tuple[str, list[int]]]
"""Weight -> (dtype, shape), from the headers of a folder's files."""


def read_packing(source: Source) -> tuple[bool, Any]:
    """Return whether a folder's weights are packed, and the configuration to open them with.

    A configuration may speak of 4 bits beside whole weights: it is then returned without the
    note. And a note's list of layers that stay whole was written before there was a scalar head.

    Returns:
        (packed, configuration); None for the folder's own.

    Raises:
        ModelError: the weights are packed, and cannot be opened here.
    """
    if not Path(source).is_dir() or NOTE not in read_model_json(Path(source) / "config.json"):
        return False, None
    config = read_config(source)
    note, stored = _note(config) or {}, read_headers(source)
    if note.get("quant_method") != "bitsandbytes":
        return False, None
    if not any(STATE in name for name in stored):
        del config.quantization_config
        return False, config
    check_note(source, config)
    check_stored(source, config, stored)
    if whole := note.get("llm_int8_skip_modules"):
        config.quantization_config = {**note, "llm_int8_skip_modules": [*whole, "score"]}
    return True, config


def read_headers(source: Source) -> Stored:
    """Return weight -> (dtype, shape) of a folder, from the headers of its files alone.

    Raises:
        ModelError: a header cannot be read.
    """
    files = loaded_weights(Path(source)) if Path(source).is_dir() else []
    stored: dict[str, tuple[str, list[int]]] = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118  it is no mapping
                    part = weights.get_slice(name)
                    stored[name] = str(part.get_dtype()), [int(n) for n in part.get_shape()]
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{file} is no safetensors file that can be read: {error}",
                "its header says where each weight lies, and how long the file is",
                "fetch the file again, or save the model again with `save_pretrained`",
            ) from error
    return stored


def check_note(source: Source, config: Any) -> None:
    """Refuse a configuration that speaks of packed weights which are not opened here.

    Raises:
        ModelError: another method than 4 bits of bitsandbytes, or bitsandbytes is not installed.
    """
    note = _note(config)
    if note is None:
        return
    method = note.get("quant_method") or "a method that it does not name"
    if method != "bitsandbytes" or not note.get("load_in_4bit"):
        bits = " in 8 bits" if note.get("load_in_8bit") else ""
        raise _not_whole(f"{source} holds weights quantised by {method}{bits}")
    if not has_bitsandbytes():
        raise ModelError(
            f"{source} holds weights quantised by bitsandbytes, which is not installed",
            "it unpacks them, and multiplies with them",
            f"{INSTALL}, or give the model in bf16 or fp32 that it was made from",
        )


def check_stored(source: Source, config: Any, stored: Stored) -> None:
    """Refuse packed weights of which the configuration does not speak, or of sizes that disagree.

    Raises:
        ModelError: as said.
    """
    states = [n for n in stored if STATE in n] if _note(config) is not None else []
    weights = {name.partition(STATE)[0] for name in states}
    own = {n for n in stored if n in weights or n.rpartition(".")[0] in weights}
    packed = [
        n
        for n, (kind, _) in stored.items()
        if n not in own and (n.endswith(PACKED) or kind.startswith("F8"))
    ]
    notes = [name for name in NOTES if (Path(source) / name).exists()]
    if packed or notes:
        raise _not_whole(f"{source} holds quantised weights: see {(packed or notes)[0]}")
    for file in loaded_weights(Path(source)) if states else []:
        with safe_open(file, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  it is no mapping
                if STATE in name:
                    size = math.prod(stored[name][1])
                    raw = weights.get_tensor(name).tobytes() if size <= LARGEST_STATE else b""
                    _check_matrix(source, name, raw, stored)


def check_shapes(source: Source, model: nn.Module) -> None:
    """Refuse packed matrices of another shape than their layers: they would be read turned.

    Raises:
        ModelError: naming the first.
    """
    for name, layer in model.named_modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is None:
            continue
        wanted = (getattr(layer, "out_features", 0), getattr(layer, "in_features", 0))
        if tuple(state.shape) != wanted:
            raise ModelError(
                f"{source}: `{name}.weight` is packed as {list(state.shape)}, and the layer is "
                f"{list(wanted)}",
                "config.json and the weights describe other sizes",
                "fetch the folder again from where it came from, or pack the model again",
            )


def _check_matrix(source: Source, name: str, raw: bytes, stored: Stored) -> None:
    """Refuse a packed matrix whose parts are not as long as what unpacks them would read."""
    weight, _, kind = name.partition(STATE)
    try:
        state = json.loads(raw)
        shape, block = [int(n) for n in state["shape"]], int(state["blocksize"])
        nested = state.get("nested_blocksize")
        fits = kind in KINDS and len(shape) == 2 and min(shape) > 0
        fits = fits and block >= 32 and block & (block - 1) == 0 and state["quant_type"] == kind
        count = math.prod(shape)
        scales = -(-count // block)
        wanted = {"": (count + 1) // 2, ".absmax": scales, ".quant_map": 16}
        if nested is not None:
            fits = fits and int(nested) == NESTED
            wanted |= {".nested_absmax": -(-scales // NESTED), ".nested_quant_map": 256}
        dtypes = {"": "U8", ".absmax": "F32" if nested is None else "U8"}
        for part, length in wanted.items():
            dtype, sizes = stored[weight + part]
            fits = fits and math.prod(sizes) == length and dtype == dtypes.get(part, "F32")
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, AttributeError):
        fits = False
    if not fits:
        raise ModelError(
            f"{source}: `{weight}` is packed in 4 bits, and its parts do not belong together",
            "codes, scales and table are as long as its shape and its block size say",
            "fetch the folder again from where it came from, or pack the model again",
        )


def _note(config: Any) -> dict[str, Any] | None:
    """What a configuration says of packed weights."""
    note = getattr(config, NOTE, None)
    return note if note is None or isinstance(note, dict) else note.to_dict()


def _not_whole(what: str) -> ModelError:
    return ModelError(
        what,
        "quantised weights cannot be trained: a step is smaller than the distance between them; "
        "adapters over 4 bits of bitsandbytes can",
        "give the model in bf16 or fp32 that it was made from; --machine.quantise nf4 "
        "--machine.lora.rank 16 packs it in 4 bits",
    )
