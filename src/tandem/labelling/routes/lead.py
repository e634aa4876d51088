"""The lead's pages: progress, agreement, disputed items, people, rubric, export.

To everybody else they do not exist: a guard before each of them answers 404.
"""

from __future__ import annotations

import io
import secrets
import zipfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from litestar import Request, Response, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect, Template

from tandem.errors import ConfigError, TandemError
from tandem.labelling import people, vote_store
from tandem.labelling.answer_text import render_text, render_turns
from tandem.labelling.assignment import load_project
from tandem.labelling.export import export_votes
from tandem.labelling.people import Person
from tandem.labelling.refit import latest_refit
from tandem.labelling.routes.access import Lead, Room, render_page
from tandem.labelling.routes.entry import Form, form_field
from tandem.labelling.routes.label import read_judgement, shown_answers
from tandem.labelling.schema import event, item, person
from tandem.labelling.votes_page import prompt_start
from tandem.rng import Seed

Asked = Request[Any, Any, Any]
ITEMS_SHOWN = 100


@get("/lead", sync_to_thread=True)
def overview_route(leader: Lead, room: Room) -> Template:
    """Show how far the project is."""
    with room.database.read() as connection:
        totals = room.totals(connection)
        pace = connection.execute(
            sa.select(
                sa.func.count(), sa.func.min(event.c.made_at), sa.func.max(event.c.made_at)
            ).where(event.c.kind == "vote")
        ).one()
        rows = _people(connection)
        refit = latest_refit(connection)
        disputed = len(find_disputed(connection))
        project = load_project(connection)
    left = max(0, totals["wanted"] - totals["votes"])
    minutes = None
    if left and pace[0] > 5 and pace[2] > pace[1]:
        minutes = left * (pace[2] - pace[1]) / pace[0] / 60
    return render_page(
        "lead_overview.html",
        leader,
        here="overview",
        totals=totals,
        left=left,
        minutes=minutes,
        people=rows,
        refit=refit,
        disputed=disputed,
        project=project,
        is_refitting=room.refitter.is_running,
    )


def _people(connection: sa.Connection) -> list[dict[str, Any]]:
    current = vote_store.current_events().subquery()
    rows = connection.execute(
        sa.select(current.c.person_id, sa.func.count())
        .where(current.c.kind == "vote")
        .group_by(current.c.person_id)
    )
    counted = {row[0]: row[1] for row in rows}
    return [{**p, "votes": counted.get(p["id"], 0)} for p in people.list_people(connection)]


@get("/lead/report", sync_to_thread=True)
def show_report(leader: Lead, room: Room) -> Template:
    """Show agreement, habits and the model of annotators."""
    with room.database.read() as connection:
        project = load_project(connection)
        found = room.report(connection, project.title if project else "")
    return render_page("lead_report.html", leader, here="report", report=found)


@get("/lead/items", sync_to_thread=True)
def show_items(leader: Lead, room: Room) -> Template:
    """Show what is asked next, and why."""
    with room.database.read() as connection:
        rows = connection.execute(
            sa.select(item)
            .order_by(item.c.open.desc(), item.c.priority.desc(), item.c.draw)
            .limit(ITEMS_SHOWN)
        ).mappings()
        shown = [{**row, "prompt": prompt_start(row["question"])} for row in rows]
        project = load_project(connection)
    return render_page("lead_items.html", leader, here="items", rows=shown, project=project)


@get("/lead/items/{number:int}", sync_to_thread=True)
def show_item(number: FromPath[int], leader: Lead, room: Room) -> Template:
    """Show one item whole: who wrote the answers, every event, why it is asked."""
    with room.database.read() as connection:
        row = _item(connection, number)
        events = (
            connection.execute(
                sa.select(event, person.c.pseudonym)
                .join(person, person.c.id == event.c.person_id)
                .where(event.c.item_id == number)
                .order_by(event.c.id)
            )
            .mappings()
            .all()
        )
    order = tuple(range(len(row["members"])))
    return render_page(
        "lead_item.html",
        leader,
        here="items",
        row=row,
        turns=render_turns(row["question"]),
        answers=shown_answers(row, order, False),
        events=[dict(e) for e in events],
        choices=vote_store.CHOICES,
    )


def _item(connection: sa.Connection, number: int) -> dict[str, Any]:
    row = connection.execute(sa.select(item).where(item.c.id == number)).mappings().first()
    if row is None:
        raise NotFoundException
    return dict(row)


def find_disputed(connection: sa.Connection) -> list[int]:
    """Return closed pairs without a decision on which people chose different sides."""
    current = vote_store.current_events().subquery()
    rows = connection.execute(
        sa.select(current.c.item_id, current.c.choice, current.c.order)
        .join(item, item.c.id == current.c.item_id)
        .where(
            current.c.kind == "vote",
            current.c.choice.is_not(None),
            item.c.gold.is_(None),
            ~item.c.open,
        )
    )
    sides: dict[int, set[int]] = {}
    for number, choice, order in rows:
        strength = vote_store.vote_strength(choice, order)
        sides.setdefault(number, set()).add((strength > 0) - (strength < 0))
    return sorted(number for number, found in sides.items() if {1, -1} <= found)


@get("/lead/disputed", sync_to_thread=True)
def show_disputed(leader: Lead, room: Room, done: FromQuery[str] = "") -> Template:
    """Show the next item on which people differ, blind like any other."""
    with room.database.read() as connection:
        waiting = find_disputed(connection)
        if not waiting:
            return render_page("lead_disputed.html", leader, here="disputed", waiting=0, done=done)
        row = _item(connection, waiting[0])
        order = _lead_order(row["name"], leader)
        current = vote_store.current_events().subquery()
        said = connection.execute(
            sa.select(current.c.choice, current.c.order, current.c.rationale).where(
                current.c.item_id == row["id"], current.c.kind == "vote"
            )
        ).all()
    return render_page(
        "lead_disputed.html",
        leader,
        here="disputed",
        waiting=len(waiting),
        done=done,
        row=row,
        turns=render_turns(row["question"]),
        answers=shown_answers(row, order, False),
        choices=vote_store.CHOICES,
        said=[_as_shown(s, order) for s in said],
        key=secrets.token_hex(16),
    )


