"""`tandem run` on a real, tiny model: whole, kept, refused; and broken inputs end well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from malformed import DATA, TOKENIZERS, BadTokenizer, Case
from tandem import cli
from tandem.runs.records import read_records
from vocabularies import CHATML, byte_bpe

FAST = [
    "--sft.epochs=1", "--sft.batch=16", "--sft.optim.lr=1e-2", "--reward.batch=16",
    "--dpo.epochs=1", "--dpo.batch=16", "--dpo.optim.lr=1e-3", "--sampling.max_tokens=8",
    "--machine.precision=fp32", "--sizes.held_out_share=0.25", "--evaluate=full",
]  # fmt: skip


def save_model(folder: Path, tokenizer=None) -> Path:
    torch.manual_seed(0)
    tokenizer = tokenizer or byte_bpe(CHATML)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_pairs(path: Path, n: int = 64) -> Path:
    rows = [
        {"prompt": f"say {i}", "chosen": f"{i} and thank you", "rejected": f"no {i % 7}"}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return save_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def finished(model, pairs, tmp_path_factory) -> Path:
    """A run of DPO that went through."""
    out = tmp_path_factory.mktemp("runs") / "dpo"
    assert cli.main(["run", "dpo", *at(model, pairs, out)]) == 0
    return out


def at(model: Path, pairs: Path, out: Path) -> list[str]:
    return [f"--model={model}", f"--data={pairs}", f"--out={out}", *FAST]


# whole ----------------------------------------------------------------------------------------


def test_a_run_makes_stages_a_report_and_a_model_that_loads(finished):
    names = [record.name for record in read_records(finished)]
    assert {"sft", "reward", "dpo"} <= set(names)
    assert (finished / "run.toml").exists()
    policy = next(r.load() for r in read_records(finished) if r.name == "dpo")
    tokenizer = AutoTokenizer.from_pretrained(policy.path)
    lm = AutoModelForCausalLM.from_pretrained(policy.path)
    ids = tokenizer("say", return_tensors="pt").input_ids
    out = lm.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert out.shape[1] > ids.shape[1]


def test_the_same_command_keeps_every_stage(finished, model, pairs, capsys):
    before = {r.folder.name: (r.folder / "DONE").stat().st_mtime_ns for r in read_records(finished)}
    assert cli.main(["run", "dpo", *at(model, pairs, finished)]) == 0
    after = {r.folder.name: (r.folder / "DONE").stat().st_mtime_ns for r in read_records(finished)}
    assert after == before
    told = capsys.readouterr()
    assert "held-out" in told.out
    assert "win vs SFT" in told.out
    assert "kept" in told.err


def test_its_run_toml_gives_the_same_run(finished, capsys):
    assert cli.main(["run", "dpo", f"--config={finished / 'run.toml'}", f"--out={finished}"]) == 0
    assert "done in" not in capsys.readouterr().err


def test_other_settings_are_refused_with_the_difference(finished, model, pairs, capsys):
    words = ["run", "dpo", *at(model, pairs, finished), "--dpo.beta=0.3"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "cfg.beta: null -> 0.3" in said
    assert "--redo" in said


def test_another_seed_is_refused(finished, model, pairs, capsys):
    assert cli.main(["run", "dpo", *at(model, pairs, finished), "--seed=1"]) == 2
    assert "seed 0, not 1" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(model, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["run", "dpo", *at(model, pairs, out), "--dry-run"]) == 0
    assert not out.exists()
    text = capsys.readouterr().out
    assert "would be made" in text
    assert "[dpo.optim]\nlr = 0.001" in text


def test_too_few_held_out_prompts_are_told_before_the_first_stage(model, tmp_path, capsys):
    """Of twelve prompts a quarter is held out: no win rate over them is ever resolved."""
    few, out = tmp_path / "few.jsonl", tmp_path / "run"
    rows = [{"prompt": f"say {i}", "completion": f"{i} and thank you"} for i in range(12)]
    few.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["run", "sft", *(w for w in at(model, few, out) if not w.startswith("--dpo"))]
    assert cli.main([*words, "--dry-run"]) == 0
    assert "no verdict is possible" in capsys.readouterr().out
    assert cli.main(words) == 0
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    kinds = [event["kind"] for event in events]
    (told,) = (event for event in events if event["kind"] == "few-prompts")
    assert "no verdict is possible" in told["text"]
    assert kinds.index("few-prompts") < kinds.index("started")
    assert "no verdict is possible" in capsys.readouterr().err


def test_eval_reward_and_policy(finished, pairs, capsys):
    where = {r.name: str(r.folder / "artifact") for r in read_records(finished)}
    fp32 = "--machine.precision=fp32"
    assert cli.main(["eval", "reward", where["reward"], f"--data={pairs}", fp32, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["measures"]["accuracy"]["mean"] <= 1
    sft, dpo, proxy = (where[name] for name in ("sft", "dpo", "reward"))
    words = [dpo, f"--reference={sft}", f"--data={pairs}", f"--proxy={proxy}", fp32]
    assert cli.main(["eval", "policy", *words, "--sampling.max_tokens=8"]) == 0
    assert "win vs SFT" in capsys.readouterr().out
    assert cli.main(["eval", "reward", dpo, f"--reference={sft}", f"--data={pairs}", fp32]) == 0
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["sft", "reward", "kto"])
def test_other_methods_run(method, model, pairs, tmp_path):
    out = tmp_path / method
    fast = [word for word in at(model, pairs, out) if not word.startswith("--dpo")]
    assert cli.main(["run", method, *fast]) == 0
    assert method in [record.name for record in read_records(out)]


# killed ---------------------------------------------------------------------------------------


def test_killed_and_repeated_it_ends_in_the_same_weights(finished, model, pairs, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tandem", "run", "dpo", *at(model, pairs, out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for stage in ("02-", "04-"):
        with subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as victim:
            deadline = time.monotonic() + 90
            while not list(out.glob(f"{stage}*")) and time.monotonic() < deadline:
                time.sleep(0.01)
            victim.send_signal(signal.SIGKILL)
        assert list(out.glob(f"{stage}*"))
    subprocess.run(command, env=env, check=True, capture_output=True)
    for record in read_records(finished):
        weights = record.folder / "artifact" / "model.safetensors"
        if weights.exists():
            twin = out / record.folder.name / "artifact" / "model.safetensors"
            assert twin.read_bytes() == weights.read_bytes(), record.folder.name


# refused --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """A command line that cannot be run, and what the error must say."""

    words: tuple[str, ...]
    said: str

    def __str__(self) -> str:
        return " ".join(self.words)


TASK = "--task=micro"
REFUSED = [
    Words(("dpo",), "neither --task nor --model and --data"),
    Words(("dpo", TASK, "--model=x"), "--task micro --model x"),
    Words(("dpo", "--model=x"), "given: --model x"),
    Words(("dpo", "--task=macro"), "Did you mean `micro`"),
    Words(("dqo", TASK), "Did you mean `dpo`"),
    Words(("dpo", TASK, "--dpo.bta=1"), "Did you mean `dpo.beta`"),
    Words(("dpo", TASK, "--dpo.beta=wide"), "dpo.beta"),
    Words(("dpo", TASK, "--dpo.loss=sigmid"), "Did you mean `sigmoid`"),
    Words(("dpo", TASK, "--dpo.tau=0.1"), "dpo.tau = 0.1"),
    Words(("dpo", TASK, "--dpo.optim.lr=-1"), "it has to be above 0"),
    Words(("dpo", TASK, "--sampling.temperature=-1"), "it has to be 0 or more"),
    Words(("dpo", TASK, "--sizes.flips=0.7"), "below 0.5"),
    Words(("dpo", TASK, "--sizes.pairs=0"), "from 1 to"),
    Words(("dpo", TASK, "--machine.precision=fp12"), "fp12"),
    Words(("dpo", TASK, "--seed=one"), "one"),
    Words(("dpo", TASK, "--config=none.toml"), "none.toml"),
    Words(("dpo", TASK, "--config=settings.json"), "TOML or YAML"),
    Words(("dpo", TASK, "stray"), "stray"),
    Words(("dpo", "--model=nowhere", "--data=nothing.jsonl"), "there is no model nowhere"),
    Words(("dpo", TASK, "--eval_data=x.jsonl"), "--eval_data x.jsonl without --data"),
    Words(("dpo", TASK, "--evaluate=some"), "evaluate"),
    Words(("dpo", TASK, "--start=rlhf"), "start"),
]


def refused(words: list[str], capsys) -> str:
    """Run a command that must fail well; return what it said."""
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert "\n  why: " in told.err
    assert "\n  do:  " in told.err
    assert "Traceback" not in told.err
    return told.err


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_wrong_command_lines_write_nothing(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert case.said in refused(["run", *case.words], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", DATA, ids=lambda case: case.name)
def test_broken_data_makes_no_run(case: Case, model, tmp_path, capsys):
    path, out = case.make(tmp_path), tmp_path / "run"
    refused(["run", "dpo", *at(model, path, out)], capsys)
    assert not out.exists()
    refused(["data", "check", str(path)], capsys)


@pytest.mark.parametrize(
    "case",
    [case for case in TOKENIZERS if isinstance(case.make(), PreTrainedTokenizerBase)],
    ids=lambda case: case.name,
)
def test_broken_templates_leave_no_half_stage(case: BadTokenizer, tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({**case.row, "id": str(i)}) + "\n" for i in range(8)))
    out = tmp_path / "run"
    bad = save_model(tmp_path / "bad", case.make())
    refused(["run", "sft", *[w for w in at(bad, path, out) if "--dpo" not in w]], capsys)
    assert read_records(out) == []
    assert not list(tmp_path.rglob("*.part"))


def _without(folder: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        file.unlink()


def _pickled(folder: Path) -> None:
    _without(folder, "*.safetensors")
    torch.save({}, folder / "pytorch_model.bin")


BROKEN_MODELS = {
    "no tokenizer": lambda folder: _without(folder, "tokenizer*"),
    "no config": lambda folder: _without(folder, "config.json"),
    "no weights": lambda folder: _without(folder, "*.safetensors"),
    "pickled weights": _pickled,
    "half the weights": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "config is no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "tokenizer is no JSON": lambda folder: (folder / "tokenizer.json").write_text("{"),
    "unknown architecture": lambda folder: (folder / "config.json").write_text(
        '{"model_type": "abacus"}'
    ),
}


@pytest.mark.parametrize("name", BROKEN_MODELS)
def test_broken_models_leave_no_half_stage(name, pairs, tmp_path, capsys):
    bad, out = save_model(tmp_path / "bad"), tmp_path / "run"
    BROKEN_MODELS[name](bad)
    refused(["run", "dpo", *at(bad, pairs, out)], capsys)
    assert not list(tmp_path.rglob("*.part"))
    assert [r.name for r in read_records(out) if r.result["kind"] == "checkpoint"] == []
