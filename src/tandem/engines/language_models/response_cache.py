"""Answers of a paid server, kept on disk: what was answered once is never asked again.

One SQLite file in WAL mode, one transaction an answer, written before the answer is used: a
process killed at any moment has lost at most the requests that were on their way. Several
processes and threads may share the file. Keys are hashes of server, model and request; the
request holds no secret.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tandem.errors import EngineError

CACHE_SCHEMA = """
create table if not exists answers (
    key text primary key, asked text not null, answer text not null,
    tokens_in integer not null, tokens_out integer not null
)
"""
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TokenUse:
    """What was paid for: requests, and tokens read and written."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


def request_key(url: str, body: Mapping[str, Any]) -> str:
    """Return the name of a request: the same for the same server, model, words and settings."""
    text = json.dumps([url, body], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class ResponseCache:
    """The file of answers.

    Args:
        path: made when missing.

    Raises:
        EngineError: the file cannot be opened, or is none of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(
                path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._file.execute("pragma journal_mode = wal")
            self._file.execute(CACHE_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: str) -> str | None:
        """Return an answer's JSON, or None; it is as little to be trusted as the server."""
        try:
            with self._lock:
                asked = "select answer from answers where key = ?"
                row = self._file.execute(asked, (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return None if row is None else str(row[0])

    def put(self, key: str, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keep an answer; it is on the disk when this returns."""
        row = (
            key, json.dumps(asked), json.dumps(answer),
            _tokens(answer, "prompt_tokens"), _tokens(answer, "completion_tokens"),
        )  # fmt: skip
        try:
            with self._lock:
                self._file.execute("insert or replace into answers values (?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> EngineError:
        return EngineError(
            f"cannot keep answers in {self.path}: {error}",
            "every answer is written there before it is used, so that none is paid for twice",
            "make room, move a broken file away, or choose another folder: export TANDEM_CACHE=...",
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


def _tokens(answer: Mapping[str, Any], kind: str) -> int:
    """Return what a server says that it used; 0 where it says nothing that is a number."""
    used = answer.get("usage")
    count = cast("Mapping[str, Any]", used).get(kind) if isinstance(used, Mapping) else 0
    return count if isinstance(count, int) and 0 <= count < 1 << 53 else 0
