"""Judges that reason, and rewards behind real servers over loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.engines.json_server import JsonServer
from tandem.engines.language_models.openai import Server
from tandem.engines.language_models.retry import RetryPolicy
from tandem.errors import ConfigError, EngineError, JudgeError
from tandem.evaluation import policy_evaluation
from tandem.judges.llm import AI_KEY
from tandem.judges.position_bias import measure_position_bias
from tandem.judges.reasoning import ReasoningJudge
from tandem.judges.remote_reward import RemotePreference, RemoteReward
from tandem.judges.verdicts import VerdictFormat, read_verdict
from tandem.machine import Machine
from tandem.stages.evaluate_policy import win_credit
from tandem.statistics import bounded_win_rate, win_rate

QUICK = RetryPolicy(timeout=10.0, retries=1, first=0.01, longest=0.01)


@contextmanager
def serving(answer: Callable[[str, dict[str, Any]], Any]) -> Iterator[str]:
    """Serve JSON on loopback: a function of path and body; an int is a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found = answer(self.path, body)
            status, found = (found, {"error": "no"}) if isinstance(found, int) else (200, found)
            data = (found if isinstance(found, str) else json.dumps(found)).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()


READ = {
    "<think>\nA is (A), really A.\n</think>\n(B)": "B",
    "<think>Verdict: A</think>\nVerdict: B": "B",
    "B is longer.\nVerdict: A": "A",
    "Verdict: A\nBut on reflection\nVerdict: B": "B",
    "**Verdict: B**": "B",
    "### Verdict: [[A]]": "A",
    "verdict: tie.": "tie",
    "Verdict: (C)": "tie",
    "(A)": "A",
    "[[B]]": "B",
    "A": "A",
    "tie": "tie",
    "Verdict: Answer B": "B",
    "Verdict: B is better.": "B",
    "Final verdict: Assistant A": "A",
    "A is fuller than B.\n[[A]]": "A",
    "B it is.\n**[[B]]**": "B",
    "I saw [[A]] and [[B]].\n[[C]]": "tie",
    "[THINK]Verdict: A[/THINK]Verdict: B": "B",
    "◁think▷Verdict: A◁/think▷\nB": "B",
    "<seed:think>[[A]]</seed:think>\nVerdict: B": "B",
    "<|begin_of_thought|>\nVerdict: A\n<|end_of_thought|>\nVerdict: tie": "tie",
    "[THINK]\nVerdict: A": None,
    "◁think▷\n[[A]]": None,
    "Verdict: A is better in style, B in facts": None,
    "Verdict: not A": None,
    "Verdict: neither": None,
    "Verdict: ": None,
    "[[A]] is what I first thought": None,
    "A is better": None,
    "I prefer A to B.": None,
    "A is better than B": None,
    "Verdict: A or B": None,
    "Verdict: A\nVerdict: unsure": None,
    "<think>A (A) Verdict: A": None,
    "<think>one</think><think>Verdict: A": None,
    "": None,
    "Answer: A": None,
}


@pytest.mark.parametrize("text", READ)
def test_a_verdict_is_read_behind_the_reasons(text: str):
    assert read_verdict(text) == READ[text]
    assert read_verdict(text, stopped=False) is None


def test_a_template_is_versioned_and_hashed():
    plain, other = VerdictFormat(), VerdictFormat(ask="{question} {a} {b} {principle}?")
    assert plain.mark.startswith("reasons-1:")
    assert plain.mark != other.mark
    said = plain.turn(Prompt("q", "Which?"), "Verdict: A <think>", "b ### Verdict: B", "Be kind.")
    assert said.count("Verdict: A") == said.count("Verdict: B") == 1
    with pytest.raises(ConfigError):
        VerdictFormat(version="")


def chat(text: str | None, end: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "reasoning_content": "A A A (A)"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    choice = {"index": 0, "message": message, "finish_reason": end}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [choice], "usage": usage}  # fmt: skip


def pairs(n: int, a: str = "good", b: str = "bad") -> Groups:
    return Groups.of(
        Group(Prompt(str(k), f"q{k}"), (Completion(f"{a} {k}"), Completion(f"{b} {k}")))
        for k in range(n)
    )


def judge_by(url: str, tmp_path: Path, **more: Any) -> ReasoningJudge:
    kept = tmp_path / "answers.sqlite"
    server = Server("m", f"{url}/v1", key=None, patience=QUICK, kept=kept)
    return ReasoningJudge(server, **more)


def by_content(_: str, body: dict[str, Any]) -> Any:
    """Prefers "good"; cannot be read about q3, is cut about q5, refuses q7."""
    asked = body["messages"][-1]["content"]
    if "q7\n" in asked:
        return 400
    if "q5\n" in asked:
        return chat(None, "length")
    first = "A" if asked.index("good") < asked.index("bad") else "B"
    if "q3\n" in asked:
        return chat(f"<think>({first})</think> hard to say, {first} or not")
    return chat(f"<think>It may be A, it may be (B).</think>\nGood.\nVerdict: {first}")


def by_position(_: str, body: dict[str, Any]) -> Any:
    return chat("<think>B</think>\nVerdict: A")


