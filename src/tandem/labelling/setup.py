"""Opening a project: its folder, its database, its questions, its first lead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from tandem.errors import ConfigError, DataError
from tandem.labelling import people, vote_store
from tandem.labelling.assignment import Project, load_project, save_project
from tandem.labelling.data_access import Answered
from tandem.labelling.database import FILE, Database, named_database
from tandem.labelling.questions import Questions, add_questions
from tandem.rng import Seed

LEAD = "lead"


@dataclass(frozen=True)
class Opened:
    """A project that is ready to be served.

    Attributes:
        added: questions that were not there before.
        token: lets the lead in, once.
    """

    database: Database
    folder: Path
    added: int
    token: str


def make_folder(path: str | Path) -> Path:
    """Return the project's folder, made if it is not there, readable by its owner alone."""
    folder = Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def open_project(
    folder: Path,
    rows: Sequence[Answered],
    project: Project,
    questions: Questions,
    *,
    url: str = "",
    rubric: str = "",
) -> Opened:
    """Make or go on with a project; what is there is kept, new questions are added.

    Raises:
        DataError: there is nothing to judge.
        RunError: the database is newer than this version.
    """
    database = Database.in_folder(make_folder(folder), url)
    database.upgrade()
    with database.write() as connection:
        kept = load_project(connection)
        if kept is not None and kept.seed != project.seed:
            raise ConfigError(
                f"--seed {project.seed}, but {folder} was begun with {kept.seed}",
                "the order of items and answers hangs on the seed",
                f"leave --seed out, or give --seed {kept.seed}",
            )
        save_project(connection, project)
        added = add_questions(connection, rows, questions, Seed(project.seed))
        if rubric and vote_store.current_rubric(connection)[1] != rubric:
            vote_store.add_rubric(connection, rubric)
        lead = _first_lead(connection)
        return Opened(database, folder, added, people.make_invite(connection, lead, 86400.0))


def find_database(folder: str | Path, url: str = "") -> Database:
    """Open the database of a folder that a project was begun in, brought up to date.

    Raises:
        DataError: there is none.
    """
    place = Path(folder).expanduser()
    if not named_database(url) and not (place / FILE).is_file():
        raise DataError(
            f"{place} holds no {FILE}",
            "votes are kept there, unless a PostgreSQL database is given",
            f"begin with `tandem label serve DATA --out {place}`, or give --database URL",
        )
    database = Database.in_folder(place, url)
    database.upgrade()
    return database


def _first_lead(connection: sa.Connection) -> int:
    leads = [p["id"] for p in people.list_people(connection) if p["role"] == "lead"]
    return leads[0] if leads else people.add_person(connection, LEAD, "lead")
