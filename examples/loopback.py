"""Servers for the examples where you give none, on this machine alone.

`serving(answer)` posts every JSON body to a function and sends back what it returns.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Serve JSON on a free port of 127.0.0.1; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            data = json.dumps(answer(body)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()


def faithfulness(prompt: str, answer: str) -> float:
    """Count an answer's word pairs that the prompt has too, minus those that it has not."""
    known = set(_pairs(prompt))
    found = _pairs(answer)
    return float(sum(1 if pair in known else -1 for pair in found))


def score_rewards(body: dict[str, Any]) -> dict[str, Any]:
    """Answer the contract `rewards`: {"inputs": [{"prompt", "answer"}]} -> {"scores": [...]}."""
    asked = [(" ".join(m["content"] for m in x["prompt"]), x["answer"]) for x in body["inputs"]]
    return {"scores": [faithfulness(*pair) for pair in asked]}


def reason_and_decide(body: dict[str, Any]) -> dict[str, Any]:
    """Answer chat completions as a reasoning model does: thoughts, reasons, a verdict."""
    asked = body["messages"][-1]["content"]
    parts = re.split(r"### (?:Request|Answer A|Answer B|Task)\n", asked)
    request, a, b = parts[1], parts[2], parts[3]
    worth = faithfulness(request, a), faithfulness(request, b)
    letter = "tie" if worth[0] == worth[1] else "A" if worth[0] > worth[1] else "B"
    text = (
        f"<think>\nA keeps {worth[0]:g}, B keeps {worth[1]:g}.\n</think>\n"
        f"What counts is what the request says.\nVerdict: {letter}"
    )
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "0", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [choice], "usage": usage}  # fmt: skip


def _pairs(text: str) -> list[tuple[str, str]]:
    words = re.findall(r"\w+", text.lower())
    return list(pairwise(words))
