"""Any OpenAI-compatible server as a language model: hosted ones, vLLM, llama.cpp, Ollama, TGI.

Needs the extra `tandem-rlhf[openai]`. A request goes out through the official client; what can
pass is tried again (`engines/patience.py`), what was answered is kept (`engines/answers.py`) and
never asked again, not even by a run that was killed. The key comes from the environment, goes
into the request's header, and nowhere else.

Labels are read from the `logprobs` of chat completions: the server names the likeliest tokens at
each place, and spellings are followed along the tokens that it chose. Mass that cannot be
followed (a branch not taken, a token not named) belongs to no label, and shows as residual.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tandem.data.record import Completion, FloatArray, Prompt
from tandem.engines import Sampling
from tandem.engines.language_model import Labels, messages_of
from tandem.engines.response_cache import ResponseCache, TokenUse, request_key
from tandem.engines.retry import Retrier, RetryPolicy, TransientError
from tandem.errors import ConfigError, EngineError
from tandem.machine import Machine
from tandem.rng import Seed

LABEL_TOKENS = 4
MILLION = 1e6
Body = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A model behind an OpenAI-compatible address.

    Attributes:
        model: the model's name on the server.
        url: the address, up to and including `/v1`.
        key: name of the environment variable that holds the key; None sends none.
        top: how many likely tokens the server names at each place, at most 20 with OpenAI.
        length: what the server calls its limit of tokens.
        concurrency: requests on their way at once.
        patience: timeouts and retries.
        price: dollars a million tokens, read and written.
        budget: dollars after which nothing more is asked; what was answered is kept.
        kept: file of answers; `answers.sqlite` in the cache folder (`TANDEM_CACHE`) by default.
    """

    model: str
    url: str = "https://api.openai.com/v1"
    key: str | None = field(default="OPENAI_API_KEY", compare=False)
    top: int = 20
    length: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    concurrency: int = field(default=8, compare=False)
    patience: RetryPolicy = field(default=RetryPolicy(), compare=False)
    price: tuple[float, float] = field(default=(0.0, 0.0), compare=False)
    budget: float | None = field(default=None, compare=False)
    kept: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.top < 1 or min(self.price) < 0:
            raise ConfigError(
                f"server.concurrency = {self.concurrency}, top = {self.top}, price = {self.price}",
                "at least one request is on its way, and one token named; nobody pays us",
                "give a concurrency and a top of 1 or more, and prices of 0 or more",
            )
        if self.budget is not None and not any(self.price):
            raise ConfigError(
                f"server.budget = {self.budget} without a price",
                "what is spent is counted in tokens times price",
                "give price = (dollars a million tokens read, written)",
            )

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    def open(self, machine: Machine) -> ServerSession:
        """Connect; nothing is asked yet.

        Raises:
            ConfigError: the client is not installed, or the key is not in the environment.
        """
        del machine
        return ServerSession(self, _client(self), ResponseCache(self.kept or _place()))


