"""A budget is planned against the first labels of one's own, on one's own model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.cli import main
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.labelling.data_access import draw_posts, micro_model
from tandem.rng import Seed

pytestmark = pytest.mark.slow


def pilot(n: int, flips: float) -> Groups:
    """Posts with two summaries each, compared by the truth with errors."""
    rng = np.random.default_rng(0)
    return Groups.of(
        Group(
            Prompt(row.id, row.text, row.messages),
            tuple(Completion(a) for a in row.answers),
            preferences=(Preference(0, 1, float((better > 0) != (rng.random() < flips))),),
        )
        for row, better in draw_posts(n, Seed(0))
    )


def test_a_pilot_is_read_and_planned_with(tmp_path: Path, capsys: Any):
    file, out = tmp_path / "pilot.parquet", tmp_path / "plan.json"
    pilot(120, 0.1).write(file)
    command = [
        "budget", "--total", "40", "--pilot", str(file), "--model", str(micro_model()),
        "--answers", "4", "--max_tokens", "16", "--features", "4", "--seeds", "8",
        "--json", str(out), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "pilot of 120 comparisons" in said
    assert json.loads(out.read_text())["buys"]["cost"] <= 40
    pilot(12, 0.1).write(file)
    assert main([*command[:-1], str(tmp_path / "few")]) == 2
    assert "the pilot has 12 comparisons" in capsys.readouterr().err
    assert not (tmp_path / "few").exists()
