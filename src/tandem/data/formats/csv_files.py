"""Tables of cells: CSV (RFC 4180), and the same with semicolons or tabs between the cells."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tandem.data.formats.fields import DataRow, shorten_text
from tandem.data.formats.structured_text import open_structure
from tandem.data.formats.text_files import open_text, sound_file
from tandem.errors import DataError

_CELL_CHARACTERS = 1 << 30
DELIMITERS = ",;\t"
STRUCTURED = ("completions", "ranks", "scores", "annotations", "data", "messages", "conversations",
              "answers")  # fmt: skip
"""Columns that hold lists and objects in every format; in CSV they are written as JSON."""


def read_csv(path: Path) -> Iterator[DataRow]:
    """Yield the rows of a table; what parts the cells is the first mark that the header has.

    Raises:
        DataError: a quote is open, a row has other cells than the header, a name is there twice.
    """
    csv.field_size_limit(_CELL_CHARACTERS)
    with sound_file(path), open_text(path, newline="") as stream:
        header = stream.readline()
        mark = next((mark for mark in DELIMITERS if mark in header), ",")
        reader = csv.DictReader(itertools.chain([header], stream), delimiter=mark, strict=True)
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
    opened = {k: open_structure(v) if k in STRUCTURED else v for k, v in values.items()}
    return DataRow(place, opened, strings=True)
