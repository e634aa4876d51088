"""A backup under load is a whole state; an older schema is brought up to date with its data."""

from __future__ import annotations

import json
import threading
import time

import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from labels import asked, begin, everything, join, say, take
from postgres import ABSENT, Postgres, is_there
from tandem.errors import DataError, RunError
from tandem.labelling import schema
from tandem.labelling.backup import digest_events, make_backup, restore_votes
from tandem.labelling.database import Database
from tandem.labelling.judgements import load_votes
from tandem.labelling.questions import Questions
from tandem.labelling.setup import find_database


@pytest.fixture(scope="module")
def postgres():
    if not is_there():
        yield None
        return
    server = Postgres()
    yield server
    server.end()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request, postgres):
    """Makes URLs of empty databases; '' stands for the folder's SQLite."""
    if request.param == "sqlite":
        return lambda: ""
    if postgres is None:
        pytest.skip(ABSENT)
    return postgres.new_database


def digest(database, last=None):
    with database.read() as connection:
        return digest_events(connection, last)


def test_a_backup_under_load_restores_to_the_same_votes(tmp_path, new_url):
    database = begin(tmp_path / "a", asked(300), questions=Questions(overlap=2), url=new_url())
    stop, failed = threading.Event(), []

    def work(who):
        try:
            for ticket in everything(database, who):
                say(database, who, ticket)
                if stop.is_set():
                    return
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(join(database, f"P{k}"),)) for k in range(3)]
    for t in threads:
        t.start()
    time.sleep(0.5)
    path = make_backup(database, tmp_path / "backups")
    time.sleep(0.3)
    stop.set()
    for t in threads:
        t.join()
    assert failed == []
    noted = json.loads(path.with_suffix(".json").read_text())
    assert 0 < noted["events"] < digest(database).events, "people went on voting"
    assert digest(database, noted["last"]).digest == noted["digest"]
    assert path.stat().st_mode & 0o077 == 0

    url = new_url()
    found = restore_votes(path, tmp_path / "b", url)
    assert (found.digest, found.events) == (noted["digest"], noted["events"])
    again = find_database(tmp_path / "b", url)
    assert digest(again).digest == noted["digest"]
    who = join(again, "New")
    say(again, who, take(again, who))
    assert digest(again).events == noted["events"] + 1, "labelling goes on after it"
    again.close()
    database.close()


def test_a_backup_crosses_from_one_kind_of_database_to_the_other(tmp_path, postgres):
    if postgres is None:
        pytest.skip(ABSENT)
    database = begin(tmp_path / "a", asked(4))
    ann = join(database, "Ann")
    for ticket in everything(database, ann):
        say(database, ann, ticket, rationale="ü \u2028 🙂")
    path = make_backup(database, tmp_path / "backups")
    url = postgres.new_database()
    restore_votes(path, tmp_path / "b", url)
    there = find_database(tmp_path / "b", url)
    back = make_backup(there, tmp_path / "back")
    restore_votes(back, tmp_path / "c")
    home = find_database(tmp_path / "c")
    assert digest(home).digest == digest(there).digest == digest(database).digest
    for found in (database, there, home):
        found.close()


def test_damage_and_what_is_there_are_refused(tmp_path):
    database = begin(tmp_path / "a", asked(3))
    ann = join(database, "Ann")
    say(database, ann, take(database, ann))
    path = make_backup(database, tmp_path / "backups")
    with pytest.raises(RunError, match="holds something already"):
        restore_votes(path, tmp_path / "a")
    note = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**note, "digest": "0" * 32}))
    with pytest.raises(DataError, match="digest"):
        restore_votes(path, tmp_path / "b")
    path.with_suffix(".json").write_text(json.dumps(note))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError):
        restore_votes(path, tmp_path / "c")
    with pytest.raises(DataError, match="no file"):
        restore_votes(tmp_path / "none.sqlite", tmp_path / "d")
    assert not list((tmp_path / "c").glob("*"))
    database.close()


def test_only_the_newest_backups_are_kept(tmp_path):
    database = begin(tmp_path / "a", asked(1))
    made = [make_backup(database, tmp_path / "backups", kept=2) for _ in range(4)]
    assert sorted((tmp_path / "backups").glob("*.sqlite")) == sorted(made)[-2:]
    database.close()


def test_the_first_schema_with_data_is_brought_up_to_date(tmp_path, new_url):
    """A database that the first version wrote: the votes stay, the new columns are there."""
    database = Database.in_folder(tmp_path, new_url())
    database.upgrade("0001")
    with database.write() as connection:
        for statement in _OLD:
            connection.execute(sa.text(statement))
    before = digest(database)
    assert before.events == 2
    database.upgrade()
    assert digest(database).digest == before.digest
    with database.read() as connection:
        (vote,) = load_votes(connection)
        assert (vote.strength, vote.event["better_answer"]) == (2, None)
        row = connection.execute(sa.select(schema.item.c.priority, schema.item.c.why)).one()
        assert row == (0, None)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), database.write() as connection:
        connection.execute(sa.delete(schema.event))
    database.close()


_OLD = (
    "INSERT INTO person (id, pseudonym, role, active, made_at) "
    "VALUES (1, 'person-1', 'annotator', true, 1.0)",
    "INSERT INTO item (id, name, group_id, members, kind, question, authors, meta, split, wanted,"
    " votes, skips, open, draw) VALUES (1, 'q/0-1', 'q', '[0, 1]', 'pair',"
    """ '{"text": "q", "messages": null, "answers": ["a", "b"], "turns": [null, null]}',"""
    " '[\"\", \"\"]', '{}', 'train', 1, 1, 0, false, 0.5)",
    *(
        'INSERT INTO event (id, key, person_id, item_id, kind, supersedes, protocol, "order",'
        " choice, both_bad, rubric, device, source, made_at, seconds) VALUES"
        f" ({k}, 'k{k}', 1, 1, 'vote', {before}, 'seven-point', '[0, 1]', {4 - 2 * (k - 1)},"
        f" false, 0, 'desktop', 'uniform', {k}.5, 3.25)"
        for k, before in ((1, "NULL"), (2, "1"))
    ),
)


def test_a_newer_database_is_refused(tmp_path):
    database = begin(tmp_path, asked(1))
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(RunError, match="9999"):
        database.upgrade()
    database.close()
