"""Rewards over HTTP: a model that another server holds scores or compares answers.

Two plain contracts of JSON, for a server of your own:

    rewards       {"model", "inputs": [{"prompt": [{"role", "content"}], "answer"}]}
                  -> {"scores": [number, ...]}, one an input, in order
    preferences   {"model", "inputs": [{"prompt": [...], "a", "b"}]}
                  -> {"preferences": [p, ...]}, P(a is better), in [0, 1]

and three routes of vLLM for a reward model that it serves:

    classify      POST /classify {"model", "input": [...], "use_activation": false} -> data[].probs
    pooling       POST /pooling  {"model", "input": [...], "use_activation": false} -> data[].data
    score         POST /score    {"model", "text_1": prompt, "text_2": [answers]}   -> data[].score

With `tokenizer`, the folder of the model that is served, classify and pooling are sent the token
ids that training read, so that no template is applied twice; else the conversation as text. Our
reward folders served this way give the same order: `gain` is in their weights, and the constant
`bias`, which no server knows, is the same for all answers.

A generative judge behind a server is a `Labeller`, a `Rater` or a `ReasoningJudge`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np

from tandem.data.record import Group, Preference, Prompt
from tandem.engines.json_server import Body, JsonServer, JsonSession
from tandem.engines.language_models import messages_of
from tandem.errors import ConfigError, EngineError
from tandem.errors.ranges import Count, check_ranges
from tandem.judges.llm import neighbour_pairs
from tandem.judges.templates import asked_text
from tandem.machine import Machine

Route = Literal["rewards", "classify", "pooling", "score"]
GROUPS_PER_ROUND = 256


@dataclass(frozen=True)
class RemoteReward:
    """A judge that scores each completion with a reward model behind a server.

    >>> judge = RemoteReward(JsonServer("http://localhost:8000/classify"), "classify", "rm")
    >>> judge.name
    'rm'

    Attributes:
        server: the address, with the route in it.
        route: what it speaks, see above.
        model: the model's name on the server.
        tokenizer: folder of the served model, to send token ids; None sends text.
        batch: answers a request.
        name: the judge's name; the model's by default.
        machine: not used here; the `judge` stage puts its own in.
    """

    server: JsonServer
    route: Route = "rewards"
    model: str = "reward"
    tokenizer: Path | None = None
    batch: Count = 16
    name: str = ""
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        check_ranges(self, "remote")
        object.__setattr__(self, "name", self.name or self.model)
        if self.tokenizer is not None and self.route not in ("classify", "pooling"):
            raise ConfigError(
                f"route = {self.route!r} with a tokenizer",
                "token ids are sent to classify and pooling alone",
                "leave the tokenizer out",
            )

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`."""
        return self.open()(groups)

    def open(self) -> OpenRemoteReward:
        """Connect once."""
        return OpenRemoteReward(self, self.server.open())


class OpenRemoteReward:
    """A `RemoteReward` that is connected: the call that scores completions."""

    def __init__(self, judge: RemoteReward, session: JsonSession) -> None:
        self.judge, self.session = judge, session

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `scores`.

        Raises:
            EngineError: the server does not answer, or not with a number for each answer.
        """
        stream = iter(groups)
        while chunk := list(itertools.islice(stream, GROUPS_PER_ROUND)):
            bodies, sizes = self._bodies(chunk)
            scores: list[float] = []
            for body, size, answer in zip(bodies, sizes, self.session.ask(bodies), strict=True):
                scores += self._scores(body, size, answer)
            at = 0
            for group in chunk:
                mine, at = scores[at : at + len(group)], at + len(group)
                yield replace(group, scores=np.array(mine, np.float64))

    def describe_cost(self) -> dict[str, Any]:
        """Return how many requests were sent."""
        return self.session.describe_cost()

    def _bodies(self, groups: Sequence[Group]) -> tuple[list[Body], list[int]]:
        model, size = {"model": self.judge.model}, self.judge.batch
        if self.judge.route == "score":
            bodies = _score_bodies(groups, model, size)
            return bodies, [len(body["text_2"]) for body in bodies]
        key, more = "input", {"use_activation": False, "activation": False}
        if self.judge.route == "rewards":
            key, more = "inputs", {}
            inputs: list[Any] = [
                {"prompt": messages_of(g.prompt), "answer": c.text}
                for g in groups
                for c in g.completions
            ]
        else:
            inputs = self._tokens(groups) if self.judge.tokenizer else _texts(groups)
        parts = [inputs[k : k + size] for k in range(0, len(inputs), size)]
        return [{**model, key: part, **more} for part in parts], [len(part) for part in parts]

    def _tokens(self, groups: Sequence[Group]) -> list[list[int]]:
        from tandem.models.tokenise import tokenise
        from tandem.models.tokenizers import load_tokenizer

        assert self.judge.tokenizer is not None
        own = tokenise(groups, load_tokenizer(self.judge.tokenizer))
        return [
            [int(t) for t in (*group.prompt.tokens, *c.tokens)]
            for group in own
            for c in group.completions
        ]

    def _scores(self, body: Body, size: int, answer: Body) -> list[float]:
        try:
            return _read_scores(self.judge.route, answer, size)
        except (TypeError, ValueError, ArithmeticError) as error:
            self.session.forget(body)
            raise EngineError(
                f"{self.judge.server.url} gave no {size} scores: {error}",
                f"the route {self.judge.route} answers with one finite number an answer",
                "look at what the server speaks, and name its route",
            ) from None


@dataclass(frozen=True)
class RemotePreference:
    """A judge that compares completions (0, 1), (2, 3), ... with a model behind a server.

    >>> RemotePreference(JsonServer("http://localhost:8000/preferences"), "pm").name
    'pm'

    Attributes:
        server: the address that speaks the contract `preferences`.
        model: the model's name on the server.
        both: ask in both orders and average, as its position bias is nobody's wish.
        batch: pairs a request.
        name: the judge's name; the model's by default.
        machine: not used here; the `judge` stage puts its own in.
    """

    compares: ClassVar[bool] = True

    server: JsonServer
    model: str = "preference"
    both: bool = True
    batch: Count = 16
    name: str = ""
    machine: Machine = field(default=Machine(), compare=False)

    def __post_init__(self) -> None:
        check_ranges(self, "remote")
        object.__setattr__(self, "name", self.name or self.model)

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the groups with `preferences`.

        Raises:
            EngineError: the server does not answer, or not with a probability for each pair.
            DataError: a group with one completion.
        """
        session, stream = self.server.open(), iter(groups)
        while chunk := list(itertools.islice(stream, GROUPS_PER_ROUND)):
            inputs = [x for group in chunk for x in self._inputs(group)]
            parts = [inputs[k : k + self.batch] for k in range(0, len(inputs), self.batch)]
            bodies = [{"model": self.model, "inputs": part} for part in parts]
            heard: list[float] = []
            for body, answer in zip(bodies, session.ask(bodies), strict=True):
                heard += self._read(session, body, answer)
            told = iter(heard)
            for group in chunk:
                votes = tuple(
                    Preference(i, j, self._joined(told), by=self.name)
                    for i, j in neighbour_pairs(group)
                )
                yield replace(group, preferences=votes)

    def _inputs(self, group: Group) -> Iterator[Body]:
        asked = messages_of(group.prompt)
        for i, j in neighbour_pairs(group):
            first, second = group.completions[i].text, group.completions[j].text
            yield {"prompt": asked, "a": first, "b": second}
            if self.both:
                yield {"prompt": asked, "a": second, "b": first}

    def _joined(self, told: Iterator[float]) -> float:
        p = next(told)
        return 0.5 * (p + 1 - next(told)) if self.both else p

    def _read(self, session: JsonSession, body: Body, answer: Body) -> list[float]:
        size = len(body["inputs"])
        try:
            found = _numbers(_column(answer, "preferences"), size)
            if not all(0 <= p <= 1 for p in found):
                raise ValueError(f"a probability of {min(found):g} or {max(found):g}")
        except (TypeError, ValueError, ArithmeticError) as error:
            session.forget(body)
            raise EngineError(
                f"{self.server.url} gave no {size} probabilities: {error}",
                "the contract `preferences` answers with P(a is better) for each pair",
                "look at what the server speaks",
            ) from None
        return found


