"""Two processes train one model: the same weights as one process, written by rank 0 alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tandem.runs.events import read_events
from tandem.runs.records import read_records
from tiny import folder

SCRIPT = str(Path(__file__).with_name("training.py"))
STAGES = ["01-sft", "02-reward", "03-dpo"]
VIEWS = "04-reward-uml"


def launch(launcher: list[str], home: Path, base: Path, settings: dict) -> Path:
    env = {**os.environ, "TANDEM_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    command = [*launcher, SCRIPT, str(home / "run"), str(base), json.dumps(settings)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    return home / "run"


def port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def torchrun() -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-addr", "127.0.0.1", "--master-port", port(),
    ]  # fmt: skip


def accelerate() -> list[str]:
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
        "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "bf16",
        "--gradient_accumulation_steps", "4", "--main_process_port", port(),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch([sys.executable], tmp_path_factory.mktemp("alone"), base, {"views": True})


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [accelerate, torchrun], ids=["accelerate", "torchrun"])
def test_two_processes_make_the_same_weights(launcher, base: Path, alone: Path, tmp_path: Path):
    """Each step is divided by its weight on all ranks, so its cut over ranks changes nothing.

    Sums are taken in another order, and 48 steps of training follow: 1e-6 of the norm remains.
    What the launcher was told about precision and accumulation is not this loop's business.
    In the last stage a step's micro-batches are comparisons and views, so that ranks hold
    different terms of the loss, and negatives come from prompts of the other rank.
    """
    both = launch(launcher(), tmp_path, base, {"views": True})
    assert [r.folder.name for r in read_records(both)] == [*STAGES, VIEWS]
    for stage in (*STAGES, VIEWS):
        one, two = (
            load_file(run / stage / "artifact" / "model.safetensors") for run in (alone, both)
        )
        start = load_file(base / "model.safetensors")
        for name, x in one.items():
            off = (two[name] - x).norm() / x.norm().clamp(min=1e-12)
            assert off < 1e-6, f"{stage} {name}: {off:.1e}"
        moved = [(one[n] - x).norm() / x.norm() for n, x in start.items() if n in one]
        assert torch.stack(moved).max() > 1e-2
    said(alone, both)


def said(alone: Path, both: Path) -> None:
    """Assert that events were written once, and say the same of the training."""
    one, two = (list(read_events(run / "events.jsonl")) for run in (alone, both))
    kinds = [Counter(e["kind"] for e in log if e["kind"] != "progress") for log in (one, two)]
    assert kinds[0] == kinds[1]
    losses = [
        [(e["stage"], e["step"], v) for e in log if e["kind"] == "train"
         for k, v in sorted(e.items()) if k.endswith(("loss", "grad_norm"))]
        for log in (one, two)
    ]  # fmt: skip
    for a, b in zip(*losses, strict=True):
        assert a[:2] == b[:2]
        assert a[2] == pytest.approx(b[2], rel=1e-4, abs=1e-6)
    assert len(losses[0]) > 20
    files = [
        sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())
        for run in (alone, both)
    ]
    assert files[0] == files[1]


@pytest.mark.slow
def test_two_processes_climb_together(base: Path, tmp_path: Path):
    """Every rank draws the same samples and trains on its share of the micro-batches."""
    one = launch([sys.executable], tmp_path / "one", base, {"climbs": True})
    two = launch(torchrun(), tmp_path / "two", base, {"climbs": True})
    a, b = (load_file(r / "04-grpo/artifact/model.safetensors") for r in (one, two))
    start = load_file(one / "01-sft/artifact/model.safetensors")
    for name, x in a.items():
        assert (b[name] - x).norm() < 1e-5 * x.norm().clamp(min=1e-12), name
    assert max((a[n] - x).norm() / x.norm() for n, x in start.items()) > 1e-3


@pytest.mark.slow
def test_two_processes_resume_together(base: Path, tmp_path: Path):
    """Both ranks are killed in the middle, and launched again: the bytes of a calm launch."""
    calm = launch(torchrun(), tmp_path / "calm", base, {"save_seconds": 0.01})
    home = tmp_path / "torn"
    env = {**os.environ, "TANDEM_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    settings = json.dumps({"save_seconds": 0.01})
    process = subprocess.Popen(
        [*torchrun(), SCRIPT, str(home / "run"), str(base), settings],
        env=env, start_new_session=True,
    )  # fmt: skip
    while not list((home / "run").glob("03-dpo.part/scratch/state.safetensors")):
        assert process.poll() is None
    os.killpg(process.pid, 9)
    process.wait()
    torn = launch(torchrun(), home, base, {"save_seconds": 0.01})
    for stage in STAGES:
        model = f"{stage}/artifact/model.safetensors"
        assert (torn / model).read_bytes() == (calm / model).read_bytes()


@pytest.mark.slow
def test_two_processes_share_a_step_of_one_micro_batch(tmp_path: Path):
    """Each reads half of the 8 groups: two answers of 10 tokens, each behind 20 of the prompt."""
    script = str(Path(__file__).with_name("sharing.py"))
    shares = {"alone": [480], "both": [240, 240]}
    for name, launcher in (("alone", [sys.executable]), ("both", torchrun())):
        (tmp_path / name).mkdir()
        subprocess.run([*launcher, script, str(tmp_path / name)], check=True, timeout=200)
        assert [int(f.read_text()) for f in sorted((tmp_path / name).iterdir())] == shares[name]
