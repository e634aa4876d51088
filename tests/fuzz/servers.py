"""Servers that answer wrongly, late, or with our own secrets: checked whole, or counted."""

from __future__ import annotations

import json
import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fuzz.corpus import Corpus
from fuzz.damage import change_bytes, change_tree
from fuzz.verdicts import Clock, Verdict, judge_error
from tandem.data.record import Completion, Group, Prompt
from tandem.machine import Machine
from tandem.rng import Seed

CANARY = "sk-CANARY-fedcba9876543210"
PATIENCE, RETRIES, QUESTIONS = 1.0, 1, 2
SLOW = 90.0
"""Seconds for the questions of a case, each of which may take a few, on any machine."""
STATUSES = (
    100,
    204,
    301,
    302,
    304,
    400,
    401,
    403,
    404,
    408,
    413,
    418,
    422,
    429,
    500,
    502,
    503,
    599,
)
WAITS = ("1", "-5", "nan", "inf", "1e400", "Wed, 21 Oct 99999 07:28:00 GMT", "x", "", "99999999")
Handle = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """Answers with whatever the case asks for."""

    behave: Handle
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        try:
            self.rfile.read(int(self.headers["content-length"] or 0))
            type(self).behave(self, right_answer())
        except (OSError, ValueError):
            pass

    def send(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int = -1
    ) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data) if length < 0 else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class QuietServer(ThreadingHTTPServer):
    """Says nothing of connections that break."""

    daemon_threads, block_on_close = True, False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


