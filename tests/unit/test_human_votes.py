"""People as a judge: what goes out, what comes back, and that every row is accounted for."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem.data import formats
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import DataError, Pending
from tandem.judges import Judge, only_compares
from tandem.judges.human import ANSWERED, DECLINED, OPEN, STATE, HumanVotes, open_questions
from tandem.judges.vote_files import VoteRow, count_vote_rows, read_votes, write_questions


def question(k: int, a: str = "yes", b: str = "no") -> Group:
    return Group(Prompt(f"q{k}", f"question {k}?"), (Completion(a, author="x"), Completion(b)))


ASKED = [question(k) for k in range(40)]


def write_votes(folder: Path, rows: list[tuple[str, str, str]], name: str = "votes.csv") -> None:
    with (folder / name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("question", "by", "vote"))
        writer.writerows(rows)


def awkward_rows() -> list[tuple[str, str, str]]:
    """Forty questions: ten missing, two ties, two skips, three disputed, three rows twice."""
    rows = [(f"q{k}", "ann", "a" if k % 3 else "b") for k in range(30)]
    rows[3], rows[4] = ("q3", "ann", "tie"), ("q4", "ann", "tie")
    rows[5], rows[6] = ("q5", "ann", "skip"), ("q6", "ann", "skip")
    rows += [(f"q{k}", "bob", "b" if k % 3 else "a") for k in (10, 11, 12)]
    return rows + rows[20:23]


def test_a_file_of_votes_with_everything_in_it_is_counted_once_and_nothing_is_lost(tmp_path: Path):
    judge = HumanVotes(tmp_path, need=0.7)
    with pytest.raises(Pending) as waiting:
        list(judge(ASKED))
    assert (waiting.value.have, waiting.value.need) == (0, 28)
    assert waiting.value.address == str(tmp_path / "questions.csv")
    write_votes(tmp_path, awkward_rows())
    judged = list(judge(ASKED))
    assert [g.id for g in judged] == [g.id for g in ASKED]
    said = {g.id: g.preferences[0].p if g.preferences else None for g in judged}
    state = {g.id: g.prompt.meta[STATE] for g in judged}
    assert [said[f"q{k}"] for k in (0, 1, 3, 10)] == [0.0, 1.0, 0.5, 0.5]
    assert said["q5"] is None
    assert [state[f"q{k}"] for k in (0, 5, 35)] == [ANSWERED, DECLINED, OPEN]
    assert sum(g.prompt.meta["votes"] for g in judged) == 28 + 3  # 30 - 2 skips, 3 of bob
    count = json.loads((tmp_path / "count.json").read_text())
    assert count == {
        "rows": 36, "counted": 31, "skipped": 2, "repeated": 3, "replaced": 0, "blank": 0,
        "questions": 40, "answered": 28, "declined": 2, "open": 10, "ties": 2, "disputed": 3,
    }  # fmt: skip
    assert [g.id for g in open_questions(judged)] == [f"q{k}" for k in range(30, 40)]
    assert all(STATE not in g.prompt.meta for g in open_questions(judged))


def test_too_few_votes_go_on_waiting_and_say_how_many_are_there(tmp_path: Path):
    judge = HumanVotes(tmp_path)
    with pytest.raises(Pending):
        judge(ASKED)
    write_votes(tmp_path, awkward_rows())
    with pytest.raises(Pending, match="30 of 32 judgements"):
        judge(ASKED)
    write_votes(tmp_path, [("q38", "cho", "b"), ("q39", "cho", "a")], "votes-more.csv")
    assert len(list(judge(ASKED))) == 40


@pytest.mark.parametrize("again", [1, 2, 5])
def test_rows_add_up_however_often_they_are_repeated(again: int):
    rows = [
        VoteRow(q, by, {"a": 1.0, "b": 0.0, "tie": 0.5}.get(v), "") for q, by, v in awkward_rows()
    ]
    changed = VoteRow("q1", "ann", 0.0, "")
    said, count = count_vote_rows([*rows * again, changed, None], [g.id for g in ASKED])
    parts = count.counted + count.skipped + count.repeated + count.replaced + count.blank
    assert parts == count.rows == 36 * again + 2
    assert (count.counted, count.skipped, count.replaced, count.blank) == (31, 2, 1, 1)
    assert said["q1"] == [0.0]  # the later row of the same person
    assert count.questions == count.answered + count.declined + count.open


def test_votes_come_from_csv_json_lines_and_an_export_of_the_page(tmp_path: Path):
    write_votes(tmp_path, [("q0", "ann", "A"), ("q1", "ann", "")])
    (tmp_path / "votes-2.jsonl").write_text('{"question": "q2", "by": "bob", "vote": 2}\n')
    (tmp_path / "latest").mkdir()
    export = [
        {"prompt_id": "q3", "by": "cho", "kind": "vote", "strength": -2},
        {"prompt_id": "q4", "by": "cho", "kind": "skip", "strength": None},
        {"prompt_id": "q5", "by": "cho", "kind": "late", "strength": 1},
    ]
    pq.write_table(pa.Table.from_pylist(export), tmp_path / "latest" / "votes.parquet")
    said, count = count_vote_rows(read_votes(tmp_path), [g.id for g in ASKED])
    assert said == {"q0": [1.0], "q2": [0.0], "q3": [0.0], "q4": []}
    assert (count.rows, count.blank) == (6, 2)


def test_questions_open_in_the_labelling_page_and_hide_no_formula(tmp_path: Path):
    asked = [question(0, "=HYPERLINK(1)", "plain"), question(1)]
    write_questions(asked, tmp_path)
    found = formats.read_data(tmp_path / "questions.parquet").groups
    assert [g.id for g in found] == ["q0", "q1"]
    assert found[0].completions[0].text == "=HYPERLINK(1)"
    with (tmp_path / "questions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["a"] == "'=HYPERLINK(1)"
    assert set(rows[0]) == {"question", "prompt", "a", "b", "by", "vote"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("question,by,vote\nq99,ann,a\n", r"line 2: there is no question 'q99'"),
        ("question,by,vote\nq1,ann,better\n", "the vote 'better'"),
        ("id,by,answer\nq1,ann,a\n", "has not the columns"),
        ("question,by,vote\n\xff", "cannot be read"),
    ],
)
def test_what_is_no_vote_is_refused_with_its_place(text: str, what: str, tmp_path: Path):
    (tmp_path / "votes.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=what):
        count_vote_rows(read_votes(tmp_path), [g.id for g in ASKED])


def test_a_question_has_two_answers_and_a_name_of_its_own(tmp_path: Path):
    with pytest.raises(DataError, match="asked twice"):
        write_questions([question(1), question(1)], tmp_path)
    with pytest.raises(DataError, match="has 1 answers"):
        write_questions([question(1).keep([0])], tmp_path)


def test_other_questions_never_get_the_votes_of_earlier_ones(tmp_path: Path):
    write_questions([question(1), question(2)], tmp_path)
    write_questions([question(1), question(2)], tmp_path)
    with pytest.raises(DataError, match="holds other questions"):
        write_questions([question(1), question(2, "yes", "never")], tmp_path)


def test_people_are_a_judge_that_only_compares(tmp_path: Path):
    people = HumanVotes(tmp_path)
    assert isinstance(people, Judge)
    assert only_compares(people)
    assert len(Groups.of(ASKED)) == 40
