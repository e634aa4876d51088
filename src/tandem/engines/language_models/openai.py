"""Any OpenAI-compatible server as a language model: hosted ones, vLLM, llama.cpp, Ollama, TGI.

Needs the extra `tandem-rlhf[openai]`. A request goes out through the official client; what can
pass is tried again (`retry`), what was answered is kept (`response_cache`) and never asked again,
not even by a run that was killed. The key comes from the environment, goes into the request's
header, and nowhere else.

Labels are read from the `logprobs` of chat completions: the server names the likeliest tokens at
each place, and spellings are followed along the tokens that it chose. Mass that cannot be
followed (a branch not taken, a token not named) belongs to no label, and shows as residual.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tandem.data.record import Completion, FloatArray, Prompt
from tandem.engines import Sampling
from tandem.engines.language_models import Labels, messages_of
from tandem.engines.language_models.addresses import check_address, check_key
from tandem.engines.language_models.chat_answer import (
    InvalidAnswer,
    UnlabelledAnswer,
    read_answer,
)
from tandem.engines.language_models.response_cache import ResponseCache, TokenUse, request_key
from tandem.engines.language_models.retry import (
    FailedQuestion,
    Retrier,
    RetryPolicy,
    TransientError,
    in_time,
    read_limited,
)
from tandem.errors import ConfigError, EngineError
from tandem.errors.ranges import Count, NotNegative, check_ranges
from tandem.machine import Machine, cache_folder
from tandem.rng import Seed

SHORTEST_SECRET = 8
"""Characters of a key below which it is a word (`none`, `EMPTY`) and may stand in an answer."""
LABEL_TOKENS = 4
GIVE_UP_AFTER = 32
"""So many questions fail, and none goes well, before the server is given up."""
ABOUT_ONE = (400, 413, 422)
"""What a server answers when it does not take one question."""
MILLION = 1e6
Body = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A language model behind an OpenAI-compatible address, for `Labeller` and `Rater`.

    >>> server = Server("qwen", url="http://localhost:8000/v1", key=None, concurrency=32)
    >>> server.name
    'qwen'

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
    top: Count = 20
    length: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    concurrency: Count = field(default=8, compare=False)
    patience: RetryPolicy = field(default=RetryPolicy(), compare=False)
    price: tuple[NotNegative, NotNegative] = field(default=(0.0, 0.0), compare=False)
    budget: NotNegative | None = field(default=None, compare=False)
    kept: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_ranges(self, "server")
        check_address(self.url, "server.url")
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
        weakref.finalize(self, client.close)
        self.waiting = Retrier(server.patience)
        self.paid, self.found = TokenUse(), 0
        self.failed, self.first_failure = 0, ""
        self._lock = threading.Lock()
        self._asking: dict[str, Future[Body | FailedQuestion]] = {}

    def label(self, prompts: Iterable[Prompt], labels: Labels) -> Iterator[FloatArray]:
        """Yield [L] log-probabilities of the labels, or nan for a question that failed.

        Raises:
            EngineError: the server does not answer, or no question as it was asked.
        """
        settings = {"temperature": 0.0, "logprobs": True, "top_logprobs": self.server.top}
        bodies = (self._body(p, LABEL_TOKENS, settings) for p in prompts)
        for answer in self._heard(bodies, labelled=True):
            if answer is None:
                yield np.full(len(labels), np.nan)
                continue
            with np.errstate(divide="ignore"):  # a label that is not named has log 0
                yield np.log(label_probabilities(labels, _places(answer)))

    def complete(
        self, prompts: Iterable[Prompt], sampling: Sampling, seed: Seed
    ) -> Iterator[Completion | None]:
        """Yield one completion of each prompt, or None for a question that failed.

        Raises:
            ConfigError: a truncation that the protocol does not know.
            EngineError: the server does not answer, or no question as it was asked.
        """
        if sampling.top_k or sampling.min_p:
            raise ConfigError(
                f"sampling.top_k = {sampling.top_k}, min_p = {sampling.min_p} with a server",
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
        for answer in self._heard(bodies, labelled=False):
            if answer is None:
                yield None
                continue
            ended = answer["choices"][0].get("finish_reason") == "stop"
            yield Completion(_text(answer), author=self.server.model, stopped=ended)

    def describe_cost(self) -> dict[str, Any]:
        """Return the tokens paid for since this was opened, and the answers found in the cache."""
        line = (
            f"{self.server.model}: {self.paid.requests} requests ({self.found} more were on the "
            f"disk), {self.waiting.retries} retries, {self.paid.tokens_in} tokens read, "
            f"{self.paid.tokens_out} written, {self.cost:.4f} dollars"
        )
        if self.failed:
            line += f"; {self.failed} questions failed, the first: {self.first_failure}"
        return {
            "failed": self.failed,
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

    def _heard(self, bodies: Iterable[Body], *, labelled: bool) -> Iterator[Body | None]:
        """Yield answers in order, None for a question that failed.

        Raises:
            EngineError: none of the first questions, or none at all, was answered.
        """
        good, bad = 0, 0
        failure: FailedQuestion | None = None
        for answer in self._answered(bodies, labelled=labelled):
            if isinstance(answer, FailedQuestion):
                bad, failure = bad + 1, answer
                if not good and bad >= GIVE_UP_AFTER:
                    raise _all_failed(bad, failure)
                yield None
            else:
                good += 1
                yield answer
        if failure is not None and not good:
            raise _all_failed(bad, failure)

    def _answered(
        self, bodies: Iterable[Body], *, labelled: bool
    ) -> Iterator[Body | FailedQuestion]:
        """Answers in order, at most `concurrency` requests on their way."""
        enough = threading.Event()

        def pay(key: str, body: Body) -> Body | FailedQuestion:
            return self._paid(key, body, enough, labelled=labelled)

        with ThreadPoolExecutor(self.server.concurrency, "tandem-ask") as pool:
            flying: deque[Future[Body | FailedQuestion]] = deque()
            try:
                for body in bodies:
                    flying.append(self._ask(pool, body, pay, labelled=labelled))
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
        self,
        pool: ThreadPoolExecutor,
        body: Body,
        pay: Callable[[str, Body], Body | FailedQuestion],
        *,
        labelled: bool,
    ) -> Future[Body | FailedQuestion]:
        """Find an answer on the disk, on its way, or send for it."""
        key = request_key(self.server.url, body)
        with self._lock:
            if key in self._asking:
                self.found += 1
                return self._asking[key]
            if (kept := self._kept(key, labelled=labelled)) is not None:
                self.found += 1
                done: Future[Body | FailedQuestion] = Future()
                done.set_result(kept)
                return done
            future = pool.submit(pay, key, body)
            self._asking[key] = future
        future.add_done_callback(lambda _: self._asking.pop(key, None))
        return future

    def _kept(self, key: str, *, labelled: bool) -> Body | None:
        """Return a kept answer; one that is not right is asked for again."""
        text = self.answers.get(key)
        try:
            return None if text is None else read_answer(text, labelled=labelled)
        except InvalidAnswer:
            return None

    def _paid(
        self, key: str, body: Body, enough: threading.Event, *, labelled: bool
    ) -> Body | FailedQuestion:
        self._in_budget()
        try:
            answer = self.waiting.patiently(key, lambda: self._checked(body, labelled), enough)
        except FailedQuestion as failure:
            with self._lock:
                self.failed += 1
                self.first_failure = self.first_failure or failure.what
            return failure
        self.answers.put(key, body, answer)
        used = answer["usage"]
        with self._lock:
            self.paid = TokenUse(
                self.paid.requests + 1,
                self.paid.tokens_in + used["prompt_tokens"],
                self.paid.tokens_out + used["completion_tokens"],
            )
        return answer

    def _checked(self, body: Body, labelled: bool) -> Body:
        """Send a request once; return its answer, checked whole and without the key.

        Raises:
            TransientError: it may go better another time.
            EngineError: it will not.
        """
        text = in_time(partial(self._sent, body), self.server.patience.timeout)
        try:
            return read_answer(text, labelled=labelled, redact=self._without_long_key)
        except UnlabelledAnswer as error:
            raise FailedQuestion(
                str(error),
                "labels are read from the probabilities of the first tokens, and a sampled letter "
                "alone would be a hard label",
                "use a server and a model with `logprobs` and `top_logprobs` in chat completions; "
                "one that reasons first is asked for a verdict: asking.reads = verdict "
                "(`ReasoningJudge`)",
            ) from None
        except InvalidAnswer as error:
            raise TransientError(str(error), answered=True) from None

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
            TransientError: it may go better another time.
            EngineError: it will not.
        """
        import openai

        try:
            asked = self.client.chat.completions.with_streaming_response.create(**body)
            with asked as response:
                return read_limited(response.iter_bytes(), self.server.patience.timeout)
        except openai.APIStatusError as error:
            said = self._redacted(str(error.message))
            if _passes(error.status_code, getattr(error, "code", None)):
                wait = error.response.headers
                raise TransientError(f"{error.status_code}: {said}", wait) from None
            kind = FailedQuestion if error.status_code in ABOUT_ONE else EngineError
            raise kind(
                f"{self.server.url} answered {error.status_code}: {said}",
                "the server refuses this request, and would refuse it again",
                _remedy(error.status_code, self.server),
            ) from None
        except openai.APIConnectionError as error:  # dropped, refused, too slow
            reason = error.__cause__ or error
            raise TransientError(self._redacted(f"{type(reason).__name__}: {reason}")) from None

    def _redacted(self, text: str) -> str:
        return " ".join(self._without_key(text).split())[:300]

    def _without_long_key(self, text: str) -> str:
        """What a model said, without the key; a short one (`none`, `EMPTY`) may be a word."""
        long = len(os.environ.get(self.server.key or "", "")) >= SHORTEST_SECRET
        return self._without_key(text) if long else text

    def _without_key(self, text: str) -> str:
        secret = os.environ.get(self.server.key or "", "")
        return text.replace(secret, "***") if secret else text


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
    return answer["choices"][0]["logprobs"]["content"]


def _text(answer: Body) -> str:
    return answer["choices"][0]["message"]["content"]


def _all_failed(count: int, failure: FailedQuestion) -> EngineError:
    return EngineError(
        f"none of {count} questions was answered as it was asked: {failure.what}",
        failure.why,
        failure.do,
    )


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
    check_key(server.key, server.url)
    key = os.environ[server.key] if server.key else "none"
    return OpenAI(base_url=server.url, api_key=key, timeout=server.patience.timeout, max_retries=0)
