"""How templates are read: everything is escaped, an unknown name is an error."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import jinja2

from tandem.labelling.routes.system import asset_address

TEMPLATES = Path(__file__).parent / "page" / "templates"


def make_environment() -> jinja2.Environment:
    """Return the environment of all pages."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = asset_address
    environment.filters |= {"percent": _percent, "day": _day, "duration": _duration}
    return environment


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _day(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M")


def _duration(minutes: Any) -> str:
    if minutes is None:
        return ""
    if minutes < 1:
        return "under a minute"
    if minutes < 90:
        return f"about {minutes:.0f} min"
    return f"about {minutes / 60:.0f} h"
