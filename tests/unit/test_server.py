"""An OpenAI-compatible server over loopback: answers, faults, and nothing paid for twice."""

from __future__ import annotations

import email.utils
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chat_server import ChatServer, place
from tandem.data.record import Completion, Group, Prompt
from tandem.engines import Sampling
from tandem.engines.language_models import LanguageModel
from tandem.engines.language_models.openai import Server, label_probabilities
from tandem.engines.language_models.retry import RetryPolicy, retry_after
from tandem.errors import ConfigError, EngineError, TandemError
from tandem.judges.llm import Labeller
from tandem.judges.templates import LETTER_LABELS, STARS
from tandem.machine import Machine
from tandem.rng import Seed
from tandem.tasks.micro.feedback import COMPARE

SECRET = "sk-never-to-be-written"
QUICK = RetryPolicy(timeout=5.0, retries=3, first=0.01, longest=2.0)
pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def handle(server: ChatServer, folder: Path, **more) -> Server:
    more = {"key": "TEST_KEY", "patience": QUICK, "kept": folder / "kept.sqlite", **more}
    return Server("judge-1", server.url, **more)


def questions(n: int) -> list[Prompt]:
    texts = [f"q{i} (A) {'good ' * (i % 3)}x (B) y" for i in range(n)]
    return [Prompt(f"q{i}", "", ({"role": "user", "content": t},)) for i, t in enumerate(texts)]


def labels(handle: Server, n: int) -> np.ndarray:
    return np.array(list(handle.open(Machine()).label(questions(n), LETTER_LABELS)))


def expected(n: int) -> np.ndarray:
    """.8 of the mass says "(" and then a letter, .1 a bare letter, .1 something else."""
    a = 1 / (1 + np.exp(-(np.arange(n) % 3 + 1.5)))
    return np.log(0.9 * np.stack([a, 1 - a], 1))


def test_letters_come_through_in_order_with_their_residual(tmp_path):
    with ChatServer() as server:
        model = handle(server, tmp_path)
        assert isinstance(model, LanguageModel)
        assert labels(model, 40) == pytest.approx(expected(40))
        assert server.bodies[0]["top_logprobs"] == 20
        assert server.keys == {f"Bearer {SECRET}"}


def test_a_labeller_behind_a_server_removes_its_position_bias(tmp_path):
    """The server's odds are content + 1.5: p is 1/2 for equal answers, whatever comes first.

    This template's labels are "(A)" and "(B)" alone: bare letters, .1, and "Well", .1, are rest.
    """
    asked = Prompt("x", "", ({"role": "user", "content": "q"},))
    pairs = Group(asked, (Completion("fine x"), Completion("fine y"), *map(Completion, "ab")))
    with ChatServer() as server:
        (judged,) = Labeller(handle(server, tmp_path), COMPARE, ("right",))([pairs])
    assert [p.p for p in judged.preferences] == pytest.approx([0.5, 0.5], abs=1e-12)
    assert judged.preferences[0].by == "judge-1"
    assert judged.prompt.meta["ai"]["pairs"][0]["rest"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    "fault", ["429 0.3", "500", "503", "drop", "malformed", "empty", "slow 1.0", "408"]
)
def test_what_passes_is_tried_again(tmp_path, fault):
    with ChatServer([fault]) as server:
        patience = replace(QUICK, timeout=0.4) if "slow" in fault else QUICK
        model = handle(server, tmp_path, patience=patience, concurrency=1)
        speaker = model.open(Machine())
        found = np.array(list(speaker.label(questions(3), LETTER_LABELS)))
        assert found == pytest.approx(expected(3))
        assert len(server.bodies) == 4
        assert speaker.describe_cost()["retries"] == 1
        if fault == "429 0.3":
            assert server.times[1] - server.times[0] >= 0.3


def test_everybody_waits_when_one_is_told_to(tmp_path):
    """Retry-After holds the server's other threads too, not only the one that was told."""
    with ChatServer(["429 0.5"], seconds=0.02) as server:
        labels(handle(server, tmp_path, concurrency=2), 12)
        told = server.times[0]
        quiet = [t for t in server.times if told + 0.15 < t < told + 0.5]
        assert not quiet


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (["500"] * 4, "in 4 attempts: 500"),
        (["drop"] * 4, "in 4 attempts"),
        (["malformed"] * 4, "no JSON"),
        (["429 999"], "asks to wait 999 s"),
        (["401"], "TEST_KEY"),
        (["404"], "has a model `judge-1`"),
        (["400"], "refuses this request"),
        (["unnamed"], "names no log-probabilities"),
    ],
)
def test_what_does_not_pass_is_an_error_in_three_parts_without_the_key(tmp_path, faults, words):
    with ChatServer(faults) as server, pytest.raises(EngineError) as caught:
        labels(handle(server, tmp_path, concurrency=1), 1)
    assert words in str(caught.value)
    assert caught.value.what
    assert caught.value.why
    assert caught.value.do
    assert SECRET not in str(caught.value)
    assert len(server.bodies) == len(faults)


def test_the_key_is_written_nowhere(tmp_path):
    with ChatServer(["500"]) as server:
        model = handle(server, tmp_path)
        labels(model, 5)
    written = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"judge-1" in written
    assert SECRET.encode() not in written
    assert SECRET not in repr(model)


