"""Tables of numbers with intervals, as plain text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tandem.evaluation.samples import printable_text
from tandem.statistics import Estimate

CellValue = str | int | float | Estimate | None


@dataclass(frozen=True)
class Table:
    """Rows under named columns; `str` aligns them, None shows as a dash.

    Names come from data as well: in `str` each is one line, without what commands a terminal.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[CellValue, ...], ...]
    title: str = ""

    def __str__(self) -> str:
        cells = [[_text(c) for c in row] for row in (self.columns, *self.rows)]
        widths = [max(len(row[k]) for row in cells) for k in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([_text(self.title), *lines] if self.title else lines)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return one dict a row, for JSON; an estimate becomes a dict of its fields."""
        return [dict(zip(self.columns, map(plain_cell, row), strict=True)) for row in self.rows]


def plain_cell(cell: CellValue) -> Any:
    """Return a cell as JSON holds it."""
    return cell.as_dict() if isinstance(cell, Estimate) else cell


def _text(cell: CellValue) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return printable_text(str(cell)).replace("\n", " ").replace("\t", " ")


def join_parts(parts: Sequence[object]) -> str:
    """Return the parts as text, an empty line between them."""
    return "\n\n".join(str(part) for part in parts)
