"""Who may connect, what a page may do, and how often somebody may ask.

The table in docs/labelling/security.md names the test of each line.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tandem.errors import ConfigError

SECRET = "TANDEM_LABEL_SECRET"
SHORTEST_SECRET = 32
LARGEST_BODY = 256 << 10
COOKIE = "tandem_session"
CSRF_COOKIE = "tandem_csrf"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "report-uri /csp-report",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
}


@dataclass(frozen=True)
class Binding:
    """Where the page is served.

    Attributes:
        host: address to listen on; this machine alone unless told.
        port: 0 takes a free one.
        certificate: TLS certificate in PEM, with `key`.
        public_url: the https address under which a proxy with TLS serves it.
    """

    host: str = "127.0.0.1"
    port: int = 8700
    certificate: str = ""
    key: str = ""
    public_url: str = ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach it over TLS."""
        return bool(self.certificate) or bool(self.public_url)

    def check(self) -> None:
        """Refuse to be reachable from elsewhere without TLS and a secret.

        Raises:
            ConfigError: the binding is public and lacks one of them, or is half set.
        """
        if bool(self.certificate) != bool(self.key):
            raise ConfigError(
                "--tls_certificate without --tls_key" if self.certificate else "--tls_key alone",
                "TLS needs both files",
                "give both, in PEM",
            )
        for path in filter(None, (self.certificate, self.key)):
            if not Path(path).is_file():
                raise ConfigError(f"no file {path}", "TLS needs it", "give its path")
        if self.public_url and not self.public_url.startswith("https://"):
            raise ConfigError(
                f"--public_url {self.public_url}",
                "names, votes and sessions would be readable on the way",
                "let the proxy serve https, and give that address",
            )
        if self.is_local and not self.public_url:
            return
        if not self.is_secure:
            raise ConfigError(
                f"--host {self.host} without TLS",
                "anybody on the network could read sessions and votes, or send their own",
                "give --tls_certificate and --tls_key, or --public_url https://... behind a "
                "proxy with TLS; or leave --host out and tunnel: ssh -L 8700:127.0.0.1:8700 HOST",
            )
        if len(os.environ.get(SECRET, "")) < SHORTEST_SECRET:
            raise ConfigError(
                f"--host {self.host} and {SECRET} is "
                + ("not set" if not os.environ.get(SECRET) else "too short"),
                "it signs what browsers send back, and must outlive a restart",
                f"set it: export {SECRET}=$(openssl rand -hex 32)",
            )


def find_secret(folder: Path) -> str:
    """Return the secret: from the environment, else one made once and kept in the folder."""
    if given := os.environ.get(SECRET):
        return given
    path = folder / "secret"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
    return path.read_text().strip()


@dataclass
class Limiter:
    """So many requests of an account in a time, and no more: a bucket that refills.

    Attributes:
        rate: requests a second that refill the bucket.
        burst: how many can come at once.
    """

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def is_allowed(self, account: str) -> bool:
        """Take one from the account's bucket; False when it is empty."""
        with self._turn:
            now = self.clock()
            left, since = self._left.get(account, (self.burst, now))
            left = min(self.burst, left + (now - since) * self.rate)
            if len(self._left) > 10_000:
                self._forget(now)
            self._left[account] = (left - 1 if left >= 1 else left, now)
            return left >= 1

    def _forget(self, now: float) -> None:
        full = self.burst / self.rate
        self._left = {k: v for k, v in self._left.items() if now - v[1] < full}
