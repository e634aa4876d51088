"""`tandem bench` in a process of its own, which tests interrupt and kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STEADY = ["--machine.precision=fp32", "--machine.save_seconds=0.05"]
PATIENCE = 600.0
TESTS = Path(__file__).parents[1]


def read_results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def start_bench(plan: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own.

    A shell's background jobs ignore SIGINT, and what they start inherits that: it is undone.
    """
    env = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tandem", "bench", str(plan), f"--out={out}", *STEADY, *words]
    return subprocess.Popen(
        command, env=env, text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def log_size(out: Path) -> int:
    """Return how much the seeds have told so far."""
    return sum(log.stat().st_size for log in out.glob("seed-*/events.jsonl"))


def wait_for_news(out: Path, before: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while log_size(out) <= before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(group: int) -> bool:
    """Say whether nobody of a process group is left, soon."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
