"""Models as users bring them: ends, dates, lengths, marks, and folders that cannot be trained."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from tandem import cli
from tandem.data.chat import encode_groups
from tandem.data.chat.clock import frozen_date
from tandem.data.chat.ends import end_tokens
from tandem.data.chat.template import ChatTemplate
from tandem.data.formats import read_data
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.engines.torch import _end_tokens
from tandem.errors import ModelError
from tandem.models.checks import check_policy, check_reward
from tandem.models.saving import save_model
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Silent
from tandem.stages.encoding import encode
from vocabularies import CHATML, ENDLESS, byte_bpe

DATED = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n" + CHATML
ENDS = {"eos": ["</s>"], "template": ["</s>", "<|im_end|>"]}


def model(folder: Path, template: str | None = CHATML, **more: Any) -> Path:
    """Save a tiny model with the tests' byte vocabulary; changes go into its configuration."""
    tokenizer = byte_bpe(template)
    config = hf.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    return folder


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(path: Path, n: int = 40) -> Path:
    return lines(
        path,
        [
            {
                "prompt": [{"role": "user", "content": f"say {k}"}],
                "chosen": [{"role": "assistant", "content": f"yes {k}"}],
                "rejected": [{"role": "assistant", "content": f"no, never {k}"}],
            }
            for k in range(n)
        ],
    )


@pytest.mark.parametrize(
    ("template", "which"),
    [(CHATML, "template"), (None, "eos"), (ENDLESS, "eos"), (DATED, "template")],
)
def test_one_set_of_ends(template: str | None, which: str, tmp_path: Path):
    tokenizer = byte_bpe(template)
    ends = end_tokens(tokenizer)
    assert sorted(tokenizer.convert_ids_to_tokens(sorted(ends))) == ENDS[which]
    source = model(tmp_path / "model", template)
    lm = hf.AutoModelForCausalLM.from_pretrained(source)
    assert _end_tokens(lm, tokenizer) == ends
    data = read_data(pairs(tmp_path / "data.jsonl", 4))
    encoded = encode_groups(data.groups, tokenizer, max_length=None).groups
    assert {int(c.tokens[-1]) for g in encoded for c in g.completions} <= ends
    save_model(lm, tokenizer, tmp_path / "saved")
    kept = hf.GenerationConfig.from_pretrained(str(tmp_path / "saved")).eos_token_id
    assert set(kept if isinstance(kept, list) else [kept]) == ends


def test_a_list_of_ends_is_kept(tmp_path: Path):
    source = model(tmp_path / "model")
    lm = hf.AutoModelForCausalLM.from_pretrained(source)
    lm.generation_config.eos_token_id = [1, 4, 9]
    save_model(lm, byte_bpe(CHATML), tmp_path / "saved")
    assert hf.GenerationConfig.from_pretrained(str(tmp_path / "saved")).eos_token_id == [1, 4, 9]
    assert _end_tokens(lm, byte_bpe(CHATML)) == {1, 4, 9}


@pytest.mark.parametrize("end", ["<|im_end|>\n", "<|im_end|>", "</s>", "</s>\n", "<|im_end|> \n"])
def test_a_text_that_is_closed_gets_no_second_end(end: str):
    tokenizer = byte_bpe(CHATML)
    prompt = Prompt("a", "<|im_start|>user\nsay<|im_end|>\n<|im_start|>assistant\n")
    groups = Groups.of([Group(prompt, (Completion("yes" + end), Completion("yes")))])
    encoded = encode_groups(groups, tokenizer, max_length=None)
    closed, open_ = ([int(t) for t in c.tokens] for c in encoded.groups[0].completions)
    assert tokenizer.convert_ids_to_tokens(closed)[-1] == end.strip()
    assert len([t for t in closed if t in end_tokens(tokenizer)]) == 1
    assert open_[-1] == tokenizer.eos_token_id
    assert encoded.counts.plain == 0, "the prompt was rendered already"


