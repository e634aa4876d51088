"""A refit starts when enough votes came in, one at a time, and its end is noted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

import sqlalchemy as sa

from labels import asked, begin, everything, join, say
from tandem.labelling import acquisition
from tandem.labelling.assignment import Project
from tandem.labelling.database import named_database
from tandem.labelling.refit import (
    Refitter,
    begin_refit,
    count_new_votes,
    end_refit,
    latest_refit,
    votes_at_last_refit,
)
from tandem.labelling.schema import item, refit


@pytest.fixture
def database(tmp_path):
    found = begin(tmp_path, asked(6), Project(refit_every=4, model=str(tmp_path / "no-model")))
    yield found
    found.close()


def judge(database, n):
    who = join(database, f"P{n}")
    for k, ticket in enumerate(everything(database, who)):
        say(database, who, ticket)
        if k + 1 == n:
            return


def test_it_starts_only_when_due_and_a_failure_is_noted(database, tmp_path):
    project = Project(refit_every=4, model=str(tmp_path / "no-model"))
    refitter = Refitter(database, tmp_path)
    assert not refitter.consider(Project(refit_every=4)), "without a model there is nothing to fit"
    judge(database, 3)
    assert not refitter.consider(project)
    judge(database, 1)
    refitter._checked = 0.0
    assert refitter.consider(project)
    assert not refitter.consider(project), "one at a time"
    refitter._process.wait(300)
    with database.read() as connection:
        row = connection.execute(sa.select(refit)).mappings().one()
        assert (row["votes"], row["state"]) == (4, "failed")
        assert votes_at_last_refit(connection) == count_new_votes(connection) == 4
        assert latest_refit(connection) is None
    refitter._checked = 0.0
    assert not refitter.consider(project), "not again before more votes"
    assert "prompts were judged" in (tmp_path / "refits" / "log.txt").read_text()


def test_a_refit_that_is_ended_counts_as_failed_when_the_next_begins(database, tmp_path):
    refitter = Refitter(database, tmp_path)
    refitter.start()
    threading.Event().wait(0.2)
    refitter.stop()
    assert not refitter.is_running
    with database.write() as connection:
        connection.execute(sa.delete(refit))
        begin_refit(connection)
        number = begin_refit(connection)
        end_refit(connection, number, "done", {"accuracy": 0.5, "n": 4})
        states = connection.execute(sa.select(refit.c.state).order_by(refit.c.id)).scalars().all()
        assert states == ["failed", "done"]
        assert latest_refit(connection) == {"votes": 0, "accuracy": 0.5, "n": 4}


def test_priorities_are_kept_for_open_items_with_their_reason(database):
    judge(database, 1)
    with database.write() as connection:
        numbers = connection.execute(sa.select(item.c.id)).scalars().all()
        rated = {n: acquisition.Priority(0.25, "three rewards differ") for n in numbers}
        acquisition.save_priorities(connection, rated)
        rows = connection.execute(sa.select(item.c.open, item.c.priority, item.c.why)).all()
    assert sum(r == (True, 0.25, "three rewards differ") for r in rows) == 5
    assert sum(r == (False, 0.0, None) for r in rows) == 1


def test_a_password_is_not_among_the_words_of_a_process(database, tmp_path, monkeypatch):
    """Everybody on the machine can read those; the refit reads the address from a variable."""
    url = "postgresql://me:secret@127.0.0.1:9/votes"
    refitter = Refitter(database, tmp_path, url)
    refitter.start()
    process = Path(f"/proc/{refitter._process.pid}")
    words, variables = ((process / name).read_bytes() for name in ("cmdline", "environ"))
    refitter.stop()
    assert b"refit" in words
    assert b"secret" not in words
    assert f"TANDEM_LABEL_DATABASE={url}".encode() in variables
    monkeypatch.setenv("TANDEM_LABEL_DATABASE", url)
    assert named_database() == url
    assert named_database("sqlite:///x") == "sqlite:///x"
