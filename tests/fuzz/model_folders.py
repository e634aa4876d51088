"""Model folders: configuration, tokenizer, template and weights damaged, then trained on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from fuzz.corpus import Corpus
from fuzz.damage import change_bytes, change_json
from fuzz.rows import bot, user
from fuzz.verdicts import Verdict, give_command, judge_answer, list_files, name_changes

FEW = (
    "--sft.steps=1", "--sft.batch=4", "--sampling.max_tokens=4", "--machine.device=cpu",
    "--machine.precision=fp32", "--seed=1",
)  # fmt: skip
TEMPLATES = (
    "{% for m in messages %}{{ m.content }}{% endfor %}", "{{ 1 / 0 }}", "{% for %}", "{{ x.y.z }}",
    "{% for a in range(10**9) %}x{% endfor %}", "{{ 'x' * 10**10 }}", "{{ messages|tojson * 99 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ raise_exception('no') }}", "", "x",
    "{{ ''.__class__.__mro__ }}", "{% set x = messages[0] %}{{ x.pop('content') }}{{ x }}",
    "{{ messages[99].content }}", "{{ strftime_now('%Y') }}", "{% include '/etc/passwd' %}",
)  # fmt: skip
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
    "num_key_value_heads", "max_position_embeddings", "head_dim", "rms_norm_eps", "rope_theta",
    "pad_token_id", "eos_token_id", "bos_token_id", "hidden_act", "model_type", "architectures",
    "transformers_weights", "torch_dtype", "dtype", "tie_word_embeddings", "quantization_config",
    "attention_bias", "auto_map", "rope_scaling", "rope_parameters", "layer_types", "tandem",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 3, 7, 10**6, 10**9, 10**13, 10**30, 0.5, "many", None, [], {}, [0], "os.system", True,
    "pytorch_model.bin", "../model.safetensors", ["LlamaForSequenceClassification"], "bert", 1e400,
)  # fmt: skip


class ModelFolders:
    """A model's folder with one or two things wrong, given to `tandem run sft`."""

    name, goal, deadline = "models", 500, 180.0

    def __init__(self, corpus: Corpus) -> None:
        del corpus

    def prepare(self, home: Path) -> None:
        """Write a whole model and rows for it."""
        import tiny
        from vocabularies import CHATML, byte_bpe

        self.model = home / "model"
        shutil.rmtree(self.model, ignore_errors=True)
        tokenizer = byte_bpe(CHATML)
        tiny.lm("llama", vocab_size=len(tokenizer)).save_pretrained(self.model)
        tokenizer.save_pretrained(self.model)
        self.data = home / "rows.jsonl"
        rows = [{"messages": [user(f"say {k}"), bot(f"{k} it is")]} for k in range(12)]
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def check(self, dice: random.Random, folder: Path) -> Verdict:
        """Damage a copy, look at it, train a step on it where that is not refused."""
        model = folder / "model"
        shutil.copytree(self.model, model)
        told = [damage_model(model, dice) for _ in range(dice.choice((1, 1, 1, 2)))]
        words = ["run", "sft", f"--model={model}", f"--data={self.data}", *FEW]
        words.append(f"--out={folder / 'out'}")
        before = list_files(folder)
        answer = give_command([*words, "--dry-run"])
        verdict = Verdict("accepted" if answer.code == 0 else "refused", reason=answer.reason)
        verdict.told = {"damage": told}
        judge_answer(answer, verdict)
        if changes := name_changes(before, list_files(folder)):
            verdict.blame("made", ", ".join(changes))
        if answer.code == 0 and not verdict.faults:
            trained = give_command(words)
            judge_answer(trained, verdict)
            verdict.ending = "trained" if trained.code == 0 else "refused later"
            verdict.reason = trained.reason or verdict.reason
            _judge_trained(folder / "out", verdict)
        return verdict


def _judge_trained(out: Path, verdict: Verdict) -> None:
    """Note weights that are no numbers in a run that went well."""
    import torch
    from safetensors.torch import load_file

    if verdict.ending != "trained":
        return
    for file in out.glob("*/artifact/*.safetensors"):
        if not all(bool(torch.isfinite(t).all()) for t in load_file(file).values()):
            verdict.blame("accepted", f"{file.relative_to(out)} holds weights that are no numbers")


def damage_model(model: Path, dice: random.Random) -> str:
    """Damage a model's folder in one way and return what was done."""
    ways: tuple[Callable[[Path, random.Random], str], ...] = (
        _change_setting, _change_setting, _change_a_json, _change_a_json, _change_a_file,
        _change_a_file, _remove_a_file, _put_template, _name_weights,
    )  # fmt: skip
    return dice.choice(ways)(model, dice)


def _files(model: Path) -> list[Path]:
    return sorted(p for p in model.iterdir() if p.is_file())


def _change_setting(model: Path, dice: random.Random) -> str:
    file = model / "config.json"
    if not file.is_file():
        return "nothing"
    try:
        table = json.loads(file.read_text())
        key, value = dice.choice(SIZES), dice.choice(NUMBERS)
        table[key] = value
    except (ValueError, TypeError):
        return "nothing"
    file.write_text(json.dumps(table))
    return f"{key} = {value!r}"


def _change_a_json(model: Path, dice: random.Random) -> str:
    file = dice.choice([p for p in _files(model) if p.suffix == ".json"] or [model / "config.json"])
    try:
        file.write_text(change_json(file.read_text(), dice))
    except (OSError, ValueError):
        return "nothing"
    return f"a node of {file.name}"


def _change_a_file(model: Path, dice: random.Random) -> str:
    file = dice.choice(_files(model))
    data = file.read_bytes()
    if file.suffix == ".safetensors" and dice.random() < 0.6:  # its header is the smaller part
        size = 8 + int.from_bytes(data[:8], "little")
        data = change_bytes(data[:size], dice) + data[size:]
    else:
        data = change_bytes(data, dice)
    file.write_bytes(data)
    return f"bytes of {file.name}"


def _remove_a_file(model: Path, dice: random.Random) -> str:
    file = dice.choice(_files(model))
    file.unlink()
    how = dice.choice(("gone", "empty", "folder"))
    if how == "empty":
        file.touch()
    elif how == "folder":
        file.mkdir()
    return f"{file.name}: {how}"


def _put_template(model: Path, dice: random.Random) -> str:
    template, file = dice.choice(TEMPLATES), model / "chat_template.jinja"
    if file.is_dir():
        return "nothing"
    file.write_text(template)
    return f"template {template}"


def _name_weights(model: Path, dice: random.Random) -> str:
    weights = model / "model.safetensors"
    if not weights.is_file():
        return "nothing"
    name = dice.choice(("pytorch_model.bin", "model-00001-of-00001.safetensors", "../x", "", "a/b"))
    if name.endswith((".bin", ".safetensors")):
        weights.rename(model / name)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return f"an index that names {name!r}"
