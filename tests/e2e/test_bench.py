"""`tandem bench` for real: from a plan to the report, resumed, in parallel, killed, interrupted."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from test_command_line import FAST, save_model, save_pairs

import benches
from tandem import cli
from tandem.bench import workers
from tandem.report.verdict import verdict_sentences

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
STEADY = ["--machine.precision=fp32", "--machine.save_seconds=0.05"]
PATIENCE = 600.0


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Sums depend on the number of threads, and workers share them out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    return benches.plan(tmp_path_factory.mktemp("plan") / "tiny.yaml")


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory) -> Path:
    """A comparison that went through: two seeds, one after the other."""
    out = tmp_path_factory.mktemp("bench")
    assert cli.main(["bench", str(plan), "--out", str(out), *STEADY]) == 0
    return out


def test_it_ends_with_the_verdict_and_the_report(finished, plan, capsys):
    assert cli.main(["bench", str(plan), "--out", str(finished), *STEADY]) == 0
    told = capsys.readouterr()
    assert "done in" not in told.err  # every stage was kept
    results = read(finished)
    last = told.out.strip().splitlines()[-1]
    assert last == f"the report is in {finished / 'report.html'}"
    for sentence in verdict_sentences(results):
        assert sentence.claim in told.out
    twin = json.loads((finished / "report.json").read_text())
    assert twin["report"]["verdicts"][0]["claim"] == verdict_sentences(results)[0].claim
    page = (finished / "report.html").read_text()
    assert len(page) < 1_000_000


def test_the_results_are_whole(finished):
    results = read(finished)
    assert results["seeds"] == [0, 1]
    assert results["judge"] == "truth"
    assert [p["policy"] for p in results["policies"]] == [
        "base", "SFT", "DPO", "best-of-n", "broken"
    ]  # fmt: skip
    for row in results["policies"][:4]:
        assert {"truth", "gold_rm", "proxy", "length", "invented", "seconds"} <= set(row)
        assert len(row["per_seed"]["truth gain"]) == 2
    assert [p["n"] for p in results["bon"]] == [1, 2, 4]
    assert {"proxy", "held_out", "truth"} <= set(results["bon"][0])
    assert len(results["order"]) == 2
    assert {c["stage"] for c in results["cost"]} >= {"sft/sft", "dpo/dpo", "best-of-n/pool"}
    assert len({(c["stage"], c["seed"]) for c in results["cost"]}) == len(results["cost"])


def test_a_method_that_fails_takes_nobody_along(finished, capsys):
    (row,) = [p for p in read(finished)["policies"] if p["status"] == "failed"]
    assert row["policy"] == "broken"
    assert "the moon is missing" in row["reason"]
    assert "the moon is missing" in (finished / "report.html").read_text()
    told = json.loads((finished / "seed-0" / "broken" / "failed.json").read_text())
    assert "benches.py" in told["traceback"]


def test_every_method_of_the_full_preset_gets_into_the_report(tmp_path):
    full = tomllib.loads((ROOT / "src/tandem/bench/presets/full.toml").read_text())
    entries = full["entry"]
    path = benches.plan(
        tmp_path / "brief.yaml",
        entry=entries,
        settings=benches.BRIEF,
        claims=full["claims"],
        seeds=1,
    )
    out = tmp_path / "out"
    assert cli.main(["bench", str(path), "--out", str(out), *STEADY]) == 0
    results = read(out)
    assert [row.get("reason") for row in results["policies"]] == [None] * (len(entries) + 2)
    curves = {curve["policy"] for curve in results["curves"]}
    assert curves >= {"PPO", "GRPO", "RLOO", "RLP-UML", "RLP-SPG"}
    assert (out / "report.html").stat().st_size < 1_000_000


def test_two_workers_find_the_same_numbers(finished, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 2)  # one thread each, as in this process
    assert cli.main(["bench", str(plan), f"--out={tmp_path}", "--workers=2", *STEADY]) == 0
    assert benches.numbers(read(tmp_path)) == benches.numbers(read(finished))


@pytest.mark.ray
def test_a_ray_cluster_finds_the_same_numbers(finished, plan, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="pip install 'tandem-rlhf[ray]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray leaves its token
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        words = [str(plan), f"--out={tmp_path / 'out'}", "--workers=2", "--engine=ray", *STEADY]
        assert cli.main(["bench", *words]) == 0
    finally:
        ray.shutdown()
    assert benches.numbers(read(tmp_path / "out")) == benches.numbers(read(finished))


# your own model and data ----------------------------------------------------------------------


def own(tmp_path: Path, **settings: dict[str, Any]) -> Path:
    """A plan without task: DPO alone, and settings of everybody."""
    rows = [{"name": "DPO", "method": "dpo"}]
    return benches.plan(
        tmp_path / "own.yaml", entry=rows, seeds=1, claims=[], sizes={"held_out_share": 0.25},
        settings=settings,
    )  # fmt: skip


def tables(flags: list[str]) -> dict[str, dict[str, Any]]:
    """Return the flags of another test as a plan's settings."""
    found: dict[str, dict[str, Any]] = {}
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        method, _, setting = name.partition(".")
        if method not in ("machine", "sizes"):
            found.setdefault(method, {})[setting] = json.loads(value)
    return found


