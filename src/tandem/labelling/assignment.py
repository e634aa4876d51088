"""Who is asked what next: leases, overlap, gold items, order.

A question is handed out with a lease. While it lives the place is kept, so that two people do
not do the same one by accident; a page that is open renews it. An item is full when its votes and
its live leases together reach the overlap target.

Order: `uniform` follows a random order that was drawn once. With active ordering on, items come
by their priority, but a fixed share is still drawn uniformly and flagged, and what is held out for
evaluation is only ever drawn uniformly, so that evaluation stays unbiased.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from tandem.errors import ConfigError
from tandem.labelling.people import Person
from tandem.labelling.schema import event, item, lease, setting
from tandem.rng import Seed

Source = Literal["uniform", "active", "gold"]
SETTINGS = "project"
MOST_CRITERIA, LONGEST_CRITERION = 8, 40


@dataclass(frozen=True)
class Project:
    """What holds for everybody who labels.

    Attributes:
        title: shown on the page.
        seed: root of the order of items and of answers.
        lease_seconds: how long a question is kept for somebody whose page is closed.
        gold_share: share of questions whose answer is known.
        active: ask first what the reward is least sure of.
        uniform_share: share that is drawn uniformly all the same.
        most_skips: an item that so many people skipped goes to the lead.
        refit_every: votes between two refits of the reward; 0 never.
        model: folder of the model that the reward starts from.
        rationale: whether a reason is asked for: `off`, `optional`, `required`.
        better_answer: offer a box for a better answer.
        criteria: what else may be judged of a pair, each A, the same or B: `["helpful", "honest"]`.
        backup_minutes: minutes between two backups; 0 never.
    """

    title: str = "Which answer is better?"
    seed: int = 0
    lease_seconds: float = 900.0
    gold_share: float = 0.0
    active: bool = False
    uniform_share: float = 0.2
    most_skips: int = 3
    refit_every: int = 0
    model: str = ""
    rationale: Literal["off", "optional", "required"] = "optional"
    better_answer: bool = True
    criteria: tuple[str, ...] = ()
    backup_minutes: float = 60.0

    def __post_init__(self) -> None:
        for name in ("gold_share", "uniform_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"--{name} {value}", "it is a share", "give 0 to 1")
        _check_criteria(self.criteria)
        if self.lease_seconds < 1:
            raise ConfigError(
                f"--lease_seconds {self.lease_seconds}",
                "a lease has to last until the question is on the screen",
                "give 60 or more; 900 is the default",
            )


def _check_criteria(criteria: tuple[str, ...]) -> None:
    if len(criteria) > MOST_CRITERIA or len(set(criteria)) != len(criteria):
        raise ConfigError(
            f"--criteria {list(criteria)}",
            f"a page holds at most {MOST_CRITERIA} criteria, each of another name",
            "name the few that matter, each once",
        )
    for name in criteria:
        if not name.strip() or len(name) > LONGEST_CRITERION or not name.isprintable():
            raise ConfigError(
                f"--criteria {list(criteria)}: {name[:60]!r}",
                f"a criterion is a word or two on the page, at most {LONGEST_CRITERION} characters",
                "give short names; what they mean stands in the rubric",
            )


@dataclass(frozen=True)
class Ticket:
    """A question in somebody's hands.

    Attributes:
        token: names it in addresses; tells nothing.
        order: shown place -> place in the item.
        item: the row of `item`, without authors, gold or reasons.
        tip: the last event of this person on it, or None.
    """

    token: str
    item_id: int
    person_id: int
    order: tuple[int, ...]
    source: Source
    handed_at: float
    expires_at: float
    closed_at: float | None
    item: dict[str, Any]
    tip: dict[str, Any] | None


SHOWN = (item.c.id, item.c.kind, item.c.question, item.c.votes, item.c.wanted)


def save_project(connection: sa.Connection, project: Project) -> None:
    """Keep the settings of the project."""
    connection.execute(sa.delete(setting).where(setting.c.name == SETTINGS))
    connection.execute(sa.insert(setting).values(name=SETTINGS, value=asdict(project)))


def load_project(connection: sa.Connection) -> Project | None:
    """Return the project's settings, or None before there are any."""
    kept = connection.execute(sa.select(setting.c.value).where(setting.c.name == SETTINGS)).scalar()
    known = Project.__dataclass_fields__
    if kept is None:
        return None
    own: dict[str, Any] = {k: v for k, v in kept.items() if k in known}
    own["criteria"] = tuple(own.get("criteria", ()))
    return Project(**own)


def next_ticket(connection: sa.Connection, who: Person, project: Project) -> Ticket | None:
    """Return the question that somebody is on, or hand out the next; None when all is done."""
    now = time.time()
    mine = sa.select(lease.c.token, lease.c.item_id, lease.c.expires_at).where(
        lease.c.person_id == who.id, lease.c.closed_at.is_(None)
    )
    for token, number, expires in connection.execute(mine.order_by(lease.c.handed_at)).all():
        if expires > now or has_room(connection, number, who.id, now):
            renew_lease(connection, token, project)
            return find_ticket(connection, token, who)
        if not _is_begun(connection, number, who.id):
            connection.execute(sa.delete(lease).where(lease.c.token == token))
    found = _choose(connection, who, project, now)
    if found is None:
        return None
    number, source = found
    token = secrets.token_urlsafe(12)
    name, count = connection.execute(
        sa.select(item.c.name, sa.func.json_array_length(item.c.members)).where(item.c.id == number)
    ).one()
    draw = Seed(project.seed).at("order", name, who.pseudonym).rng()
    connection.execute(
        sa.insert(lease).values(
            token=token,
            item_id=number,
            person_id=who.id,
            order=[int(k) for k in draw.permutation(count)],
            source=source,
            handed_at=now,
            expires_at=now + project.lease_seconds,
        )
    )
    return find_ticket(connection, token, who)


