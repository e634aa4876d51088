"""The load of `benchmarks/labelling_load.py`, shortened: kills, restarts, and no vote is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

from postgres import ABSENT, is_there

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [[], ["--postgresql", "--restarts", "1"]], ids=["sqlite", "postgresql"]
)
def test_no_acknowledged_vote_is_lost_or_doubled(tmp_path, more):
    if more and not is_there():
        pytest.skip(ABSENT)
    out = tmp_path / "found.json"
    command = [
        sys.executable, str(ROOT / "benchmarks" / "labelling_load.py"), "--people", "10",
        "--minutes", "0.2", "--think", "0.4", "--kills", "1", "--out", str(out), *more,
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["acknowledged"] > 50
    assert found["sent_again"] > 0, "the server was away for a while"
    for name in ("lost", "doubled", "over_overlap", "wrong_counts"):
        assert found[name] == 0
