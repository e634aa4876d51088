"""The page on which people judge: a question, its seven answers, undo, edit, skip."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

import sqlalchemy as sa
from litestar import Request, Response, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect, Template

from tandem.labelling import vote_store
from tandem.labelling.answer_text import (
    is_cut,
    is_right_to_left,
    render_answer,
    render_differences,
    render_text,
    render_turns,
)
from tandem.labelling.assignment import (
    Project,
    Ticket,
    find_ticket,
    keep_lease,
    load_project,
    next_ticket,
)
from tandem.labelling.people import Person
from tandem.labelling.refit import latest_refit
from tandem.labelling.room import LabelRoom
from tandem.labelling.routes.access import Room, Visitor, is_htmx, redirect_to, render_page
from tandem.labelling.routes.entry import Form, form_field
from tandem.labelling.schema import event, item, lease
from tandem.labelling.vote_store import Judgement

Asked = Request[Any, Any, Any]
Token = FromPath[str]
LETTERS = "AB"
MINE_SHOWN = 200
_KEPT = ("choice", "both_bad", "ranks", "criteria", "rationale", "better_answer")
CRITERION = "criterion_"


@get("/label", sync_to_thread=True)
def show_next(request: Asked, visitor: Visitor, room: Room, saved: FromQuery[str] = "") -> Template:
    """Show the question that somebody is on, or hand out the next."""
    with room.database.write() as connection:
        project = load_project(connection) or Project()
        ticket = next_ticket(connection, visitor, project)
    return _shown(request, visitor, room, ticket, project, _SAID.get(saved, ""))


@get("/label/{token:str}", sync_to_thread=True)
def show_one(
    request: Asked,
    token: Token,
    visitor: Visitor,
    room: Room,
    differences: FromQuery[bool] = False,
) -> Template:
    """Show one's own question again, to change the answer or to see the differences marked."""
    with room.database.read() as connection:
        ticket = find_ticket(connection, token, visitor)
        if ticket is None:
            raise NotFoundException
        return _question(request, connection, visitor, room, ticket, "", differences)


@post("/label/{token:str}/vote", sync_to_thread=True, status_code=200)
def vote_route(
    request: Asked, token: Token, data: Form, visitor: Visitor, room: Room
) -> Response[Any]:
    """Keep a vote, then show the next question."""
    said = read_judgement(data)
    with room.database.write() as connection:
        project = load_project(connection) or Project()
        kept = vote_store.record_vote(connection, visitor, token, said, project)
        # the next question in the same transaction: one wait for the disk instead of two
        ticket = next_ticket(connection, visitor, project) if is_htmx(request) else None
    room.refitter.consider(project)
    return _after(request, visitor, room, ticket, project, kept.kind)


@post("/label/{token:str}/skip", sync_to_thread=True, status_code=200)
def skip_route(
    request: Asked, token: Token, data: Form, visitor: Visitor, room: Room
) -> Response[Any]:
    """Keep a skip with its reason, then show the next question."""
    with room.database.write() as connection:
        project = load_project(connection) or Project()
        kept = vote_store.record_skip(connection, visitor, token, read_judgement(data))
        ticket = next_ticket(connection, visitor, project) if is_htmx(request) else None
    return _after(request, visitor, room, ticket, project, kept.kind)


@post("/undo", sync_to_thread=True, status_code=200)
def undo_route(request: Asked, data: Form, visitor: Visitor, room: Room) -> Response[Any]:
    """Take the last vote or skip back, and show its question again."""
    key = form_field(data, "key", 64) or uuid.uuid4().hex
    with room.database.write() as connection:
        project = load_project(connection) or Project()
        ticket = vote_store.record_undo(connection, visitor, key, project)
        back = ticket or next_ticket(connection, visitor, project)
    if ticket is None:
        return _after(request, visitor, room, back, project, "nothing")
    if not is_htmx(request):
        return Redirect(f"/label/{ticket.token}", status_code=303)
    with room.database.read() as connection:
        return _question(request, connection, visitor, room, ticket, _SAID["undo"], False)


@post("/label/{token:str}/keep", sync_to_thread=True, status_code=204)
def keep_route(token: Token, visitor: Visitor, room: Room) -> None:
    """Keep the place of a question whose page is open."""
    with room.database.write() as connection:
        ticket = find_ticket(connection, token, visitor)
        if ticket is None:
            raise NotFoundException
        keep_lease(connection, ticket, load_project(connection) or Project())


@get("/label/{token:str}/answer/{place:int}", sync_to_thread=True, media_type="text/plain")
def show_whole(token: Token, place: FromPath[int], visitor: Visitor, room: Room) -> Response[str]:
    """Return one answer whole, as plain text."""
    with room.database.read() as connection:
        ticket = find_ticket(connection, token, visitor)
    if ticket is None or not 0 <= place < len(ticket.order):
        raise NotFoundException
    text = ticket.item["question"]["answers"][ticket.order[place]]
    return Response(text, media_type="text/plain; charset=utf-8")


@get("/mine", sync_to_thread=True)
def show_mine(visitor: Visitor, room: Room) -> Template:
    """Show one's own votes, newest first, to look at or to change."""
    with room.database.read() as connection:
        current = vote_store.current_events().subquery()
        rows = connection.execute(
            sa.select(current, lease.c.token, item.c.question)
            .join(item, item.c.id == current.c.item_id)
            .join(
                lease,
                sa.and_(
                    lease.c.item_id == current.c.item_id,
                    lease.c.person_id == current.c.person_id,
                ),
            )
            .where(current.c.person_id == visitor.id, current.c.kind.in_(("vote", "skip", "late")))
            .order_by(current.c.id.desc())
            .limit(MINE_SHOWN)
        ).all()
    return render_page("mine.html", visitor, rows=[_mine(dict(r._mapping)) for r in rows])