def test_nothing_is_asked_twice(tmp_path):
    with ChatServer() as server:
        model = handle(server, tmp_path)
        first = labels(model, 20)
        twice = [*questions(5), *questions(5)]
        speaker = replace(model, concurrency=4).open(Machine())
        again = np.array(list(speaker.label([*questions(20), *twice], LETTER_LABELS)))
        assert again[:20] == pytest.approx(first)
        assert len(server.bodies) == 20
        assert speaker.describe_cost()["requests"] == 0
        assert speaker.describe_cost()["kept"] == 30


def test_the_same_question_on_its_way_is_waited_for(tmp_path):
    with ChatServer(seconds=0.1) as server:
        speaker = handle(server, tmp_path, concurrency=8).open(Machine())
        list(speaker.label(questions(2) * 4, LETTER_LABELS))
        assert len(server.bodies) == 2


def test_an_answer_without_log_probabilities_is_not_kept(tmp_path):
    with ChatServer(["unnamed"]) as server:
        model = handle(server, tmp_path, concurrency=1)
        with pytest.raises(EngineError):
            labels(model, 1)
        assert labels(model, 1) == pytest.approx(expected(1))


def test_no_more_than_so_many_are_on_their_way(tmp_path):
    with ChatServer(seconds=0.05) as server:
        labels(handle(server, tmp_path, concurrency=3), 12)
        assert 2 <= server.most <= 3


def test_tokens_and_dollars_are_counted_and_a_budget_is_kept(tmp_path):
    """10 questions of 100 + 2 tokens at 2 and 10 dollars a million: 10 (200 + 20) / 1e6."""
    with ChatServer() as server:
        model = handle(server, tmp_path, price=(2.0, 10.0), concurrency=1)
        speaker = model.open(Machine())
        list(speaker.label(questions(10), LETTER_LABELS))
        told = speaker.describe_cost()
        assert (told["requests"], told["tokens_in"], told["tokens_out"]) == (10, 1000, 20)
        assert told["dollars"] == pytest.approx(0.0022)
        poor = replace(model, budget=0.0005, kept=tmp_path / "other.sqlite")
        with pytest.raises(EngineError, match="the budget is"):
            labels(poor, 10)
        assert len(server.bodies) == 10 + 3
        assert labels(replace(model, kept=tmp_path / "other.sqlite"), 10).shape == (10, 2)
        assert len(server.bodies) == 10 + 10


def test_text_is_drawn_by_seed_and_kept_by_seed(tmp_path):
    sampling = Sampling(temperature=0.7, max_tokens=9)
    with ChatServer() as server:
        speaker = handle(server, tmp_path).open(Machine())
        (said,) = speaker.complete(questions(1), sampling, Seed(1))
        assert (said.text, said.stopped, said.author) == (
            "reply to q0 (A) x (B) y",
            True,
            "judge-1",
        )
        list(speaker.complete(questions(1), sampling, Seed(2)))
        list(speaker.complete(questions(1), sampling, Seed(1)))
        assert len(server.bodies) == 2
        assert server.bodies[0]["max_tokens"] == 9
        assert server.bodies[0]["seed"] != server.bodies[1]["seed"]
        with pytest.raises(ConfigError, match="top_k"):
            list(speaker.complete(questions(1), Sampling(top_k=3), Seed(1)))


def test_settings_that_cannot_be_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="without a price"):
        Server("m", budget=1.0)
    with pytest.raises(ConfigError, match="concurrency = 0"):
        Server("m", concurrency=0)
    with pytest.raises(ConfigError, match=r"patience\.timeout = 0"):
        RetryPolicy(timeout=0)
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(ConfigError, match="TEST_KEY is not set"):
        Server("m", key="TEST_KEY", kept=tmp_path / "a").open(Machine())
    (tmp_path / "broken").write_bytes(b"not a database, and long enough to be looked at " * 50)
    with pytest.raises(TandemError, match="cannot keep answers"):
        Server("m", key=None, kept=tmp_path / "broken").open(Machine())


def test_pauses_double_with_jitter_and_dates_are_read():
    patience = RetryPolicy(first=1.0, longest=10.0)
    assert [patience.backoff(k, 1.0) for k in range(5)] == [1, 2, 4, 8, 10]
    assert patience.backoff(2, 0.0) == 2
    now = time.time()
    date = email.utils.formatdate(now + 30, usegmt=True)
    assert retry_after({"retry-after": date}, now) == pytest.approx(30, abs=1.01)
    assert retry_after({"retry-after": "2.5"}, now) == 2.5
    assert retry_after({"retry-after": "soon"}, now) == retry_after({}, now) == 0


def test_spellings_are_followed_along_the_tokens_taken():
    """ "(A" is A's alone, ")" need not come; the branch "(" not taken is lost to both."""
    places = [place("(A", {"(A": 0.6, "(B": 0.2, " B": 0.1, "(": 0.05})]
    assert label_probabilities(LETTER_LABELS, places) == pytest.approx([0.6, 0.3])
    ten = [place("1", {"1": 0.5, "7": 0.3}), place("0", {"0": 0.4, ".": 0.6})]
    assert label_probabilities(STARS, ten)[[0, 6, 9]] == pytest.approx([0.3, 0.3, 0.2])
    whole = [place("10", {"10": 0.5, "1": 0.3})]
    assert label_probabilities(STARS, whole)[[0, 9]] == pytest.approx([0.3, 0.5])
    assert label_probabilities(LETTER_LABELS, [place("x", {"x": 1.0})]).tolist() == [0, 0]
    assert math.isclose(label_probabilities(LETTER_LABELS, places).sum(), 0.9)
