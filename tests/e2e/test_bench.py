"""`tandem bench` for real: from a plan to the report, resumed, in parallel, killed."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from bench_process import PATIENCE, STEADY, log_size, read_results, start_bench, wait_for_news

import benches
from tandem import cli
from tandem.bench import workers
from tandem.report.verdict import verdict_sentences

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("one_thread")


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
    results = read_results(finished)
    last = told.out.strip().splitlines()[-1]
    assert last == f"the report is in {finished / 'report.html'}"
    for sentence in verdict_sentences(results):
        assert sentence.claim in told.out
    twin = json.loads((finished / "report.json").read_text())
    assert twin["report"]["verdicts"][0]["claim"] == verdict_sentences(results)[0].claim
    page = (finished / "report.html").read_text()
    assert len(page) < 1_000_000


def test_the_results_are_whole(finished):
    results = read_results(finished)
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
    (row,) = [p for p in read_results(finished)["policies"] if p["status"] == "failed"]
    assert row["policy"] == "broken"
    assert "the moon is missing" in row["reason"]
    assert "the moon is missing" in (finished / "report.html").read_text()
    told = json.loads((finished / "seed-0" / "broken" / "failed.json").read_text())
    assert "benches.py" in told["traceback"]


@pytest.mark.slow
def test_two_workers_find_the_same_numbers(finished, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 2)  # one thread each, as in this process
    assert cli.main(["bench", str(plan), f"--out={tmp_path}", "--workers=2", *STEADY]) == 0
    assert benches.numbers(read_results(tmp_path)) == benches.numbers(read_results(finished))


@pytest.mark.ray
def test_a_ray_cluster_finds_the_same_numbers(finished, plan, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="pip install 'tandem-rlhf[ray]'")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        words = [str(plan), f"--out={tmp_path / 'out'}", "--workers=2", "--engine=ray", *STEADY]
        assert cli.main(["bench", *words]) == 0
    finally:
        ray.shutdown()
    assert benches.numbers(read_results(tmp_path / "out")) == benches.numbers(
        read_results(finished)
    )


@pytest.mark.slow
def test_five_kills_leave_the_numbers_as_they_were(finished, plan, tmp_path):
    """kill -9 at five random moments; the same command then ends with the same numbers."""
    dice, kills = random.Random(0), 0
    seconds = sum(c["seconds"] for c in read_results(finished)["cost"])
    while kills < 5:
        with start_bench(plan, tmp_path) as process:
            wait_for_news(tmp_path, log_size(tmp_path), process)
            time.sleep(dice.uniform(0.0, 0.3 * seconds))
            process.kill()
            if process.wait() == 0:
                break
            kills += 1
    with start_bench(plan, tmp_path) as process:
        assert process.wait(timeout=PATIENCE) == 0
    print(f"{kills} kills")
    assert kills == 5
    assert benches.numbers(read_results(tmp_path)) == benches.numbers(read_results(finished))