def _mine(row: dict[str, Any]) -> dict[str, Any]:
    question = row["question"]
    said = question["text"]
    if question["messages"]:
        said = str(question["messages"][-1].get("content") or "")
    if row["kind"] == "skip":
        answer = f"skipped: {vote_store.SKIP_REASONS.get(row['reason'], row['reason'])}"
    elif row["ranks"]:
        answer = "ranking " + ", ".join("-" if r is None else str(r) for r in row["ranks"])
    else:
        answer = vote_store.CHOICES.get(row["choice"], "")
        answer += ", both bad" if row["both_bad"] else ""
    if row["kind"] == "late":
        answer += " (came late, not counted)"
    return {"token": row["token"], "prompt": said[:160], "said": answer, "when": row["made_at"]}


_SAID = {
    "vote": "Saved.",
    "skip": "Skipped.",
    "undo": "Taken back. Choose again.",
    "late": "Kept, but not counted: the question had gone to somebody else meanwhile.",
    "nothing": "There is nothing to take back.",
}


def read_judgement(form: dict[str, Any]) -> Judgement:
    """Read a form; what is no number or no known word is left out."""
    ranks = [form[k] for k in sorted(form) if k.startswith("rank_")]
    return Judgement(
        key=form_field(form, "key", 64) or uuid.uuid4().hex,
        choice=_number(form.get("choice")),
        both_bad=form_field(form, "both_bad") == "yes",
        ranks=tuple(_number(r) for r in ranks) if ranks else None,
        criteria={
            name.removeprefix(CRITERION): form_field(form, name, 20)
            for name in form
            if name.startswith(CRITERION) and form_field(form, name, 20)
        },
        reason=form_field(form, "reason", 40),
        rationale=form_field(form, "rationale"),
        better_answer=form_field(form, "better_answer"),
        seconds=_seconds(form.get("seconds")),
        device=form_field(form, "device", 16) or "unknown",
    )


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, str) and value in tuple("123456789") else None


def _seconds(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _after(
    request: Asked,
    visitor: Person,
    room: LabelRoom,
    ticket: Ticket | None,
    project: Project,
    what: str,
) -> Response[Any]:
    if not is_htmx(request):
        return redirect_to(request, f"/label?saved={what}")
    return _shown(request, visitor, room, ticket, project, _SAID[what])


def _shown(
    request: Asked,
    visitor: Person,
    room: LabelRoom,
    ticket: Ticket | None,
    project: Project,
    said: str,
) -> Template:
    with room.database.read() as connection:
        if ticket is not None:
            return _question(request, connection, visitor, room, ticket, said, False)
        totals = room.totals(connection)
        progress = room.progress_of(connection, visitor)
    return render_page(
        "_done.html" if is_htmx(request) else "done.html",
        visitor,
        said=said,
        totals=totals,
        progress=progress,
        project=project,
        key=secrets.token_hex(16),
    )


def _question(
    request: Asked,
    connection: sa.Connection,
    visitor: Person,
    room: LabelRoom,
    ticket: Ticket,
    said: str,
    differences: bool,
) -> Template:
    project = load_project(connection) or Project()
    version, rubric = vote_store.current_rubric(connection)
    return render_page(
        "_question.html" if is_htmx(request) else "label.html",
        visitor,
        ticket=ticket,
        turns=render_turns(ticket.item["question"]),
        answers=shown_answers(ticket.item, ticket.order, differences),
        differences=differences,
        before=_before(connection, ticket),
        choices=vote_store.CHOICES,
        reasons=vote_store.SKIP_REASONS,
        rubric=render_text(rubric) if rubric else "",
        rubric_version=version,
        progress=room.progress_of(connection, visitor),
        project=project,
        refit=latest_refit(connection),
        said=said,
        key=secrets.token_hex(16),
        undo_key=secrets.token_hex(16),
    )


def shown_answers(
    asked: dict[str, Any], order: tuple[int, ...], differences: bool
) -> list[dict[str, Any]]:
    """Return the answers of an item as they are shown, in this order."""
    question = asked["question"]
    texts = [question["answers"][k] for k in order]
    parts = [render_answer(t, question["turns"][k]) for t, k in zip(texts, order, strict=True)]
    if differences and len(texts) == 2:
        marked = render_differences(*texts)
        parts = [[{"role": "", "html": m, "cut": False}] for m in marked]
    names = LETTERS if asked["kind"] == "pair" else "123456789"
    return [
        {
            "name": names[k],
            "turns": parts[k],
            "cut": is_cut(text),
            "rtl": is_right_to_left(text),
            "length": len(text),
        }
        for k, text in enumerate(texts)
    ]


def _before(connection: sa.Connection, ticket: Ticket) -> dict[str, Any]:
    """Return what was said before on a question that is open again."""
    tip = ticket.tip
    if tip is not None and tip["kind"] == "undo":
        row = connection.execute(sa.select(event).where(event.c.id == tip["supersedes"])).first()
        tip = None if row is None else dict(row._mapping)
    return {name: (tip or {}).get(name) for name in _KEPT}


HANDLERS = [
    show_next,
    show_one,
    vote_route,
    skip_route,
    undo_route,
    keep_route,
    show_whole,
    show_mine,
]
