"""`tandem game FILE`: whether preferences are a ranking, who can be exploited, and by how much."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.settings import make_parser, parse_words
from tandem.errors import ConfigError

if TYPE_CHECKING:
    from tandem.cli.game_text import GameFindings
    from tandem.statistics.games import (
        CycleTest,
        GameFile,
        GameIntervals,
        GameProfile,
        PreferenceMatrix,
        Trajectory,
    )
    from tandem.statistics.numerics import Floats

MOST_STEPS = 100_000
RECORDS = 2000


def game_command(words: Sequence[str]) -> int:
    """Print all that can be said of a game of preferences; write its numbers and its picture."""
    options = parse_words(_parser(), words)
    _check_options(options)
    found = _examine(options)

    from tandem.cli.game_text import tell_game
    from tandem.runs.atomic_files import write_json, write_text

    written: list[str] = []
    if options.json:
        write_json(Path(options.json), found.as_dict())
        written.append(f"numbers: {options.json}")
    if options.picture:
        from tandem.cli.game_picture import draw_dynamics

        write_text(Path(options.picture), draw_dynamics(found))
        written.append(f"picture: {options.picture}")
    print("\n\n".join([tell_game(found), *["\n".join(written)] * bool(written)]))
    return 0


def _examine(options: Namespace) -> GameFindings:
    from tandem.cli.game_text import GameFindings
    from tandem.statistics.games import profile_game, read_game, regularised_equilibrium

    taus = _numbers("tau", options.tau)
    names = next(csv.reader([options.names]), []) if options.names else []
    file = read_game(options.file, [name.strip() for name in names], options.least)
    reference = _policy(file.matrix, "reference", options.reference)
    profile = profile_game(file.matrix, taus, reference, file.votes)
    start = _policy(file.matrix, "start", options.start)
    if start is None:
        best = file.matrix.pure(profile.fit.ranking[0])
        start = (best + file.matrix.uniform()) / 2
    goal = regularised_equilibrium(file.matrix, options.dynamics_tau, profile.reference)
    played = _play(profile, start, options)
    intervals, chance = _resample(file, options)
    return GameFindings(
        notes=file.notes,
        profile=profile,
        votes=file.votes,
        intervals=intervals,
        chance=chance,
        tau=options.dynamics_tau,
        goal=goal,
        start=start,
        played=played,
    )


def _parser() -> ArgumentParser:
    parser = make_parser(
        "game",
        "Say whether preferences are a ranking, what policies an opponent can exploit, and how "
        "ways of learning do. FILE is a matrix (CSV whose first row and column are names and "
        'whose cell (i, j) is P(i beats j), or JSON {"names", "p"}), or votes (CSV, JSON or JSON '
        "Lines with a, b and winner, which is a, b or tie).",
    )
    parser.add_argument("file", type=str, help="a .csv, .json or .jsonl file")
    parser.add_argument("--names", type=str, default="", help="keep these alone, with commas")
    parser.add_argument("--least", type=int, default=5, help="votes that every pair needs")
    parser.add_argument(
        "--tau", type=str, default="1,0.5,0.2,0.1,0.05", help="prices of a nat of KL, with commas"
    )
    parser.add_argument(
        "--reference", type=str, default="", help="probabilities in the names' order; uniform"
    )
    parser.add_argument("--steps", type=int, default=2000, help="of each way of learning")
    parser.add_argument("--dynamics_tau", type=float, default=0.1, help="tau of these ways")
    parser.add_argument(
        "--start",
        type=str,
        default="",
        help="their first policy; half on Bradley-Terry's best, the rest uniform",
    )
    parser.add_argument("--draws", type=int, default=500, help="resamples of the votes")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    parser.add_argument("--json", type=str, default="", help="write all numbers to this file")
    parser.add_argument("--picture", type=str, default="", help="draw the ways to this .svg file")
    return parser


def _check_options(options: Namespace) -> None:
    """Ask for places that can be written before anything is computed."""
    for name, suffix in (("json", ".json"), ("picture", ".svg")):
        if not options[name]:
            continue
        path = Path(options[name])
        check_written_file(name, path, suffix)
        if path.resolve() == Path(options.file).resolve():
            raise ConfigError(
                f"--{name} {path} is the game's own file",
                "the game would be overwritten",
                "name another file",
            )
    for name, low, high in (("steps", 1, MOST_STEPS), ("draws", 20, 100_000), ("least", 1, None)):
        if options[name] < low or (high is not None and options[name] > high):
            raise ConfigError(
                f"--{name} {options[name]}",
                f"it is {low} or more" + (f", and at most {high:,}" if high else ""),
                f"give --{name} {max(low, min(options[name], high or low))}",
            )


def check_written_file(name: str, path: Path, suffix: str) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Args:
        name: of the flag that names it.
        path: the file.
        suffix: how its name has to end.

    Raises:
        ConfigError: another ending, a folder, or a folder that cannot be written to.
    """
    if path.suffix.lower() != suffix:
        raise ConfigError(
            f"--{name} {path}",
            f"what is written there is {suffix[1:].upper()}",
            f"give a name that ends in {suffix}",
        )
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(
            f"--{name} {path}",
            "it is a folder" if path.is_dir() else f"{path.parent} cannot be written to",
            "name a file in a folder that exists",
        )


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--{name} {text}",
            "it is a list of numbers with commas between them",
            f"write for example --{name} 0.5,0.1",
        ) from error


def _policy(matrix: PreferenceMatrix, name: str, text: str) -> Floats | None:
    if not text:
        return None
    values = _numbers(name, text)
    return matrix.check_policy(values, positive=True)


def _resample(file: GameFile, options: Namespace) -> tuple[GameIntervals | None, CycleTest | None]:
    if file.votes is None:
        return None, None
    from tandem.rng import Seed
    from tandem.statistics.games import check_transitivity, resample_votes

    if sys.stderr.isatty():
        print(f"resampling the votes {options.draws} times ...", file=sys.stderr)
    seed = Seed(options.seed)
    sure = resample_votes(file.votes, options.draws, seed)
    return sure, check_transitivity(file.votes, options.draws, seed)


def _play(profile: GameProfile, start: Floats, options: Namespace) -> dict[str, Trajectory]:
    from tandem.statistics.games.dynamics import DYNAMICS

    tau, steps = options.dynamics_tau, options.steps
    every = -(-steps // RECORDS)
    return {
        name: dynamic.follow(profile.matrix, tau, profile.reference, start, steps, every)
        for name, dynamic in DYNAMICS.items()
    }