def _score_bodies(groups: Sequence[Group], model: Body, size: int) -> list[Body]:
    """One prompt a request: the route takes one text beside many."""
    bodies: list[Body] = []
    for group in groups:
        answers, asked = [c.text for c in group.completions], asked_text(group.prompt)
        parts = (answers[k : k + size] for k in range(0, len(answers), size))
        bodies += [{**model, "text_1": asked, "text_2": part} for part in parts]
    return bodies


def _texts(groups: Sequence[Group]) -> list[str]:
    return [f"{_asked(g.prompt)}{c.text}" for g in groups for c in g.completions]


def _asked(prompt: Prompt) -> str:
    return prompt.text if prompt.text else f"{asked_text(prompt)}\n\n"


def _read_scores(route: Route, answer: Body, size: int) -> list[float]:
    if route == "rewards":
        return _numbers(_column(answer, "scores"), size)
    rows: Any = _column(answer, "data")
    if not isinstance(rows, list):
        raise TypeError(f"`data` is {str(rows)[:40]}, no list")
    if len(rows := cast("list[Any]", rows)) != size:
        raise ValueError(f"{len(rows)} rows")
    places = [row.get("index", k) if isinstance(row, dict) else k for k, row in enumerate(rows)]
    if any(type(k) is not int for k in places) or sorted(places) != list(range(size)):
        raise ValueError("rows whose `index` does not count the inputs")
    ordered = [row for _, row in sorted(zip(places, rows, strict=True), key=lambda x: x[0])]
    column = {"classify": "probs", "pooling": "data", "score": "score"}[route]
    return _numbers([_single(_column(row, column)) for row in ordered], size)


def _column(table: Any, name: str) -> Any:
    """Return what a table says under a name; raise ValueError where it says nothing."""
    if not isinstance(table, dict):
        raise TypeError(f"{str(table)[:40]} is no table")
    known = cast("dict[str, Any]", table)
    if name not in known:
        there = ", ".join(f"`{str(k)[:20]}`" for k in [*known][:5]) or "nothing"
        raise ValueError(f"`{name}` is missing; it has {there}")
    return known[name]


def _single(value: Any) -> Any:
    """Return a number out of the lists around it; a reward has one, per token the last counts."""
    while isinstance(value, list):
        if not value:
            raise ValueError("an empty list in place of a score")
        if len(value) > 1 and not isinstance(value[-1], list):
            raise ValueError(f"{len(value)} numbers for one answer; a reward has one")
        value = value[-1]
    return value


def _numbers(values: Any, size: int) -> list[float]:
    if not isinstance(values, list) or len(values) != size:
        count = len(values) if isinstance(values, list) else "no list of"
        raise ValueError(f"{count} numbers")
    found: list[float] = []
    for value in cast("list[Any]", values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{str(value)[:40]!r} is no number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{str(value)[:40]} is not finite")
        found.append(number)
    return found
