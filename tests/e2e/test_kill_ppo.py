"""SIGKILL a real PPO run, run the same command again: the same weights, bit for bit.

The victim (`ppo_victim.py`) saves its state at every step, so a kill may fall into sampling,
scoring, training, saving or evaluating. A moment is a random step plus a random delay.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tandem.evaluation import reward_hacking
from tandem.runs.checkpoint import file_hash
from tandem.runs.events import read_events
from tiny import folder

VICTIM = Path(__file__).with_name("ppo_victim.py")
ROOT = Path(__file__).parents[2]
PATIENCE = 300.0


def start(init: Path, where: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(VICTIM), str(init), str(where)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(init: Path, where: Path) -> str:
    """Run to the end; return the hash of the exported weights."""
    process = start(init, where)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.decode()
    return file_hash(where / "01-policy" / "artifact" / "model.safetensors")


def kinds(where: Path) -> list[str]:
    log = where / "events.jsonl"
    return [e["kind"] for e in read_events(log)] if log.exists() else []


def kill_at(init: Path, where: Path, count: int, delay: float, kind: str = "train") -> bool:
    """Kill once the log tells of so many steps (`train`) or rounds, after a delay.

    After a step it is training that is hit, after a round sampling or evaluating. False if the
    process was done before.
    """
    process = start(init, where)
    deadline = time.monotonic() + PATIENCE
    while kinds(where).count(kind) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            break
        time.sleep(0.002)
    time.sleep(delay)
    alive = process.poll() is None
    if alive:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    return alive


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("init"))


@pytest.fixture(scope="module")
def undisturbed(init: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    where = tmp_path_factory.mktemp("calm")
    return finish(init, where), where


def killed_twice(init: Path, where: Path, seed: int) -> str:
    """Kill at two random moments, once in training and once in sampling; then let it finish.

    Odd seeds are hit in sampling first. The second moment is in the resumed run.
    """
    rng = np.random.default_rng(seed)
    moments = {"train": (40, 0.01), "round": (6, 0.03)}
    order = ("train", "round") if seed % 2 == 0 else ("round", "train")
    for kind in order:
        most, longest = moments[kind]
        count = kinds(where).count(kind) if where.exists() else 0
        wanted = int(rng.integers(count, most)) + 1 if count < most else count + 1
        assert kill_at(init, where, wanted, float(rng.uniform(0, longest)), kind)
        last = [k for k in kinds(where) if k in ("train", "round")][-1]
        print(f"seed {seed}: killed in {'training' if last == 'train' else 'sampling'}")
    return finish(init, where)


@pytest.mark.slow
def test_killed_ppo_ends_bit_identical(init: Path, undisturbed: tuple[str, Path], tmp_path: Path):
    weights, where = undisturbed
    assert kinds(where).count("round") == 8
    assert kinds(where).count("watch") == 5
    assert killed_twice(init, tmp_path, seed=0) == weights
    assert curve(tmp_path) == curve(where)
    points = [reward_hacking.read_curve(place / "events.jsonl") for place in (tmp_path, where)]
    assert [p["round"] for p in points[0]] == [0, 2, 4, 6, 8]
    assert str(reward_hacking.diagnose_curve(points[0])) == str(
        reward_hacking.diagnose_curve(points[1])
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_killed_ppo_ends_bit_identical_at_ten_random_moments(
    seed: int, init: Path, undisturbed: tuple[str, Path], tmp_path: Path
):
    weights, where = undisturbed
    assert killed_twice(init, tmp_path, seed) == weights
    assert curve(tmp_path) == curve(where)


def curve(where: Path) -> dict[float, tuple[float, float]]:
    """Round -> (truth, kl): what was evaluated twice is the same twice."""
    found: dict[float, tuple[float, float]] = {}
    for e in read_events(where / "events.jsonl"):
        if e["kind"] == "watch":
            point = (e["truth"], e["kl"])
            assert found.setdefault(e["round"], point) == point
    return found
