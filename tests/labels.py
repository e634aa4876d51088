"""Small labelling projects for tests, and people in them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tandem.labelling import people, vote_store
from tandem.labelling.assignment import Project, Ticket, next_ticket
from tandem.labelling.data_access import Answered
from tandem.labelling.database import Database
from tandem.labelling.people import Person
from tandem.labelling.questions import Questions
from tandem.labelling.setup import open_project

KEYS = (f"key-{k}" for k in itertools.count())


def asked(n: int, answers: int = 2) -> list[Answered]:
    """Return n prompts of which answer 0 says it is the good one."""
    texts = ("good", *(f"bad {k}" for k in range(1, answers)))
    blank = (None,) * answers
    return [
        Answered(
            f"q{k}",
            f"question {k}",
            None,
            tuple(f"{t} {k}" for t in texts),
            blank,
            tuple(f"SECRET-model-{j}" for j in range(answers)),
            {},
            {},
        )
        for k in range(n)
    ]


def begin(
    folder: Path,
    rows: Sequence[Answered],
    project: Project = Project(),
    questions: Questions = Questions(),
    url: str = "",
    rubric: str = "",
) -> Database:
    return open_project(folder, rows, project, questions, url=url, rubric=rubric).database


def join(database: Database, name: str, role: people.Role = "annotator") -> Person:
    with database.write() as connection:
        number = people.add_person(connection, name, role)
        found = people.find_person(connection, people.start_session(connection, number))
    assert found is not None
    return found[0]


def take(database: Database, who: Person, project: Project = Project()) -> Ticket | None:
    with database.write() as connection:
        return next_ticket(connection, who, project)


def say(
    database: Database,
    who: Person,
    ticket: Ticket,
    strength: int = 2,
    project: Project = Project(),
    **more: Any,
) -> vote_store.Recorded:
    """Vote with a strength in the item's own frame: positive for the item's first answer."""
    choice = 4 - (strength if ticket.order[0] == 0 else -strength)
    said = vote_store.Judgement(more.pop("key", None) or next(KEYS), choice=choice, **more)
    with database.write() as connection:
        return vote_store.record_vote(connection, who, ticket.token, said, project)


def everything(database: Database, who: Person, project: Project = Project()) -> Iterator[Ticket]:
    while (ticket := take(database, who, project)) is not None:
        yield ticket


class Visitor:
    """Somebody with a browser without scripts: cookies, forms, CSRF tokens.

    Args:
        client: an httpx client, or one of the same kind.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.page = ""
        self.status = 0

    def get(self, path: str) -> str:
        return self._keep(self.client.get(path))

    def enter(self, link: str) -> None:
        path = re.sub(r"^https?://[^/]+", "", link)
        self.get(path)
        self.post(f"{path}/begin")

    def post(self, path: str, **values: Any) -> str:
        token = self.field("_csrf_token")
        return self._keep(self.client.post(path, data={"_csrf_token": token, **values}))

    def field(self, name: str) -> str:
        found = re.search(rf'name="{name}" value="([^"]*)"', self.page)
        return found[1] if found else ""

    def _keep(self, answer: Any) -> str:
        self.status, self.page = answer.status_code, answer.text
        return self.page

    @property
    def token(self) -> str:
        found = re.search(r'data-token="([^"]+)"', self.page)
        return found[1] if found else ""

    @property
    def answers(self) -> list[str]:
        """The answers on the page, in the order in which they are shown."""
        parts = re.findall(r'<article class="answer".*?</article>', self.page, re.S)
        return [re.sub(r"<[^>]+>|\s+", " ", p.split("</h2>")[1]).strip() for p in parts]

    def vote(self, choice: int, **more: Any) -> str:
        values = {"key": self.field("key"), "choice": choice, **more}
        return self.post(f"/label/{self.token}/vote", **values)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path
