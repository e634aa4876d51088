"""One sample file of each published format, as a newcomer gives it to the two first commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_street_models import model

from other_tools import PUBLISHED, SHAPES, Case, Q, write
from tandem import cli

NAMES = (
    "11 ShareGPT objects", "11 OpenAI", "11 Label Studio", "11 Label Studio short", "HH",
    "PKU-SafeRLHF", "SHP", "Nectar", "UltraFeedback", "UltraFeedback, binarized", "Argilla's mix",
    "HelpSteer3", "HelpSteer2's preferences", "HelpSteer2", "arena", "arena as a table",
)  # fmt: skip
TWO = ("11 OpenAI", "Nectar")


def sample(case: Case, folder: Path, n: int = 24) -> Path:
    """Write a case's rows again and again, each time about another river."""
    text = json.dumps(case.rows)
    rows = [row for k in range(n) for row in json.loads(text.replace(Q, f"{k}. {Q}"))]
    return write(folder, Case(case.name, rows, kind=case.kind))


@pytest.mark.parametrize(
    "name", [n if n in TWO else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_check_and_dry_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    case = next(c for c in (*SHAPES, *PUBLISHED) if c.name == name)
    data, source = sample(case, tmp_path), model(tmp_path / "model")
    assert cli.main(["data", "check", str(data), "--model", str(source)]) == 0
    assert f"{24} prompts" in capsys.readouterr().out
    words = ["--model", str(source), "--data", str(data), "--dry_run"]
    assert cli.main(["run", "dpo", *words]) == 0
    assert "passes over" in capsys.readouterr().out