def test_settings_that_cannot_be_saved_are_mended_and_said(tmp_path: Path):
    lm = hf.AutoModelForCausalLM.from_pretrained(model(tmp_path / "model"))
    lm.generation_config.do_sample, lm.generation_config.temperature = False, 0.7
    (said,) = save_model(lm, byte_bpe(CHATML), tmp_path / "saved")
    kept = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert (kept["do_sample"], kept["temperature"]) == (True, 0.7)
    assert "temperature" in said


def test_settings_that_sampling_does_not_mend_are_left_out(tmp_path: Path):
    lm = hf.AutoModelForCausalLM.from_pretrained(model(tmp_path / "model"))
    lm.generation_config.num_beams, lm.generation_config.num_return_sequences = 1, 4
    lm.generation_config.pad_token_id = -3
    said = save_model(lm, byte_bpe(CHATML), tmp_path / "saved")
    assert len(said) == 1
    assert "pad_token_id" in said[0]
    hf.GenerationConfig.from_pretrained(str(tmp_path / "saved")).validate(strict=True)


def test_the_date_of_a_template_is_frozen_and_part_of_the_key(tmp_path: Path):
    tokenizer = byte_bpe(DATED)
    data = read_data(pairs(tmp_path / "data.jsonl", 2)).groups
    texts, kept, cache = [], [], tmp_path / "cache"
    for day in (date(2026, 3, 1), date(2026, 3, 1), date(2027, 1, 2)):
        with frozen_date(day):
            encoded = encode_groups(data, tokenizer, max_length=None, cache=cache)
            encode_groups(data, byte_bpe(CHATML), max_length=None, cache=cache)
        texts.append(encoded.groups[0].prompt.text)
        kept.append(len(list(cache.glob("*.parquet"))))
    assert texts[0] == texts[1] != texts[2]
    assert "Today is 01 Mar 2026." in texts[0]
    assert kept == [2, 2, 3], "a template without a date is read again on another day"


