"""`tandem bench`, interrupted: it ends at once, takes its workers along, and says how to go on."""

from __future__ import annotations

import os
import signal

import pytest
from bench_process import PATIENCE, is_gone, start_bench, wait_for_news

import benches


@pytest.mark.parametrize("count", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_an_interrupt_ends_it_cleanly(count, tmp_path):
    plan = benches.plan(tmp_path / "tiny.yaml")
    out = tmp_path / "out"
    with start_bench(plan, out, f"--workers={count}") as process:
        wait_for_news(out, 0, process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    # a shell says 130 of both: an exit with it, and an end by the signal while shutting down
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "interrupted: the same command goes on" in errors
    assert "Traceback" not in errors
    assert is_gone(process.pid)
