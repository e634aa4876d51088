"""Pages of results: numbers come from the JSON, the paper's stand apart, and the JSON is small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import iterated
import outcome_trees
import pages
import remake
import rlaif
from pages import FOLDER, LARGEST, NOW, is_bench, listed, page, portable, reduced, with_interval
from reports import synthetic
from tandem.report.results_file import read_results

LOSSES = {"plain": (0.5, 0.6, 0.7), "soft": (0.4, 0.51, 0.59)}


def results() -> dict:
    """A synthetic bench with a paper's number on one row and one failed method."""
    found = synthetic()
    found.setdefault("budget", {})
    found["budget"] |= {"demonstrations": 3000, "pairs": 1000, "flips": 0.25, "prompts": 4000}
    return found


def test_the_papers_number_stands_in_its_own_column():
    found = reduced(results(), "2026-11-21")
    trained = next(p for p in found["policies"] if p["policy"] not in ("base", found["opponent"]))
    trained["paper"] = {"win": 45.0}
    text = page(found, "x")
    inside = text.split("## Beside the paper")[1].split("\n## ")[0]
    head, row = [x for x in inside.splitlines() if x.startswith("| ")][0::2]
    assert head.split(" | ")[-1] == "paper: win rate, % |"
    assert row.endswith("| 45 |")
    assert "| 45 |" not in text.replace(inside, "")


def test_the_verdict_is_that_of_the_number_whose_p_value_it_has():
    """Holm's p is of the wins: more wins than losses are no loss, whatever a few large ones say."""
    found = results()
    policy = {"Holm p": 0.01, "win vs SFT": {"mean": 0.6}, "truth gain": {"mean": -0.1}}
    assert pages.verdict(policy, found) == "resolved"
    assert pages.verdict(policy | {"win vs SFT": {"mean": 0.4}}, found) == "worse"
    assert pages.verdict(policy | {"Holm p": float("nan")}, found) == "not resolved"


def test_the_committed_json_is_a_results_file(tmp_path: Path):
    source = tmp_path / "results.json"
    source.write_text(json.dumps(results()))
    out = tmp_path / "docs"
    assert pages.main([str(tmp_path), "--name", "x", "--out", str(out)]) == 0
    assert (out / "x.json").stat().st_size < LARGEST
    assert read_results(out / "x.json")["policies"]
    before = (out / "x.md").read_text()
    (out / "x.md").write_text("")
    assert pages.main(["--again", "--out", str(out)]) == 0
    assert (out / "x.md").read_text() == before


def test_committed_pages_are_made_from_their_json():
    for file in FOLDER.glob("*.json"):
        assert file.stat().st_size < LARGEST, file
        if is_bench(found := json.loads(file.read_text(encoding="utf-8"))):
            assert file.with_suffix(".md").read_text(encoding="utf-8") == page(found, file.stem)


def test_a_command_names_no_folder_of_one_machine():
    said = portable("tandem bench /home/x/experiments/rso.toml --out /home/x/runs/a --workers 2")
    assert said == "tandem bench experiments/rso.toml --workers 2"


def test_what_was_measured_comes_back_as_it_was(tmp_path: Path):
    """Tables, lists of seeds, numbers of prompts, and what is neither."""
    found = [
        {
            "climb": [{"round": 3, "truth": np.array([0.5, 2.0])}],
            "ns": [1, 2],
            "prompts": ["a", "b"],
        },
        {"parts": {"all": [True, False]}, "rows": [[0.5, float("nan")], [1.0, 0.25]], "no": {}},
    ]
    again = outcome_trees.read_outcomes(outcome_trees.write_outcomes(found, tmp_path / "x.parquet"))
    plain = json.dumps(found, default=lambda x: x.tolist())
    assert json.dumps(again) == plain
    assert isinstance(again[0]["ns"][0], int)


def test_prompts_of_a_seed_alone_are_not_paired_with_those_of_another():
    """The claims of rounds stand in the table after Holm; one number a seed goes into each."""
    draw = np.random.default_rng(0)
    seeds = {str(k): dict(zip("ab", draw.normal(0, 1, (2, 30)), strict=True)) for k in range(4)}
    own, same = (
        iterated.difference(np.array([s["a"] - s["b"] for s in seeds.values()]), same_prompts=x)
        for x in (False, True)
    )
    assert (own.seeds, own.method) == (4, "t over seeds")
    assert (same.seeds, same.n) == (4, 30)
    named = {
        k: {"mix": s["a"], "base": s["b"], "SFT": s["b"], "round 1": s["a"]}
        for k, s in seeds.items()
    }
    rows = iterated.table_of({"found": named}).rows
    assert [row[-2:] for row in rows] == [(min(1.0, 2 * own.p_value), "not resolved")] * 2


def test_one_number_a_seed_has_an_interval_over_seeds():
    rows = {way: [{"loss": x, "wins": [x, 1.0]} for x in xs] for way, xs in LOSSES.items()}
    found = rlaif.measured(rows, "plain")["soft"]
    one, many = found["loss"], found["wins"]
    assert one["low"] < one["mean"] < one["high"]
    assert one["gap"]["high"] < 0
    assert (one["gap"]["seeds"], many["gap"]["seeds"], many["gap"]["n"]) == (3, 3, 2)
    assert with_interval(one["gap"], "+.3f") == "-0.100 [-0.125, -0.075]"


def test_seeds_are_spelled_shortly():
    assert [listed(s) for s in ([0], [0, 1], [0, 1, 2], [0, 2, 5])] == [
        "0", "0, 1", "0 to 2", "0, 2, 5"
    ]  # fmt: skip


def test_a_page_that_was_not_measured_again_says_so_with_its_date():
    old = reduced(results(), "2026-11-21")
    old.pop("intervals", None)
    told = page(old, "x").split("## Policies")[0]
    assert "**Measured on 2026-11-21, and not again since.**" in told
    assert "ensemble win" in page(old, "x")  # what stood as gold then was no gold
    new = old | {"intervals": NOW, "gold": None}
    assert "not again since" not in page(new, "x")
    assert "ensemble win" not in page(new, "x")


def test_every_published_page_is_made_by_the_one_command():
    words = " ".join([*(" ".join(w) for w in remake.PAGES), *remake.APART]).replace("_", "-")
    for file in FOLDER.glob("*.json"):
        if not is_bench(json.loads(file.read_text(encoding="utf-8"))):
            assert file.stem in words or f"{file.stem}.py" in words, file
