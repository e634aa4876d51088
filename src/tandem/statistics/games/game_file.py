"""Games in files: a matrix as CSV or JSON, or votes as CSV, JSON or JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tandem.errors import DataError, nearest_name
from tandem.statistics.games.matrix import PreferenceMatrix, check_names
from tandem.statistics.games.votes import Votes, count_votes

MOST_NAMES = 200
"""Larger games are refused: the dynamics and the intervals would take hours."""

MOST_BYTES = 256 * 2**20
"""Larger files are refused: about five million votes."""

KINDS = (".csv", ".json", ".jsonl")
COLUMNS = (("a", "b", "winner"), ("model_a", "model_b", "winner"))
WINNERS = {
    "a": "a", "b": "b", "tie": "tie", "model_a": "a", "model_b": "b",
    "tie (bothbad)": "tie", "both_bad": "tie",
}  # fmt: skip
"""What arenas write for a winner, and what it means; both bad is a tie."""


@dataclass(frozen=True, eq=False)
class GameFile:
    """A game that was read from a file.

    Attributes:
        matrix: the game.
        votes: what it was counted from; None where the file held probabilities.
        notes: what was decided while reading, in sentences.
    """

    matrix: PreferenceMatrix
    votes: Votes | None
    notes: tuple[str, ...]


def read_game(path: str | Path, names: Sequence[str] = (), least: int = 1) -> GameFile:
    """Read a game.

    A CSV matrix has names in its first row and first column, and cell (i, j) is P(i beats j).
    JSON is `{"names": [...], "p": [[...]]}`. Votes have the columns `a`, `b`, `winner`, or
    `model_a`, `model_b`, `winner`; other columns are ignored, and a note says so.

    Args:
        path: a file that ends in .csv, .json or .jsonl.
        names: keep these actions alone; all if empty.
        least: votes that every pair needs.

    Raises:
        DataError: the file is missing, too large, broken, or holds no game; with line and cell.
    """
    file = _checked(Path(path).expanduser())
    text = _text(file)
    read = _from_csv if file.suffix.lower() == ".csv" else _from_json
    found = read(file, text)
    if isinstance(found, PreferenceMatrix):
        matrix = _kept(found, names)
        return GameFile(_few(file, matrix), None, (f"{file.name}: a matrix of probabilities",))
    votes, notes = found
    everyone = len(votes.names)
    if names:
        notes.append(f"{len(names)} of {everyone} names were asked for")
        votes = votes.keep(names)
    if len(votes.names) > MOST_NAMES:
        raise _too_many(file, votes.names)
    notes.insert(0, f"{file.name}: {votes.total:,} votes between {len(votes.names)} names")
    return GameFile(votes.matrix(least), votes, tuple(notes))


def _checked(file: Path) -> Path:
    if not file.is_file():
        there = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        raise DataError(
            f"{file} is a folder" if file.is_dir() else f"no such file: {file}",
            f"a game is one file.{nearest_name(file.name, there)}",
            "give the path of a .csv, .json or .jsonl file",
        )
    if file.suffix.lower() not in KINDS:
        raise DataError(
            f"{file.name} ends in `{file.suffix}`",
            f"the kind of a game's file is read from its ending: {', '.join(KINDS)}",
            "rename the file to what it holds",
        )
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise DataError(
            f"{file} has {size / 2**20:,.0f} MiB",
            f"it is read whole, and above {MOST_BYTES // 2**20} MiB that is too much",
            "keep the columns a, b and winner alone, or a sample of the rows",
        )
    return file


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: byte {error.start} is not UTF-8",
            "names are text, and text files are read as UTF-8",
            f"convert it: iconv -f latin1 -t utf-8 {file.name}",
        ) from error
    except OSError as error:
        raise DataError(
            f"{file}: {error.strerror}",
            "it is there, but cannot be read",
            "make it readable for this user",
        ) from error
    if not text.strip():
        raise DataError(f"{file} is empty", "there is no game in it", "look at what wrote it")
    return text


def _from_csv(file: Path, text: str) -> PreferenceMatrix | tuple[Votes, list[str]]:
    rows = _rows(file, text)
    line, header = next(rows, (1, [""]))
    header = [cell.strip() for cell in header]
    if len(header) == 1:
        raise DataError(
            f"{file}, line {line}: one cell, {header[0][:60]!r}",
            "cells are separated by commas",
            "write the file with commas between the cells",
        )
    columns = _columns(header)
    if columns is None:
        return _matrix(file, header[1:], rows)
    places = [header.index(c) for c in columns]
    ignored = [c for c in header if c not in columns]

    def records() -> Iterator[tuple[int, list[Any]]]:
        for number, row in rows:
            if len(row) != len(header):
                raise DataError(
                    f"{file}, line {number}: {len(row)} cells under {len(header)} columns",
                    "which cell is missing, or too many, cannot be known",
                    "complete the row, or put quotes around a cell that holds a comma",
                )
            yield number, [row[k].strip() for k in places]

    return _counted(file, records(), ignored)


def _rows(file: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file that are not blank, each with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{file}, line {reader.line_num}: {error}",
                "the row cannot be taken apart into cells",
                "correct the quotes of this line",
            ) from error
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield reader.line_num, row


def _columns(header: Sequence[str]) -> tuple[str, ...] | None:
    """Return the columns of votes; None for a matrix, whose first cell may be blank."""
    lowered = [cell.lower() for cell in header]
    found = next((c for c in COLUMNS if set(c) <= set(lowered)), None)
    if found is None or not header[0]:
        return None
    return tuple(header[lowered.index(c)] for c in found)


def _matrix(
    file: Path, names: Sequence[str], rows: Iterable[tuple[int, list[str]]]
) -> PreferenceMatrix:
    if len(names) > MOST_NAMES:
        raise _too_many(file, names)
    check_names(names)
    table: dict[str, list[float]] = {}
    for line, row in rows:
        name, cells = row[0].strip(), [cell.strip() for cell in row[1:]]
        if name not in names or name in table:
            raise DataError(
                f"{file}, line {line}: the row `{name[:60]}` "
                + ("stands there a second time" if name in table else "has no column"),
                "a game has one row and one column for each of its names; "
                "a list of votes has the columns a, b, winner",
                "delete this row" if name in table else f"add a column for `{name[:60]}`",
            )
        if len(cells) > len(names):
            raise DataError(
                f"{file}, line {line}: {len(cells)} cells after the name `{name}`",
                f"there are {len(names)} columns: {', '.join(names[:12])}",
                "delete the cells that are too many",
            )
        cells += [""] * (len(names) - len(cells))
        table[name] = [
            _number(f"{file}, line {line}", name, other, cell)
            for other, cell in zip(names, cells, strict=True)
        ]
    for name in names:
        if name not in table:
            raise DataError(
                f"{file}: the column `{name}` has no row",
                "a game has one row and one column for each of its names",
                f"add the row of `{name}`",
            )
    return PreferenceMatrix(names, [table[name] for name in names])


def _number(place: str, name: str, other: str, cell: str) -> float:
    if not cell and name == other:
        return 0.5
    if not cell:
        raise DataError(
            f"{place}: the cell P({name} beats {other}) is missing",
            "who is preferred has to be known for every pair; only the diagonal may be blank",
            "fill it in: 1 less the cell with the two names exchanged",
        )
    try:
        return float(cell)
    except ValueError as error:
        raise DataError(
            f"{place}: P({name} beats {other}) is {cell[:60]!r}",
            "a probability is a number from 0 to 1, with a point",
            "write for example 0.56",
        ) from error


def _from_json(file: Path, text: str) -> PreferenceMatrix | tuple[Votes, list[str]]:
    if file.suffix.lower() == ".jsonl":
        return _counted_json(file, _lines(file, text))
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(f"{file}: {' '.join(str(error).split())[:200]}") from error
    if isinstance(found, list):
        return _counted_json(file, enumerate(cast("list[Any]", found), 1))
    if not isinstance(found, dict) or not {"names", "p"} <= set(cast("dict[str, Any]", found)):
        raise DataError(
            f"{file} holds neither names and p, nor a list of votes",
            'a game is {"names": [...], "p": [[...]]}, or votes with a, b and winner',
            "write it so",
        )
    table = cast("dict[str, Any]", found)
    names, p = table["names"], table["p"]
    if not isinstance(names, list) or not all(
        isinstance(name, str) for name in cast("list[Any]", names)
    ):
        raise DataError(
            f"{file}: names is {json.dumps(names)[:60]}",
            "names are a list of strings",
            'write for example ["R", "P", "S"]',
        )
    labels = cast("list[str]", names)
    if len(labels) > MOST_NAMES:
        raise _too_many(file, labels)
    return PreferenceMatrix(labels, _square(file, labels, p))


def _square(file: Path, names: Sequence[str], p: Any) -> list[list[float]]:
    check_names(names)
    rows = cast("list[Any]", p) if isinstance(p, list) else []
    for k, name in enumerate(names):
        row = cast("list[Any]", rows[k]) if k < len(rows) and isinstance(rows[k], list) else []
        for j, other in enumerate(names):
            cell = row[j] if j < len(row) else None
            if isinstance(cell, bool) or not isinstance(cell, int | float):
                raise DataError(
                    f"{file}: p[{k}][{j}], P({name} beats {other}), is "
                    + ("missing" if cell is None else json.dumps(cell)[:60]),
                    f"p is a square of {len(names)} rows of {len(names)} numbers from 0 to 1",
                    "write a number there, for example 0.5",
                )
        if len(row) != len(names) or len(rows) != len(names):
            raise DataError(
                f"{file}: p has {len(rows)} rows, row {k} of {len(row)} numbers",
                f"there are {len(names)} names",
                "delete the numbers that are too many",
            )
    return [[float(min(max(x, -9), 9)) if isinstance(x, int) else x for x in row] for row in rows]


def _lines(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _broken(f"{file}, line {number}: {str(error)[:200]}") from error


def _counted_json(file: Path, rows: Iterable[tuple[int, Any]]) -> tuple[Votes, list[str]]:
    ignored: dict[str, None] = {}

    def records() -> Iterator[tuple[int, list[Any]]]:
        for number, row in rows:
            keys = [*cast("dict[str, Any]", row)] if isinstance(row, dict) else []
            columns = _columns(keys) if keys else None
            if columns is None:
                raise DataError(
                    f"{file}, vote {number} is {json.dumps(row)[:60]}",
                    "a vote has a, b and winner",
                    'write for example {"a": "x", "b": "y", "winner": "a"}',
                )
            vote = cast("dict[str, Any]", row)
            ignored.update(dict.fromkeys(key for key in vote if key not in columns))
            yield number, [vote[c] for c in columns]

    return _counted(file, records(), ignored)


def _counted(
    file: Path, records: Iterable[tuple[int, list[Any]]], ignored: Iterable[str]
) -> tuple[Votes, list[str]]:
    both_bad = 0

    def votes() -> Iterator[tuple[str, str, str]]:
        nonlocal both_bad
        names: set[str] = set()
        for number, (a, b, winner) in records:
            place = f"{file}, line {number}"
            for name in (a, b):
                if name not in names:
                    _check_name(place, name)
                    names.add(name)
            meaning = WINNERS.get(winner.lower()) if isinstance(winner, str) else None
            if meaning is None:
                raise DataError(
                    f"{place}: the winner is {json.dumps(winner)[:60]}"
                    + (nearest_name(winner, WINNERS) if isinstance(winner, str) else ""),
                    "a vote is won by `a`, the first, by `b`, the second, or is a `tie`",
                    "correct the winner of this vote, or delete the vote",
                )
            if a == b:
                raise DataError(
                    f"{place}: `{a}` against itself",
                    "it says nothing about a preference",
                    "delete this vote",
                )
            both_bad += "bad" in winner
            yield a, b, meaning

    found = count_votes(votes())
    notes = [f"{both_bad:,} votes for `both bad` are counted as ties"] if both_bad else []
    if unread := list(ignored):
        notes.append(f"ignored: {', '.join(f'`{c}`' for c in unread[:12])}")
    return found, notes


def _check_name(place: str, name: Any) -> None:
    if not isinstance(name, str):
        raise DataError(
            f"{place}: a name is {json.dumps(name)[:60]}",
            "a and b are names of what was compared, as text",
            "write the name in quotes",
        )
    try:
        check_names([name, f"not {name}"[:100]])
    except DataError as error:
        raise DataError(f"{place}: {error.what}", error.why, error.do) from error


def _kept(matrix: PreferenceMatrix, names: Sequence[str]) -> PreferenceMatrix:
    if not names:
        return matrix
    check_names(names)
    rows = [matrix.index(name) for name in names]
    return PreferenceMatrix(names, matrix.p[rows][:, rows])


def _few(file: Path, matrix: PreferenceMatrix) -> PreferenceMatrix:
    if len(matrix) > MOST_NAMES:
        raise _too_many(file, matrix.names)
    return matrix


def _too_many(file: Path, names: Sequence[str]) -> DataError:
    return DataError(
        f"{file} has {len(names):,} names",
        f"above {MOST_NAMES} the dynamics and the intervals would take hours",
        f"name at most {MOST_NAMES} of them: --names {','.join(names[:3])},...",
    )


def _broken(what: str) -> DataError:
    return DataError(what, "it cannot be read as JSON", "correct it there, or write the file again")
