"""SIGKILL a process that pays for labels; the same command again asks only what is missing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chat_server import ChatServer

pytest.importorskip("openai")
VICTIM = Path(__file__).with_name("labelling_victim.py")
ROOT = Path(__file__).parents[2]
GROUPS, FLYING, PATIENCE = 30, 4, 300.0


def start(url: str, kept: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, str(VICTIM), url, str(kept), str(GROUPS)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def on_disk(kept: Path) -> set[str]:
    with sqlite3.connect(kept) as file:
        return {
            row[0] for row in file.execute("select json_extract(asked, '$.messages') from answers")
        }


def test_a_killed_labelling_loses_nothing_and_asks_nothing_twice(tmp_path: Path) -> None:
    kept = tmp_path / "kept.sqlite"
    with ChatServer(seconds=0.03) as server:
        process = start(server.url, kept)
        deadline = time.monotonic() + PATIENCE
        while sum(server.answered.values()) < 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.2)  # the server finishes what is on its way
        before = on_disk(kept)
        assert 10 <= len(before) < 2 * GROUPS
        asked_then = len(server.bodies)
        out, _ = start(server.url, kept).communicate(timeout=PATIENCE)
        assert len(out.split()) == GROUPS
        assert len(on_disk(kept)) == 2 * GROUPS
        again = server.bodies[asked_then:]
        assert len(again) == 2 * GROUPS - len(before)
        assert max(server.answered.values()) <= 2
        assert sum(server.answered.values()) - 2 * GROUPS <= FLYING  # lost on their way
        start(server.url, kept).communicate(timeout=PATIENCE)
        assert len(server.bodies) == asked_then + len(again)
