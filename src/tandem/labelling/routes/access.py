"""Who asks: the person behind a session, and whether the lead's pages are for them."""

from __future__ import annotations

import time
from typing import Any

from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException, NotFoundException
from litestar.response import Redirect, Template

from tandem.labelling import people
from tandem.labelling.people import Person
from tandem.labelling.room import LabelRoom
from tandem.labelling.security import COOKIE

Room = NamedDependency[LabelRoom]
Visitor = NamedDependency[Person]
Lead = NamedDependency[Person]


class NotSignedIn(Exception):
    """There is no session, or it has ended."""


class TooOften(HTTPException):
    """An account asks more often than a person can."""

    status_code = 429


def find_room(request: Request[Any, Any, Any]) -> LabelRoom:
    """Return what every request needs."""
    return request.app.state.room


def cookie_name(room: LabelRoom) -> str:
    """Return the session cookie's name; over TLS one that no other site can set."""
    return f"__Host-{COOKIE}" if room.secure else COOKIE


def find_visitor(request: Request[Any, Any, Any], room: Room) -> Person:
    """Return who is signed in.

    Raises:
        NotSignedIn: nobody is.
        TooOften: the account's limit is reached.
    """
    token = request.cookies.get(cookie_name(room), "")
    if not token:
        raise NotSignedIn
    with room.database.read() as connection:
        found = people.find_person(connection, token)
    if found is None:
        raise NotSignedIn
    person, seen = found
    if not room.requests.is_allowed(str(person.id)):
        raise TooOften("more requests than a person can make; wait some seconds")
    if time.time() - seen > people.SEEN_EVERY:
        with room.database.write() as connection:
            people.touch_session(connection, token)
    return person


def find_lead(visitor: Visitor) -> Person:
    """Return who is signed in, if they lead; to others the page does not exist.

    Raises:
        NotFoundException: they do not.
    """
    if not visitor.is_lead:
        raise NotFoundException
    return visitor


def is_htmx(request: Request[Any, Any, Any]) -> bool:
    """Whether a part of a page is asked for."""
    return request.headers.get("HX-Request") == "true"


def redirect_to(request: Request[Any, Any, Any], path: str) -> Response[Any]:
    """Send a browser elsewhere, also from within a part of a page."""
    if is_htmx(request):
        return Response(None, status_code=200, headers={"HX-Redirect": path})
    return Redirect(path, status_code=303)


def render_page(template: str, visitor: Person | None = None, /, **values: Any) -> Template:
    """Return a page that knows who looks at it."""
    return Template(template, context={"visitor": visitor, **values})
