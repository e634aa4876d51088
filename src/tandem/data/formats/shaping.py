"""Rows before a format reads them: columns renamed, labelling tasks opened, rows gathered."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from tandem.data.formats.fields import DataRow
from tandem.errors import ConfigError, DataError


class MissingColumnError(DataError):
    """A row has no column that --columns names."""


def rename_columns(rows: Iterable[DataRow], columns: Mapping[str, str] | None) -> Iterator[DataRow]:
    """Yield rows with the columns' names that formats know.

    Args:
        rows: as the file has them.
        columns: what a format calls a column -> what the file calls it.

    Raises:
        MissingColumnError: a row has no such column.
    """
    if not columns:
        yield from rows
        return
    back = {theirs: ours for ours, theirs in columns.items()}
    for row in rows:
        missing = [theirs for theirs in back if theirs not in row.values]
        if missing:
            raise MissingColumnError(
                f"{row.place}: no column `{missing[0]}`; there are "
                f"{', '.join(f'`{c}`' for c in row.values)}",
                f"--columns {back[missing[0]]}={missing[0]} asks for it",
                "give a column that every row has: --columns "
                f"{back[missing[0]]}={next(iter(row.values), 'COLUMN')}",
            )
        kept = {k: v for k, v in row.values.items() if k in back or k not in columns}
        yield replace(row, values={back.get(k, k): v for k, v in kept.items()})


def parse_columns(text: str) -> dict[str, str]:
    """Return the mapping that `prompt=question,chosen=better` spells; JSON is read too.

    Raises:
        ConfigError: it spells no mapping.

    Example:
        >>> parse_columns("prompt=question, chosen=better")
        {'prompt': 'question', 'chosen': 'better'}
    """
    if not text.strip():
        return {}
    try:
        found: Any = json.loads(text) if text.lstrip().startswith("{") else _spelt(text)
    except (ValueError, RecursionError):
        found = None
    pairs = cast("dict[Any, Any]", found) if isinstance(found, dict) else {}
    if not pairs or not all(isinstance(x, str) and x for p in pairs.items() for x in p):
        raise ConfigError(
            f"--columns {text}",
            "it maps names that a format knows to names in the file",
            "write --columns prompt=question,chosen=better",
        )
    return {str(ours): str(theirs) for ours, theirs in pairs.items()}


def _spelt(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def open_tasks(rows: Iterable[DataRow]) -> Iterator[DataRow]:
    """Yield rows; a labelling task's `data` is laid beside its `annotations`."""
    for row in rows:
        data, annotations = row.values.get("data"), row.values.get("annotations")
        if isinstance(data, dict) and isinstance(annotations, list):
            values: dict[str, Any] = {**cast("dict[str, Any]", data), "annotations": annotations}
            if row.values.get("id") is not None:
                values["id"] = row.values["id"]
            row = replace(row, values=values)
        yield row


def gather_rows(rows: Iterable[DataRow], names: Sequence[str]) -> Iterator[DataRow]:
    """Yield one row for rows that follow each other with one prompt; named columns become lists."""
    if not names:
        yield from rows
        return
    for _, several in itertools.groupby(rows, lambda row: str(row.values.get("prompt"))):
        these = list(several)
        first = these[0]
        if len(these) > 1:
            places = tuple(row.place for row in these)
            lists = {name: [row.values.get(name) for row in these] for name in names}
            first = replace(first, values={**first.values, **lists}, gathered=places)
        yield first