def _lead_order(name: str, leader: Person) -> tuple[int, ...]:
    draw = Seed(0).at("dispute", name, leader.pseudonym).uniform()
    return (0, 1) if draw < 0.5 else (1, 0)


def _as_shown(said: Any, order: tuple[int, ...]) -> dict[str, Any]:
    """Turn a vote into the order that the lead sees."""
    choice = said[0] if tuple(said[1]) == order else 8 - said[0]
    return {"choice": vote_store.CHOICES[choice], "rationale": said[2] or ""}


@post("/lead/disputed/{number:int}/decide", sync_to_thread=True, status_code=303)
def decide_route(number: FromPath[int], data: Form, leader: Lead, room: Room) -> Redirect:
    """Keep a decision; the item becomes gold."""
    with room.database.write() as connection:
        row = _item(connection, number)
        order = _lead_order(row["name"], leader)
        vote_store.adjudicate_question(connection, leader, number, read_judgement(data), order)
    return Redirect("/lead/disputed?done=decided", status_code=303)


@get("/lead/people", sync_to_thread=True)
def show_people(leader: Lead, room: Room) -> Template:
    """Show who labels."""
    with room.database.read() as connection:
        rows = _people(connection)
    return render_page(
        "lead_people.html", leader, here="people", people=rows, link="", name="", error=""
    )


@post("/lead/people/add", sync_to_thread=True, status_code=200)
def add_person_route(request: Asked, data: Form, leader: Lead, room: Room) -> Template:
    """Make an account and show its invitation, once."""
    link, error, name = "", "", form_field(data, "name", 100).strip()
    role: people.Role = "lead" if form_field(data, "role") == "lead" else "annotator"
    try:
        with room.database.write() as connection:
            number = people.add_person(connection, name, role)
            link = _link(request, people.make_invite(connection, number))
    except TandemError as problem:
        error = f"{problem.what}: {problem.why}."
    with room.database.read() as connection:
        rows = _people(connection)
    return render_page(
        "lead_people.html", leader, here="people", people=rows, link=link, name=name, error=error
    )


@post("/lead/people/{number:int}/invite", sync_to_thread=True, status_code=200)
def invite_again(request: Asked, number: FromPath[int], leader: Lead, room: Room) -> Template:
    """Show a new invitation for somebody; the earlier one stops working."""
    with room.database.write() as connection:
        rows = _people(connection)
        name = next((p["name"] for p in rows if p["id"] == number), None)
        if name is None:
            raise NotFoundException
        link = _link(request, people.make_invite(connection, number))
    return render_page(
        "lead_people.html", leader, here="people", people=rows, link=link, name=name, error=""
    )


@post("/lead/people/{number:int}/delete", sync_to_thread=True, status_code=303)
def delete_person_route(number: FromPath[int], data: Form, leader: Lead, room: Room) -> Redirect:
    """Forget who somebody is; the votes stay."""
    if form_field(data, "sure") == "yes" and number != leader.id:
        with room.database.write() as connection:
            people.delete_person(connection, number)
    return Redirect("/lead/people", status_code=303)


def _link(request: Asked, token: str) -> str:
    return f"{str(request.base_url).rstrip('/')}/enter/{token}"


@get("/lead/rubric", sync_to_thread=True)
def show_rubric(leader: Lead, room: Room) -> Template:
    """Show the rubric, to write its next version."""
    with room.database.read() as connection:
        version, text = vote_store.current_rubric(connection)
    return render_page(
        "lead_rubric.html", leader, here="rubric", version=version, text=text,
        shown=render_text(text) if text else "",
    )  # fmt: skip


@post("/lead/rubric/add", sync_to_thread=True, status_code=303)
def add_rubric_route(data: Form, leader: Lead, room: Room) -> Redirect:
    """Keep the next version of the rubric; votes from now on carry its number."""
    text = form_field(data, "text").strip()
    with room.database.write() as connection:
        if text and text != vote_store.current_rubric(connection)[1]:
            vote_store.add_rubric(connection, text)
    return Redirect("/lead/rubric", status_code=303)


@post("/lead/refit", sync_to_thread=True, status_code=303)
def start_refit(leader: Lead, room: Room) -> Redirect:
    """Start a refit of the reward now."""
    project = room.project
    if not project.model:
        raise ConfigError(
            "the project has no model", "the reward starts from one", "serve with --model FOLDER"
        )
    if not room.refitter.is_running:
        room.refitter.start()
    return Redirect("/lead", status_code=303)


@get("/lead/export", sync_to_thread=True)
def download_route(leader: Lead, room: Room) -> Response[bytes]:
    """Return the export as one file."""
    folder = room.folder / "exports" / "latest"
    with room.database.read() as connection:
        project = load_project(connection)
        export_votes(connection, folder, title=project.title if project else "")
    return Response(
        _zipped(folder),
        media_type="application/zip",
        headers={"Content-Disposition": 'attachment; filename="labels.zip"'},
    )


def _zipped(folder: Path) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, path.name)
    return sink.getvalue()


HANDLERS = [
    overview_route, show_report, show_items, show_item, show_disputed, decide_route, show_people,
    add_person_route,
    invite_again, delete_person_route, show_rubric, add_rubric_route, start_refit, download_route,
]  # fmt: skip
