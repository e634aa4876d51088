"""Data files: rows of every format in every container, damaged, through `tandem data check`."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.corpus import Corpus
from fuzz.damage import change_bytes, change_tree
from fuzz.rows import NUMBERS, ROWS, TEXTS, Row
from fuzz.verdicts import Answer, Verdict, give_command, judge_answer, list_files, name_changes
from tandem.data.formats import read_data
from tandem.data.groups import Groups
from tandem.errors import TandemError

CONTAINERS = ("jsonl", "jsonl", "json", "csv", "parquet", "jsonl.gz", "csv.gz", "folder")
NOT_IN_CSV = ("openai-preference",)
"""Rows whose prompt is an object: as CSV they are refused."""
BROKEN_BYTES = ("cut gzip", "not utf-8", "key twice", "column twice", "digits")
BROKEN_ROWS = ("number", "surrogate", "infinite")


class DataFiles:
    """A data file: right, damaged at random, or wrong in a way that must be refused."""

    name, goal, deadline = "data", 100_000, 60.0

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def prepare(self, home: Path) -> None:
        """Nothing is needed."""

    def check(self, dice: random.Random, folder: Path) -> Verdict:
        """Write a file, check it, and judge the answer."""
        draw = dice.random()
        if draw < 0.1:
            return self._right(dice, folder)
        if draw < 0.15:
            return check_own_groups(dice, folder)
        if draw < 0.3:
            return self._known_wrong(dice, folder)
        return self._damaged(dice, folder)

    def _right(self, dice: random.Random, folder: Path) -> Verdict:
        name, rows = draw_rows(dice)
        containers = [c for c in CONTAINERS if name not in NOT_IN_CSV or "csv" not in c]
        path = write_rows(rows, dice.choice(containers), folder)
        answer, verdict = check_file(path, folder)
        if answer.code != 0:
            verdict.blame("refused", f"{name} as {path.name}: {answer.err}")
            return verdict
        told = json.loads(answer.out)
        kept = told["notes"]["rows"]
        if kept != len(rows) or told["notes"]["dropped"]:
            verdict.blame("lost", f"{name}: {len(rows)} rows written, {told['notes']}")
        one = read_data(write_rows(rows, "jsonl", folder)).groups
        if name not in NUMBERS:
            same_content(one, read_data(path).groups, verdict, f"{name}: jsonl and {path.name}")
        return verdict

    def _known_wrong(self, dice: random.Random, folder: Path) -> Verdict:
        how = dice.choice((*BROKEN_BYTES, *BROKEN_ROWS))
        path = (
            break_rows(dice, how, folder) if how in BROKEN_ROWS else break_file(dice, how, folder)
        )
        answer, verdict = check_file(path, folder)
        if answer.code != 2:
            verdict.blame("accepted", f"{how}: {path.read_bytes()[:1500]!r}")
        return verdict

    def _damaged(self, dice: random.Random, folder: Path) -> Verdict:
        if self.corpus.files and dice.random() < 0.15:
            ending, data = dice.choice(self.corpus.files)
            path = folder / f"data.{ending}"
            path.write_bytes(change_bytes(data, dice, self.corpus.contents))
        else:
            rows: Any = draw_rows(dice)[1]
            for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
                rows = change_tree(rows, dice)
            path = write_rows(rows, dice.choice(CONTAINERS), folder)
            if path.is_file() and dice.random() < 0.5:
                data = path.read_bytes()
                for _ in range(dice.choice((1, 1, 2, 4))):
                    data = change_bytes(data, dice, self.corpus.contents)
                path.write_bytes(data)
        _, verdict = check_file(path, folder, *draw_flags(dice, folder))
        if path.is_file():
            self.corpus.offer(verdict.reason, path)
        return verdict


def check_own_groups(dice: random.Random, folder: Path) -> Verdict:
    """Check a Parquet file in Tandem's own columns, of which one holds something else."""
    rows = read_data(write_rows([ROWS["scored"](dice) for _ in range(3)], "jsonl", folder)).groups
    table = rows.table
    if dice.random() < 0.1:
        _, verdict = _written(table, folder)
        if verdict.ending != "accepted":
            verdict.blame("refused", f"whole groups: {verdict.reason}")
        return verdict
    values: dict[str, list[Any]] = table.to_pydict()
    name = dice.choice(list(values))
    k = dice.randrange(len(values[name]))
    values[name][k] = change_tree(values[name][k], dice)
    try:
        kind = table.schema.field(name).type if dice.random() < 0.7 else None
        column = pa.array(values[name], kind)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
        column = pa.array([str(ascii(v)) for v in values[name]])
    table = table.set_column(table.schema.get_field_index(name), name, column)
    try:
        return _written(table, folder)[1]
    except pa.ArrowNotImplementedError:  # no Parquet file can hold this
        return _written(rows.table, folder)[1]


