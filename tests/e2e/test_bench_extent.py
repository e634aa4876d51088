"""`tandem bench --start` and `--evaluate`: the meaning that they have in `tandem run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_process import read_results
from test_street_models import model, pairs

from tandem import cli
from tandem.bench import Claim, Entry, Plan
from tandem.errors import ConfigError
from tandem.tasks import Sizes
from vocabularies import CHATML

SHORT = """
title = "short"
seeds = 1
{more}
[sizes]
held_out_share = 0.4
[settings.sampling]
max_tokens = 4
[settings.reward]
epochs = 1
batch = 8
{settings}
[[entry]]
method = "dpo"
[entry.settings.dpo]
epochs = 1
"""
SFT = "[settings.sft]\nsteps = 1\nbatch = 4"


def plan(path: Path, more: str = "", settings: str = "") -> str:
    path.write_text(SHORT.format(more=more, settings=settings))
    return str(path)


def given(tmp_path: Path, template: str | None = CHATML) -> list[str]:
    source, data = tmp_path / "model", tmp_path / "data.jsonl"
    if not source.exists():
        model(source, template)
        pairs(data, 40)
    return ["--model", str(source), "--data", str(data), "--out", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("template", "more", "settings", "flags", "start"),
    [
        (CHATML, "", "", [], "the model as it is"),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                (None, "", "", [], "the model after SFT on the better answers"),
                (CHATML, "", SFT, [], ""),
                (CHATML, 'claims = ["SFT < DPO"]', "", [], "the model after SFT, because"),
                (CHATML, 'start = "sft"', "", [], ""),
                (CHATML, "", "", ["--start", "sft"], ""),
            )
        ),
    ],
)
def test_what_a_comparison_starts_from(
    template: str | None, more: str, settings: str, flags: list[str], start: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    words = [plan(tmp_path / "plan.toml", more, settings), *given(tmp_path, template), *flags]
    assert cli.main(["bench", *words, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert (f"starts from {start}" in said) if start else ("starts from" not in said)


@pytest.mark.parametrize(
    ("more", "flags", "words"),
    [
        ('start = "base"', [], "start is one of sft, model"),
        ('evaluate = "quikc"', [], "Did you mean `quick`"),
        pytest.param("evaluate = 1", [], "evaluate is a text", marks=pytest.mark.slow),
        ('claims = ["SFT < DPO"]', ["--start", "model"], "give --start sft"),
        pytest.param(
            "",
            ["--evaluate", "quick", "--until_resolved", "4"],
            "give --evaluate full",
            marks=pytest.mark.slow,
        ),
        pytest.param("", ["--start", "base"], "base", marks=pytest.mark.slow),
    ],
)
def test_mistakes_are_said_before_anything_is_made(
    more: str, flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given_words = [plan(tmp_path / "plan.toml", more), *given(tmp_path), *flags]
    assert cli.main(["bench", *given_words]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_who_is_compared_with_whom():
    dpo = Entry("DPO", "dpo", {})
    by_sft = Plan("a", "b", (dpo,), (0,), Sizes(), claims=(Claim("SFT", "DPO"),))
    assert (by_sft.opponent, by_sft.policies) == ("SFT", ("base", "SFT", "DPO"))
    by_model = Plan("a", "b", (dpo,), (0,), Sizes(), start="model")
    assert (by_model.opponent, by_model.policies) == ("base", ("base", "DPO"))
    with pytest.raises(ConfigError, match="SFT < DPO"):
        Plan("a", "b", (dpo,), (0,), Sizes(), claims=(Claim("SFT", "DPO"),), start="model")


@pytest.mark.slow
def test_a_quick_look_fits_no_judge_and_a_full_one_goes_on_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [plan(tmp_path / "plan.toml"), *given(tmp_path)]
    assert cli.main(["bench", *words, "--evaluate", "none"]) == 0
    said = capsys.readouterr().out
    assert "not compared" in said
    assert "DPO: " in said
    out = tmp_path / "out"
    assert not (out / "results.json").exists()
    assert cli.main(["bench", *words, "--evaluate", "quick"]) == 0
    said = capsys.readouterr().out
    assert "loss of the better answer" in said
    assert "answers to" in said
    stages = {p.name.partition("-")[2] for p in out.rglob("[0-9]*-*") if p.is_dir()}
    assert not [s for s in stages if "reward" in s or s == "sft"], stages
    trained = next(out.glob("seed-0/dpo/*-dpo/stage.json")).read_text()
    assert cli.main(["bench", *words]) == 0
    results = read_results(out)
    assert results["opponent"] == "base"
    assert [p["policy"] for p in results["policies"]] == ["base", "DPO"]
    assert results["policies"][1]["win vs base"]["mean"] >= 0
    assert next(out.glob("seed-0/dpo/*-dpo/stage.json")).read_text() == trained
    assert "win vs base" in json.dumps(results)
    assert "base" in (out / "report.html").read_text()
