"""`tandem report PATH` and `tandem report --diff A B`: one page that shows what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tandem.cli.settings import make_parser, parse_words
from tandem.errors import ConfigError


def report_command(words: Sequence[str]) -> int:
    """Write the report of a bench or a run, or of the change between two."""
    parser = make_parser("report", "Write one self-contained HTML page, and its numbers as JSON.")
    parser.add_argument(
        "path",
        type=str,
        nargs="?",
        default="",
        help="folder of a bench or a run, or a results.json",
    )
    parser.add_argument(
        "--out", type=str, default="", help="the HTML file; report.html in the folder if not given"
    )
    parser.add_argument(
        "--diff", type=str, nargs=2, default=None, help="A and B: what changed from A to B"
    )
    options = parse_words(parser, words)
    if bool(options.path) == bool(options.diff):
        raise ConfigError(
            "given: both a path and --diff" if options.path else "given: neither a path nor --diff",
            "a report is about one folder, or about the change between two",
            "`tandem report runs/dpo-micro-0`, or `tandem report --diff A B`",
        )
    from tandem.report import write_comparison, write_report

    out = Path(options.out) if options.out else None
    if options.diff:
        a, b = map(Path, options.diff)
        written = write_comparison(a, b, out)
    else:
        written = write_report(Path(options.path), out)
    print(f"{written} (numbers: {written.with_suffix('.json').name})")
    return 0
