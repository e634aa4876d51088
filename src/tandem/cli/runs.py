"""`tandem runs check DIR`: is every stage still what it was when it was made?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tandem.cli.settings import make_parser, parse_words


def check_run_command(words: Sequence[str]) -> int:
    """Verify every artifact of a run or a bench; exit code 1 if one is damaged."""
    parser = make_parser("runs check", "Verify every stage of a run or a bench.")
    parser.add_argument("path", type=str, help="folder of a run or a bench")
    options = parse_words(parser, words)
    from tandem.runs.verification import verify_run

    damaged = 0
    for found in verify_run(Path(options.path)):
        damaged += found.problem is not None
        print(f"{'damaged' if found.problem else 'whole  '}  {found.stage}", flush=True)
        if found.problem:
            print(f"         {found.problem}")
    print(f"{damaged} damaged" if damaged else "everything is as it was made")
    return int(damaged > 0)
