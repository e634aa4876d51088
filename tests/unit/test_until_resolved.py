"""Seeds that are added until every claim is resolved: when it ends, and what it then reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_bench_results import PLAN, row, write_seed
from test_bench_workers import PLAN as FIVE
from test_bench_workers import Clock

import benches
import pages
from tandem.bench import Plan, collect_results, run_seeds, workers
from tandem.bench.anytime_results import unresolved_claims
from tandem.bench.outcomes import read_outcomes
from tandem.bench.results import restate_results
from tandem.bench.table import results_table
from tandem.cli.bench import comparison_notes, make_bench_parser, verdict_lines
from tandem.cli.plans import make_plan
from tandem.cli.settings import parse_words
from tandem.errors import ConfigError
from tandem.machine import Machine
from tandem.report import write_report
from tandem.runs.atomic_files import write_json
from tandem.statistics import confidence_sequence
from tandem.statistics.crossed import ALPHA

MOST = 6
ADDING = replace(PLAN, seeds=tuple(range(MOST)), fewest_seeds=3)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Four of six seeds are done."""
    place = tmp_path_factory.mktemp("bench")
    for seed in range(4):
        write_seed(place, seed)
    return place


@pytest.mark.parametrize("resolved_at", [3, 4, 9])
def test_it_ends_once_every_claim_is_resolved_or_at_the_most(resolved_at, tmp_path, monkeypatch):
    clock = Clock(1.0)
    monkeypatch.setattr(workers, "time_seed", clock)
    plan = replace(FIVE, fewest_seeds=3)
    done = run_seeds(plan, tmp_path, Machine(), is_resolved=lambda: len(clock.done) >= resolved_at)
    assert done == clock.done == list(range(min(resolved_at, 5)))


def test_without_the_flag_nobody_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "time_seed", Clock(1.0))
    assert run_seeds(FIVE, tmp_path, Machine(), is_resolved=lambda: True) == list(range(5))


def test_claims_that_are_open_are_named(out):
    assert unresolved_claims(ADDING, out) == ["SFT < same"]
    assert unresolved_claims(replace(ADDING, seeds=tuple(range(4))), out) == []
    without = replace(ADDING, claims=())
    table = collect_results(without, out, "tandem bench x")["policies"]
    by_table = [f"SFT < {p['policy']}" for p in table if (p.get("Holm p") or 0) >= ALPHA]
    assert unresolved_claims(without, out) == by_table == ["SFT < same"]


def test_what_is_reported_holds_whenever_one_stops(out, tmp_path):
    told = collect_results(ADDING, out, "tandem bench x --until_resolved 6")
    outcomes = read_outcomes(out / "outcomes.parquet")
    assert told["seeds"] == [0, 1, 2, 3]
    assert told["until_resolved"] == {"fewest": 3, "most": MOST}
    columns = outcomes.columns
    gain = confidence_sequence(columns["better"]["truth"] - columns["SFT"]["truth"])
    assert told["order"][0]["gain"]["low"] == gain.low
    assert row(told, "better")["truth gain"]["high"] == gain.high
    assert row(told, "better")["win vs SFT"]["high"] <= 1
    assert row(told, "better")["lc_win"]["low"] is None
    assert [c["verdict"] for c in told["order"]] == [
        "resolved", "not resolved", "reversed", "not measured",
    ]  # fmt: skip
    assert any("hold whenever one stops" in x for x in told["limits"])
    assert not any("planned seeds are not finished" in x for x in told["limits"])
    again = restate_results(told, outcomes)
    assert again["order"] == told["order"]
    assert again["policies"] == told["policies"]
    assert "docs/adr/0019" in pages.reading(told)
    assert "better" in results_table(told)
    assert verdict_lines(told)
    write_json(tmp_path / "results.json", told)
    assert write_report(tmp_path).exists()


def test_a_verdict_that_could_not_be_read_widens_its_interval(out):
    """It may have been won or lost; it does not stop the results."""
    told = collect_results(ADDING, out, "tandem bench x")
    outcomes = read_outcomes(out / "outcomes.parquet")
    whole = row(told, "better")["annotator_win"]
    outcomes.columns["better"]["annotator_win"][0, 0] = np.nan
    bounds = row(restate_results(told, outcomes), "better")["annotator_win"]
    assert bounds["low"] < whole["low"] or bounds["high"] > whole["high"]
    assert "1 unreadable" in bounds["method"]


def test_the_ordinary_intervals_are_narrower(out):
    fixed = collect_results(replace(PLAN, seeds=tuple(range(4))), out, "tandem bench x")
    told = collect_results(ADDING, out, "tandem bench x")

    def width(results: dict, name: str, column: str) -> float:
        found = row(results, name)[column]
        return found["high"] - found["low"]

    for name in ("better", "same", "worse"):
        for column in ("truth gain", "win vs SFT", "truth", "proxy", "annotator_win"):
            assert width(told, name, column) > width(fixed, name, column)


def planned(*words: str) -> Plan:
    return make_plan(parse_words(make_bench_parser(), list(words)))


def test_the_flag_makes_the_plan(tmp_path):
    path = str(benches.plan(tmp_path / "plan.yaml"))
    plan = planned(path, "--until_resolved=8")
    assert (plan.seeds, plan.fewest_seeds) == (tuple(range(8)), 3)  # two would say nothing
    assert "seeds 0, 1, 2, and more up to 7 until every claim is resolved" in comparison_notes(plan)
    plan = planned(path, "--until_resolved=8", "--seeds=5", "--first_seed=10")
    assert (plan.seeds, plan.fewest_seeds) == (tuple(range(10, 18)), 5)
    assert planned(path).fewest_seeds is None
    with pytest.raises(ConfigError, match=r"until_resolved 2.*3 seeds are done"):
        planned(path, "--until_resolved=2")
    with pytest.raises(ConfigError, match="fewer --seeds"):
        planned(path, "--until_resolved=4", "--seeds=5")


def test_a_seed_more_changes_the_interval_and_not_its_honesty():
    d = np.random.default_rng(0).normal(0.5, 1, (8, 40))
    found = [confidence_sequence(d[:s]) for s in range(3, 9)]
    assert len({x.low for x in found}) == len(found)
    assert all(x.seeds == s for x, s in zip(found, range(3, 9), strict=True))
