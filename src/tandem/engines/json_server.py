"""JSON over HTTP: questions to a reward server, answered in order and tried again.

A request goes out through httpx; what can pass is tried again (`retry`), what was answered is kept
(`response_cache`) and never asked again. The key comes from the environment, goes into the
request's header, and nowhere else.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tandem.engines.language_models.addresses import check_address, check_key
from tandem.engines.language_models.chat_answer import LARGEST_BODY
from tandem.engines.language_models.response_cache import ResponseCache, request_key
from tandem.engines.language_models.retry import Retrier, RetryPolicy, TransientError
from tandem.errors import EngineError
from tandem.errors.ranges import Count, check_ranges
from tandem.machine import cache_folder

Body = dict[str, Any]


@dataclass(frozen=True)
class JsonServer:
    """An address that takes JSON and answers JSON.

    >>> JsonServer("http://localhost:8000/rewards").url
    'http://localhost:8000/rewards'

    Attributes:
        url: the whole address that is posted to.
        key: name of the environment variable that holds a bearer token; None sends none.
        concurrency: requests on their way at once.
        patience: timeouts and retries.
        kept: file of answers; `rewards.sqlite` in the cache folder (`TANDEM_CACHE`) by default.
    """

    url: str
    key: str | None = field(default=None, compare=False)
    concurrency: Count = field(default=8, compare=False)
    patience: RetryPolicy = field(default=RetryPolicy(), compare=False)
    kept: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_ranges(self, "server")
        check_address(self.url, "server.url")
        check_key(self.key, self.url)

    def open(self) -> JsonSession:
        """Connect; nothing is asked yet."""
        return JsonSession(self)


class JsonSession:
    """An open connection; see `JsonServer`."""

    def __init__(self, server: JsonServer) -> None:
        self.server, self.waiting = server, Retrier(server.patience)
        self.answers = ResponseCache(server.kept or cache_folder() / "rewards.sqlite")
        secret = os.environ.get(server.key or "", "")
        self._secret = secret
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        self.client = httpx.Client(headers=headers, timeout=server.patience.timeout)
        weakref.finalize(self, self.client.close)
        self.sent, self.found = 0, 0

    def ask(self, bodies: Iterable[Body]) -> Iterator[Body]:
        """Yield the answer to each body, in order.

        Raises:
            EngineError: the server does not answer, or refuses a question.
        """
        enough = threading.Event()
        with ThreadPoolExecutor(self.server.concurrency, "tandem-reward") as pool:
            try:
                yield from pool.map(lambda body: self._answer(body, enough), bodies)
            finally:
                enough.set()

    def forget(self, body: Body) -> None:
        """Do not use a kept answer again: it was found to be wrong."""
        self.answers.put(request_key(self.server.url, body), {}, {})

    def describe_cost(self) -> dict[str, Any]:
        """Return how many requests were sent, and how many answers were on the disk."""
        text = f"{self.server.url}: {self.sent} requests, {self.found} more were on the disk"
        return {"requests": self.sent, "kept": self.found, "text": text}

    def _answer(self, body: Body, enough: threading.Event) -> Body:
        key = request_key(self.server.url, body)
        kept = self.answers.get(key)
        if kept is not None and (known := json.loads(kept)):
            self.found += 1
            return known
        answer = self.waiting.patiently(key, lambda: self._sent(body), enough)
        self.answers.put(key, body, answer)
        self.sent += 1
        return answer

    def _sent(self, body: Body) -> Body:
        try:
            with self.client.stream("POST", self.server.url, json=body) as response:
                text = bytearray()
                for chunk in response.iter_bytes():
                    text += chunk
                    if len(text) > LARGEST_BODY:
                        raise TransientError("the answer is too large", answered=True)
        except httpx.HTTPError as error:
            raise TransientError(self._clean(f"{type(error).__name__}: {error}")) from None
        said = self._clean(bytes(text[:300]).decode("utf-8", "replace"))
        if response.status_code in (408, 409, 425, 429) or response.status_code >= 500:
            raise TransientError(f"{response.status_code}: {said}", response.headers)
        if response.status_code != 200:
            raise EngineError(
                f"{self.server.url} answered {response.status_code}: {said}",
                "the server refuses this request, and would refuse it again",
                "look at the address, the model's name and what the server's log says",
            )
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise TransientError(f"no JSON: {said}", answered=True) from None
        if not isinstance(found, dict):
            raise TransientError(f"a {type(found).__name__}, no table: {said}", answered=True)
        return found

    def _clean(self, text: str) -> str:
        text = text.replace(self._secret, "***") if self._secret else text
        return " ".join(text.split())[:300]
