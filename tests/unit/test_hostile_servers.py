"""What a server sends is a stranger's: checked whole, in time, and without our secrets."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_server import ChatServer
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.engines import Sampling
from tandem.engines.language_models.addresses import check_address
from tandem.engines.language_models.chat_answer import InvalidAnswer, read_answer
from tandem.engines.language_models.openai import Server, in_time
from tandem.engines.language_models.retry import TransientError, retry_after
from tandem.errors import ConfigError, JudgeError
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.llm import AI_KEY, Labeller, Rater, is_unjudged
from tandem.judges.position_bias import measure_position_bias
from tandem.judges.templates import CompareFormat, FeedbackFormats
from tandem.machine import Machine
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Silent
from tandem.stages.revise import revise

KEY = "sk-CANARY-0123456789abcdef"


def answer(**changes) -> dict:
    top = [{"token": "(A", "logprob": -0.2}, {"token": "(B", "logprob": -1.8}]
    places = [{"token": "(A", "logprob": -0.2, "top_logprobs": top}]
    choice = {"message": {"content": "(A)"}, "logprobs": {"content": places}}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}, **changes}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
PLACES = (
    ("choices",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "message", "content"),
    ("choices", 0, "logprobs"), ("choices", 0, "logprobs", "content"), ("usage",),
    ("choices", 0, "logprobs", "content", 0), ("usage", "prompt_tokens"),
    ("choices", 0, "logprobs", "content", 0, "token"),
    ("choices", 0, "logprobs", "content", 0, "logprob"),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs"),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs", 1),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs", 1, "logprob"),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), JSON)
def test_a_value_of_another_kind_is_refused_or_harmless(place, value):
    body = answer()
    inner = body
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    try:
        read = read_answer(json.dumps(body), labelled=True)
    except InvalidAnswer:
        return
    (choice,) = read["choices"]
    choice["message"]["content"].encode()
    for spot in choice["logprobs"]["content"]:
        every = [spot["logprob"], *(t["logprob"] for t in spot["top_logprobs"])]
        assert all(math.isfinite(x) and x <= 0 for x in every)
    assert all(0 <= n <= 10**9 for n in read["usage"].values())


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_refused_in_words(text):
    with pytest.raises(InvalidAnswer):
        read_answer(text, labelled=True)


def test_probabilities_that_add_up_to_more_than_one_are_none():
    top = [{"token": t, "logprob": 0.0} for t in "AB"]
    places = [{"token": "A", "logprob": 0.0, "top_logprobs": top}]
    body = answer(choices=[{"message": {"content": "A"}, "logprobs": {"content": places}}])
    with pytest.raises(InvalidAnswer, match="add up to 2"):
        read_answer(json.dumps(body), labelled=True)


def test_the_key_is_taken_out_of_what_is_kept():
    body = answer()
    body["choices"][0]["message"]["content"] = f"Bearer {KEY}"
    text = json.dumps(body).replace("CANARY", "\\u0043ANARY")  # spelled so that no text has it
    read = read_answer(text, labelled=True, redact=lambda t: t.replace(KEY, "***"))
    assert read["choices"][0]["message"]["content"] == "Bearer ***"


def test_a_request_has_one_deadline():
    begun = time.monotonic()
    with pytest.raises(TransientError, match="not complete"):
        in_time(lambda: time.sleep(5) or "", 0.1)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("said", ["Wed, 21 Oct 99999 07:28:00 GMT", "nan", "inf", "-5", "x", ""])
def test_a_retry_after_without_meaning_is_none(said):
    assert retry_after({"retry-after": said}, 0.0) == 0.0


@pytest.mark.parametrize(
    "url",
    ["https://user:urlpw@host/v1", "http://user@host", "http://host/v1?api_key=urlpw", "ftp://x",
     "host", "http://[", "http://host:99999999/v1"],
)  # fmt: skip
def test_an_address_with_a_secret_is_refused_without_repeating_it(url):
    for make in (lambda: check_address(url, "asking.server"), lambda: Server("m", url),
                 lambda: AIFeedback(model="m", server=url)):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            make()
        assert "urlpw" not in str(caught.value)


class Deaf:
    """A language model that fails every question about a word."""

    def __init__(self, word: str) -> None:
        self.word, self.name = word, "deaf"

    def open(self, _: Machine) -> Deaf:
        return self

    def label(self, prompts, labels):
        for prompt in prompts:
            lost = self.word in prompt.messages[-1]["content"]
            yield np.full(len(labels), np.nan) if lost else np.log([0.7, 0.3])


def pair(name: str) -> Group:
    asked = Prompt(name, name, ({"role": "user", "content": name},))
    return Group(asked, (Completion("one"), Completion("two")))


def test_a_failed_question_is_counted_and_no_label():
    judge = Labeller(Deaf("lost")).open()  # type: ignore[arg-type]
    lost, fine = list(judge([pair("lost"), pair("fine")]))
    assert lost.preferences == ()
    assert lost.prompt.meta[AI_KEY]["failed"] == 1
    assert len(fine.preferences) == 1
    assert "1 of 2 pairs have no label" in judge.describe_cost()["text"]
    assert measure_position_bias([lost, fine]).pairs == 1


def test_a_failed_rating_is_counted_and_no_score():
    judge = Rater(Deaf("lost")).open()  # type: ignore[arg-type]
    lost, fine = list(judge([pair("lost"), pair("fine")]))
    assert lost.scores is None
    assert is_unjudged(lost)
    assert fine.scores is not None
    assert not is_unjudged(fine)
    assert "1 of 2 groups have no rating" in judge.describe_cost()["text"]
    with pytest.raises(JudgeError):
        list(Rater(Deaf("lost"))([pair("lost")]))  # type: ignore[arg-type]


class Halting:
    """A language model that writes an answer, but none to questions about a word."""

    name = "halting"

    def __init__(self, word: str) -> None:
        self.word, self.asked = word, 0

    def open(self, _: Machine) -> Halting:
        return self

    def complete(self, prompts, sampling, seed):
        for prompt in prompts:
            self.asked += 1
            lost = self.word in str(prompt.messages)
            yield None if lost else Completion(f"better {self.asked}")

    def label(self, prompts, labels):
        for _ in prompts:
            yield np.log([0.7, 0.3])


def test_an_answer_that_cannot_be_rewritten_is_left_out_and_said():
    said: list[str] = []

    class Heard(Silent):
        def log(self, kind: str, **told) -> None:
            said.append(f"{kind} {told.get('text', '')}")

    asked = Groups.of(replace(pair(n), completions=(Completion("x"),)) for n in ("lost", "fine"))
    kept = list(
        revise(asked, Halting("lost"), FeedbackFormats(), K=2, sampling=Sampling(max_tokens=4),
               seed=Seed(0), machine=Machine(), events=Heard())  # type: ignore[arg-type]
    )  # fmt: skip
    assert [g.id for g in kept] == ["fine"]
    assert [c.author for c in kept[0].completions] == ["revision-1", "revision-2"]
    assert any("1 of 2 answers are left out" in line for line in said)


def test_a_reason_that_was_not_given_makes_no_label():
    judge = Labeller(Halting("lost"), compare=CompareFormat(think="{question}: think.")).open()  # type: ignore[arg-type]
    lost, fine = list(judge([pair("lost"), pair("fine")]))
    assert lost.preferences == ()
    assert len(fine.preferences) == 1


def test_without_any_label_there_is_nothing_to_go_on_with():
    with pytest.raises(JudgeError):
        list(Labeller(Deaf("lost"))([pair("lost")]))  # type: ignore[arg-type]


def test_one_refused_question_does_not_end_the_others(tmp_path, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer(["400"]) as server:
        model = Server("m", server.url, key="TEST_KEY", concurrency=1, kept=tmp_path / "k.sqlite")
        speaker = model.open(Machine())
        asked = [Prompt(f"q{i}", "", ({"role": "user", "content": f"{i} (A) x (B) y"},))
                 for i in range(4)]  # fmt: skip
        rows = np.array(list(speaker.label(asked, (("(A)",), ("(B)",)))))
        told = speaker.describe_cost()
    assert np.isnan(rows).all(1).tolist() == [True, False, False, False]
    assert told["failed"] == 1
    assert KEY not in told["text"]
    assert KEY.encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


def test_a_key_goes_to_its_own_house_and_is_never_a_setting(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    monkeypatch.setenv("MINE", "canary")
    base = Checkpoint(Path("model"), "base")
    keys = {
        url: AIFeedback(model="m", server=url).lm(base).key  # type: ignore[attr-defined]
        for url in ("https://api.openai.com/v1", "https://example.org/v1", "http://localhost/v1")
    }
    assert list(keys.values()) == ["OPENAI_API_KEY", None, None]
    named = AIFeedback(model="m", server="https://example.org/v1", key="MINE")
    assert named.lm(base).key == "MINE"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="that the key is in is not set") as refused:
        AIFeedback(model="m", server="https://example.org/v1", key="sk-canary")
    assert "canary" not in str(refused.value)
