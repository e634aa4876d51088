"""Addresses of servers: what of them is a secret, and what may be written down."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from tandem.data.remote_files import SECRETS
from tandem.errors import ConfigError


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
