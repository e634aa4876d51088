"""Files behind an address: `s3://bucket/name`, `gs://...`, whatever fsspec reaches.

Keys come from the environment, as each store's driver reads them. What is fetched lies in the cache
folder under a hash of the address and of what the store says of each file (size, time, tag), so it
is fetched again when the store's copy changed, and once otherwise.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import parse_qsl

from tandem.errors import TandemError
from tandem.machine import cache_folder

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://.+", re.DOTALL)
SECRETS = ("key", "token", "secret", "password", "passwd", "pwd", "sig", "auth", "credential")
"""Parameters of an address whose names hold one of these are secret."""
MARKS = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "created", "generation")
"""What drivers say of a file that is another one when it changed."""


def is_address(given: object) -> bool:
    """Return True for the address of a store.

    >>> is_address("s3://bucket/pairs.jsonl"), is_address("data/pairs.jsonl")
    (True, False)
    """
    return isinstance(given, str) and ADDRESS.fullmatch(given) is not None


def holds_secret(url: str) -> bool:
    """Say whether an address has a user's password, or a parameter that is named like a key."""
    rest, _, query = url.partition("://")[2].partition("?")
    named = [name.lower() for name, _ in parse_qsl(query, keep_blank_values=True)]
    login = re.match(r"[^@]*:[^@]*@", rest) is not None
    return login or any(secret in name for name in named for secret in SECRETS)


def reach_store(url: str, asked_by: str, refused: type[TandemError]) -> tuple[Any, str]:
    """Return the file system of an address and the place in it.

    Args:
        url: the address.
        asked_by: how it was given, for messages: `--store s3://bucket/name`.
        refused: the class of what is raised.

    Raises:
        TandemError: as `refused`: it holds a key, its driver is not installed, or nobody answers.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    if holds_secret(url):
        raise refused(
            f"the address of a store holds a key: {url.partition('://')[0]}://...",
            "addresses are written into logs and lists of processes",
            "leave the key out; the store's driver reads it from the environment. A link with a "
            "signature is fetched by a browser or curl: give the file",
        )
    try:
        files, root = cast("tuple[Any, str]", url_to_fs(url))
        files.exists(root)
    except ImportError as error:
        raise refused(
            f"{asked_by}: {error}",
            "each kind of store has a driver of its own, a package",
            "install it, for example `pip install s3fs` for s3://, `pip install gcsfs` for gs://",
        ) from error
    except Exception as error:
        raise refused(
            f"{asked_by}: {type(error).__name__}: {str(error)[:300]}",
            "a store is an address such as s3://bucket/name, and its keys are in the environment",
            "correct the address or the keys",
        ) from error
    return files, root.rstrip("/")


def names_below(files: Any, root: str, url: str, refused: type[TandemError]) -> Iterator[str]:
    """Yield the names of a store's files below a place.

    Raises:
        TandemError: as `refused`: a name leads out of the folder that it would be copied to.
    """
    for place in cast("list[str]", files.find(root)):
        name = place.removeprefix(root).lstrip("/")
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or "\\" in name:
            raise refused(
                f"{url} holds {name!r}",
                "files of a store are copied into one folder, and this name leads out of it",
                "give the address of a folder with plain names",
            )
        yield name


def fetch_files(url: str, refused: type[TandemError], only: Iterable[str] = ("*",)) -> Path:
    """Return a file or folder of a store as it lies in the cache, fetched if need be.

    Args:
        url: the address of one file, or of a folder.
        refused: the class of what is raised.
        only: names of the files of a folder that are wanted, with wildcards.

    Raises:
        TandemError: as `refused`: the store is not reached, nothing is there, or a name leads out
            of the folder.
    """
    files, root = reach_store(url, url, refused)
    try:
        wanted = _wanted(files, root, url, refused, tuple(only))
        told = {name: _marks(files.info(place)) for name, place in wanted.items()}
        digest = hashlib.blake2b(json.dumps([url, told]).encode(), digest_size=16).hexdigest()
        kept = cache_folder() / "fetched" / digest
        if not kept.is_dir():
            _copy(files, wanted, kept)
    except refused:
        raise
    except Exception as error:  # drivers have kinds of their own
        raise refused(
            f"{url} was not fetched: {type(error).__name__}: {str(error)[:300]}",
            "the store did not give it, or the disk of the cache folder did not take it",
            "give the same command again; TANDEM_CACHE names another disk",
        ) from error
    return kept / PurePosixPath(root).name


def _wanted(
    files: Any, root: str, url: str, refused: type[TandemError], only: tuple[str, ...]
) -> Mapping[str, str]:
    """Return the names that files get in the cache, each with its place in the store."""
    top = PurePosixPath(root).name
    if files.isfile(root):
        return {top: root}
    names = [
        name
        for name in names_below(files, root, url, refused)
        if any(fnmatch(PurePosixPath(name).name, pattern) for pattern in only)
    ]
    if not names or not top:
        raise refused(
            f"nothing is at {url}",
            "an address names a file of a store, or a folder with files in it",
            "look at what the store holds there, and correct the address",
        )
    return {f"{top}/{name}": f"{root}/{name}" for name in sorted(names)}


def _marks(told: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(told[key]) for key in MARKS if key in told}


def _copy(files: Any, wanted: Mapping[str, str], kept: Path) -> None:
    """Fetch files into a folder that is there whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    coming = Path(tempfile.mkdtemp(prefix=".coming-", dir=kept.parent))
    try:
        for name, place in wanted.items():
            (coming / name).parent.mkdir(parents=True, exist_ok=True)
            files.get_file(place, str(coming / name))
        if not kept.is_dir():
            coming.rename(kept)
    finally:
        shutil.rmtree(coming, ignore_errors=True)
