"""Models as people give them, and as they give them away: adapters, hub ids, GGUF, export, chat."""

from __future__ import annotations

import io
import json
import stat
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from test_street_models import model, pairs

from tandem import cli
from tandem.errors import ModelError
from tandem.models.model_finder import find_model
from tandem.report.model_card import write_model_card
from vocabularies import CHATML

IDS = torch.tensor([[3, 40, 41, 42, 43]])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def adapter(base: Path, folder: Path, named: str) -> torch.Tensor:
    """Save a LoRA adapter that changes the model; return the logits of base + adapter."""
    lm: Any = hf.AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(lm, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(0)
    for name, weight in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.5)
    wrapped.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": named}))
    with torch.no_grad():
        return wrapped(input_ids=IDS).logits


def test_an_adapter_is_base_plus_adapter(tmp_path: Path):
    base = model(tmp_path / "base")
    wanted = adapter(base, tmp_path / "adapter", "base")
    found = find_model(tmp_path / "adapter")
    assert str(found) == "adapter"
    merged: Any = hf.AutoModelForCausalLM.from_pretrained(found.path)
    plain: Any = hf.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=IDS).logits, wanted, atol=1e-5)
        assert not torch.allclose(plain(input_ids=IDS).logits, wanted, atol=1e-2)
    assert find_model(tmp_path / "adapter").path == found.path, "merged once"
    assert hf.AutoTokenizer.from_pretrained(found.path).chat_template == CHATML


def test_a_run_starts_from_an_adapter(tmp_path: Path, capsys):
    adapter(model(tmp_path / "base"), tmp_path / "adapter", str(tmp_path / "base"))
    data = pairs(tmp_path / "data.jsonl")
    words = ["--model", str(tmp_path / "adapter"), "--data", str(data)]
    assert cli.main(["run", "dpo", *words, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert f'model = "{tmp_path / "adapter"}"' in said, "the same command makes the same model"
    assert "starts from the model as it is" in said
    assert cli.main(["data", "check", str(data), "--model", str(tmp_path / "adapter")]) in (0, 1)


def test_adapters_that_cannot_be_merged_are_refused_by_name(tmp_path: Path):
    base = model(tmp_path / "base")
    adapter(base, tmp_path / "lost", "nowhere")
    with pytest.raises(ModelError, match="LoRA adapter of `nowhere`, which is not here") as error:
        find_model(tmp_path / "lost")
    assert str(tmp_path / "nowhere") in error.value.do
    adapter(base, tmp_path / "own", "own")
    with pytest.raises(ModelError):
        find_model(tmp_path / "own")
    adapter(base, tmp_path / "other", "base")
    config = tmp_path / "other" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "IA3"}))
    with pytest.raises(ModelError, match="IA3"):
        find_model(tmp_path / "other")
    config.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        find_model(tmp_path / "other")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(base), "peft_type": "LORA"})
    )
    with pytest.raises(ModelError, match="safetensors"):
        find_model(tmp_path / "pickled")


@pytest.mark.parametrize("given", ["owner/name", "owner/name@v1", "owner/name@refs/pr/3"])
def test_a_hub_id_without_a_network_says_what_works(given: str, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelError, match="not on this machine") as error:
        find_model(given)
    name, _, revision = given.partition("@")
    again = f" --revision {revision}" if revision else ""
    assert f"`hf download {name}{again} --local-dir FOLDER`" in error.value.do


@pytest.mark.parametrize("given", ["nothing-here", "./mdoel", "/no/such/place/model", "a/b/c", ""])
def test_what_is_no_model_is_said(given: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "model")
    with pytest.raises(ModelError):
        find_model(given or tmp_path / "empty")