def find_ticket(connection: sa.Connection, token: str, who: Person) -> Ticket | None:
    """Return somebody's own ticket by its token; another's is not found."""
    row = connection.execute(
        sa.select(lease, *SHOWN)
        .join(item, item.c.id == lease.c.item_id)
        .where(lease.c.token == token, lease.c.person_id == who.id)
    ).first()
    if row is None:
        return None
    values = dict(row._mapping)
    return Ticket(
        token=values["token"],
        item_id=values["item_id"],
        person_id=values["person_id"],
        order=tuple(values["order"]),
        source=values["source"],
        handed_at=values["handed_at"],
        expires_at=values["expires_at"],
        closed_at=values["closed_at"],
        item={c.name: values[c.name] for c in SHOWN},
        tip=find_tip(connection, who.id, values["item_id"]),
    )


def find_tip(
    connection: sa.Connection, person_id: int, item_id: int, *, decision: bool = False
) -> dict[str, Any] | None:
    """Return the last event of a person on an item: of their votes, or of their decisions."""
    is_decision = event.c.protocol == "adjudication"
    row = connection.execute(
        sa.select(event)
        .where(
            event.c.person_id == person_id,
            event.c.item_id == item_id,
            is_decision if decision else ~is_decision,
        )
        .order_by(event.c.id.desc())
        .limit(1)
    ).first()
    return None if row is None else dict(row._mapping)


def renew_lease(connection: sa.Connection, token: str, project: Project) -> None:
    """Keep an open question's place for longer."""
    connection.execute(
        sa.update(lease)
        .where(lease.c.token == token, lease.c.closed_at.is_(None))
        .values(expires_at=time.time() + project.lease_seconds)
    )


def keep_lease(connection: sa.Connection, ticket: Ticket, project: Project) -> None:
    """Renew a lease that still holds a place; one whose place went to others is not revived."""
    now = time.time()
    if ticket.expires_at > now or has_room(connection, ticket.item_id, ticket.person_id, now):
        renew_lease(connection, ticket.token, project)


def has_room(connection: sa.Connection, item_id: int, person_id: int, now: float) -> bool:
    """Whether an item can take one more vote beside the live leases of others."""
    open_, votes, wanted, gold = connection.execute(
        sa.select(item.c.open, item.c.votes, item.c.wanted, item.c.gold).where(item.c.id == item_id)
    ).one()
    if gold is not None:
        return True
    others = connection.execute(
        sa.select(sa.func.count()).where(
            lease.c.item_id == item_id,
            lease.c.person_id != person_id,
            lease.c.closed_at.is_(None),
            lease.c.expires_at > now,
        )
    ).scalar_one()
    return bool(open_) and votes + others < wanted


def _is_begun(connection: sa.Connection, item_id: int, person_id: int) -> bool:
    return find_tip(connection, person_id, item_id) is not None


def _choose(
    connection: sa.Connection, who: Person, project: Project, now: float
) -> tuple[int, Source] | None:
    met = sa.select(sa.func.count()).where(lease.c.person_id == who.id)
    place = connection.execute(met).scalar_one()
    draw = Seed(project.seed).at("next", who.pseudonym, place)
    unseen = ~sa.exists().where(lease.c.person_id == who.id, lease.c.item_id == item.c.id)
    if draw.at("gold").uniform() < project.gold_share:
        gold = sa.select(item.c.id).where(item.c.gold.is_not(sa.null()), unseen, ~item.c.open)
        known = connection.execute(gold.order_by(item.c.draw).limit(1)).scalar()
        if known is not None:
            return known, "gold"
    is_active = project.active and draw.at("uniform").uniform() >= project.uniform_share
    if is_active:
        wanted = sa.select(item.c.id, item.c.votes, item.c.wanted).where(
            item.c.open, item.c.split == "train", unseen
        )
        ordered = wanted.order_by(item.c.priority.desc(), item.c.draw)
        if (number := _first_free(connection, ordered, now)) is not None:
            return number, "active"
    wanted = sa.select(item.c.id, item.c.votes, item.c.wanted).where(item.c.open, unseen)
    number = _first_free(connection, wanted.order_by(item.c.draw), now)
    return None if number is None else (number, "uniform")


def _first_free(
    connection: sa.Connection, ordered: sa.Select[Any, Any, Any], now: float
) -> int | None:
    live = Counter(
        connection.execute(
            sa.select(lease.c.item_id).where(lease.c.closed_at.is_(None), lease.c.expires_at > now)
        ).scalars()
    )
    for number, votes, wanted in connection.execute(ordered.limit(len(live) + 1)):
        if votes + live[number] < wanted:
            return number
    return None
