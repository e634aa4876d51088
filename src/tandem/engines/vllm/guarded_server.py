"""Run by vLLM's own Python: its server, which ends when the process that started it is gone.

A training process that is killed closes nothing; without this its server would keep its memory.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time

LOOK_SECONDS = 2.0


def end_with_parent() -> None:
    """Kill this process's group when its parent has died."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
