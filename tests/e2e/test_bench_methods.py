"""`tandem bench` with every method of the full preset, as brief as they can be."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from bench_process import STEADY, read_results

import benches
from tandem import cli

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_every_method_of_the_full_preset_gets_into_the_report(tmp_path):
    full = tomllib.loads((ROOT / "src/tandem/bench/presets/full.toml").read_text())
    entries = full["entry"]
    for row in entries:  # RLOO's own counts, which are for a whole comparison
        for name in ("prompts", "minibatch", "rounds"):
            row.get("settings", {}).get("grpo", {}).pop(name, None)
    path = benches.plan(
        tmp_path / "brief.yaml",
        entry=entries,
        settings=benches.BRIEF,
        claims=full["claims"],
        seeds=1,
    )
    out = tmp_path / "out"
    assert cli.main(["bench", str(path), "--out", str(out), *STEADY]) == 0
    results = read_results(out)
    assert [row.get("reason") for row in results["policies"]] == [None] * (len(entries) + 2)
    curves = {curve["policy"] for curve in results["curves"]}
    assert curves >= {"PPO", "GRPO", "RLOO", "RLP-UML", "RLP-SPG"}
    assert (out / "report.html").stat().st_size < 1_000_000
