"""A PostgreSQL server of its own for the tests: started by them, ended by them.

Debian's binaries are used where they are; PostgreSQL refuses to run as root, so there it runs as
the user `postgres`. It listens on a socket in a temporary folder and on no port.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BIN = next(
    (p.parent for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None
)
AS_ROOT = os.getuid() == 0
ABSENT = "no PostgreSQL server here: apt-get install postgresql"


def is_there() -> bool:
    """Whether a server can be started."""
    if BIN is None:
        return False
    if not AS_ROOT:
        return True
    return subprocess.run(["id", "postgres"], capture_output=True).returncode == 0


class Postgres:
    """One server."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        if AS_ROOT:
            shutil.chown(self.folder, "postgres", "postgres")
        self._numbers = itertools.count()
        self._call("initdb", "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust")
        self.start()

    def _call(self, name: str, *words: str) -> None:
        assert BIN is not None
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if AS_ROOT else {}
        done = subprocess.run(
            [str(BIN / name), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            cwd="/tmp",
            text=True,
            **user,  # type: ignore[arg-type]
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c max_connections=60 -c fsync=off"
        log = str(self.folder / "log")
        self._call(
            "pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-l", log, "-w", "start"
        )

    def stop(self, mode: str = "fast") -> None:
        self._call("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "stop")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def new_database(self) -> str:
        """Return the URL of an empty database."""
        name = f"labels{next(self._numbers)}"
        self._call("createdb", "-h", str(self.folder), "-U", "postgres", name)
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def end(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)
