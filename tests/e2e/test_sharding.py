"""FSDP2 in two real processes: the numbers of one process, half of the state in each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tiny import folder

SCRIPT = str(Path(__file__).with_name("ranks.py"))
Job = tuple[int, Path, str, dict[str, Any]]
"""Processes, place, method, settings."""
SHARDED = {"sharding": "fsdp2"}
LORA = {"lora": {"rank": 4}}
CUT_OTHERWISE = 3.5e-5
"""How far a gradient norm of PPO's eighth step is from itself when one process cuts the step into
micro-batches of 30 or 120 tokens instead of 60: 1.8e-5 and 3.3e-5. Other steps: 7e-6 at most."""


def fitted(base: Path, *jobs: Job) -> list[list[dict[str, Any]]]:
    """Fit in processes of their own, one job after the other; return what each process saw."""
    listed = [
        {"processes": n, "place": str(place), "base": str(base), "method": m, "settings": settings}
        for n, place, m, settings in jobs
    ]
    words = [sys.executable, "-W", "ignore", SCRIPT, json.dumps(listed)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def difference(one: Path, other: Path) -> float:
    """The largest distance of a weight, as a share of its norm."""
    a, b = (load_file(place / "out" / "model.safetensors") for place in (one, other))
    assert a.keys() == b.keys()
    return max(float((b[k] - x).norm() / x.norm().clamp(min=1e-12)) for k, x in a.items())


def moved(base: Path, place: Path) -> float:
    """How far the weights went from where they began."""
    a, b = load_file(base / "model.safetensors"), load_file(place / "out" / "model.safetensors")
    return max(float((b[k] - x).norm() / x.norm()) for k, x in a.items() if k in b)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("base"))


def compared(base: Path, tmp_path: Path, method: str, settings: dict[str, Any]) -> None:
    """Assert that one process and two sharded ones do the same."""
    [alone], both = fitted(
        base,
        (1, tmp_path / "one", method, settings),
        (2, tmp_path / "two", method, settings | SHARDED),
    )
    assert len(alone["losses"]) > 3
    for seen in both:
        assert torch.tensor(seen["losses"]) == pytest.approx(
            torch.tensor(alone["losses"]), rel=1e-5, abs=1e-6
        )
        rel = CUT_OTHERWISE if method.startswith("ppo") else 1e-5
        assert seen["grad_norms"] == pytest.approx(alone["grad_norms"], rel=rel)
    assert difference(tmp_path / "one", tmp_path / "two") < 1e-6
    assert moved(base, tmp_path / "two") > 1e-3


@pytest.mark.slow
def test_a_process_holds_less_at_its_peak(tmp_path: Path):
    """19 M parameters by DPO: weights, gradients and moments are 308 MB, half of them 154."""
    wide = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
    big, how = folder(tmp_path / "big", **wide), {"epochs": 1, "tokens": 200}
    [alone], both = fitted(
        big, (1, tmp_path / "one", "dpo", how), (2, tmp_path / "two", "dpo", how | SHARDED)
    )
    for seen in both:
        assert seen["megabytes"] < 0.7 * alone["megabytes"], (seen["megabytes"], alone["megabytes"])


def test_two_sharded_processes_fit_what_one_does(base: Path, tmp_path: Path):
    """DPO: packed forward, reference column, ragged weights over ranks, clipping, saving."""
    compared(base, tmp_path, "dpo", {"epochs": 2})


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    "method", ["sft", "reward", "reward-views", "kto", "ppo", "ppo-shared", "grpo"]
)
def test_every_method_fits_what_one_process_does(
    method: str, settings: dict[str, Any], base: Path, tmp_path: Path
):
    compared(base, tmp_path, method, settings)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_a_fit_goes_on_in_another_number_of_processes(
    method: str, before: int, after: int, base: Path, tmp_path: Path
):
    """Interrupted after its third step; on as many processes every bit is the calm fit's."""

    def settings(processes: int, **more: Any) -> dict[str, Any]:
        return {"save_seconds": 0.0, **(SHARDED if processes > 1 else {}), **more}

    calm, torn = tmp_path / "calm", tmp_path / "torn"
    [whole, *_], _ = fitted(
        base,
        (after, calm, method, settings(after)),
        (before, torn, method, settings(before, dies_at=4)),
    )
    assert (torn / "scratch" / "state.safetensors").exists()
    assert not (torn / "out" / "model.safetensors").exists()
    [[first, *_]] = fitted(base, (after, torn, method, settings(after)))
    assert len(first["losses"]) == len(whole["losses"]) - 3
    off = difference(calm, torn)
    assert off == 0 if before == after else off < 1e-6


@pytest.mark.slow
def test_a_sharded_process_holds_less(tmp_path: Path):
    """Weights, gradients and moments of 20 M parameters: 16 bytes each alone, 8 in one of two."""
    big = folder(tmp_path / "big", hidden_size=512, intermediate_size=1024, num_hidden_layers=8)
    settings = {"epochs": 1, "tokens": 200}
    [alone], both, whole = fitted(
        big,
        (1, tmp_path / "one", "dpo", settings),
        (2, tmp_path / "two", "dpo", settings | SHARDED),
        (2, tmp_path / "ddp", "dpo", settings),
    )
    for sharded, copied in zip(both, whole, strict=True):
        assert sharded["megabytes"] < 0.8 * copied["megabytes"]
        assert sharded["megabytes"] < 0.8 * alone["megabytes"]
