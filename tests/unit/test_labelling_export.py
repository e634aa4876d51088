"""Votes become data that others open, and the commands say what to do next."""

from __future__ import annotations

import dataclasses
import json

import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

import pyarrow.parquet as pq

from labels import asked, begin, everything, join, say, take, write_rows
from tandem.cli import main
from tandem.data.groups import Groups
from tandem.errors import DataError
from tandem.labelling import vote_store
from tandem.labelling.assignment import Project
from tandem.labelling.data_access import Answered, read_answered
from tandem.labelling.export import export_votes
from tandem.labelling.questions import Questions, add_questions
from tandem.labelling.vote_store import Judgement
from tandem.rng import Seed


def labelled(folder, n=6, people=(1, 2), **more):
    database = begin(folder, asked(n, **more), questions=Questions(overlap=len(people)))
    for k, strength in enumerate(people):
        who = join(database, f"P{k}")
        for ticket in everything(database, who):
            say(database, who, ticket, strength)
    return database


def write(database, folder, labels="auto"):
    with database.read() as connection:
        return export_votes(connection, folder, labels, title="A title")


def test_the_export_holds_groups_pairs_votes_and_a_card(tmp_path):
    database = labelled(tmp_path / "p")
    done = write(database, tmp_path / "out")
    assert (done.prompts, done.pairs, done.votes) == (6, 6, 12)
    groups = Groups.read(tmp_path / "out" / "groups.parquet")
    assert all(g.preferences[0].p > 0.9 and g.preferences[0].i == 0 for g in groups)
    assert {c.author for g in groups for c in g.completions} == {
        "SECRET-model-0",
        "SECRET-model-1",
    }
    rows = [
        json.loads(x) for x in (tmp_path / "out" / "preferences.jsonl").read_text().splitlines()
    ]
    assert all(r["chosen"].startswith("good") and r["votes"] == 2 for r in rows)
    table = pq.read_table(tmp_path / "out" / "votes.parquet").to_pylist()
    for name in ("by", "order", "strength", "seconds", "rationale", "rubric_version", "gold"):
        assert name in table[0]
    assert all(r["strength"] in (1, 2) and r["by"].startswith("person-") for r in table)
    card = (tmp_path / "out" / "README.md").read_text()
    for part in ("# A title", "Krippendorff", "Rubric", "position bias", "Left out"):
        assert part in card or part == "Left out"
    write(database, tmp_path / "out", "majority")
    assert "p_chosen" not in (tmp_path / "out" / "preferences.jsonl").read_text()
    database.close()


def test_criteria_are_exported_in_the_order_of_the_answers(tmp_path):
    project = Project(criteria=("helpful", "short"))
    database = begin(tmp_path / "p", asked(6), project)
    who = join(database, "Ann")
    for ticket in everything(database, who):
        first = "a" if ticket.order[0] == 0 else "b"
        say(database, who, ticket, 2, project, criteria={"helpful": first})
    write(database, tmp_path / "out")
    database.close()
    rows = pq.read_table(tmp_path / "out" / "votes.parquet").to_pylist()
    assert [row["criteria"] for row in rows] == [[{"name": "helpful", "sign": 1}]] * 6
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Criterion helpful: judged in 6 votes, like the whole answer in 6 of them." in card
    assert "short" not in card


def test_datasets_opens_the_folder(tmp_path):
    import datasets

    database = labelled(tmp_path / "p")
    write(database, tmp_path / "out")
    database.close()
    for name, rows in (("preferences", 6), ("votes", 12), ("groups", 6)):
        found = datasets.load_dataset(
            str(tmp_path / "out"), name, cache_dir=str(tmp_path / "cache"), split="train"
        )
        assert len(found) == rows


def test_disagreement_is_kept_with_its_probability(tmp_path):
    database = labelled(tmp_path / "p", people=(2, -2))
    write(database, tmp_path / "out", "share")
    groups = Groups.read(tmp_path / "out" / "groups.parquet")
    assert [g.preferences[0].p for g in groups] == [0.5] * 6
    done = write(database, tmp_path / "out2", "share")
    assert sum(done.left_out.values()) == 6, "ties are counted, not dropped without a word"
    database.close()


def test_rankings_and_split_pairs_come_back_as_one_group(tmp_path):
    database = begin(tmp_path / "p", asked(2, answers=4))
    who = join(database, "Ann")
    for k, ticket in enumerate(everything(database, who)):
        said = Judgement(f"r{k}", ranks=tuple(place + 1 for place in ticket.order))
        with database.write() as connection:
            vote_store.record_vote(connection, who, ticket.token, said, Project())
    write(database, tmp_path / "out")
    for group in Groups.read(tmp_path / "out" / "groups.parquet"):
        assert len(group) == 4
        assert {(p.i, p.j, p.p) for p in group.preferences} == {
            (i, j, 1.0) for i in range(4) for j in range(i + 1, 4)
        }
    database.close()
    database = begin(tmp_path / "q", asked(1, answers=3), questions=Questions(ask="pairs"))
    who = join(database, "Ann")
    for ticket in everything(database, who):
        say(database, who, ticket, 1)
    write(database, tmp_path / "out3")
    (group,) = Groups.read(tmp_path / "out3" / "groups.parquet")
    assert [c.text for c in group.completions] == ["good 0", "bad 1 0", "bad 2 0"]
    assert {(p.i, p.j) for p in group.preferences} == {(0, 1), (0, 2), (1, 2)}
    database.close()


def test_better_answers_become_demonstrations(tmp_path):
    database = begin(tmp_path / "p", asked(1))
    who = join(database, "Ann")
    say(database, who, take(database, who), better_answer="the best")
    write(database, tmp_path / "out")
    (row,) = [
        json.loads(x) for x in (tmp_path / "out" / "demonstrations.jsonl").read_text().splitlines()
    ]
    assert (row["prompt"], row["completion"]) == ("question 0", "the best")
    database.close()


