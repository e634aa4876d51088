"""Phase figures: cells become plans, outcomes become differences, and the page says them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import phases
from phase_page import contrast_cells, draw_phase, phase_page, reading
from phases import Phase, make_plans, read_phase, with_changes
from tandem.bench.finished import FAILED
from tandem.bench.outcomes import Outcomes, read_outcomes, write_outcomes
from tandem.runs.atomic_files import write_json
from tandem.runs.names import folder_name

NAMES = sorted(p.stem for p in phases.FOLDER.glob("*.toml"))
SEEDS, PROMPTS = [0, 1, 2, 3, 4], 40
TABLE = {
    "question": "Does it show what is there?",
    "expected": "B is above A with many labels.",
    "seeds": 5,
    "x": {"setting": "sizes.pairs", "label": "labels", "values": [100, 1000]},
    "y": {"setting": "rso.dpo.beta", "label": "beta", "values": [0.1, 0.5]},
    "contrast": [{"a": "B", "b": "A"}],
    "arm": [
        {"name": "A", "method": "dpo", "fixed": True},
        {"name": "B", "method": "rso"},
    ],
}
PHASE = Phase("invented", TABLE)


def invented() -> Outcomes:
    """B is one above A with 1,000 labels, and equal but for noise with 100."""
    rng, columns = np.random.default_rng(0), {}
    level = rng.normal(size=PROMPTS)
    for labels, gain in ((100, 0.0), (1000, 1.0)):
        for name, worth in (("A", 0.0), ("B beta 0.1", gain), ("B beta 0.5", gain), ("SFT", 0.0)):
            noise = rng.normal(0, 0.5, (len(SEEDS), PROMPTS))
            columns[f"labels-{labels} / {name}"] = {"truth": level + worth + noise}
    columns["SFT"] = {"truth": np.zeros((len(SEEDS), PROMPTS))}
    return Outcomes(SEEDS, [f"p{k}" for k in range(PROMPTS)], columns)


def test_a_difference_is_resolved_where_it_is():
    cells = contrast_cells(PHASE, invented())
    told = {(c["cell"]["sizes.pairs"], c["cell"]["rso.dpo.beta"]): c["verdict"] for c in cells}
    assert told == {
        (100, 0.1): "not resolved", (100, 0.5): "not resolved",
        (1000, 0.1): "resolved", (1000, 0.5): "resolved",
    }  # fmt: skip
    said = reading(PHASE, "B", "A", cells)
    assert "above it in 2 (labels 1000, beta 0.1; labels 1000, beta 0.5) of 4 cells" in said
    assert "below it in 0" in said


def test_holm_is_over_all_cells():
    cells = contrast_cells(PHASE, invented())
    alone = contrast_cells(Phase("one", TABLE | {"y": TABLE["y"] | {"values": [0.1]}}), invented())
    ours = {
        c["cell"]["sizes.pairs"]: c["holm_p"] for c in cells if c["cell"]["rso.dpo.beta"] == 0.1
    }
    for c in alone:
        assert ours[c["cell"]["sizes.pairs"]] >= c["holm_p"]


def test_a_fit_that_failed_ends_its_seed_and_is_named(tmp_path: Path):
    """Its cells are left out, and still count in the family."""
    (plan,) = make_plans(Phase("one", TABLE | {"x": TABLE["x"] | {"values": [1000]}}), tmp_path)
    for name in plan.policies:
        scope = plan.folder(tmp_path, 3) / folder_name(name)
        scope.mkdir(parents=True)
        write_json(scope / FAILED, {"reason": "diverged"})
    assert phases.finished_seeds([plan], tmp_path) == [3]

    failed = {"labels-1000 / B beta 0.5": "seed 3: diverged"}
    outcomes = invented()
    del outcomes.columns["labels-1000 / B beta 0.5"]
    cells, alone = contrast_cells(PHASE, outcomes, failed), contrast_cells(PHASE, outcomes)
    assert len(cells) == len(alone) == 3
    least = min(c["holm_p"] for c in alone)
    assert min(c["holm_p"] for c in cells) == pytest.approx(least * 4 / 3)
    found = {
        "name": "invented", "command": "x", "commit": "c", "seeds": SEEDS, "prompts": PROMPTS,
        "failed": failed, "contrasts": cells,
    }  # fmt: skip
    assert "- labels-1000 / B beta 0.5, seed 3: diverged" in phase_page(PHASE, found)


def test_the_page_comes_again_from_its_outcomes(tmp_path: Path):
    pages = []
    for outcomes in (invented(), read_outcomes(write_outcomes(invented(), tmp_path / "o.parquet"))):
        found = {
            "name": "invented", "command": "python experiments/phases.py invented",
            "commit": "c", "seeds": SEEDS, "prompts": PROMPTS, "failed": {},
            "contrasts": contrast_cells(PHASE, outcomes),
        }  # fmt: skip
        json.dumps(found, allow_nan=False)
        draw_phase(PHASE, found, tmp_path / "a.svg")
        pages.append((phase_page(PHASE, found), (tmp_path / "a.svg").read_bytes()))
    assert pages[0] == pages[1]
    text = pages[0][0]
    assert "B is above A with many labels." in text
    assert text.count("| B less A |") == 4
    assert "B less A, labels 1000, beta 0.5: +" in text  # for those who cannot see the figure


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_written_down_whole(name: str, tmp_path: Path):
    phase = read_phase(name)
    x, y = phase.axes
    plans = make_plans(phase, tmp_path, corners=True)
    rows = {f"{plan.place} / {e.name}" for plan in plans for e in plan.entries}
    arms = {arm["name"]: arm for arm in phase.table["arm"]}
    for cell in phase.cells(corners=True):
        for arm in arms.values():
            assert f"{phase.place(cell)} / {phase.row(arm, cell)}" in rows
    assert phase.table["seeds"] >= 5
    assert min(len(x.values), len(y.values)) >= 2
    assert {c[k] for c in phase.table["contrast"] for k in "ab"} <= {*arms, "SFT"}
    assert len(phase.table["expected"].split()) > 10


def test_what_changes_in_a_cell_reaches_the_arm():
    changed = with_changes({"rso": {"keep": 4}}, {"rso.dpo.beta": 0.5})
    assert changed == {"rso": {"keep": 4, "dpo": {"beta": 0.5}}}
    assert with_changes({}, {"ppo.rounds": 3}) == {"ppo": {"rounds": 3}}


def test_a_size_is_the_tasks_and_a_setting_the_methods(tmp_path: Path):
    plans = {plan.place: plan for plan in make_plans(PHASE, tmp_path)}
    assert plans.keys() == {"labels-100", "labels-1000"}
    many = plans["labels-1000"]
    assert many.sizes.pairs == 1000
    assert [e.name for e in many.entries] == ["A", "B beta 0.1", "B beta 0.5"]
    assert [e.configs["rso"].dpo.beta for e in many.entries[1:]] == [0.1, 0.5]
    assert many.folder(tmp_path, 3) == tmp_path / "seed-3" / "labels-1000"
