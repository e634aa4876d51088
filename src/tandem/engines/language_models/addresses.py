"""Addresses of servers: what of them is a secret, and what may be written down."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, urlsplit

from tandem.data.remote_files import SECRETS
from tandem.errors import ConfigError

NAME = re.compile(r"[A-Z][A-Z0-9_]*")
"""What is taken for the name of a variable, and repeated; anything else might be a key."""
KEY, KEY_HOST = "OPENAI_API_KEY", "api.openai.com"
"""A key's variable, and the only server to which it is sent without being asked for."""


def check_key(name: str | None, url: str) -> None:
    """Refuse a variable that holds no key; what may be the key itself is not repeated.

    Args:
        name: of the environment variable; None where none is sent.
        url: the server's address.

    Raises:
        ConfigError: it is not set.
    """
    if name is None or os.environ.get(name):
        return
    told = name if NAME.fullmatch(name) else "that the key is in"
    raise ConfigError(
        f"the environment variable {told} is not set",
        f"{url} is asked with the key that it holds; a key is never a setting, which would be "
        "written into run.toml",
        "give the variable's NAME, never the key, and export it; none for a server that wants none",
    )


def usual_key(url: str) -> str | None:
    """Return the environment variable with a server's key, where none was named.

    >>> usual_key("https://api.openai.com/v1"), usual_key("https://example.org/v1")
    ('OPENAI_API_KEY', None)
    """
    parts = urlsplit(url)
    return KEY if parts.scheme == "https" and parts.hostname == KEY_HOST else None


def check_address(url: str, setting: str) -> None:
    """Refuse an address that is none, or that holds a password or a key.

    An address is written into run.toml, into stages, reports and messages; the error does not
    repeat what is secret in it.

    Args:
        url: the address.
        setting: what it was given as, for the message.

    Raises:
        ConfigError: as said.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        parts, port, host = None, None, None
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"{setting} is no address of a server",
            "a server is asked over http or https",
            "write it as https://HOST/v1 or http://HOST:PORT/v1",
        )
    place = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    named = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if parts.username is not None or parts.password is not None:
        what = "a user or a password"
    elif any(secret in name.lower() for name in named for secret in SECRETS):
        what = "a key"
    else:
        return
    raise ConfigError(
        f"{setting} = {place}/... holds {what}",
        "addresses are written into run.toml, logs and reports, and a secret would be with them",
        f"give {place} without it, and the key in an environment variable: OPENAI_API_KEY for "
        "language models, and for rewards the one that --reward.key or --judge_key names",
    )
