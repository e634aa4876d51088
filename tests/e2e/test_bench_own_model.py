"""`tandem bench` on a model and data of one's own, where nobody knows the truth."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from bench_process import read_results
from test_command_line import FAST, save_model, save_pairs

import benches
from tandem import cli

SHARED = Path(__file__).parents[3] / "shared"
pytestmark = pytest.mark.usefixtures("one_thread")


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
        if setting and method not in ("machine", "sizes"):
            found.setdefault(method, {})[setting] = json.loads(value)
    return found


@pytest.mark.slow
def test_without_truth_the_gold_reward_decides(tmp_path):
    """A part of the data is held back for it, and its accuracy is printed."""
    model, pairs = save_model(tmp_path / "model"), save_pairs(tmp_path / "pairs.jsonl", 1100)
    out, fast = tmp_path / "out", tables(FAST)
    fast["reward"] |= {"optim": {"lr": 1e-2}, "head": "zero"}
    words = [f"--model={model}", f"--data={pairs}", f"--out={out}", "--machine.precision=fp32"]
    assert cli.main(["bench", str(own(tmp_path, **fast)), *words]) == 0
    results = read_results(out)
    assert results["judge"] == "gold_rm"
    assert results["gold"]["judges"]
    assert results["gold"]["accuracy"]["low"] > 0.5
    (told,) = [line for line in results["limits"] if line.startswith("gold_rm was fitted")]
    assert f"right on {results['gold']['accuracy']['mean']:.1%}" in told


def test_with_too_little_data_nobody_is_gold_and_the_proxy_decides(tmp_path):
    model, pairs = save_model(tmp_path / "model"), save_pairs(tmp_path / "pairs.jsonl")
    out = tmp_path / "out"
    words = [f"--model={model}", f"--data={pairs}", f"--out={out}", "--machine.precision=fp32"]
    assert cli.main(["bench", str(own(tmp_path, **tables(FAST))), *words]) == 0
    results = read_results(out)
    assert results["judge"] == "proxy"
    assert results["gold"] is None
    assert results["budget"] == {"held_out_share": 0.25, "gold_share": 0.2}
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


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="no ../shared beside the repository")
def test_a_real_model_on_real_preferences(tmp_path):
    model, data = SHARED / "models" / "stories260k", tmp_path / "harmless.jsonl"
    with gzip.open(SHARED / "data" / "hh_harmless.jsonl.gz", "rt", encoding="utf-8") as lines:
        data.write_text("".join(itertools.islice(lines, 60)), encoding="utf-8")
    plan, out = own(tmp_path, sampling={"max_tokens": 16}), tmp_path / "out"
    words = [f"--model={model}", f"--data={data}", f"--out={out}"]
    assert cli.main(["bench", str(plan), *words]) == 0
    assert read_results(out)["judge"] == "proxy"  # 60 conversations are too few for a gold reward
