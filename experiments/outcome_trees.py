"""What an experiment measured by seed and prompt, as one Parquet file beside its JSON.

For experiments that are no comparison by `tandem bench`: their numbers are lists within tables. A
page is made again from them, so a better estimator changes every interval without a new run.

    write_outcomes({"seeds": [{"truth": [1.0, 2.0]}]}, path)
    read_outcomes(path)          # the same, numbers in single precision
"""

# pyarrow ships no types
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [("path", pa.string()), ("numbers", pa.list_(pa.float32())), ("other", pa.string())]
)
"""A list of numbers, or anything else as JSON, by its path: keys of tables, places of lists."""


def write_outcomes(found: Any, path: Path) -> Path:
    """Write tables and lists of numbers."""
    table = pa.Table.from_pylist(list(_leaves(found, [])), SCHEMA)
    pq.write_table(table, path, compression="zstd", compression_level=19)
    return path


def read_outcomes(path: Path) -> Any:
    """Return what `write_outcomes` wrote."""
    root: dict[Any, Any] = {}
    for row in pq.read_table(path).to_pylist():
        *above, last = ["root", *json.loads(row["path"])]
        at = root
        for step in above:
            at = at.setdefault(step, {})
        numbers = row["numbers"]
        at[last] = _Leaf(json.loads(row["other"]) if numbers is None else numbers)
    return _joined(root["root"])


class _Leaf:
    """A value that is no table: it may be one itself, an empty one."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _leaves(value: Any, path: list[Any]) -> Iterator[dict[str, Any]]:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    items: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping | list | tuple):
        items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
    nested = any(isinstance(x, list | tuple | Mapping | np.ndarray) for _, x in items)
    if items and (nested or isinstance(value, Mapping)):
        for key, inside in items:
            yield from _leaves(inside, [*path, key])
    elif items and all(isinstance(x, float) for _, x in items):
        yield {"path": json.dumps(path), "numbers": [x for _, x in items], "other": None}
    else:
        yield {"path": json.dumps(path), "numbers": None, "other": json.dumps(value)}


def _joined(node: Any) -> Any:
    if isinstance(node, _Leaf):
        return node.value
    if all(isinstance(key, int) for key in node):
        return [_joined(node[k]) for k in sorted(node)]
    return {key: _joined(inside) for key, inside in node.items()}