def test_a_run_keeps_its_date(tmp_path: Path, capsys, monkeypatch):
    source, data = model(tmp_path / "model", DATED), pairs(tmp_path / "data.jsonl")
    words = [
        "run",
        "sft",
        "--model",
        str(source),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "r"),
    ]
    assert cli.main([*words, "--dry_run", "--data.date", "2026-03-01"]) == 0
    assert '"data.date" = "2026-03-01"' in capsys.readouterr().out
    assert cli.main([*words, "--dry_run"]) == 0
    assert f'"data.date" = "{date.today().isoformat()}"' in capsys.readouterr().out
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.toml").write_text('"data.date" = "2025-12-24"\n')
    assert cli.main([*words, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert '"data.date" = "2025-12-24"' in printed
    (tmp_path / "again.toml").write_text(printed)
    again = ["run", "sft", "--config", str(tmp_path / "again.toml"), "--out", str(tmp_path / "r")]
    assert cli.main([*again, "--dry_run"]) == 0, "a run.toml can be given to --config"
    assert cli.main([*words, "--dry_run", "--data.date", "yesterday"]) == 2


def test_length_and_truncation_are_flags(tmp_path: Path, capsys):
    source, data = model(tmp_path / "model"), pairs(tmp_path / "data.jsonl")
    words = ["run", "sft", "--model", str(source), "--data", str(data), "--dry_run"]
    assert cli.main([*words, "--data.max_length", "64", "--data.truncation", "keep-start"]) == 0
    printed = capsys.readouterr().out
    assert '"data.max_length" = 64' in printed
    for wrong in (["--data.max_length", "1"], ["--data.max_length", "513"],
                  ["--data.truncation", "cut"]):  # fmt: skip
        assert cli.main([*words, *wrong]) == 2
        assert wrong[0].removeprefix("--") in capsys.readouterr().err


def test_rules_of_a_run_reach_the_tokens(tmp_path: Path):
    from tandem.data.chat.encoding_rules import EncodingRules

    policy = Checkpoint(model(tmp_path / "model"), "base")
    data = read_data(pairs(tmp_path / "data.jsonl", 5)).groups
    whole = [len(g.prompt.tokens) for g in encode(data, policy, events=Silent())]
    rules = EncodingRules(max_length=max(whole) + 3, truncation="keep-start")
    cut = list(encode(data, policy, events=Silent(), encoding=rules))
    assert all(
        len(g.prompt.tokens) + len(c.tokens) <= max(whole) + 3 for g in cut for c in g.completions
    )


@pytest.mark.parametrize("same", range(1, 6))
def test_pairs_that_a_cut_makes_equal_are_dropped_and_counted(same: int):
    tokenizer = byte_bpe()
    size = len(tokenizer("Q: ")["input_ids"])
    rows = [
        Group(
            Prompt(str(k), "Q: "),
            (Completion("x" * (30 if k < same else 1) + "yes"), Completion("x" * 30 + "no" * 9)),
            preferences=(Preference(0, 1),),
        )
        for k in range(6)
    ]
    found = encode_groups(Groups.of(rows), tokenizer, max_length=size + 4, truncation="keep-start")
    assert found.counts.kept == 6 - same
    assert found.counts.equal == same
    assert any("equal" in why for why in found.counts.dropped)
    for g in found.groups:
        first, second = (c.tokens for c in g.completions)
        assert not np.array_equal(first, second)


def test_kto_learns_from_marks(tmp_path: Path, capsys):
    rows = [
        {
            "prompt": f"say {k}\n",
            "completion": "yes" if k % 2 else "never",
            "label": str(bool(k % 2)),
        }
        for k in range(40)
    ]
    source, data = model(tmp_path / "model"), lines(tmp_path / "marks.jsonl", rows)
    words = ["--model", str(source), "--data", str(data), "--sft.steps", "1", "--sft.batch", "4",
             "--sampling.max_tokens", "4", "--sizes.held_out_share", "0.3"]  # fmt: skip
    assert cli.main(["run", "kto", *words, "--out", str(tmp_path / "kto")]) == 0
    printed = capsys.readouterr().out
    assert "answers marked good" in printed
    assert "a good answer scores above a bad one" in printed
    assert not list((tmp_path / "kto").glob("*-reward*")), "no reward model is asked for"
    assert cli.main(["run", "dpo", *words, "--dry_run"]) == 2
    assert "tandem run kto" in capsys.readouterr().err
    one = lines(tmp_path / "good.jsonl", [{**row, "label": True} for row in rows])
    words[3] = str(one)
    assert cli.main(["run", "kto", *words, "--out", str(tmp_path / "none")]) == 2
    assert "marked bad" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bitsandbytes": ({"quantization_config": {"quant_method": "bitsandbytes"}},
                     "quantised by bitsandbytes"),
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised by gptq"),
    "awq": ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantised by awq"),
    "mxfp4": ({"quantization_config": {"quant_method": "mxfp4"}}, "quantised by mxfp4"),
    "short table": ({"vocab_size": 270}, "no row for the tokens 270"),
    "one short": ({"vocab_size": 375}, "no row for the tokens 375"),
    "classifier": ({"architectures": ["LlamaForSequenceClassification"]}, "no causal language"),
    "token classifier": ({"architectures": ["LlamaForTokenClassification"]}, "no causal language"),
    "encoder": ({"architectures": ["BertModel"], "model_type": "bert"}, "no causal language"),
    "pictures": ({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                  "text_config": {"vocab_size": 376}, "vision_config": {}}, "text and more"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_cannot_be_trained_are_refused_by_name(name: str, tmp_path: Path, capsys):
    changes, words = REFUSED[name]
    source = model(tmp_path / "model", **changes)
    with pytest.raises(ModelError, match=words):
        check_policy(source)
    data = pairs(tmp_path / "data.jsonl")
    for command in (
        ["data", "check", str(data), "--model", str(source)],
        ["run", "sft", "--model", str(source), "--data", str(data), "--dry_run"],
    ):
        assert cli.main(command) == 2
        assert words in capsys.readouterr().err


def packed(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.qweight"] = torch.zeros(4, 4, dtype=torch.int32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def longer(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 512}))


def beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')


def noted(folder: Path) -> None:
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (packed, "qweight"),
        (noted, "hf_quant_config.json"),
        (pickled, "pytorch_model.bin and no safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights at all"),
        (longer, "vocab_size = 512, and .* has 376 rows"),
        (beside, "a model .* and an adapter"),
    ],
)
def test_folders_whose_weights_are_not_whole(change: Any, words: str, tmp_path: Path):
    source = model(tmp_path / "model")
    check_policy(source)
    change(source)
    with pytest.raises(ModelError, match=words):
        check_policy(source)


PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
"""Phi-3's: each turn has an end, and the conversation another."""
TWICE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|im_end|></s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "end", "finale"),
    [(PHI, "<|im_end|>", "</s>"), (CHATML, "<|im_end|>", ""), (TWICE, "<|im_end|></s>", ""),
     (ENDLESS, "</s>", "")],
)  # fmt: skip
def test_the_end_of_a_conversation_belongs_to_no_turn(template: str, end: str, finale: str):
    tokenizer = byte_bpe(template)
    assert ChatTemplate(tokenizer).finale == finale
    asked = {"role": "user", "content": "say it"}
    said = [
        {"role": "assistant", "content": text, "weight": text != "no"} for text in ("no", "yes")
    ]
    turns = (said[0], asked, said[1])
    groups = [Group(Prompt("a", "", (asked,)), (Completion(text, turns=talk),))
              for text, talk in (("yes", None), ("both", turns))]  # fmt: skip
    one, two = (
        g.completions[0]
        for g in encode_groups(Groups.of(groups), tokenizer, max_length=None).groups
    )
    assert tokenizer.decode(one.tokens).strip() == f"yes{end}"
    assert int(one.tokens[-1]) in end_tokens(tokenizer)
    assert two.mask is not None
    assert tokenizer.decode(two.tokens[two.mask]).strip() == f"yes{end}", (
        "weight 0 is not trained on"
    )


