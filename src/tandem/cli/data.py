"""`tandem data check FILE`: look at data before anything is trained on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.reading import add_reading_flags, reading_options
from tandem.cli.settings import make_parser, parse_words
from tandem.errors import ConfigError

if TYPE_CHECKING:
    from tandem.evaluation.taste_shift import TasteShift


def check_command(words: Sequence[str]) -> int:
    """Print what was found; exit code 1 if something must be mended before training."""
    options = parse_words(_make_check_parser(), words)
    if options.tranches < 0 or (options.tranches and not options.time):
        raise ConfigError(
            f"--data.tranches {options.tranches}"
            + ("" if options.time else " without --data.time"),
            "it says into how many spans of time the dates are cut",
            "give --data.time COLUMN, and 2 or more tranches, or 0 for calendar months",
        )

    from tandem.data.check.check import check_data as examine

    tokenizer, context, ends = None, None, ()
    if options.model:
        from tandem.models.checks import check_policy
        from tandem.models.folders import context_length, generation_ends
        from tandem.models.model_finder import find_model
        from tandem.models.tokenizers import load_tokenizer

        model = find_model(options.model).path
        check_policy(model)
        tokenizer, context = load_tokenizer(model), context_length(model)
        ends = generation_ends(model)
    found = examine(
        options.data,
        tokenizer,
        options.max_length or context,
        reading=reading_options(options),
        against=options.against,
        named_ends=ends,
    )
    shift = _taste_shift(options) if options.time else None
    if options.json:
        more = {} if shift is None else {"taste": shift.as_dict()}
        print(json.dumps({**json.loads(found.json()), **more}, indent=1, ensure_ascii=False))
    else:
        parts = [found.text(colour=sys.stdout.isatty()), *([str(shift)] if shift else [])]
        print("\n\n".join(parts))
    return int(not found.ok)


def _make_check_parser() -> ArgumentParser:
    parser = make_parser("data check", "Examine preference data before training on it.")
    parser.add_argument("data", type=str, help="JSONL, JSON, CSV, Parquet, a folder, a hub id")
    parser.add_argument("--model", type=str, default="", help="count its tokens, show its template")
    parser.add_argument(
        "--against", action="append", default=[], help="may share no prompt with it"
    )
    add_reading_flags(parser)
    parser.add_argument(
        "--data.max_length",
        dest="max_length",
        type=int | None,
        default=None,
        help="count what is longer; the model's context if not given",
    )
    parser.add_argument(
        "--data.time", dest="time", type=str, default="", help="column of dates: has taste moved?"
    )
    parser.add_argument(
        "--data.tranches",
        dest="tranches",
        type=int,
        default=0,
        help="with --data.time: cut into so many of equal size, not by month",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _taste_shift(options: Namespace) -> TasteShift:
    from tandem.evaluation.taste_shift import measure_taste_shift

    groups = reading_options(options).read(options.data).groups
    return measure_taste_shift(groups, options.time, options.tranches)
