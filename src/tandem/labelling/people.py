"""Who labels: accounts, one-time invitations, passwords, sessions.

Only hashes of tokens are kept. A name stands in `account` and nowhere else: votes know a person
by number, exports by a random pseudonym.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from tandem.errors import ConfigError
from tandem.labelling.database import new_id
from tandem.labelling.schema import account, invite, person, session

Role = Literal["annotator", "lead"]
ROLES = ("annotator", "lead")
INVITE_SECONDS = 7 * 86400.0
SESSION_SECONDS = 14 * 86400.0
IDLE_SECONDS = 3 * 86400.0
SEEN_EVERY = 600.0
SHORTEST_PASSWORD, LONGEST_PASSWORD = 12, 200
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,80}")


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    id: int
    pseudonym: str
    role: Role
    name: str

    @property
    def is_lead(self) -> bool:
        """Whether the lead's pages are for them."""
        return self.role == "lead"


def new_pseudonym() -> str:
    """Return a random name under which votes are exported."""
    return f"person-{secrets.token_hex(6)}"


def hash_token(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def add_person(connection: sa.Connection, name: str, role: Role = "annotator") -> int:
    """Make an account and return the person's number.

    Raises:
        ConfigError: the name is empty, too long or taken, or the role is none.
    """
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a person named {name[:100]!r}",
            "a name has 1 to 80 characters and no line break",
            "give another name",
        )
    if role not in ROLES:
        raise ConfigError(f"role {role!r}", f"roles are {', '.join(ROLES)}", "give one of them")
    if connection.execute(sa.select(account.c.name).where(account.c.name == name)).first():
        raise ConfigError(
            f"there is already somebody named {name!r}",
            "people sign in by name",
            "give another name, or make a new invitation for this one",
        )
    made = connection.execute(
        sa.insert(person).values(
            pseudonym=new_pseudonym(), role=role, active=True, made_at=time.time()
        )
    )
    number = new_id(made)
    connection.execute(sa.insert(account).values(person_id=number, name=name))
    return number


def make_invite(connection: sa.Connection, number: int, seconds: float = INVITE_SECONDS) -> str:
    """Return a token that lets a person in once; earlier unused ones stop working."""
    connection.execute(
        sa.delete(invite).where(invite.c.person_id == number, invite.c.used_at.is_(None))
    )
    token = secrets.token_urlsafe(24)
    connection.execute(
        sa.insert(invite).values(
            token=hash_token(token), person_id=number, expires_at=time.time() + seconds
        )
    )
    return token


def find_invite(connection: sa.Connection, token: str) -> int | None:
    """Return whose invitation this is, while it can be used."""
    return connection.execute(
        sa.select(invite.c.person_id)
        .join(person, person.c.id == invite.c.person_id)
        .where(
            invite.c.token == hash_token(token),
            invite.c.used_at.is_(None),
            invite.c.expires_at > time.time(),
            person.c.active,
        )
    ).scalar()


def use_invite(connection: sa.Connection, token: str) -> int | None:
    """Use an invitation up; return whose it was, or None if it is not valid any more."""
    number = find_invite(connection, token)
    if number is not None:
        used = sa.update(invite).where(invite.c.token == hash_token(token))
        connection.execute(used.values(used_at=time.time()))
    return number


def start_session(connection: sa.Connection, number: int) -> str:
    """Return the token of a new session, and forget sessions that have ended."""
    now = time.time()
    connection.execute(sa.delete(session).where(session.c.expires_at < now))
    token = secrets.token_urlsafe(32)
    connection.execute(
        sa.insert(session).values(
            token=hash_token(token),
            person_id=number,
            made_at=now,
            seen_at=now,
            expires_at=now + SESSION_SECONDS,
        )
    )
    return token


def find_person(connection: sa.Connection, token: str) -> tuple[Person, float] | None:
    """Return who a session belongs to and when it was last seen, while it lives."""
    now = time.time()
    row = connection.execute(
        sa.select(person.c.id, person.c.pseudonym, person.c.role, account.c.name, session.c.seen_at)
        .join(person, person.c.id == session.c.person_id)
        .join(account, account.c.person_id == person.c.id)
        .where(
            session.c.token == hash_token(token),
            session.c.expires_at > now,
            session.c.seen_at > now - IDLE_SECONDS,
            person.c.active,
        )
    ).first()
    return None if row is None else (Person(row[0], row[1], row[2], row[3]), row[4])


def touch_session(connection: sa.Connection, token: str) -> None:
    """Note that a session is in use."""
    where = session.c.token == hash_token(token)
    connection.execute(sa.update(session).where(where).values(seen_at=time.time()))


def end_session(connection: sa.Connection, token: str) -> None:
    """End one session."""
    connection.execute(sa.delete(session).where(session.c.token == hash_token(token)))


def set_password(connection: sa.Connection, number: int, password: str, keep: str = "") -> None:
    """Set a password and end the person's other sessions.

    Raises:
        ConfigError: it is too short, too long, or one of the most common.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ConfigError(
            f"a password of {len(password)} characters",
            f"it has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD}; length is what makes it strong",
            "give a longer one, for example four words",
        )
    if len(set(password.lower())) < 5 or password.lower() in _COMMON:
        raise ConfigError(
            "a password that is easily guessed",
            "such passwords are tried first",
            "give four words that do not belong together",
        )
    where = account.c.person_id == number
    connection.execute(sa.update(account).where(where).values(password=_hasher().hash(password)))
    others = (session.c.person_id == number) & (session.c.token != hash_token(keep))
    connection.execute(sa.delete(session).where(others))


def check_password(connection: sa.Connection, name: str, password: str) -> int | None:
    """Return the number of the person with this name and password, or None.

    It takes the same time whether or not the name exists.
    """
    row = connection.execute(
        sa.select(person.c.id, account.c.password)
        .join(account, account.c.person_id == person.c.id)
        .where(account.c.name == name.strip(), person.c.active)
    ).first()
    kept = row[1] if row is not None and row[1] else _nobody()
    right = _hasher().verify(password[:LONGEST_PASSWORD], kept)
    return int(row[0]) if right and row is not None and row[1] else None


def delete_person(connection: sa.Connection, number: int) -> None:
    """Forget who somebody is; their votes stay, under a new random pseudonym."""
    for table in (session, invite, account):
        connection.execute(sa.delete(table).where(table.c.person_id == number))
    where = person.c.id == number
    gone = {"pseudonym": new_pseudonym(), "active": False}
    connection.execute(sa.update(person).where(where).values(**gone))


def list_people(connection: sa.Connection) -> list[dict[str, Any]]:
    """Return everybody with an account: id, name, pseudonym, role."""
    rows = connection.execute(
        sa.select(
            person.c.id,
            account.c.name,
            person.c.pseudonym,
            person.c.role,
            account.c.password.is_not(None).label("has_password"),
        )
        .join(account, account.c.person_id == person.c.id)
        .where(person.c.active)
        .order_by(person.c.id)
    )
    return [dict(row._mapping) for row in rows]


@functools.cache
def _hasher() -> Any:
    from pwdlib import PasswordHash

    return PasswordHash.recommended()


@functools.cache
def _nobody() -> str:
    return _hasher().hash(secrets.token_hex(16))


_COMMON = frozenset(
    (
        "password1234",
        "passwordpassword",
        "123456789012",
        "1234567890123",
        "qwertyuiop12",
        "qwerty123456",
        "administrator",
        "letmeinplease",
        "iloveyou1234",
        "correct horse battery staple",
        "correcthorsebatterystaple",
    )
)
