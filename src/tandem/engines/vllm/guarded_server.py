"""Run by vLLM's own Python: its server, which ends when the process that started it is gone.

A training process that is killed closes nothing; without this its server would keep its memory.
vLLM asks for its key on the routes of completions alone, and not on those that call methods of its
workers. `RequiredKey` asks for it on all.
"""

from __future__ import annotations

import hmac
import importlib
import os
import runpy
import signal
import threading
import time
from typing import Any

LOOK_SECONDS = 2.0
KEY = "VLLM_API_KEY"
"""Names the key in the environment, as vLLM does."""


class RequiredKey:
    """ASGI middleware (`--middleware`) that answers 401 to every request without the key.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.expected = f"Bearer {os.environ[KEY]}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or self._holds(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def _holds(self, scope: Any) -> bool:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        return hmac.compare_digest(given, self.expected)


def end_with_parent() -> None:
    """Kill this process's group when its parent has died."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def serve_policy() -> None:
    """Run vLLM's OpenAI-compatible server with the arguments of this process.

    It is called from this file, not run as a module: the engine's process begins with the main
    file once more, and this one imports nothing large.
    """
    try:
        entry = importlib.import_module("vllm.entrypoints.launchers.api_server.entry")
    except ModuleNotFoundError:  # in earlier versions
        runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
    else:
        entry.main()


if __name__ == "__main__":
    end_with_parent()
    serve_policy()
