"""`--task constraints --model FOLDER` on a tiny random chat model: run, bench, check, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tandem import cli
from tandem.pipeline import check_task
from tandem.runs.records import read_records
from tandem.tasks.constraints import HELD_OUT_KINDS, constraints_of
from vocabularies import CHATML, byte_bpe

SIZES = [
    "--sizes.demonstrations=6", "--sizes.pairs=12", "--sizes.held_out=8", "--sizes.prompts=6",
    "--sizes.evaluation=8",
]  # fmt: skip
FAST = [
    "--sft.epochs=1", "--sft.optim.lr=1e-2", "--dpo.epochs=1", "--dpo.optim.lr=1e-3",
    "--sampling.max_tokens=24", "--machine.precision=fp32",
]  # fmt: skip
PLAN = """
title = "tiny"
task = "constraints"
seeds = 1

[sizes]
demonstrations = 6
pairs = 12
held_out = 8
prompts = 6
evaluation = 8

[settings.sampling]
max_tokens = 24

[[entry]]
method = "dpo"
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("chat"), byte_bpe(CHATML)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "dpo"
    assert cli.main(words(model, out)) == 0
    return out


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def words(model: Path, out: Path) -> list[str]:
    start = ["run", "dpo", "--task=constraints", f"--model={model}", f"--out={out}"]
    return [*start, *SIZES, *FAST]


def found(run: Path, name: str):
    return next(r.load() for r in read_records(run) if r.name == name)


def test_a_model_learns_from_comparisons_of_its_own_answers(finished, model):
    own, best = found(finished, "own-rated"), found(finished, "own-best")
    assert len(own) == 6
    for pool, kept in zip(own, best, strict=True):
        assert len(pool) == 4
        assert len(kept) == 1
        assert kept.completions[0].text == pool.completions[int(pool.scores.argmax())].text
        assert kept.completions[0].author == model.name
    compared = found(finished, "preferences")
    assert len(compared) == 12
    assert all(g.preferences[0].by == "annotator" for g in compared)
    assert found(finished, "dpo").files()


def test_the_evaluation_is_by_the_truth_on_new_instructions_and_kinds(finished):
    exam = found(finished, "policy-evaluation")
    assert exam["numbers"]["judge"] == "truth"
    evaluated, trained = found(finished, "evaluation"), found(finished, "preferences")
    for g in evaluated:
        assert {c.kind for c in constraints_of(g)} & set(HELD_OUT_KINDS)
        assert CHATML.split("{{")[0].split("%}")[-1] in g.prompt.text
    known = {g.prompt.meta["instruction"] for g in trained}
    assert not known & {g.prompt.meta["instruction"] for g in evaluated}


def test_no_stage_records_the_file_of_a_function_or_a_class(finished):
    told = [(r.folder / "stage.json").read_text() for r in read_records(finished)]
    assert any('"ConstraintRater"' in text for text in told)
    assert not [name for text in told for name in re.findall(r'"(tandem\.[\w.]+)"', text)]


def test_the_same_command_keeps_every_stage(finished, model, capsys):
    before = {r.folder.name: (r.folder / "DONE").stat().st_mtime_ns for r in read_records(finished)}
    assert cli.main(words(model, finished)) == 0
    after = {r.folder.name: (r.folder / "DONE").stat().st_mtime_ns for r in read_records(finished)}
    assert after == before


def test_a_bench_counts_trained_and_new_kinds(model, tmp_path, capsys):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    out = tmp_path / "bench"
    given = ["bench", str(plan), f"--model={model}", f"--out={out}", "--machine.precision=fp32"]
    assert cli.main(given) == 0
    told = json.loads((out / "results.json").read_text())
    assert told["task"] == f"constraints with {model}"
    assert told["judge"] == "truth"
    rows = {row["policy"]: row for row in told["policies"]}
    assert set(rows) == {"base", "SFT", "DPO"}
    for row in rows.values():
        assert {"all kept", "loose", "trained kinds", "new kinds"} <= set(row)
        assert row["loose"]["mean"] >= row["all kept"]["mean"]
    assert any("share of constraints" in line for line in told["limits"])
    assert (out / "report.html").exists()


def test_a_policy_is_evaluated_on_the_task(finished, model, capsys):
    dpo = next(r.folder for r in read_records(finished) if r.name == "dpo") / "artifact"
    start = ["eval", "policy", str(dpo), f"--reference={model}", "--task=constraints", "--json"]
    assert cli.main([*start, *SIZES, *FAST[-2:]]) == 0
    assert json.loads(capsys.readouterr().out)["judge"] == "truth"


def test_check_measures_a_model(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check_task, "CHECK_PROMPTS", 40)
    code = cli.main(["tasks", "check", "constraints"])
    assert code == 0
    assert "6 of 6 gates hold" in capsys.readouterr().out
    given = ["tasks", "check", "constraints", f"--model={model}", f"--out={tmp_path / 'gates'}"]
    assert cli.main(given) in (0, 1)
    told = capsys.readouterr().out
    assert "share of constraints kept" in told
    assert all(kind in told for kind in HELD_OUT_KINDS)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["run", "dpo", "--task=constraints"], "--task constraints without --model"),
        (["bench", "--task=constraints"], "--task constraints without --model"),
        (["run", "dpo", "--task=micro", "--model=x"], "--task micro --model x"),
        (["bench", "--task=micro", "--model=x"], "--task micro --model x"),
        (["tasks", "check", "micro", "--model=x"], "--task micro --model x"),
        (["run", "dpo", "--task=constraints", "--model=nowhere"], "there is no model nowhere"),
        (["bench", "--task=constraints", "--model=nowhere"], "there is no model nowhere"),
        (["tasks", "check", "constraints", "--model=nowhere"], "there is no model nowhere"),
        (["tasks", "check", "micro-dialogue"], "tandem tasks check micro-dialogue"),
        (["run", "dpo", "--task=constraint", "--model=x"], "Did you mean `constraints`"),
        (["run", "dpo", "--task=constraints", "--data=x"], "--task constraints --data x"),
    ],
    ids=" ".join,
)
def test_what_is_missing_is_said_in_three_parts_before_anything_is_made(
    given, what, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(given) == 2
    said = capsys.readouterr().err
    assert what in said
    assert "why:" in said
    assert "do:" in said
    assert not (tmp_path / "runs").exists()
