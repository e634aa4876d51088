"""Files that survive a kill: whole or absent, and owned by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from tandem.data.cached_groups import file_lock
from tandem.errors import RunError

NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)
"""What a file system says that has no hard links, or not so many, or not to that place."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What libraries of other languages say in words where a disk takes nothing more."""


def describe_write_error(error: BaseException) -> str | None:
    """Return why something could not be written or read, or None for another kind of error."""
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{place}"
    said = str(error)
    if any(os.strerror(n) in said for n in NO_ROOM):
        return said.splitlines()[0][:300]
    return None


def write_text(path: Path, text: str) -> None:
    """Write a file that is either the old one or the new one, whenever the process dies.

    Half a character, which no file can hold, is written as `?`.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="replace")
        flush_to_disk(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def finite_json(value: Any) -> Any:
    """Return the same for JSON: a number that is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite_json(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [finite_json(v) for v in cast("Iterable[Any]", value)]
    return value


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON table, or None when the file is missing, broken, or something else."""
    with suppress(OSError, ValueError, RecursionError):
        table = json.loads(path.read_text(encoding="utf-8"))
        return cast("dict[str, Any]", table) if isinstance(table, dict) else None
    return None


def flush_to_disk(place: Path) -> None:
    """Flush a file, or a folder's list of names, to disk (fsync)."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mark_complete(folder: Path, besides: Path) -> None:
    """Flush everything in a folder except one subfolder, then mark the folder DONE."""
    for place in sorted(folder.rglob("*"), reverse=True):
        if not place.is_relative_to(besides):
            flush_to_disk(place)
    (folder / "DONE").touch()
    flush_to_disk(folder / "DONE")
    flush_to_disk(folder)


def hard_link_tree(source: Path, target: Path) -> None:
    """Hard-link a finished folder's files under `target`; no byte is copied.

    Sealed files are never written again, so both folders stay whole whichever is deleted; and they
    are on the disk, so that the new names alone are flushed. A file system without hard links
    gets copies.
    """
    target.mkdir(parents=True)
    for place in sorted(source.rglob("*")):
        other = target / place.relative_to(source)
        if place.is_dir():
            other.mkdir(exist_ok=True)
        else:
            _link_or_copy(place, other)
    for folder in (target, *(p for p in target.rglob("*") if p.is_dir())):
        flush_to_disk(folder)


def _link_or_copy(place: Path, other: Path) -> None:
    try:
        os.link(place, other)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copy2(place, other)
        flush_to_disk(other)


def is_complete(folder: Path) -> bool:
    """Return True if the folder was marked complete."""
    return (folder / "DONE").exists()


def remove_folder(folder: Path) -> None:
    """Delete a folder; a kill half-way leaves one that is not whole."""
    (folder / "DONE").unlink(missing_ok=True)
    shutil.rmtree(folder)


def evict_oldest(files: Iterable[Path], limit: int) -> None:
    """Delete the least recently used files (by access time) until the rest fits into `limit` bytes.

    A file goes with those that share its stem; one that a process holds `alone` stays.
    """
    found = sorted(files, key=lambda f: f.stat().st_atime, reverse=True)
    total = 0
    for file in found:
        beside = [f for f in file.parent.glob(f"{file.stem}.*") if f.suffix != ".lock"]
        size = sum(f.stat().st_size for f in beside)
        total += size
        if total <= limit:
            continue
        with file_lock(file, wait=False) as free:
            if free:
                total -= size
                for each in beside:
                    each.unlink(missing_ok=True)


def mark_used(file: Path) -> None:
    """Note that a file was used now, for `trim`; it counts as unchanged."""
    os.utime(file, (time.time(), file.stat().st_mtime))


_LOCKS: dict[Path, int] = {}


def lock_folder(folder: Path) -> None:
    """Lock a folder for this process until `unlock_folder`, or until the process ends in any way.

    The same process may open the folder again, as a notebook does when a cell is run twice.

    Raises:
        RunError: another process holds it.
    """
    if folder.resolve() in _LOCKS:
        return
    descriptor = os.open(folder / "run.lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.read(descriptor, 64).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise RunError(
            f"process {owner} is working in {folder}",
            "two processes in one run folder would overwrite each other's stages",
            f"wait for it, stop it (`kill {owner}`), or choose another folder with --out",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    _LOCKS[folder.resolve()] = descriptor


def unlock_folder(folder: Path) -> None:
    """Let another process have the folder."""
    descriptor = _LOCKS.pop(folder.resolve(), None)
    if descriptor is not None:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)
