"""While people label: the reward is fitted again in a process of its own, every so many votes.

The process is `tandem label refit FOLDER` (see `tandem.cli.label_refit`); it alone loads torch.
Its result is kept in `refit`, with the accuracy on held-out votes, and the order of what is asked
next in `item.priority`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tandem.labelling.assignment import Project
from tandem.labelling.database import DATABASE, Database, new_id
from tandem.labelling.schema import event, refit

log = logging.getLogger("tandem.labelling")
LONGEST = 6 * 3600.0
CHECK_EVERY = 2.0


class Refitter:
    """Starts a refit when enough votes came in since the last, one at a time."""

    def __init__(self, database: Database, folder: Path, url: str = "") -> None:
        self.database, self.folder, self.url = database, folder, url
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()
        self._checked = 0.0

    def consider(self, project: Project) -> bool:
        """Start a refit if one is due; return whether it was started."""
        if not project.refit_every or not project.model:
            return False
        if not self._turn.acquire(blocking=False):
            return False
        try:
            now = time.monotonic()
            if now - self._checked < CHECK_EVERY or self.is_running:
                return False
            self._checked = now
            with self.database.read() as connection:
                due = count_new_votes(connection) - votes_at_last_refit(connection)
            if due < project.refit_every:
                return False
            self.start()
            return True
        finally:
            self._turn.release()

    @property
    def is_running(self) -> bool:
        """Whether a refit is going on in a process of this server."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process."""
        command = [sys.executable, "-m", "tandem", "label", "refit", str(self.folder)]
        # an argument, and a password in it, would be seen by everybody on the machine
        named = {DATABASE: self.url} if self.url else {}
        logs = self.folder / "refits"
        logs.mkdir(exist_ok=True)
        with (logs / "log.txt").open("ab") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, "OMP_NUM_THREADS": "1", **named},
                preexec_fn=_be_nice,
            )

    def stop(self) -> None:
        """End a refit that is going on; its votes are there for the next."""
        if self._process is not None and self.is_running:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _be_nice() -> None:
    os.nice(10)


def count_new_votes(connection: sa.Connection) -> int:
    """Return how many votes were ever given; edits count."""
    asked = sa.select(sa.func.count()).where(event.c.kind == "vote")
    return int(connection.execute(asked).scalar_one())


def votes_at_last_refit(connection: sa.Connection) -> int:
    """Return at how many votes the last refit began."""
    asked = sa.select(sa.func.max(refit.c.votes))
    return int(connection.execute(asked).scalar() or 0)


def begin_refit(connection: sa.Connection) -> int:
    """Note that a refit begins; those that died before count as failed."""
    now = time.time()
    stale = refit.c.state == "running"
    connection.execute(
        sa.update(refit)
        .where(stale)
        .values(state="failed", ended_at=now, result={"error": "the process ended"})
    )
    made = connection.execute(
        sa.insert(refit).values(votes=count_new_votes(connection), state="running", began_at=now)
    )
    return new_id(made)


def end_refit(connection: sa.Connection, number: int, state: str, result: dict[str, Any]) -> None:
    """Note how a refit ended."""
    connection.execute(
        sa.update(refit)
        .where(refit.c.id == number)
        .values(state=state, result=result, ended_at=time.time())
    )


def latest_refit(connection: sa.Connection) -> dict[str, Any] | None:
    """Return the newest finished refit's result, with the votes it saw."""
    row = (
        connection.execute(
            sa.select(refit).where(refit.c.state == "done").order_by(refit.c.id.desc()).limit(1)
        )
        .mappings()
        .first()
    )
    return None if row is None else {"votes": row["votes"], **(row["result"] or {})}