def test_without_truth_the_gold_reward_decides(tmp_path):
    model, pairs = save_model(tmp_path / "model"), save_pairs(tmp_path / "pairs.jsonl")
    out = tmp_path / "out"
    words = [f"--model={model}", f"--data={pairs}", f"--out={out}", "--machine.precision=fp32"]
    assert cli.main(["bench", str(own(tmp_path, **tables(FAST))), *words]) == 0
    results = read(out)
    assert results["judge"] == "gold_rm"
    assert results["budget"] == {"held_out_share": 0.25}
    assert "truth" not in results["policies"][0]
    assert any("Nobody knows the truth" in line for line in results["limits"])
    assert "No truth" in (out / "report.html").read_text()


def test_data_that_nobody_judged_is_refused(tmp_path, capsys):
    model, data = save_model(tmp_path / "model"), tmp_path / "asked.jsonl"
    rows = [{"prompt": f"say {i}", "completion": f"{i} is it"} for i in range(64)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"--model={model}", f"--data={data}", f"--out={tmp_path / 'out'}"]
    assert cli.main(["bench", str(own(tmp_path)), *words]) == 2
    assert "nobody can judge" in capsys.readouterr().err


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared beside the repository")
def test_a_real_model_on_real_preferences(tmp_path):
    model, data = SHARED / "models" / "stories260k", tmp_path / "harmless.jsonl"
    with gzip.open(SHARED / "data" / "hh_harmless.jsonl.gz", "rt", encoding="utf-8") as lines:
        data.write_text("".join(itertools.islice(lines, 60)), encoding="utf-8")
    plan, out = own(tmp_path, sampling={"max_tokens": 16}), tmp_path / "out"
    words = [f"--model={model}", f"--data={data}", f"--out={out}"]
    assert cli.main(["bench", str(plan), *words]) == 0
    assert read(out)["judge"] == "gold_rm"


# killed and interrupted -----------------------------------------------------------------------


def started(plan: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own.

    A shell's background jobs ignore SIGINT, and what they start inherits that: it is undone.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tandem", "bench", str(plan), f"--out={out}", *STEADY, *words]
    return subprocess.Popen(
        command, env=env, text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def said(out: Path) -> int:
    """Return how much the seeds have told so far."""
    return sum(log.stat().st_size for log in out.glob("seed-*/events.jsonl"))


def wait_for_news(out: Path, before: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while said(out) <= before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(group: int) -> bool:
    """Say whether nobody of a process group is left, soon."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("count", ["1", "2"])
def test_an_interrupt_ends_it_cleanly(count, plan, tmp_path):
    with started(plan, tmp_path, f"--workers={count}") as process:
        wait_for_news(tmp_path, 0, process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    # a shell says 130 of both: an exit with it, and an end by the signal while shutting down
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "interrupted: the same command goes on" in errors
    assert "Traceback" not in errors
    assert gone(process.pid)


@pytest.mark.slow
def test_five_kills_leave_the_numbers_as_they_were(finished, plan, tmp_path):
    """kill -9 at five random moments; the same command then ends with the same numbers."""
    dice, kills = random.Random(0), 0
    seconds = sum(c["seconds"] for c in read(finished)["cost"])
    while kills < 5:
        with started(plan, tmp_path) as process:
            wait_for_news(tmp_path, said(tmp_path), process)
            time.sleep(dice.uniform(0.0, 0.3 * seconds))
            process.kill()
            if process.wait() == 0:
                break
            kills += 1
    with started(plan, tmp_path) as process:
        assert process.wait(timeout=PATIENCE) == 0
    print(f"{kills} kills")
    assert kills == 5
    assert benches.numbers(read(tmp_path)) == benches.numbers(read(finished))
