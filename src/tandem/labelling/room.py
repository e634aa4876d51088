"""What every request needs: the database, the project, limits, and figures of progress."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from tandem.labelling.assignment import Project, load_project
from tandem.labelling.backup import newest_event
from tandem.labelling.database import Database
from tandem.labelling.people import Person
from tandem.labelling.refit import Refitter
from tandem.labelling.schema import event, item, lease
from tandem.labelling.security import Limiter
from tandem.labelling.votes_page import LabelReport, measure_labelling

REMAINING_SECONDS = 20.0
TOTALS_SECONDS = 2.0
FEW_LEFT = 300
"""Fewer than so many are counted every time; it takes a millisecond."""
RECENT = 20


@dataclass(frozen=True)
class Progress:
    """How far somebody is.

    Attributes:
        done: questions they voted on or skipped.
        left: questions that are still open to them.
        minutes: what is left at their own pace, or None before there is a pace.
    """

    done: int
    left: int
    minutes: float | None

    @property
    def share(self) -> float:
        """Done of all, 0 to 1."""
        return self.done / max(1, self.done + self.left)


class LabelRoom:
    """One project that is served.

    Args:
        database: where votes are kept.
        folder: where exports, backups and refits are.
        secret: signs what browsers send back.
        secure: whether browsers come over TLS, so that cookies ask for it.
        hosts: names under which it may be addressed; none allows all.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        secret: str,
        *,
        secure: bool = False,
        hosts: Sequence[str] = (),
    ) -> None:
        self.database, self.folder, self.secret = database, folder, secret
        self.secure, self.hosts = secure, tuple(hosts)
        self.requests = Limiter(rate=10, burst=60)
        self.attempts = Limiter(rate=1 / 30, burst=6)
        self.sign_ins = Limiter(rate=2, burst=60)
        self.reports = Limiter(rate=1, burst=20)
        self._left: dict[int, tuple[float, int, int]] = {}
        self._totals: tuple[float, dict[str, int]] | None = None
        self.refitter = Refitter(database, folder, "" if database.is_sqlite else database.url)
        self._report: tuple[int, LabelReport] | None = None
        self._turn = threading.Lock()

    @property
    def project(self) -> Project:
        """The settings, read anew so that a change needs no restart."""
        with self.database.read() as connection:
            return load_project(connection) or Project()

    def progress_of(self, connection: sa.Connection, who: Person) -> Progress:
        """Return how far somebody is; of many that are left the count is some seconds old."""
        done = connection.execute(
            sa.select(sa.func.count()).where(
                lease.c.person_id == who.id, lease.c.closed_at.is_not(None)
            )
        ).scalar_one()
        now = time.monotonic()
        when, counted, at = self._left.get(who.id, (0.0, 0, 0))
        if now - when > REMAINING_SECONDS or counted - (done - at) < FEW_LEFT or done < at:
            counted, at = count_left(connection, who), done
            self._left[who.id] = (now, counted, at)
        left = max(0, counted - (done - at))
        return Progress(done, left, _minutes(connection, who, left))

    def totals(self, connection: sa.Connection) -> dict[str, int]:
        """Return items, votes and votes wanted of the whole project."""
        with self._turn:
            if self._totals is None or time.monotonic() - self._totals[0] > TOTALS_SECONDS:
                self._totals = (time.monotonic(), count_totals(connection))
            return self._totals[1]

    def report(self, connection: sa.Connection, title: str) -> LabelReport:
        """Return the page about the labelling, measured again when there are new events."""
        last = newest_event(connection)
        with self._turn:
            if self._report is None or self._report[0] != last:
                self._report = (last, measure_labelling(connection, title))
            return self._report[1]


def count_left(connection: sa.Connection, who: Person) -> int:
    """Return how many questions somebody can still be asked."""
    closed = sa.exists().where(
        lease.c.person_id == who.id, lease.c.item_id == item.c.id, lease.c.closed_at.is_not(None)
    )
    open_ = sa.select(sa.func.count()).select_from(item).where(item.c.open, ~closed)
    return int(connection.execute(open_).scalar_one())


def count_totals(connection: sa.Connection) -> dict[str, int]:
    """Return counts of the whole project."""
    is_asked = item.c.gold.is_(None) | (item.c.votes > 0)
    row = connection.execute(
        sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(item.c.votes), 0),
            sa.func.coalesce(sa.func.sum(item.c.wanted), 0),
            sa.func.coalesce(sa.func.sum(sa.cast(item.c.open, sa.Integer)), 0),
        ).where(is_asked)
    ).one()
    return dict(zip(("items", "votes", "wanted", "open"), map(int, row), strict=True))


def _minutes(connection: sa.Connection, who: Person, left: int) -> float | None:
    recent = sa.select(event.c.seconds).where(
        event.c.person_id == who.id, event.c.kind == "vote", event.c.seconds.is_not(None)
    )
    found = connection.execute(recent.order_by(event.c.id.desc()).limit(RECENT)).scalars().all()
    return statistics.median(found) * left / 60 if len(found) >= 3 else None