class ServerSession:
    """An open connection; see `Server`."""

    def __init__(self, server: Server, client: Any, answers: ResponseCache) -> None:
        self.server, self.client, self.answers = server, client, answers
        self.waiting = Retrier(server.patience)
        self.paid, self.found = TokenUse(), 0
        self._lock = threading.Lock()
        self._asking: dict[str, Future[Body]] = {}

    def label(self, prompts: Iterable[Prompt], labels: Labels) -> Iterator[FloatArray]:
        """Yield [L] log-probabilities of the labels; see `Speaker`.

        Raises:
            EngineError: the server names no log-probabilities, or does not answer.
        """
        settings = {"temperature": 0.0, "logprobs": True, "top_logprobs": self.server.top}
        bodies = (self._body(p, LABEL_TOKENS, settings) for p in prompts)
        for answer in self._answered(bodies, _places):
            with np.errstate(divide="ignore"):  # a label that is not named has log 0
                yield np.log(label_probabilities(labels, _places(answer)))

    def complete(
        self, prompts: Iterable[Prompt], sampling: Sampling, seed: Seed
    ) -> Iterator[Completion]:
        """Yield one completion of each prompt; see `Speaker`.

        Raises:
            ConfigError: a truncation that the protocol does not know.
            EngineError: the server does not answer.
        """
        if sampling.top_k or sampling.min_p:
            raise ConfigError(
                f"sampling.top_k = {sampling.top_k}, sampling.min_p = {sampling.min_p} with a server",
                "the protocol knows temperature and top_p alone, and would ignore them",
                "set both to 0",
            )
        settings: Body = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        bodies = (
            self._body(p, sampling.max_tokens, {**settings, "seed": seed.at(p.id).value >> 32})
            for p in prompts
        )
        for answer in self._answered(bodies, _text):
            ended = answer["choices"][0].get("finish_reason") == "stop"
            yield Completion(_text(answer), author=self.server.model, stopped=ended)

    def told(self) -> dict[str, Any]:
        """Return what was paid for since this was opened, and what was found on the disk."""
        line = (
            f"{self.server.model}: {self.paid.requests} requests ({self.found} more were on the "
            f"disk), {self.waiting.retries} retries, {self.paid.tokens_in} tokens read, "
            f"{self.paid.tokens_out} written, {self.cost:.4f} dollars"
        )
        return {
            "requests": self.paid.requests,
            "kept": self.found,
            "retries": self.waiting.retries,
            "tokens_in": self.paid.tokens_in,
            "tokens_out": self.paid.tokens_out,
            "dollars": self.cost,
            "text": line,
        }

    @property
    def cost(self) -> float:
        """Dollars paid since this was opened."""
        read, written = self.server.price
        return (self.paid.tokens_in * read + self.paid.tokens_out * written) / MILLION

    def _body(self, prompt: Prompt, tokens: int, settings: Mapping[str, Any]) -> Body:
        body = {"model": self.server.model, "messages": messages_of(prompt), **settings}
        return {**body, self.server.length: tokens}

    def _answered(self, bodies: Iterable[Body], check: Callable[[Body], Any]) -> Iterator[Body]:
        """Answers in order, at most `concurrency` requests on their way."""
        enough = threading.Event()

        def pay(key: str, body: Body) -> Body:
            return self._paid(key, body, check, enough)

        with ThreadPoolExecutor(self.server.concurrency, "tandem-ask") as pool:
            flying: deque[Future[Body]] = deque()
            try:
                for body in bodies:
                    flying.append(self._ask(pool, body, pay))
                    while len(flying) > 2 * self.server.concurrency or flying[0].done():
                        yield flying.popleft().result()
                        if not flying:
                            break
                while flying:
                    yield flying.popleft().result()
            finally:
                enough.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _ask(
        self, pool: ThreadPoolExecutor, body: Body, pay: Callable[[str, Body], Body]
    ) -> Future[Body]:
        """Find an answer on the disk, on its way, or send for it."""
        key = request_key(self.server.url, body)
        with self._lock:
            if key in self._asking:
                self.found += 1
                return self._asking[key]
            if (kept := self.answers.get(key)) is not None:
                self.found += 1
                done: Future[Body] = Future()
                done.set_result(kept)
                return done
            future = pool.submit(pay, key, body)
            self._asking[key] = future
        future.add_done_callback(lambda _: self._asking.pop(key, None))
        return future

    def _paid(
        self, key: str, body: Body, check: Callable[[Body], Any], enough: threading.Event
    ) -> Body:
        self._in_budget()
        answer = self.waiting.patiently(key, lambda: _checked(self._sent(body), check), enough)
        self.answers.put(key, body, answer)
        used = answer.get("usage") or {}
        with self._lock:
            self.paid = TokenUse(
                self.paid.requests + 1,
                self.paid.tokens_in + int(used.get("prompt_tokens") or 0),
                self.paid.tokens_out + int(used.get("completion_tokens") or 0),
            )
        return answer

    def _in_budget(self) -> None:
        if self.server.budget is not None and self.cost >= self.server.budget:
            raise EngineError(
                f"{self.cost:.4f} dollars were spent on `{self.server.model}`",
                f"the budget is {self.server.budget:g}",
                "raise it and give the same command again: what was answered is kept",
            )

    def _sent(self, body: Body) -> str:
        """Send a request once; return the answer's text.

        Raises:
            Passing: it may go better another time.
            EngineError: it will not.
        """
        import openai

        try:
            raw = self.client.chat.completions.with_raw_response.create(**body)
            return raw.http_response.content.decode("utf-8", "replace")
        except openai.APIStatusError as error:
            said = self._redacted(str(error.message))
            if _passes(error.status_code, getattr(error, "code", None)):
                wait = error.response.headers
                raise TransientError(f"{error.status_code}: {said}", wait) from None
            raise EngineError(
                f"{self.server.url} answered {error.status_code}: {said}",
                "the server refuses this request, and would refuse it again",
                _remedy(error.status_code, self.server),
            ) from None
        except openai.APIConnectionError as error:  # dropped, refused, too slow
            reason = error.__cause__ or error
            raise TransientError(self._redacted(f"{type(reason).__name__}: {reason}")) from None

    def _redacted(self, text: str) -> str:
        secret = os.environ.get(self.server.key or "", "")
        return " ".join((text.replace(secret, "***") if secret else text).split())[:300]


