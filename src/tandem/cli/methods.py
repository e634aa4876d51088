"""`tandem methods` and `tandem tasks check`: what there is, and whether it is what it says."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

from tandem.cli.settings import make_parser, parse_words
from tandem.methods import HEADINGS, METHODS, methods_markdown, methods_table

WIDTHS = (22, 18, 14, 14, 18, 8, 8)


def methods_command(words: Sequence[str]) -> int:
    """Print the table of methods."""
    parser = make_parser("methods", "List the methods, in the five verbs.")
    parser.add_argument("--markdown", action="store_true", help="the table of the README")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parse_words(parser, words)
    rows = [
        ("name", *HEADINGS),
        *((name, *row) for name, row in zip(METHODS, methods_table(), strict=True)),
    ]
    if options.json:
        print(json.dumps([dict(zip(rows[0], row, strict=True)) for row in rows[1:]], indent=1))
    elif options.markdown:
        print(methods_markdown(), end="")
    else:
        print(lay_out_columns(rows, (max(len(name) for name in METHODS), *WIDTHS)))
    return 0


def lay_out_columns(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """Lay cells out in columns, wrapping what is too wide."""
    lines: list[str] = []
    for row in rows:
        cells = [textwrap.wrap(c.replace("`", ""), w) for c, w in zip(row, widths, strict=True)]
        for k in range(max(len(cell) for cell in cells)):
            parts = (cell[k] if k < len(cell) else "" for cell in cells)
            lines.append(
                "  ".join(f"{p:<{w}}" for p, w in zip(parts, widths, strict=True)).rstrip()
            )
    return "\n".join(lines)
