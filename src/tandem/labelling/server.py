"""The application, and the command that serves it.

One process, one database. Handlers are ordinary functions in a thread each; whoever writes waits
for their turn (`Database.write`). A killed server loses nothing that it has acknowledged: an
answer is sent after the transaction is on disk.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from litestar import Litestar, Request, Response
from litestar.config.allowed_hosts import AllowedHostsConfig
from litestar.config.csrf import CSRFConfig
from litestar.datastructures import MutableScopeHeaders
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Template
from litestar.template.config import TemplateConfig
from litestar.types import Message, Scope
from sqlalchemy.exc import SQLAlchemyError

from tandem.errors import TandemError
from tandem.labelling.backup import make_backup, newest_event
from tandem.labelling.pages import make_environment
from tandem.labelling.room import LabelRoom
from tandem.labelling.routes import entry, label, lead, system
from tandem.labelling.routes.access import (
    NotSignedIn,
    find_lead,
    find_room,
    find_visitor,
    is_htmx,
    redirect_to,
)
from tandem.labelling.security import CSRF_COOKIE, HEADERS, LARGEST_BODY
from tandem.labelling.vote_store import NotYours

log = logging.getLogger("tandem.labelling")
Asked = Request[Any, Any, Any]

_MEANS = {
    400: ("This request makes no sense", "The page sent something that cannot be read."),
    401: ("Please sign in", "Your session has ended."),
    403: ("This form is too old", "Reload the page, then send it again."),
    404: ("There is no such page", "It may be somebody else's, or it is gone."),
    405: ("There is no such page", "It may be somebody else's, or it is gone."),
    413: ("That is too much text", "A vote with its reasons has to fit into 256 kB."),
    429: ("Too many requests", "Wait some seconds, then go on."),
    503: ("The database does not answer", "Nothing was lost. Try again in a moment."),
}


def make_app(room: LabelRoom) -> Litestar:
    """Return the application for one project."""
    return Litestar(
        route_handlers=[*entry.HANDLERS, *label.HANDLERS, *lead.HANDLERS, *system.HANDLERS],
        dependencies={
            "room": Provide(find_room, sync_to_thread=False),
            "visitor": Provide(find_visitor, sync_to_thread=True),
            "leader": Provide(find_lead, sync_to_thread=False),
        },
        template_config=TemplateConfig(
            instance=JinjaTemplateEngine.from_environment(make_environment())
        ),
        csrf_config=CSRFConfig(
            secret=room.secret,
            cookie_name=f"__Host-{CSRF_COOKIE}" if room.secure else CSRF_COOKIE,
            cookie_secure=room.secure,
            cookie_httponly=True,
            cookie_samesite="strict",
            exclude="^/csp-report$",
        ),
        allowed_hosts=AllowedHostsConfig(allowed_hosts=list(room.hosts)) if room.hosts else None,
        exception_handlers={
            NotSignedIn: _ask_to_sign_in,
            NotYours: _explain_not_found,
            TandemError: _explain_mistake,
            HTTPException: _explain,
            Exception: _explain_failure,
        },
        before_send=[_harden],
        request_max_body_size=LARGEST_BODY,
        openapi_config=None,
        state=_state(room),
        logging_config=None,
        debug=False,
    )


def _state(room: LabelRoom) -> Any:
    from litestar.datastructures import State

    return State({"room": room})


async def _harden(message: Message, scope: Scope) -> None:
    """Add the policy and its like to every answer; only style and script may be kept."""
    if message["type"] != "http.response.start":
        return
    headers = MutableScopeHeaders.from_message(message)
    for name, value in {**HEADERS, "Cache-Control": "no-store"}.items():
        headers.setdefault(name, value)
    if scope["litestar_app"].state.room.secure:
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")


def _ask_to_sign_in(request: Asked, _: NotSignedIn) -> Response[Any]:
    if request.method == "GET" or is_htmx(request):
        return redirect_to(request, "/sign-in")
    return _error_page(request, 401)


def _explain_not_found(request: Asked, _: NotYours) -> Response[Any]:
    return _error_page(request, 404)


def _explain(request: Asked, error: HTTPException) -> Response[Any]:
    return _error_page(request, error.status_code, dict(error.headers or {}))


def _explain_mistake(request: Asked, error: TandemError) -> Response[Any]:
    return _error_page(request, 422, {}, (error.what, f"{error.why}. {error.do}."))


def _explain_failure(request: Asked, error: Exception) -> Response[Any]:
    from sqlalchemy.exc import OperationalError, TimeoutError

    if isinstance(error, OperationalError | TimeoutError):
        log.warning("the database does not answer: %s", type(error).__name__)
        return _error_page(request, 503, {"Retry-After": "1"})
    log.error("a request failed: %s %s", request.method, request.url.path, exc_info=error)
    return _error_page(request, 500)


def _error_page(
    request: Asked,
    status: int,
    headers: dict[str, str] | None = None,
    said: tuple[str, str] | None = None,
) -> Response[Any]:
    what, why = said or _MEANS.get(
        status, ("Something went wrong here", "It is not your fault, and no vote was lost.")
    )
    if status == 429:
        headers = {"Retry-After": "5", **(headers or {})}
    context = {"visitor": None, "status": status, "what": what[:1].upper() + what[1:], "why": why}
    name = "_error.html" if is_htmx(request) else "error.html"
    return Template(name, context=context, status_code=status, headers=headers)


def run_server(room: LabelRoom, host: str, port: int, certificate: str = "", key: str = "") -> None:
    """Serve until the process is told to stop; backups are taken meanwhile."""
    import uvicorn

    stopped = threading.Event()
    keeper = threading.Thread(target=_keep_backups, args=(room, stopped), daemon=True)
    keeper.start()
    try:
        _run(uvicorn, room, host, port, certificate, key)
    finally:
        stopped.set()
        room.refitter.stop()


def _keep_backups(room: LabelRoom, stopped: threading.Event) -> None:
    """Copy the votes every so many minutes, if there are new ones."""
    copied = -1
    while True:
        minutes = room.project.backup_minutes
        if stopped.wait(60 * minutes if minutes > 0 else 600):
            return
        try:
            with room.database.read() as connection:
                last = newest_event(connection)
            if minutes > 0 and last != copied:
                make_backup(room.database, room.folder / "backups")
                copied = last
        except (OSError, SQLAlchemyError):
            log.exception("a backup failed; the next is tried in %s minutes", minutes)


def _run(uvicorn: Any, room: LabelRoom, host: str, port: int, certificate: str, key: str) -> None:
    uvicorn.run(
        make_app(room),
        host=host,
        port=port,
        ssl_certfile=certificate or None,
        ssl_keyfile=key or None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