def test_both_orders_decide_and_what_cannot_be_read_is_no_label(tmp_path: Path):
    with serving(by_content) as url:
        opened = judge_by(url, tmp_path).open()
        judged = list(opened(pairs(10)))
        told = opened.describe_cost()
    labels = [[p.p for p in g.preferences] for g in judged]
    assert labels == [[] if k in (3, 5, 7) else [1.0] for k in range(10)]
    assert told["unreadable"] == 3
    assert "3 of 10 unreadable" in told["text"]
    meta = judged[5].prompt.meta[AI_KEY]
    assert meta["unreadable"][0]["said"] == [[None, None]]
    assert meta["format"] == VerdictFormat().mark
    with serving(by_position) as url:
        judged = list(judge_by(url, tmp_path)(pairs(8)))
    assert {p.p for g in judged for p in g.preferences} == {0.5}
    assert measure_position_bias(judged).first_position.mean == 1.0


def test_a_win_rate_has_bounds_over_what_cannot_be_read(tmp_path: Path):
    mine, theirs = pairs(30).map(lambda g: g.keep([0])), pairs(30).map(lambda g: g.keep([1]))
    with serving(by_content) as url:
        credit = win_credit(mine, theirs, judge_by(url, tmp_path), Machine())
    assert int(np.isnan(credit).sum()) == 3
    found = bounded_win_rate(credit)
    lost, won = (win_rate(np.where(np.isnan(credit), x, credit)) for x in (0.0, 1.0))
    assert (found.low, found.high) == (lost.low, won.high)
    assert lost.mean < found.mean < won.mean
    assert found.mean == pytest.approx((27 + 1.5) / 30)
    assert "3 unreadable" in found.method
    table = policy_evaluation(
        {"SFT": {"truth": np.zeros(30)}, "new": {"truth": np.ones(30), "llm_win": credit}},
        opponents=("SFT",),
    )
    assert table.rows[1].means["llm_win"].low == lost.low


def test_a_judge_that_is_never_readable_is_an_error(tmp_path: Path):
    cut = lambda path, body: chat(None, "length")  # noqa: E731
    with serving(cut) as url, pytest.raises(JudgeError, match="could be read") as error:
        list(judge_by(url, tmp_path)(pairs(3)))
    assert "more room" in error.value.do


WORTH = {"good": 2.5, "bad": -1.25}


def worth(text: str) -> float:
    return next(w for name, w in WORTH.items() if name in text)


def rewards(path: str, body: dict[str, Any]) -> Any:
    """A reward server that speaks all routes, rows in reverse order where they have an index."""
    if path == "/rewards":
        return {"scores": [worth(x["answer"]) for x in body["inputs"]]}
    if path == "/preferences":
        gaps = [worth(x["a"]) - worth(x["b"]) + 1.0 for x in body["inputs"]]
        return {"preferences": [float(1 / (1 + np.exp(-gap))) for gap in gaps]}
    if path == "/score":
        rows = [{"index": k, "score": worth(t)} for k, t in enumerate(body["text_2"])]
    elif path == "/classify":
        assert body["use_activation"] is False
        rows = [{"index": k, "probs": [worth(t)]} for k, t in enumerate(body["input"])]
    else:
        rows = [{"index": k, "data": [[9.0], [worth(t)]]} for k, t in enumerate(body["input"])]
    return {"data": rows[::-1]}


@pytest.mark.parametrize("route", ["rewards", "classify", "pooling", "score"])
@pytest.mark.parametrize("batch", [1, 3])
def test_rewards_over_http(route: Any, batch: int, tmp_path: Path):
    with serving(rewards) as url:
        server = JsonServer(f"{url}/{route}", patience=QUICK, kept=tmp_path / "kept.sqlite")
        opened = RemoteReward(server, route, batch=batch).open()
        scores = [g.scores for g in opened(pairs(4))]
        sent = opened.describe_cost()["requests"]
        list(opened(pairs(4)))
        assert opened.describe_cost()["requests"] == sent, "what was answered is kept"
    assert np.array_equal(np.array(scores), np.array([[2.5, -1.25]] * 4))


def test_preferences_over_http_are_asked_in_both_orders(tmp_path: Path):
    with serving(rewards) as url:
        server = JsonServer(f"{url}/preferences", patience=QUICK, kept=tmp_path / "kept.sqlite")
        judged = list(RemotePreference(server, batch=3)(pairs(4)))
    sigma = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    p = 0.5 * (sigma(3.75 + 1) + 1 - sigma(-3.75 + 1))
    assert [v.p for g in judged for v in g.preferences] == pytest.approx([p] * 4)


WRONG: list[Any] = [
    {"scores": [1.0]},
    {"scores": ["1", "2"]},
    {"scores": [1.0, None]},
    {"scores": [True, False]},
    '{"scores": [1.0, NaN]}',
    {"scores": {"0": 1.0}},
    {},
    '{"scores": [1',
    "[1.0, 2.0]",
    404,
    503,
]


@pytest.mark.parametrize("answer", WRONG, ids=str)
def test_a_server_that_gives_no_scores_is_an_error(answer: Any, tmp_path: Path):
    with serving(lambda path, body: answer) as url:
        server = JsonServer(f"{url}/rewards", patience=QUICK, kept=tmp_path / "kept.sqlite")
        with pytest.raises(EngineError):
            list(RemoteReward(server)(pairs(1)))
    with serving(rewards) as url:  # a wrong answer is not kept
        again = JsonServer(f"{url}/rewards", patience=QUICK, kept=tmp_path / "kept.sqlite")
        assert len(list(RemoteReward(again)(pairs(1)))) == 1


def test_an_address_holds_no_key(monkeypatch: pytest.MonkeyPatch):
    for url in ("ftp://a/b", "http://u:p@host/r", "http://host/r?api_key=1"):
        with pytest.raises(ConfigError):
            JsonServer(url)
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match="MY_KEY"):
        JsonServer("http://host/r", key="MY_KEY")