class HostileServer:
    """A loopback server whose behaviour can be changed; use as a context."""

    def __init__(self) -> None:
        self.handler = type("Case", (Handler,), {"behave": well})
        self.http = QuietServer(("127.0.0.1", 0), self.handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def behave(self, how: Handle) -> None:
        self.handler.behave = how  # type: ignore[attr-defined]

    def __enter__(self) -> HostileServer:
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def right_answer() -> bytes:
    """Return a chat completion that says (A) with probability 0.8."""
    top = [{"token": "(A", "logprob": math.log(0.8)}, {"token": "(B", "logprob": math.log(0.2)}]
    places = [{"token": "(A", "logprob": math.log(0.8), "top_logprobs": top}]
    message = {"role": "assistant", "content": "(A)"}
    choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": places}}
    used = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    return json.dumps({"id": "x", "choices": [choice], "usage": used}).encode()


def well(handler: Handler, answer: bytes) -> None:
    handler.send(200, answer)


class Servers:
    """One server's behaviour: asked for labels, for texts, and again after it was mended."""

    name, goal, deadline = "servers", 500, 120.0

    def __init__(self, corpus: Corpus) -> None:
        del corpus

    def prepare(self, home: Path) -> None:
        """Put the canary where the key is."""
        os.environ["FUZZ_KEY"] = CANARY

    def check(self, dice: random.Random, folder: Path) -> Verdict:
        """Ask a server that misbehaves, then the same one mended."""
        from tandem.engines.language_models.openai import Server
        from tandem.engines.language_models.retry import RetryPolicy
        from tandem.judges.llm import Labeller, Rater

        how = draw_behaviour(dice)
        judge = dice.choice(("labels", "labels", "ratings", "texts"))
        patience = RetryPolicy(timeout=PATIENCE, retries=RETRIES, first=0.01, longest=0.05)
        verdict = Verdict("refused", told={"behaviour": how.__name__, "judge": judge})
        with HostileServer() as server, Clock() as clock:
            lm = Server(
                "m", server.url, key="FUZZ_KEY", concurrency=2, patience=patience,
                kept=folder / "answers.sqlite",
            )  # fmt: skip
            server.behave(how)
            said = ask(lm, judge, Labeller, Rater, verdict)
            if float(clock) > SLOW:
                verdict.blame("hang", f"{float(clock):.1f} s for {QUESTIONS} questions")
            server.behave(well)
            mended = Verdict("")
            again = ask(lm, judge if judge == "texts" else "labels", Labeller, Rater, mended)
            if not mended.faults and mended.ending != "answered":
                verdict.blame("refused", f"after it was mended: {mended.ending}, {mended.reason}")
            for fault, seen in mended.faults.items():
                verdict.blame(fault, f"after it was mended: {seen}")
        _judge_secrets(folder, f"{verdict.reason} {verdict.faults} {said} {again}", verdict)
        return verdict


def ask(lm: Any, judge: str, labeller: Any, rater: Any, verdict: Verdict) -> str | None:
    """Ask about two pairs; note numbers that mean nothing. Returns what was told of the cost."""
    from tandem.engines import Sampling

    try:
        if judge == "texts":
            asked = [_question(f"q{k}") for k in range(QUESTIONS)]
            speaker = lm.open(Machine())
            said = list(speaker.complete(asked, Sampling(max_tokens=4), Seed(0)))
            heard = [completion.text.encode() for completion in said if completion is not None]
            verdict.ending = "answered" if len(heard) == QUESTIONS else "counted"
            return str(speaker.describe_cost())
        opened = (labeller if judge == "labels" else rater)(lm).open()
        groups = list(opened([_pair(f"p{k}") for k in range(QUESTIONS)]))
        for group in groups:
            for vote in group.preferences:
                if not 0 <= vote.p <= 1:
                    verdict.blame("accepted", f"a label of {vote.p}")
            if group.scores is not None and any(math.isinf(s) or abs(s) > 1 for s in group.scores):
                verdict.blame("accepted", f"ratings of {group.scores}")
        whole = all(g.preferences or g.scores is not None for g in groups)
        verdict.ending = "answered" if whole else "counted"
        return str(opened.describe_cost())
    except Exception as error:
        judge_error(error, verdict)
        verdict.reason = str(error)
        return None


def _question(name: str) -> Prompt:
    return Prompt(name, name, ({"role": "user", "content": f"{name} (A) x (B) y"},))


def _pair(name: str) -> Group:
    return Group(_question(name), (Completion("one"), Completion("two")))


def _judge_secrets(folder: Path, said: str, verdict: Verdict) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and CANARY.encode() in file.read_bytes():
            verdict.blame("leak", f"the key is in {file.name}")
    if CANARY in said:
        verdict.blame("leak", "the key is in an error or in what is told of the cost")


def draw_behaviour(dice: random.Random) -> Handle:
    """Return one way to misbehave."""
    status = dice.choice(STATUSES)
    wait = {"retry-after": dice.choice(WAITS)} if dice.random() < 0.4 else {}
    seed, length = dice.random(), dice.choice((0, 5, 10**12))
    words = dice.choice((b"", b"<html>", b"[]", b"null", b"\xff\xfe"))
    moved, place = dice.choice((301, 302, 307, 308)), dice.choice(PLACES)

    def damaged_tree(handler: Handler, answer: bytes) -> None:
        tree, own = json.loads(answer), random.Random(seed)
        for _ in range(own.choice((1, 1, 2, 3))):
            tree = change_tree(tree, own)
        handler.send(200, json.dumps(tree).encode())

    def damaged_bytes(handler: Handler, answer: bytes) -> None:
        handler.send(200, change_bytes(answer, random.Random(seed)))

    def other_status(handler: Handler, answer: bytes) -> None:
        said = f"refused, sent with {handler.headers['authorization']}"
        handler.send(status, json.dumps({"error": {"message": said}}).encode(), wait)

    def status_without_words(handler: Handler, answer: bytes) -> None:
        handler.send(status, words, wait)

    def echo(handler: Handler, answer: bytes) -> None:
        key = handler.headers["authorization"]
        tree = json.loads(answer)
        choice = tree["choices"][0]
        choice["message"]["content"] = choice["logprobs"]["content"][0]["token"] = key
        tree["id"] = tree["model"] = choice["finish_reason"] = key
        handler.send(200, json.dumps(tree).encode(), {"x-request-id": key})

    def echo_text(handler: Handler, answer: bytes) -> None:
        handler.send(200, f"you sent {handler.headers['authorization']}".encode())

    def drop(handler: Handler, answer: bytes) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    def half(handler: Handler, answer: bytes) -> None:
        handler.send(200, answer[: len(answer) // 2], length=len(answer))
        handler.connection.shutdown(socket.SHUT_RDWR)

    def drip(handler: Handler, answer: bytes) -> None:
        handler.send(200, b"", length=len(answer))
        for k in range(40):
            handler.wfile.write(answer[k : k + 1])
            handler.wfile.flush()
            time.sleep(0.1)

    def silent(handler: Handler, answer: bytes) -> None:
        time.sleep(4)

    def noise(handler: Handler, answer: bytes) -> None:
        handler.wfile.write(random.Random(seed).randbytes(300))
        handler.connection.shutdown(socket.SHUT_RDWR)

    def huge(handler: Handler, answer: bytes) -> None:
        handler.send(200, b'{"choices": "' + b"x" * (17 << 20) + b'"}')

    def wrong_length(handler: Handler, answer: bytes) -> None:
        handler.send(200, answer, length=length)

    def elsewhere(handler: Handler, answer: bytes) -> None:
        handler.send(moved, b"", {"location": place})

    rare = (drop, half, drip, silent, noise, huge, wrong_length, elsewhere, echo, echo_text)
    often = (damaged_tree, damaged_tree, damaged_bytes, other_status, status_without_words)
    return dice.choice(rare if dice.random() < 0.3 else often)


PLACES = ("/v1/chat/completions", "file:///etc/passwd", "http://127.0.0.1:9/", "//", "", "ftp://x")