def test_an_adapter_is_named_with_its_base(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "here/base"}')
    with pytest.raises(ModelError, match="LoRA adapter of `here/base`") as error:
        check_policy(tmp_path)
    assert "merge_and_unload" in error.value.do


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["LlamaForSequenceClassification"],
          "id2label": {"0": "a", "1": "b"}}, "2 labels; a reward has one"),
        ({"architectures": ["BertForSequenceClassification"], "model_type": "bert",
          "id2label": {"0": "a"}}, "is an encoder"),
    ],
)  # fmt: skip
def test_rewards_of_another_kind(changes: dict[str, Any], words: str, tmp_path: Path):
    with pytest.raises(ModelError, match=words):
        check_reward(model(tmp_path / "model", **changes))


@pytest.mark.parametrize(
    ("scores", "chosen", "right"),
    [
        ([2.0, 1.0, 1.0, 0.0], 1, 1.0),
        ([2.0, 3.0, 1.0, 0.0], 1, 0.0),
        ([2.0, 2.0, 1.0, 0.0], 1, 0.5),
        ([2.0, 2.0, 2.0, 2.0], 1, 0.25),
        ([2.0, 2.0, 2.0, 0.0], 1, 1 / 3),
        ([0.0, 1.0, 2.0, 3.0], 1, 0.0),
        ([3.0, 2.0, 1.0, 0.0], 3, 1.0),
        ([3.0, 2.0, 0.0, 0.0], 3, 0.0),
        ([3.0, 0.0, 1.0, 0.5], 3, 0.0),
        ([1.0, 1.0, 1.0, -1.0], 3, 1.0),
    ],
)  # fmt: skip
def test_best_of_four(scores: list[float], chosen: int, right: float):
    from tandem.evaluation.best_of_accuracy import best_of_credit, best_of_table

    votes = tuple(Preference(i, j) for i in range(chosen) for j in range(chosen, 4))
    prompt = Prompt("a", "q", meta={"subset": "Focus"})
    group = Group(prompt, tuple(Completion(c) for c in "abcd"), np.array(scores), votes)
    assert best_of_credit(group) == pytest.approx(right)
    table = best_of_table([group])
    assert table is not None
    assert table.rows[0][:3] == (
        "Focus", "best of 4" if chosen == 1 else "all chosen above all rejected", 1
    )  # fmt: skip
    assert table.rows[0][4] == pytest.approx(0.25)
