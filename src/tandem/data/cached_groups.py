"""Large collections kept in a folder of the machine: made once, by one process, and verified.

Beside `NAME.parquet` lies `NAME.json`, with what is to be remembered of the making and a digest
of the Parquet file. A file whose digest differs is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError


def keep_groups(
    path: Path, groups: Iterable[Group], notes: Callable[[], Mapping[str, Any]]
) -> tuple[Groups, dict[str, Any]]:
    """Return a kept collection and its notes; make both where they are not there, or damaged.

    Of several processes one makes the file and the others wait for it.

    Args:
        path: the Parquet file.
        groups: a stream; it is not touched where the file is there.
        notes: what is to be remembered, known when the stream has ended.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        with file_lock(path):
            if (found := _kept(path)) is not None:
                return found
            made = Groups.stream(path, groups)
            record = {"digest": _file_digest(path), "notes": dict(notes())}
            part = path.with_suffix(f".json.{os.getpid()}.part")
            try:
                part.write_text(json.dumps(record), encoding="utf-8")
                part.replace(path.with_suffix(".json"))
            finally:
                part.unlink(missing_ok=True)
            return made, dict(record["notes"])
    except OSError as error:
        raise DataError(
            f"nothing can be kept in {path.parent}: {error.strerror or error}",
            "large data is read and encoded once, and kept there for the next time",
            "make room there, or choose another folder: export TANDEM_CACHE=FOLDER",
        ) from error


def _kept(path: Path) -> tuple[Groups, dict[str, Any]] | None:
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if record["digest"] != _file_digest(path):
            return None
        return Groups.read(path), dict(record["notes"])
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@contextmanager
def file_lock(place: Path, *, wait: bool = True) -> Generator[bool, None, None]:
    """Wait until no other process of this machine works on a file, and keep them out meanwhile.

    Yields:
        True; or False at once, without `wait`, if somebody works on it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(place.with_name(place.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)