def label_probabilities(labels: Labels, places: Sequence[Mapping[str, Any]]) -> FloatArray:
    """Return [L] P(the answer begins with a label), as far as the server tells.

    A token counts as soon as it can become one label only: "(B" of "(B)". What could still become
    several is followed where the server took it, and is lost where it did not. When "1" may go on
    to "10", what does so moves from the one label to the other.

    Args:
        labels: the spellings of each label.
        places: for each token of an answer `token`, the one taken, and `top_logprobs`, the
            likeliest ones with their `logprob` given what stands before.
    """
    mass = np.zeros(len(labels))
    before, reached = "", 1.0
    for place in places:
        holder, named = _owner(before, labels), _named(place)
        for token, p in named.items():
            owner = _owner(before + token, labels)
            if owner is not None:
                mass[owner] += reached * p
                if holder is not None:
                    mass[holder] -= reached * p
        before, reached = before + place["token"], reached * named[place["token"]]
        if not _may_become_another(before, labels):
            break
    return np.maximum(mass, 0.0)


def _named(place: Mapping[str, Any]) -> dict[str, float]:
    named = {t["token"]: math.exp(float(t["logprob"])) for t in place["top_logprobs"]}
    named.setdefault(place["token"], math.exp(float(place["logprob"])))
    return named


def _owner(text: str, labels: Labels) -> int | None:
    """The label that a text spells, or the only one that it can still become."""
    spelled = [i for i, texts in enumerate(labels) if text in texts]
    becomes = [i for i, texts in enumerate(labels) if any(s.startswith(text) for s in texts)]
    if spelled:
        return spelled[0]
    return becomes[0] if len(becomes) == 1 else None


def _may_become_another(text: str, labels: Labels) -> bool:
    own = _owner(text, labels)
    return any(
        s.startswith(text) and s != text
        for i, texts in enumerate(labels)
        if i != own
        for s in texts
    )


def _places(answer: Body) -> list[dict[str, Any]]:
    places = ((answer["choices"][0].get("logprobs") or {}).get("content")) or []
    if not places or not places[0].get("top_logprobs"):
        raise EngineError(
            f"the server names no log-probabilities with its answer {_text(answer)[:40]!r}",
            "labels are read from the probabilities of the first tokens, and a sampled letter "
            "alone would be a hard label",
            "use a server and a model with `logprobs` and `top_logprobs` in chat completions",
        )
    return places


def _text(answer: Body) -> str:
    return answer["choices"][0]["message"].get("content") or ""


def _checked(text: str, check: Callable[[Body], Any]) -> Body:
    """Read an answer; it is looked through before it is kept.

    Raises:
        Passing: it is cut or no answer at all.
    """
    try:
        answer = json.loads(text)
        check(answer)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise TransientError(f"no chat completion ({error}): {text[:80]!r}") from None
    return answer


def _passes(status: int, code: object) -> bool:
    """True for what another attempt may mend; an empty account stays empty."""
    return code != "insufficient_quota" and (status in (408, 409, 425, 429) or status >= 500)


def _remedy(status: int, server: Server) -> str:
    if status in (401, 403):
        return f"put a valid key into the environment variable {server.key}"
    if status == 404:
        return f"check the address, and that the server has a model `{server.model}`"
    if status == 429:
        return "fill the account, and give the same command again: what was answered is kept"
    return "change what the message names: the model, the length of the question, a setting"


def _place() -> Path:
    from tandem.runs.cache import cache_folder  # loads torch, which asking a server does not need

    return cache_folder() / "answers.sqlite"


def _client(server: Server) -> Any:
    try:
        from openai import OpenAI
    except ImportError as error:
        raise ConfigError(
            f"the server {server.url} needs the package `openai`, which is not installed",
            "Tandem speaks to servers through the official client, an optional extra",
            'pip install "tandem-rlhf[openai]"',
        ) from error
    key = os.environ.get(server.key, "") if server.key else "none"
    if not key:
        raise ConfigError(
            f"the environment variable {server.key} is not set",
            f"{server.url} is asked with the key that it holds; a key is never a setting, which "
            "would be written into run.toml",
            f"export {server.key}=..., or key = None for a server that wants none",
        )
    return OpenAI(base_url=server.url, api_key=key, timeout=server.patience.timeout, max_retries=0)
