"""A copy of all votes while people vote, and its restoration.

A backup is one SQLite file whatever the database is, with a small JSON file beside it that holds
the digest of its events. SQLite copies itself (`VACUUM INTO`); PostgreSQL is read in one
transaction that sees one state. Neither stops anybody from voting. A restoration reads the digest
again and refuses what does not fit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from tandem.errors import DataError, RunError
from tandem.labelling.database import FILE, Database
from tandem.labelling.schema import TABLES, event

ROWS_AT_ONCE = 1000
KEPT = 10


@dataclass(frozen=True)
class Snapshot:
    """What a backup holds.

    Attributes:
        digest: of every event, in order.
        events: how many there are.
        last: number of the last event, 0 without any.
    """

    digest: str
    events: int
    last: int
    made_at: float


def digest_events(connection: sa.Connection, last: int | None = None) -> Snapshot:
    """Return the digest of all events, or of those up to a number.

    Values that are absent do not count, so that a column which a later schema adds changes nothing.
    """
    there = {c["name"] for c in sa.inspect(connection).get_columns(event.name)}
    columns = [c for c in event.c if c.name in there]
    asked = sa.select(*columns).order_by(event.c.id)
    if last is not None:
        asked = asked.where(event.c.id <= last)
    digest, count, newest = hashlib.blake2b(digest_size=16), 0, 0
    for row in connection.execute(asked).mappings():
        values = {k: v for k, v in row.items() if v is not None}
        digest.update(json.dumps(values, sort_keys=True).encode())
        count, newest = count + 1, row["id"]
    return Snapshot(digest.hexdigest(), count, newest, time.time())


def newest_event(connection: sa.Connection) -> int:
    """Return the number of the last event, 0 without any."""
    return int(connection.execute(sa.select(sa.func.max(event.c.id))).scalar() or 0)


def make_backup(database: Database, folder: Path, *, kept: int = KEPT) -> Path:
    """Write a backup under the folder and delete the oldest beyond `kept`; return its file."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    path = next(
        p
        for k in range(1000)
        if not (p := folder / f"labels-{stamp}{f'-{k}' if k else ''}.sqlite").exists()
    )
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    (_copy_sqlite if database.is_sqlite else _copy_rows)(database, part)
    part.chmod(0o600)
    copy = Database(f"sqlite:///{part.resolve()}")
    with copy.read() as connection:
        snapshot = digest_events(connection)
    copy.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{part}{suffix}").unlink(missing_ok=True)
    path.with_suffix(".json").write_text(json.dumps(asdict(snapshot), indent=1) + "\n")
    _flush(part)
    part.replace(path)
    for old in sorted(folder.glob("labels-*.sqlite"))[:-kept]:
        old.unlink()
        old.with_suffix(".json").unlink(missing_ok=True)
    return path


def _copy_sqlite(database: Database, path: Path) -> None:
    raw: Any = database.engine.raw_connection()
    try:
        raw.driver_connection.execute("VACUUM INTO ?", (str(path),))
    finally:
        raw.close()


def _copy_rows(database: Database, path: Path) -> None:
    target = Database(f"sqlite:///{path.resolve()}")
    target.upgrade()
    with database.read() as source, target.write() as sink:
        _insert_all(source, sink)
    target.close()


def _insert_all(source: sa.Connection, sink: sa.Connection) -> None:
    for table in TABLES:
        order = list(table.primary_key.columns)
        for rows in _chunks(source, sa.select(table).order_by(*order)):
            sink.execute(sa.insert(table), rows)


def _chunks(source: sa.Connection, asked: sa.Select[Any]) -> Iterator[list[dict[str, Any]]]:
    found = source.execution_options(yield_per=ROWS_AT_ONCE).execute(asked).mappings()
    for rows in found.partitions(ROWS_AT_ONCE):
        yield [dict(row) for row in rows]


def restore_votes(path: Path, folder: Path, url: str = "") -> Snapshot:
    """Restore a backup into a new folder or an empty database; return what it holds.

    Raises:
        DataError: the file is missing, damaged, or not what its digest says.
        RunError: something is there already.
    """
    noted = _read_note(path)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not url and (folder / FILE).exists():
        raise _occupied(str(folder / FILE))
    work = folder / "restoring.sqlite"
    shutil.copyfile(path, work)
    work.chmod(0o600)
    copy = Database(f"sqlite:///{work.resolve()}")
    try:
        _check_digest(copy, path, noted)
        copy.upgrade()
        if url:
            _fill(copy, Database.in_folder(folder, url))
    except BaseException:
        copy.close()
        _remove(work)
        raise
    copy.close()
    if url:
        _remove(work)
    else:
        for suffix in ("-wal", "-shm"):
            Path(f"{work}{suffix}").unlink(missing_ok=True)
        _flush(work)
        work.replace(folder / FILE)
    return noted


def _read_note(path: Path) -> Snapshot:
    note = path.with_suffix(".json")
    if not path.is_file() or not note.is_file():
        missing = path if not path.is_file() else note
        raise DataError(
            f"no file {missing}",
            "a backup is a .sqlite file and a .json file that holds its digest",
            "give the path of a `labels-*.sqlite` from a `backups` folder, both files together",
        )
    try:
        return Snapshot(**json.loads(note.read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{note}: {error}", "it holds the digest", "take another backup") from error


def _check_digest(copy: Database, path: Path, noted: Snapshot) -> None:
    try:
        # rows as they were written: an older schema is read before it is brought up to date
        with copy.read() as connection:
            found = digest_events(connection)
    except DatabaseError as error:
        raise DataError(
            f"{path} cannot be read: {error.orig}", "the file is damaged", "take another backup"
        ) from error
    if (found.digest, found.events) != (noted.digest, noted.events):
        raise DataError(
            f"{path}: {found.events} events with digest {found.digest}, not {noted.events} with "
            f"{noted.digest}",
            "the file is not what was written: votes would be lost without a word",
            "take another backup",
        )


def _fill(copy: Database, target: Database) -> None:
    target.upgrade()
    with target.write() as sink:
        if any(sink.execute(sa.select(table).limit(1)).first() for table in TABLES):
            raise _occupied(target.shown_url)
        with copy.read() as source:
            _insert_all(source, sink)
        if not target.is_sqlite:
            for table in TABLES:
                _advance_sequence(sink, table)
    target.close()


def _advance_sequence(connection: sa.Connection, table: sa.Table) -> None:
    """Let PostgreSQL go on numbering after the rows that were put in with their numbers."""
    name = table.name
    if table.primary_key.columns.keys() != ["id"]:
        return
    connection.execute(
        sa.text(
            f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), "
            f"COALESCE((SELECT max(id) FROM {name}), 0) + 1, false)"
        )
    )


def _occupied(where: str) -> RunError:
    return RunError(
        f"{where} holds something already",
        "restoring over it would lose what is there",
        "give --out a new folder, or an empty database",
    )


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
