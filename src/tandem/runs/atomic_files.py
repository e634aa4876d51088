"""Files that survive a kill: whole or absent, and owned by one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from tandem.errors import RunError


def write_text(path: Path, text: str) -> None:
    """Write a file that is either the old one or the new one, whenever the process dies."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    flush_to_disk(part)
    part.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read JSON, or None when the file is missing or broken."""
    with suppress(OSError, ValueError):
        return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
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
    are on the disk, so that the new names alone are flushed.
    """
    target.mkdir(parents=True)
    for place in sorted(source.rglob("*")):
        other = target / place.relative_to(source)
        if place.is_dir():
            other.mkdir(exist_ok=True)
        else:
            os.link(place, other)
    for folder in (target, *(p for p in target.rglob("*") if p.is_dir())):
        flush_to_disk(folder)


def is_complete(folder: Path) -> bool:
    """Return True if the folder was marked complete."""
    return (folder / "DONE").exists()


def remove_folder(folder: Path) -> None:
    """Delete a folder; a kill half-way leaves one that is not whole."""
    (folder / "DONE").unlink(missing_ok=True)
    shutil.rmtree(folder)


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
        os.close(descriptor)
