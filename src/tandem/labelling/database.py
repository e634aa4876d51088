"""One database, SQLite or PostgreSQL: readers never wait, one transaction at a time writes.

Writers take turns (a lock in this process, `BEGIN IMMEDIATE` or an advisory lock between
processes), so that "is there room for one more vote?" and the vote itself are one step.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.event import listen
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import QueuePool

from tandem.errors import ConfigError, RunError
from tandem.runs.environment import hide_password

FILE = "labels.sqlite"
DATABASE = "TANDEM_LABEL_DATABASE"
"""The variable that names a database whose address has a password."""
BUSY_SECONDS = 5.0
WRITERS = 0x7A6D  # the key of PostgreSQL's advisory lock
MIGRATIONS = Path(__file__).parent / "migrations"


def named_database(url: str = "") -> str:
    """Return the address that was given, else that of `DATABASE`; empty for the folder's file."""
    return url or os.environ.get(DATABASE, "")


class Database:
    """The votes of one project.

    Args:
        url: `sqlite:///PATH` or `postgresql://USER@HOST/NAME`.

    Example:
        >>> database = Database.in_folder(Path("labels/first"))  # doctest: +SKIP
        >>> with database.write() as connection:  # doctest: +SKIP
        ...     connection.execute(...)
    """

    def __init__(self, url: str) -> None:
        self.url = _with_driver(url)
        self.engine = sa.create_engine(
            _parse_url(self.url),
            poolclass=QueuePool,
            pool_size=16,
            max_overflow=16,
            pool_pre_ping=not self.is_sqlite,
            json_serializer=None,
            connect_args=(
                {"timeout": BUSY_SECONDS, "check_same_thread": False}
                if self.is_sqlite
                else {"connect_timeout": 5}
            ),
        )
        self._turn = threading.Lock()
        if self.is_sqlite:
            listen(self.engine, "connect", _prepare_sqlite)
            listen(self.engine, "begin", _begin_sqlite)

    @classmethod
    def in_folder(cls, folder: Path, url: str = "") -> Database:
        """Return the folder's database: its SQLite file unless a URL is given or in `DATABASE`."""
        return cls(named_database(url) or f"sqlite:///{folder.resolve() / FILE}")

    @property
    def is_sqlite(self) -> bool:
        """Whether it is one file."""
        return self.url.startswith("sqlite")

    @property
    def file(self) -> Path:
        """The SQLite file."""
        return Path(self.url.removeprefix("sqlite:///"))

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """Open a transaction that sees one state and writes nothing."""
        with self.engine.connect() as connection, connection.begin():
            if not self.is_sqlite:
                connection.execute(
                    sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                )
            yield connection

    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        """Open the one transaction that may write; it is on disk when the block ends."""
        if not self.is_sqlite:
            with self.engine.begin() as connection:
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({WRITERS})"))
                yield connection
            return
        with self._turn, self.engine.connect() as plain:
            connection = plain.execution_options(tandem_writes=True)
            with connection.begin():
                yield connection

    def upgrade(self, revision: str = "head") -> None:
        """Bring the tables up to a revision of `migrations/`; an empty database gets them all.

        Raises:
            RunError: it cannot be opened, or is newer than this version of Tandem.
        """
        scripts = ScriptDirectory.from_config(self._alembic())
        try:
            with self.engine.connect() as connection:
                current = MigrationContext.configure(connection).get_current_revision()
        except DBAPIError as error:
            said = hide_password(str(error.orig).strip().partition("\n")[0])
            raise RunError(
                f"{self.shown_url} cannot be opened: {said[:300]}",
                "votes are kept in this database, and nothing can be read or written without it",
                "start the server, or mend the address, the user and the rights; then the same "
                "command",
            ) from None
        if current is not None and current not in {s.revision for s in scripts.walk_revisions()}:
            raise RunError(
                f"{self.shown_url} is at revision {current}, which this version does not know",
                "a newer Tandem wrote it, and an older one could damage it",
                "update Tandem, or restore a backup of that time",
            )
        command.upgrade(self._alembic(), revision)

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return hide_password(self.url)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def _alembic(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["engine"] = self.engine
        return config


def new_id(made: sa.CursorResult[Any]) -> int:
    """Return the number of the row that was just inserted."""
    key = made.inserted_primary_key
    assert key is not None
    return int(key[0])


def _with_driver(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme in ("postgresql", "postgres"):
        return f"postgresql+psycopg://{rest}"
    if scheme in ("sqlite", "postgresql+psycopg"):
        return url
    raise ConfigError(
        f"--database {hide_password(url)!r}",
        "votes are kept in SQLite (the default) or in PostgreSQL",
        "give `postgresql://USER@HOST/NAME`, or leave it out",
    )


def _parse_url(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"--database {hide_password(url)!r} is no address of a database",
            "an address has a user, a host, perhaps a port, and the name of the database",
            "give `postgresql://USER@HOST/NAME`, or leave it out",
        ) from None


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={int(BUSY_SECONDS * 1000)}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("tandem_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
