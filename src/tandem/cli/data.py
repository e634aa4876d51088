"""`tandem data check FILE`: look at data before anything is trained on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tandem.cli.reading import add_reading_flags, reading_options
from tandem.cli.settings import make_parser, parse_words


def check_command(words: Sequence[str]) -> int:
    """Print what was found; exit code 1 if something must be mended before training."""
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
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parse_words(parser, words)

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
    print(found.json() if options.json else found.text(colour=sys.stdout.isatty()))
    return int(not found.ok)
