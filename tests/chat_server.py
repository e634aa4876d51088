"""A real HTTP server over loopback that speaks chat completions, with faults on order.

It judges by counting: log-odds of "(A)" are (good words in a) - (good words in b) + 1.5.
`faults` are taken one a request, before anything is answered.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHOWN = re.compile(r"\(A\) (.*) \(B\) (.*)", re.S)
USAGE = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}


class ChatServer:
    """Use as a context; `url` is its address, `answered` counts answers by question."""

    def __init__(self, faults: list[str] | None = None, seconds: float = 0.0) -> None:
        self.faults, self.seconds = list(faults or []), seconds
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.times: list[float] = []
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                body = json.loads(self.rfile.read(length))
                with server.lock:
                    server.bodies.append(body)
                    server.times.append(time.monotonic())
                    server.keys.add(self.headers["authorization"])
                    server.busy += 1
                    server.most = max(server.most, server.busy)
                    fault = server.faults.pop(0) if server.faults else ""
                try:
                    self._respond(fault, body)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with server.lock:
                        server.busy -= 1

            def _respond(self, fault: str, body: dict[str, Any]) -> None:
                time.sleep(server.seconds)
                status, _, more = fault.partition(" ")
                if status == "drop":
                    self.connection.close()
                    return
                if status == "slow":
                    time.sleep(float(more))
                if status.isdigit():
                    headers = {"retry-after": more} if more else {}
                    said = f"status {status}, sent with {self.headers['authorization']}"
                    self._send(int(status), {"error": {"message": said}}, headers)
                elif status == "malformed":
                    self._send(200, '{"choices": [{"mess', {})
                elif status == "empty":
                    self._send(200, {"choices": []}, {})
                else:
                    answer = reply(body, named=status != "unnamed")
                    question = json.dumps(body["messages"])
                    with server.lock:
                        server.answered[question] += 1
                    self._send(200, answer, {})

            def _send(self, status: int, body: Any, headers: dict[str, str]) -> None:
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def reply(body: dict[str, Any], *, named: bool) -> dict[str, Any]:
    """Answer like a server: "(", then the letter, in tokens of a usual tokenizer."""
    said = body["messages"][-1]["content"]
    shown = SHOWN.search(said)
    if not body.get("logprobs") or shown is None:
        message = {"role": "assistant", "content": f"reply to {said}"}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": USAGE}
    d = shown[1].count("good") - shown[2].count("good") + 1.5
    a = 1 / (1 + math.exp(-d))
    taken = "A" if a >= 0.5 else "B"
    places = [
        place("(", {"(": 0.8, "A": 0.1 * a, " B": 0.1 * (1 - a), "Well": 0.1}),
        place(taken, {"A": a, "B": 1 - a}),
        place(")", {")": 1.0}),
    ]
    choice = {"message": {"role": "assistant", "content": f"({taken})"}, "finish_reason": "stop"}
    if named:
        choice["logprobs"] = {"content": places}
    return {"choices": [choice], "usage": USAGE}


def place(token: str, law: dict[str, float]) -> dict[str, Any]:
    top = [{"token": t, "logprob": math.log(p)} for t, p in law.items()]
    return {"token": token, "logprob": math.log(law[token]), "top_logprobs": top}
