"""What browsers ask beside pages: style, script, violations of the policy, a sign of life."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from litestar import Request, Response, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from tandem.labelling.answer_text import visible_text
from tandem.labelling.routes.access import Room

ASSETS = Path(__file__).parents[1] / "page" / "assets"
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
log = logging.getLogger("tandem.labelling")


@functools.cache
def read_asset(name: str) -> tuple[bytes, str] | None:
    """Return a file of the page and its kind, or None if there is none of this name."""
    known = {p.name: p for p in ASSETS.iterdir() if p.suffix in KINDS}
    found = known.get(name)
    return None if found is None else (found.read_bytes(), KINDS[found.suffix])


@functools.cache
def asset_address(name: str) -> str:
    """Return the address of a file of the page, which changes with its content."""
    found = read_asset(name)
    assert found is not None, name
    return f"/assets/{name}?v={hashlib.sha256(found[0]).hexdigest()[:12]}"


@get("/assets/{name:str}", sync_to_thread=False)
def asset_route(name: FromPath[str]) -> Response[bytes]:
    """Serve style and script."""
    found = read_asset(name)
    if found is None:
        raise NotFoundException
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(found[0], media_type=f"{found[1]}; charset=utf-8", headers=headers)


@post("/csp-report", status_code=204)
async def report_violation(request: Request[Any, Any, Any], room: Room) -> None:
    """Keep what a browser says that the page's policy stopped."""
    body = (await request.body())[:4096]
    if room.reports.is_allowed("violations"):
        line = visible_text(body.decode("utf-8", "replace")).replace("\n", " ")
        log.warning("policy violation: %s", line)
        with (room.folder / "csp-reports.jsonl").open("a", encoding="utf-8") as stream:
            if stream.tell() < LARGEST_REPORTS:
                stream.write(json.dumps(line) + "\n")


@get("/health", sync_to_thread=True)
def health_route(room: Room) -> dict[str, str]:
    """Say that the database answers."""
    with room.database.read():
        return {"status": "ok"}


LARGEST_REPORTS = 1 << 20
"""Bytes of what is kept of violations: anybody can send one, and votes share the disk."""
HANDLERS = [asset_route, report_violation, health_route]
