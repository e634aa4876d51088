"""Trying again: exponential backoff with jitter, and the server's own `Retry-After` obeyed."""

from __future__ import annotations

import email.utils
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from tandem.engines.language_models.chat_answer import LARGEST_BODY
from tandem.errors import ConfigError, EngineError
from tandem.errors.ranges import CountOrZero, NotNegative, Positive, check_ranges
from tandem.rng import Seed

_A = TypeVar("_A")


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a server.

    Attributes:
        timeout: seconds until an answer counts as lost.
        retries: attempts after the first.
        first: seconds before the second attempt; then twice as long each time.
        longest: seconds between two attempts at most; a server that asks for more is given up.
    """

    timeout: Positive = 120.0
    retries: CountOrZero = 6
    first: NotNegative = 1.0
    longest: NotNegative = 120.0

    def __post_init__(self) -> None:
        check_ranges(self, "patience")
        if self.longest < self.first:
            raise ConfigError(
                f"patience.first = {self.first} with patience.longest = {self.longest}",
                "pauses grow from the first to the longest",
                "give a longest pause that is no shorter than the first",
            )

    def backoff(self, attempt: int, draw: float) -> float:
        """Seconds after attempt 0, 1, ...: between a half and the whole of first x 2^attempt."""
        return min(self.longest, self.first * 2**attempt) * (0.5 + 0.5 * draw)


class FailedQuestion(EngineError):
    """The server answers, but not this question as it was asked; others may go better."""


class TransientError(Exception):
    """A failure that another attempt may mend.

    Args:
        reason: for the message, should it not pass.
        headers: of the answer, where `Retry-After` may stand.
        answered: the server did answer, with something that cannot be used.
    """

    def __init__(
        self, reason: str, headers: Mapping[str, str] | None = None, *, answered: bool = False
    ) -> None:
        super().__init__(reason)
        self.answered = answered
        self.wait = retry_after(headers or {}, time.time())


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Return the seconds that a server asks to wait: a number or a date; 0 where it says nothing.

    Args:
        headers: of its answer (RFC 9110, section 10.2.3).
        now: seconds since 1970.
    """
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            date = email.utils.parsedate_tz(said)
            seconds = 0.0 if date is None else email.utils.mktime_tz(date) - now
        except (ValueError, OverflowError, TypeError, IndexError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


class Retrier:
    """Retries for the threads that ask one server: when it asks one of them to wait, all wait.

    Args:
        patience: how long.
    """

    def __init__(self, patience: RetryPolicy) -> None:
        self.patience, self.retries = patience, 0
        self._lock, self._not_before = threading.Lock(), 0.0

    def patiently(self, key: str, attempt: Callable[[], _A], enough: threading.Event) -> _A:
        """Return what an attempt returns, after as many as it takes.

        Args:
            key: whose jitter it is, so that threads do not come back all at once.
            attempt: raises `TransientError` for what may go better another time.
            enough: set when nobody waits for the answer any more.

        Raises:
            EngineError: it never did.
        """
        for k in range(self.patience.retries + 1):
            self._hold(enough)
            try:
                return attempt()
            except TransientError as failure:
                last = k == self.patience.retries or enough.is_set()
                if last or failure.wait > self.patience.longest:
                    raise self._given_up(k + 1, failure) from None
                pause = self.patience.backoff(k, Seed().at(key, k).uniform())
                self._postpone(failure.wait)
                enough.wait(max(pause, failure.wait))
        raise AssertionError("unreachable")

    def _hold(self, enough: threading.Event) -> None:
        while (left := self._not_before - time.monotonic()) > 0 and not enough.wait(left):
            pass

    def _postpone(self, seconds: float) -> None:
        with self._lock:
            self.retries += 1
            if seconds > 0:
                self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _given_up(self, attempts: int, failure: TransientError) -> EngineError:
        if failure.answered:
            return FailedQuestion(
                f"the server gave no answer that can be used, in {attempts} attempts: {failure}",
                "an answer is checked whole before it is kept; one that is not right is no label",
                "look at the server, then give the same command again: what was answered is kept",
            )
        asked = f"; it asks to wait {failure.wait:.0f} s" if failure.wait else ""
        return EngineError(
            f"the server did not answer in {attempts} attempts: {failure}{asked}",
            f"each was given {self.patience.timeout:g} s, and pauses grew to at most "
            f"{self.patience.longest:g} s",
            "look at the server, then give the same command again: what was answered is kept",
        )


def read_limited(chunks: Iterable[bytes], seconds: float) -> str:
    """Join a body that comes in time and is not too large.

    Raises:
        TransientError: it does not, it is, or the connection breaks off.
    """
    until, body = time.monotonic() + seconds, bytearray()
    try:
        for chunk in chunks:
            body += chunk
            if len(body) > LARGEST_BODY:
                said = f"the answer is larger than {LARGEST_BODY:,} bytes"
                raise TransientError(said, answered=True)
            if time.monotonic() > until:
                raise TransientError(f"the answer was not complete after {seconds:g} s")
    except TransientError:
        raise
    except Exception as error:  # a connection that breaks off raises what the transport raises
        raise TransientError(f"the answer broke off ({type(error).__name__})") from None
    return body.decode("utf-8", "replace")


def in_time(send: Callable[[], str], seconds: float) -> str:
    """Return what a function returns, or raise TransientError when that takes too long.

    A server that sends a byte now and then keeps every timeout of a client from passing; so the
    request has a thread of its own, which is left behind.
    """
    done: Future[str] = Future()

    def work() -> None:
        try:
            done.set_result(send())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, name="tandem-request", daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        raise TransientError(f"the answer was not complete after {seconds:g} s") from None
