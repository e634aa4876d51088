"""Coming in and going out: invitations, passwords, sessions, one's own account."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.params import FromPath, URLEncodedBody
from litestar.response import Redirect, Template

from tandem.errors import TandemError
from tandem.labelling import people
from tandem.labelling.room import LabelRoom
from tandem.labelling.routes.access import (
    Room,
    TooOften,
    Visitor,
    cookie_name,
    redirect_to,
    render_page,
)

Form = URLEncodedBody[dict[str, Any]]
Asked = Request[Any, Any, Any]


def form_field(form: dict[str, Any], name: str, longest: int = 20_000) -> str:
    """Return one field of a form as text, or ''."""
    value = form.get(name, "")
    return value[:longest] if isinstance(value, str) else ""


def signed_in(room: LabelRoom, token: str, path: str) -> Response[Any]:
    """Send a browser on with its session."""
    cookie = Cookie(
        key=cookie_name(room),
        value=token,
        max_age=int(people.SESSION_SECONDS),
        httponly=True,
        secure=room.secure,
        samesite="lax",
        path="/",
    )
    return Redirect(path, status_code=303, cookies=[cookie])


@get("/", sync_to_thread=False)
def start_page(visitor: Visitor) -> Redirect:
    """Send everybody to what they came for."""
    return Redirect("/lead" if visitor.is_lead else "/label", status_code=303)


@get("/enter/{token:str}", sync_to_thread=True)
def show_invite(token: FromPath[str], room: Room) -> Template:
    """Show an invitation; opening it does not use it up, so link previews do no harm."""
    with room.database.read() as connection:
        number = people.find_invite(connection, token)
        known = people.list_people(connection) if number else []
    name = next((p["name"] for p in known if p["id"] == number), None)
    return render_page("enter.html", token=token, name=name)


@post("/enter/{token:str}/begin", sync_to_thread=True, status_code=303)
def use_invite_route(token: FromPath[str], room: Room) -> Response[Any]:
    """Let somebody in, once."""
    with room.database.write() as connection:
        number = people.use_invite(connection, token)
        session = people.start_session(connection, number) if number else None
    if session is None:
        return Redirect(f"/enter/{token}", status_code=303)
    return signed_in(room, session, "/label")


@get("/sign-in", sync_to_thread=False)
def show_sign_in() -> Template:
    """Ask for name and password."""
    return render_page("sign_in.html", error="", name="")


@post("/session", sync_to_thread=True, status_code=200)
def sign_in(data: Form, room: Room) -> Response[Any]:
    """Let somebody in by password."""
    name = form_field(data, "name", 100).strip()
    if not room.attempts.is_allowed(name.lower()):
        raise TooOften("too many attempts for this name; wait half a minute")
    if not room.sign_ins.is_allowed("all"):
        raise TooOften("too many people sign in at once; wait a few seconds")
    with room.database.read() as connection:  # a hash takes a while, and no vote waits for it
        number = people.check_password(connection, name, form_field(data, "password", 300))
    session = None
    if number:
        with room.database.write() as connection:
            session = people.start_session(connection, number)
    if session is None:
        wrong = render_page(
            "sign_in.html", error="Name and password do not fit together.", name=name
        )
        wrong.status_code = 401
        return wrong
    return signed_in(room, session, "/")


@post("/sign-out", sync_to_thread=True, status_code=303)
def sign_out(request: Asked, visitor: Visitor, room: Room) -> Response[Any]:
    """End this session."""
    with room.database.write() as connection:
        people.end_session(connection, request.cookies.get(cookie_name(room), ""))
    out = redirect_to(request, "/sign-in")
    out.delete_cookie(cookie_name(room), path="/")
    return out


@get("/account", sync_to_thread=False)
def show_account(visitor: Visitor) -> Template:
    """Show what is known of somebody to themselves."""
    return render_page("account.html", visitor, error="", done="")


@post("/account/password", sync_to_thread=True, status_code=200)
def change_password(request: Asked, data: Form, visitor: Visitor, room: Room) -> Response[Any]:
    """Set a password; other sessions of the account end."""
    token = request.cookies.get(cookie_name(room), "")
    if not room.attempts.is_allowed(f"password {visitor.id}"):
        raise TooOften("too many changes; wait half a minute")
    try:
        with room.database.write() as connection:
            people.set_password(
                connection, visitor.id, form_field(data, "password", 300), keep=token
            )
    except TandemError as error:
        wrong = render_page("account.html", visitor, error=f"{error.what}: {error.why}.", done="")
        wrong.status_code = 422
        return wrong
    return render_page("account.html", visitor, error="", done="The password is set.")


@post("/account/delete", sync_to_thread=True, status_code=303)
def delete_account(data: Form, visitor: Visitor, room: Room) -> Response[Any]:
    """Forget who somebody is; their votes stay under another random pseudonym."""
    if form_field(data, "sure") != "yes":
        return Redirect("/account", status_code=303)
    with room.database.write() as connection:
        people.delete_person(connection, visitor.id)
    out = Redirect("/sign-in", status_code=303)
    out.delete_cookie(cookie_name(room), path="/")
    return out


HANDLERS = [
    start_page,
    show_invite,
    use_invite_route,
    show_sign_in,
    sign_in,
    sign_out,
    show_account,
    change_password,
    delete_account,
]
