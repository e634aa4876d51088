"""Files of questions and files of votes: how people are asked outside of this program.

    questions.parquet   what `tandem label serve` shows, with everything that is known
    questions.csv       the same for a table calculation: question, prompt, a, b
    votes*.csv          question, by, vote: a, b, tie or skip (also .jsonl; also an export of
                        `tandem label`, a folder with votes.parquet)

Every row is accounted for: counted once, repeated, replaced by a later row of the same person,
skipped, or blank. A row about a question that was not asked is refused.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError, nearest_name

SHARES: dict[str, float | None] = {
    "a": 1.0, "b": 0.0, "tie": 0.5, "skip": None, "1": 1.0, "2": 0.0, "0": 0.5
}  # fmt: skip
"""What a vote says: P(answer a is better), None for a question that somebody would not answer."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a table calculation would compute instead of show."""


@dataclass(frozen=True)
class VoteRow:
    """One row of a file of votes.

    Attributes:
        question: the question's name.
        by: who voted.
        share: 1 for answer a, 0 for b, .5 for a tie, None for a skip.
        place: file and row, for messages.
    """

    question: str
    by: str
    share: float | None
    place: str


@dataclass(frozen=True)
class VoteCount:
    """How the rows of the files add up.

    Attributes:
        rows: all rows that were read; the five below add up to it.
        counted: votes that count, one a person and question.
        skipped: of people who would not answer.
        repeated: rows that say again what the same person said before.
        replaced: votes of people who changed their minds; their later row counts.
        blank: rows without a vote.
        questions: questions that were asked.
        answered: of these, with at least one vote that counts.
        declined: with skips alone.
        ties: counted votes that say tie.
        disputed: questions on which people disagree.
    """

    rows: int
    counted: int
    skipped: int
    repeated: int
    replaced: int
    blank: int
    questions: int
    answered: int
    declined: int
    ties: int
    disputed: int

    @property
    def open(self) -> int:
        """Questions that nobody has dealt with."""
        return self.questions - self.answered - self.declined

    def as_dict(self) -> dict[str, int]:
        """Return the numbers for JSON."""
        return {**asdict(self), "open": self.open}

    def __str__(self) -> str:
        return (
            f"{self.questions} questions: {self.answered} answered, {self.declined} declined, "
            f"{self.open} open; {self.rows} rows: {self.counted} votes ({self.ties} ties), "
            f"{self.skipped} skips, {self.repeated} repeated, {self.replaced} replaced, "
            f"{self.blank} blank; people disagree on {self.disputed}"
        )


def write_questions(groups: Sequence[Group], folder: Path) -> Path:
    """Write questions of two answers each, once; return the table that people fill in.

    Raises:
        DataError: a group has not two answers, two groups have one name, or other questions were
            asked in this folder before.
    """
    names = [g.id for g in groups]
    for group in groups:
        if len(group) != 2 or names.count(group.id) > 1:
            raise DataError(
                f"question `{group.id}` has {len(group)} answers"
                + (" and is asked twice" if names.count(group.id) > 1 else ""),
                "a question is which of two answers is better, and is found again by its name",
                "give each question a name of its own and two answers",
            )
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "questions.csv"
    asked, kept = Groups.of(groups), folder / "questions.parquet"
    if table.exists():
        if kept.exists() and _said_of(Groups.read(kept)) != _said_of(asked):
            raise DataError(
                f"{folder} holds other questions than those that are asked now",
                "votes would be counted for answers that nobody saw",
                f"move {folder} away, and give the same command again",
            )
        return table
    asked.write(kept)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("question", "prompt", "a", "b", "by", "vote"))
    for g in groups:
        shown = (g.prompt.text, *(c.text for c in g.completions))
        writer.writerow((g.id, *map(_as_text, shown), "", ""))
    part = table.with_suffix(".part")
    part.write_text(text.getvalue(), encoding="utf-8")
    part.replace(table)
    return table


def _said_of(groups: Groups) -> list[tuple[str, ...]]:
    return [(g.id, *(c.text for c in g.completions)) for g in groups]