def test_a_gguf_file(tmp_path: Path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(ModelError, match="cannot be opened") as error:
        find_model(file)
    assert "pip install gguf" in error.value.do
    assert not list((tmp_path / "cache" / "models").iterdir()), "nothing half-made is left"


def trained(tmp_path: Path, *more: str) -> Path:
    """Run DPO on a few pairs of a chat model, quickly evaluated."""
    source, data = model(tmp_path / "model"), pairs(tmp_path / "data.jsonl", 24)
    words = ["--model", str(source), "--data", str(data), "--sizes.held_out_share", "0.3",
             "--sampling.max_tokens", "4", "--dpo.epochs", "1", *more]  # fmt: skip
    assert cli.main(["run", "dpo", *words, "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_only_what_was_asked_for_and_what_came_out(tmp_path: Path, capsys, monkeypatch):
    run = trained(tmp_path, "--machine.lora.rank", "2")
    said = capsys.readouterr().out
    stages = sorted(p.name.partition("-")[2] for p in run.glob("[0-9]*"))
    assert not [s for s in stages if "reward" in s or "member" in s or "sft" in s], stages
    assert "loss of the better answer" in said
    assert "own reward right" in said
    assert "base   " in said
    assert "cost: about" in said

    words = ["--sampling.max_tokens", "4"]
    assert cli.main(["sample", str(run), str(tmp_path / "model"), "--prompt", "say 3",
                     "--out", str(tmp_path / "drawn.jsonl"), *words]) == 0  # fmt: skip
    drawn = [json.loads(row) for row in (tmp_path / "drawn.jsonl").read_text().splitlines()]
    assert [row["policy"] for row in drawn] == ["run", "model"]
    capsys.readouterr()

    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n/again\nhow are you\n/quit\nnever\n"))
    assert cli.main(["chat", str(run), str(tmp_path / "model"), *words]) == 0
    answers = capsys.readouterr().out
    assert answers.count("run: ") == answers.count("model: ") == 2

    assert cli.main(["export", str(run), "--out", str(tmp_path / "whole"), "--dtype", "bf16"]) == 0
    card = (tmp_path / "whole" / "README.md").read_text()
    for part in ("library_name: transformers", "## Data", "data.jsonl", "own reward right",
                 "## Command", "[dpo]", "## Limits"):  # fmt: skip
        assert part in card
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert find_model(tmp_path / "whole")
    assert cli.main(["export", str(run), "--out", str(tmp_path / "whole")]) == 2
    assert "not empty" in capsys.readouterr().err

    assert cli.main(["export", str(run), "--out", str(tmp_path / "lora"), "--adapter"]) == 0
    again = find_model(tmp_path / "lora")
    one: Any = hf.AutoModelForCausalLM.from_pretrained(again.path)
    two: Any = hf.AutoModelForCausalLM.from_pretrained(next(run.glob("0?-dpo")) / "artifact")
    with torch.no_grad():
        assert torch.allclose(one(input_ids=IDS).logits, two(input_ids=IDS).logits, atol=1e-5)


def test_an_adapter_over_sft_names_the_model_after_sft(tmp_path: Path, capsys):
    run = trained(tmp_path, "--machine.lora.rank", "2", "--sft.steps", "2", "--evaluate", "none")
    assert cli.main(["export", str(run), "--out", str(tmp_path / "lora"), "--adapter"]) == 0
    named = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert Path(named["base_model_name_or_path"]) == next(run.glob("0?-sft")).resolve() / "artifact"
    assert "not evaluated, as asked" in capsys.readouterr().out


def test_gguf_is_written_by_the_program_whose_format_it_is(tmp_path: Path, capsys, monkeypatch):
    source = model(tmp_path / "model")
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["export", str(source), "--out", str(tmp_path / "out"), "--gguf"]
    assert cli.main(words) == 2
    assert "LLAMA_CPP" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    tool = tmp_path / "convert_hf_to_gguf.py"
    tool.write_text(
        "import json, pathlib, sys\n"
        "given = sys.argv\n"
        "config = json.loads((pathlib.Path(given[1]) / 'config.json').read_text())\n"
        "pathlib.Path(given[given.index('--outfile') + 1]).write_text(json.dumps([config['dtype'],"
        " given[given.index('--outtype') + 1]]))\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    assert cli.main([*words, "--dtype", "fp16"]) == 0
    assert json.loads((tmp_path / "out" / "out-fp16.gguf").read_text()) == ["float16", "f16"]
    tool.write_text("import sys; sys.exit('unknown architecture')")
    words[3] = str(tmp_path / "again")
    assert cli.main(words) == 2
    assert "unknown architecture" in capsys.readouterr().err


def test_nothing_in_a_card_can_break_out_of_it(tmp_path: Path):
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    out.mkdir()
    (run / "run.json").write_text(json.dumps({"seed": 0, "command": ["x", "run", "d`````po"]}))
    (run / "run.toml").write_text('method = "dpo"\nmodel = "a\\n---\\n# b"\ndata = "`x`"\n# ````\n')
    text = write_model_card(run, out).read_text()
    assert text.count("\n---") == 1
    assert "`````toml" in text
    assert "# b" not in text.split("## Settings")[0]


def test_start_evaluate_and_their_reasons(tmp_path: Path, capsys):
    data = pairs(tmp_path / "data.jsonl")
    chat_model, plain = model(tmp_path / "chat"), model(tmp_path / "plain", None)
    for source, more, start in (
        (chat_model, [], "model"),
        (plain, [], "sft"),
        (chat_model, ["--sft.steps", "2"], "sft"),
        (chat_model, ["--start", "sft"], "sft"),
        (plain, ["--start", "model"], "model"),
    ):
        words = ["--model", str(source), "--data", str(data), "--dry_run", *more]
        assert cli.main(["run", "dpo", *words]) == 0
        said = capsys.readouterr().out
        assert f'start = "{start}"' in said
        assert 'evaluate = "quick"' in said
        assert ("  sft " in said) == (start == "sft")
        assert "held-out prompts read" in said
    (tmp_path / "again.toml").write_text(said)
    assert cli.main(["run", "dpo", "--config", str(tmp_path / "again.toml"), "--dry_run"]) == 0
    assert capsys.readouterr().out.count('start = "model"') == 1
    assert cli.main(["run", "dpo", "--task", "micro", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert 'evaluate = "full"' in said
    assert 'start = "sft"' in said
    assert cli.main(["run", "dpo", "--task", "micro", "--eval_data", str(data)]) == 2