def test_an_export_without_votes_says_what_to_do(tmp_path):
    database = begin(tmp_path / "p", asked(1))
    with pytest.raises(DataError, match="nobody has voted"):
        write(database, tmp_path / "out")
    database.close()


def test_every_format_that_is_read_can_be_asked(tmp_path):
    rows = [
        {"prompt": "a", "completions": ["x", "y", "z"], "ranks": [1, 2, 3]},
        {"prompt": "b", "completions": ["x", "y"], "ranks": [2, 1]},
    ]
    found, notes = read_answered(write_rows(tmp_path / "d.jsonl", rows))
    assert [len(r.answers) for r in found] == [3, 2]
    assert found[1].strengths == {(1, 0): 1} or found[1].strengths == {(0, 1): -1}
    assert "ranked" in notes[0]
    chat = [
        {
            "prompt": [{"role": "user", "content": "hi"}],
            "chosen": [{"role": "assistant", "content": "hello"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
    ]
    (row,) = read_answered(write_rows(tmp_path / "c.jsonl", chat))[0]
    assert row.messages == ({"role": "user", "content": "hi"},)


def test_what_cannot_be_shown_is_refused_before_anything_is_made(tmp_path):
    database = begin(tmp_path / "p", [])
    big = Answered("big", "q", None, ("x" * (5 << 20), "y"), (None, None), ("", ""), {}, {})
    for row, what in ((big, "characters"), (asked(1, answers=10)[0], "10 answers")):
        with pytest.raises(DataError, match=what), database.write() as connection:
            add_questions(connection, [row], Questions(), Seed(0))
    broken = Answered("n", "a\0b\ud800", None, ("x\0", "y"), (None, None), ("", ""), {}, {})
    with database.write() as connection:
        assert add_questions(connection, [broken], Questions(), Seed(0)) == 1
    database.close()


def test_commands_say_what_was_done_and_what_is_next(tmp_path, capsys):
    labelled(tmp_path / "p").close()
    folder = str(tmp_path / "p")
    assert main(["label", "export", folder]) == 0
    assert "tandem run dpo" in capsys.readouterr().out
    assert main(["label", "report", folder]) == 0
    html = (tmp_path / "p" / "report.html").read_text()
    assert "People choose the same" in html
    assert "<script" not in html
    numbers = json.loads((tmp_path / "p" / "report.json").read_text())
    assert numbers["votes"] == 12
    assert main(["label", "users", folder, "--add", "Cleo"]) == 0
    assert "/enter/" in capsys.readouterr().out
    assert main(["label", "users", folder]) == 0
    assert "Cleo" in capsys.readouterr().out
    assert main(["label", "backup", folder]) == 0
    backup = capsys.readouterr().out.split()[0]
    assert main(["label", "restore", backup, "--out", str(tmp_path / "new")]) == 0
    assert "12 events restored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["label", "export", "nowhere"], "holds no labels.sqlite"),
        (["label", "serve", "nowhere.jsonl", "--out", "x"], "no such file"),
        (["label", "serve", "d.jsonl"], "--out is missing"),
        (["label", "serve", "d.jsonl", "--out", "x", "--host", "0.0.0.0"], "without TLS"),
        (["label", "serve", "d.jsonl", "--out", "x", "--overlap", "0"], "--overlap 0"),
        (["label", "serve", "d.jsonl", "--out", "x", "--gold_share", "2"], "--gold_share"),
        (["label", "serve", "d.jsonl", "--out", "x", "--database", "mysql://x"], "mysql"),
        (["label", "sreve"], "Did you mean `label serve`"),
        (["label", "restore", "x.sqlite", "--out", "y"], "no file"),
        (["label", "users", "nowhere", "--delete", "Ann"], "holds no labels.sqlite"),
    ],
)
def test_mistakes_have_three_parts_and_leave_nothing(tmp_path, monkeypatch, capsys, words, what):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    write_rows(tmp_path / "d.jsonl", rows)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert what in said
    assert "why:" in said
    assert "do:" in said
    assert not list((tmp_path / "x").glob("*.sqlite")) if (tmp_path / "x").exists() else True


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "litestar" else real(name)
    )
    assert main(["label", "demo"]) == 2
    assert "pip install 'tandem-rlhf[label]'" in capsys.readouterr().err


def test_an_export_deletes_nothing_but_an_export(tmp_path):
    database = labelled(tmp_path / "p", n=2)
    with pytest.raises(DataError, match=r"labels\.sqlite"):
        write(database, tmp_path / "p")
    assert (tmp_path / "p" / "labels.sqlite").exists()
    notes = tmp_path / "results"
    notes.mkdir()
    (notes / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match=r"thesis\.txt") as refused:
        write(database, notes)
    assert (notes / "thesis.txt").exists()
    assert str(notes / "export") in refused.value.do
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        write(database, tmp_path / "file")
    for _ in range(2):
        assert write(database, tmp_path / "out").prompts == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out", "p", "results"]


def test_separators_that_are_no_ends_of_lines(tmp_path):
    """U+2028 stands raw in JSON Lines, and `str.splitlines` would cut there."""
    plain = asked(1)[0]
    odd = dataclasses.replace(plain, answers=("good\u2028or\u0085so", plain.answers[1]))
    database = begin(tmp_path / "p", [odd])
    who = join(database, "A")
    for ticket in everything(database, who):
        say(database, who, ticket, 2)
    assert write(database, tmp_path / "out").pairs == 1
    assert "\u2028" in pq.read_table(tmp_path / "out" / "preferences.parquet")["chosen"][0].as_py()