def _as_text(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def read_votes(folder: Path) -> list[VoteRow | None]:
    """Read every file of votes in a folder, in the order of their names; None is a blank row.

    Raises:
        DataError: a file cannot be read, or a row says what is no vote.
    """
    rows: list[VoteRow | None] = []
    for file in sorted([*folder.glob("votes*"), *folder.glob("*/votes.parquet")]):
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".parquet":
            rows += _read_export(file, name)
        elif file.suffix in (".csv", ".jsonl"):
            rows += _read_table(file, name)
    return rows


def _read_table(file: Path, name: str) -> Iterator[VoteRow | None]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        found: Iterable[Any] = csv.DictReader(io.StringIO(text))
        if file.suffix == ".jsonl":
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        rows = list(found)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(
            f"{file} cannot be read: {error}",
            "votes are CSV or JSON Lines in UTF-8, with the columns question, by and vote",
            "save it again from questions.csv, or export it with `tandem label export`",
        ) from error
    for number, row in enumerate(rows, 2 if file.suffix == ".csv" else 1):
        yield _read_row(row, f"{name}, line {number}")


def _read_row(row: Any, place: str) -> VoteRow | None:
    if not isinstance(row, Mapping) or not {"question", "vote"} <= set(row):
        raise DataError(
            f"{place} has not the columns `question` and `vote`",
            "a vote says which question it answers, and how",
            "begin a CSV file with the line: question,by,vote",
        )
    said = str(row["vote"] if row["vote"] is not None else "").strip().lower()
    if not said:
        return None
    if said not in SHARES:
        raise DataError(
            f"{place}: the vote {said!r}.{nearest_name(said, SHARES)}",
            f"a vote is one of {', '.join(SHARES)}",
            "correct the row; leave it empty where there is no vote",
        )
    by = str(row.get("by") or "").strip() or "somebody"
    return VoteRow(str(row["question"]).strip(), by, SHARES[said], place)


def _read_export(file: Path, name: str) -> Iterator[VoteRow | None]:
    """Read the votes of `tandem label export`: those that count there, and skips."""
    try:
        rows = pq.read_table(file, columns=["prompt_id", "by", "kind", "strength"]).to_pylist()
    except Exception as error:
        raise DataError(
            f"{file} cannot be read: {error}",
            "votes.parquet is what `tandem label export` writes",
            "export the votes again",
        ) from error
    for number, row in enumerate(rows, 1):
        place = f"{name}, row {number}"
        if row["kind"] == "vote" and row["strength"] is not None:
            share = 0.5 if row["strength"] == 0 else float(row["strength"] > 0)
            yield VoteRow(row["prompt_id"], row["by"], share, place)
        elif row["kind"] == "skip":
            yield VoteRow(row["prompt_id"], row["by"], None, place)
        else:
            yield None


def count_vote_rows(
    rows: Sequence[VoteRow | None], questions: Sequence[str]
) -> tuple[dict[str, list[float]], VoteCount]:
    """Add up the rows: what was said of each question, and where every row went.

    Returns:
        question -> the shares of everybody whose vote counts (empty for a declined one; questions
        that nobody dealt with are not there), and the count.

    Raises:
        DataError: a row answers a question that was not asked.
    """
    known, kept = set(questions), dict[tuple[str, str], float | None]()
    repeated = replaced = 0
    for row in rows:
        if row is None:
            continue
        if row.question not in known:
            raise DataError(
                f"{row.place}: there is no question {row.question!r}."
                + nearest_name(row.question, questions),
                f"{len(questions)} questions were asked, and a vote on another would be lost",
                "correct the name, or put the row into the file of the round that asked it",
            )
        key = (row.question, row.by)
        if key in kept:
            same = kept[key] == row.share
            repeated, replaced = repeated + same, replaced + (not same)
        kept[key] = row.share
    said: dict[str, list[float]] = {}
    for (question, _), share in kept.items():
        said.setdefault(question, []).extend([] if share is None else [share])
    shares = [s for given in said.values() for s in given]
    return said, VoteCount(
        rows=len(rows),
        counted=len(shares),
        skipped=sum(share is None for share in kept.values()),
        repeated=repeated,
        replaced=replaced,
        blank=sum(row is None for row in rows),
        questions=len(questions),
        answered=sum(bool(given) for given in said.values()),
        declined=sum(not given for given in said.values()),
        ties=sum(s == 0.5 for s in shares),
        disputed=sum(len(set(given)) > 1 for given in said.values()),
    )
