"""kill -9 at random moments, the same command again: the weights are the same to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tandem.runs.events import read_events
from tandem.runs.records import read_records
from tiny import folder

COMMAND = [sys.executable, str(Path(__file__).with_name("training.py"))]
STAGES = ["01-sft", "02-reward", "03-dpo"]
PATIENCE = 120.0


@dataclass
class Victim:
    """A run that is killed now and then."""

    home: Path
    base: Path
    settings: dict
    kills: list[str] = field(default_factory=list)

    @property
    def place(self) -> Path:
        return self.home / "run"

    def start(self) -> subprocess.Popen[bytes]:
        command = [*COMMAND, str(self.place), str(self.base), json.dumps(self.settings)]
        env = {**os.environ, "TANDEM_CACHE": str(self.home / "cache"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=env)

    def finish(self) -> None:
        with self.start() as process:
            assert process.wait(timeout=PATIENCE * 3) == 0

    def kill_after(self, seconds: float) -> None:
        """Let it work for some seconds after its first word, then kill it; or let it finish."""
        log = self.place / "events.jsonl"
        before = log.stat().st_size if log.exists() else 0
        with self.start() as process:
            deadline = time.monotonic() + PATIENCE
            while not log.exists() or log.stat().st_size == before:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                assert process.returncode == 0  # it was faster
            else:
                parts = [p.name for p in self.place.glob("*.part")]
                self.kills.append(parts[0] if parts else "between")

    @property
    def done(self) -> bool:
        return [r.folder.name for r in read_records(self.place)] == STAGES

    def resumes(self) -> int:
        """How often a stage went on from a step checkpoint."""
        events = read_events(self.place / "events.jsonl")
        return sum(e["kind"] == "started" and e["resumed"] == "True" for e in events)


def artifacts(place: Path) -> dict[str, bytes]:
    files = (f for stage in STAGES for f in (place / stage / "artifact").rglob("*") if f.is_file())
    return {f.relative_to(place).as_posix(): f.read_bytes() for f in files}


def differing(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Name the files that only one of them has, or that differ."""
    return sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))


def torture(
    tmp_path: Path, kills: int, seed: int, where: frozenset[str] = frozenset(), **settings: object
) -> tuple[list[str], int]:
    """Kill `kills` times and until kills fell on `where`; compare each run with a calm one."""
    base = folder(tmp_path / "base")
    machine = {"save_seconds": 0.01, **settings}
    calm = Victim(tmp_path / "calm", base, machine)
    calm.finish()
    times = [e["time"] for e in read_events(calm.place / "events.jsonl")]
    wanted, dice = artifacts(calm.place), random.Random(seed)
    assert {"01-sft/artifact/model.safetensors", "03-dpo/artifact/config.json"} <= set(wanted)
    seen: list[str] = []
    resumes = runs = 0

    def enough(found: list[str]) -> bool:
        return len(found) >= kills and where <= set(found)

    while not enough(seen):
        runs += 1
        torn = Victim(tmp_path / f"torn-{runs}", base, machine)
        while not enough(seen + torn.kills) and not torn.done:
            torn.kill_after(dice.uniform(0.0, 0.7 * (times[-1] - times[0])))
            for record in read_records(torn.place):
                assert (record.folder / "DONE").exists()
        torn.finish()
        assert not differing(artifacts(torn.place), wanted)
        seen += torn.kills
        resumes += torn.resumes()
    return seen, resumes


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path):
    seen, _ = torture(tmp_path, kills=3, seed=2)
    assert len(seen) == 3


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_twenty_kills(lora: dict | None, tmp_path: Path):
    """20 kills fall into every stage, and most of them are resumed from a step checkpoint."""
    every = frozenset(f"{s}.part" for s in STAGES)
    seen, resumes = torture(tmp_path, kills=20, seed=0, where=every, lora=lora)
    counts = {name: seen.count(name) for name in sorted(set(seen))}
    print(f"{len(seen)} kills {counts}, {resumes} resumes from a step checkpoint")
    assert resumes >= 5