def _written(table: pa.Table, folder: Path) -> tuple[Answer, Verdict]:
    pq.write_table(table, folder / "groups.parquet")
    return check_file(folder / "groups.parquet", folder)


def draw_rows(dice: random.Random) -> tuple[str, list[Row]]:
    """Return (format, a few right rows of it)."""
    name = dice.choice(list(ROWS))
    return name, [ROWS[name](dice) for _ in range(dice.randint(1, 5))]


def draw_flags(dice: random.Random, folder: Path) -> list[str]:
    """Return flags of `data check`, mostly none."""
    draw = dice.random()
    if draw < 0.8:
        return []
    columns = dice.choice(
        ("prompt=question", "chosen=prompt", "a", "=", '{"prompt": 1}', "prompt=")
    )
    return {
        0: [f"--columns={columns}"],
        1: [f"--limit={dice.choice((0, 1, 2, -1, 10**9, 10**30))}"],
        2: [f"--format={dice.choice((*list(ROWS)[:1], 'hh', 'prompt', 'nope', ''))}"],
        3: [f"--split={dice.choice(('train', 'test', '', '..'))}"],
        4: [f"--data.max_length={dice.choice((0, -1, 1, 10**12))}"],
    }[dice.randrange(5)]


def write_rows(rows: Any, container: str, folder: Path) -> Path:
    """Write rows; those that a container cannot hold are written as JSON Lines."""
    if not isinstance(rows, list):
        container = "json"
    kind, _, packed = container.partition(".")
    if kind == "folder":
        (folder / "data").mkdir(exist_ok=True)
        return write_rows(rows, "jsonl", folder / "data").parent
    data = None
    if kind == "csv":
        data = _as_csv(rows)
    elif kind == "parquet":
        data = _as_parquet(rows)
    elif kind == "json":
        data = json.dumps(rows).encode()
    if data is None:
        kind, data = "jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = folder / f"data.{kind}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return path


def _as_csv(rows: list[Any]) -> bytes | None:
    if not rows or not all(isinstance(row, dict) and row for row in rows):
        return None
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for row in rows:
        cells = [row.get(name, "") for name in names]
        writer.writerow([c if isinstance(c, str) else json.dumps(c) for c in cells])
    return text.getvalue().encode("utf-8", "surrogatepass")


def _as_parquet(rows: list[Any]) -> bytes | None:
    if not rows or not all(isinstance(row, dict) and row for row in rows):
        return None
    sink = io.BytesIO()
    try:
        names = dict.fromkeys(name for row in rows for name in row)
        whole = [{name: row.get(name) for name in names} for row in rows]
        pq.write_table(pa.Table.from_pylist(whole), sink)
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
        return None
    return sink.getvalue()


def break_rows(dice: random.Random, how: str, folder: Path) -> Path:
    """Write rows of which one holds a value that no row may hold."""
    table = TEXTS if how == "surrogate" else NUMBERS
    name = dice.choice(list(table))
    rows = [ROWS[name](dice) for _ in range(dice.randint(1, 4))]
    value: Any = {
        "surrogate": "half \ud83d a character",
        "infinite": dice.choice((float("nan"), float("inf"), 10**400, float("-inf"))),
        "number": dice.choice(("many", [1], {"a": 1}, "0x1", "1 2")),
    }[how]
    dice.choice(rows)[dice.choice(table[name])] = value
    return write_rows(rows, dice.choice(("jsonl", "json", "jsonl.gz", "folder")), folder)


