"""`tandem data select POOL`: which pairs of a pool of answers to have compared next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.game import check_written_file
from tandem.cli.reading import add_reading_flags, reading_options
from tandem.cli.settings import make_parser, parse_words
from tandem.errors import ConfigError, nearest_name
from tandem.statistics.pair_selection import PairRule


def select_command(words: Sequence[str]) -> int:
    """Choose pairs and write them as questions for `tandem label serve`."""
    options = parse_words(_make_select_parser(), words)
    _check_options(options)

    from collections import Counter

    from tandem.data.groups import Groups
    from tandem.machine import Machine
    from tandem.rng import Seed
    from tandem.runs.checkpoint import Checkpoint
    from tandem.stages.pair_pool import SOURCE, questions_from, read_pool
    from tandem.statistics.pair_selection import choose_pairs

    groups = reading_options(options).read(options.pool).groups
    models = [Checkpoint(Path(m), Path(m).name) for m in options.model]
    for model in models:
        model.files()
    pool, rule = read_pool(groups, models, Machine()), options.acquisition
    rng = Seed(options.seed).rng()
    chosen = choose_pairs(pool.pairs, options.n, rule, options.uniform, rng)
    questions = Groups.of(questions_from(pool, chosen, rule))
    questions.write(Path(options.out))
    sources = Counter(str(q.prompt.meta[SOURCE]) for q in questions)
    told = ", ".join(f"{n} {source}" for source, n in sorted(sources.items(), reverse=True))
    print(f"{len(questions)} of {len(pool.pairs)} pairs: {told}; written to {options.out}")
    print(f"next: tandem label serve {options.out} --out labels/next")
    return 0


def _make_select_parser() -> ArgumentParser:
    parser = make_parser(
        "data select",
        "Choose the pairs of a pool of answers that are worth asking about, and write them as "
        "questions. A share is drawn uniformly and flagged: it alone says how accurate a reward "
        "is.",
    )
    parser.add_argument("pool", type=str, help="prompts with two or more answers, in any format")
    parser.add_argument(
        "--model", action="append", default=[],
        help="folder of a reward (or a language model) that reads answers; two for disagreement",
    )  # fmt: skip
    parser.add_argument("--n", type=int, default=200, help="pairs to choose")
    parser.add_argument(
        "--acquisition", type=str, default="d_optimal", help=", ".join(get_args(PairRule))
    )
    parser.add_argument("--uniform", type=float, default=0.1, help="share that is drawn uniformly")
    parser.add_argument("--out", type=str, default="", help="the Parquet file to write")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    add_reading_flags(parser)
    return parser


def _check_options(options: Namespace) -> None:
    """Refuse what cannot be chosen by, or written to, before anything is read.

    Raises:
        ConfigError: an option is missing or out of its range.
    """
    if options.acquisition not in get_args(PairRule):
        raise ConfigError(
            f"--acquisition {options.acquisition}."
            + nearest_name(options.acquisition, get_args(PairRule)),
            f"pairs are chosen by one of {', '.join(get_args(PairRule))}",
            "name one of them",
        )
    if not options.out:
        raise ConfigError(
            "--out is missing", "questions are written to a file", "give --out FILE.parquet"
        )
    check_written_file("out", Path(options.out), ".parquet")
    if options.n < 1 or not 0 <= options.uniform <= 1:
        raise ConfigError(
            f"--n {options.n} --uniform {options.uniform}",
            "at least one pair is chosen, and a share lies between 0 and 1",
            "give for example --n 200 --uniform 0.1",
        )
    if not options.model:
        raise ConfigError(
            "--model is missing",
            "pairs are chosen by what a model sees in the answers",
            "give --model FOLDER: a reward model, or the policy where there is no reward yet",
        )