def break_file(dice: random.Random, how: str, folder: Path) -> Path:
    """Write a file whose bytes are wrong in one way."""
    name, rows = dice.choice(list(TEXTS)), []
    rows = [ROWS[name](dice) for _ in range(dice.randint(2, 4))]
    column = TEXTS[name][0]
    if how == "cut gzip":
        path = write_rows(rows, "jsonl.gz", folder)
        path.write_bytes(path.read_bytes()[: -dice.randint(1, 12)])
    elif how == "not utf-8":
        rows[-1][column] = "HERE"
        path = write_rows(rows, dice.choice(("jsonl", "csv", "json")), folder)
        path.write_bytes(path.read_bytes().replace(b"HERE", b"caf\xe9 x"))
    elif how == "column twice":
        path = write_rows(rows, "csv", folder)
        head, _, rest = path.read_bytes().partition(b"\r\n")
        lines = [line + b",more" for line in rest.split(b"\r\n") if line]
        path.write_bytes(b"\r\n".join([head + b"," + column.encode(), *lines]) + b"\r\n")
    else:
        path = write_rows(rows, dice.choice(("jsonl", "json")), folder)
        old = json.dumps(rows[-1])
        more = json.dumps(column) + ': "again"' if how == "key twice" else f'"n": {"9" * 5000}'
        path.write_text(path.read_text().replace(old, f"{old[:-1]}, {more}}}"))
    return path


def check_file(path: Path, folder: Path, *flags: str) -> tuple[Answer, Verdict]:
    """Give `tandem data check`, and judge what hangs on no particular case."""
    before = list_files(folder)
    answer = give_command(["data", "check", str(path), "--json", *flags])
    verdict = Verdict("accepted" if answer.code in (0, 1) else "refused", reason=answer.reason)
    judge_answer(answer, verdict, (0, 1, 2))
    if changes := name_changes(before, list_files(folder)):
        verdict.blame("made", ", ".join(changes))
    if answer.code == 0 and not verdict.faults:
        _judge_numbers(json.loads(answer.out, parse_constant=str), verdict)
    if answer.code == 0 and not flags and not verdict.faults:
        try:
            judge_groups(read_data(path).groups, verdict)
        except TandemError as error:
            verdict.blame("refused", f"by the library alone: {error}")
    return answer, verdict


def _judge_numbers(told: Any, verdict: Verdict) -> None:
    if isinstance(told, dict | list):
        for inner in told.values() if isinstance(told, dict) else told:
            _judge_numbers(inner, verdict)
    elif told in ("NaN", "Infinity", "-Infinity"):
        verdict.blame("accepted", f"a number of the check is {told}")


def judge_groups(groups: Groups, verdict: Verdict) -> None:
    """Note numbers without meaning in what was accepted."""
    for group in groups:
        for vote in group.preferences:
            fine = 0 <= vote.p <= 1 and vote.i != vote.j and max(vote.i, vote.j) < len(group)
            if not fine or not math.isfinite(vote.margin or 0.0):
                verdict.blame("accepted", f"{vote!r} of {len(group)} answers")
        for score in () if group.scores is None else group.scores:
            if not math.isfinite(score):
                verdict.blame("accepted", f"a score is {score}")


def same_content(one: Groups, other: Groups, verdict: Verdict, where: str) -> None:
    """Note where two containers with the same rows do not hold the same."""
    for a, b in zip(one, other, strict=True):
        texts = [(g.prompt.text, [c.text for c in g.completions]) for g in (a, b)]
        votes = [[(v.i, v.j, v.p) for v in g.preferences] for g in (a, b)]
        scores = [None if g.scores is None else g.scores.tolist() for g in (a, b)]
        if texts[0] != texts[1] or votes[0] != votes[1] or scores[0] != scores[1]:
            verdict.blame("differs", f"{where}: {texts} {votes} {scores}")
