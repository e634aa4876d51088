"""Folders that are not the model that they say: refused by name, in seconds, before anything."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tandem import cli
from tandem.errors import ConfigError, ModelError
from tandem.machine import Machine
from tandem.models.checks import check_policy
from tandem.models.loading import load_policy
from tandem.models.tokenizers import load_tokenizer
from tandem.training.memory import check_trainable
from tiny import folder

CPU = Machine(device="cpu", precision="fp32")


def change(model: Path, **settings: object) -> Path:
    file = model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return model


def test_weights_that_the_configuration_ignores_are_named(tmp_path: Path):
    model = change(folder(tmp_path / "m"), num_hidden_layers=1)
    with pytest.raises(
        ModelError, match=r"weights that LlamaForCausalLM would ignore: .*layers\.1"
    ):
        load_policy(model, CPU)


def test_weights_that_are_missing_are_named(tmp_path: Path):
    model = change(folder(tmp_path / "m"), num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"lacks \d+ weights of a LlamaForCausalLM: .*layers\.2"):
        load_policy(model, CPU)


def test_a_model_of_the_right_size_is_loaded(tmp_path: Path):
    assert load_policy(folder(tmp_path / "m"), CPU).config.num_hidden_layers == 2


def test_a_model_that_is_too_large_is_refused_before_it_is_loaded(tmp_path: Path):
    """A terabyte of weights by its configuration: nothing of that size is allocated."""
    model = change(folder(tmp_path / "m"), hidden_size=16_384, intermediate_size=65_536,
                   num_hidden_layers=100)  # fmt: skip
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=r"weights and optimiser need [\d.]+ GiB"):
        check_trainable(model, CPU)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("names", [10**13, "LlamaForCausalLM", [3], {"a": 1}])
def test_architectures_are_a_list_of_texts(names: object, tmp_path: Path):
    model = change(folder(tmp_path / "m"), architectures=names)
    with pytest.raises(ModelError, match="architectures = "):
        check_policy(model)


@pytest.mark.parametrize("own", [["x"], "x", {"gain": "many"}, {"bias": 1e400}, {"gain": None}])
def test_what_tandem_says_of_a_reward_is_a_table_of_numbers(own: object, tmp_path: Path):
    model = change(folder(tmp_path / "m"), tandem=own)
    with pytest.raises(ModelError, match="tandem = "):
        check_policy(model)


def test_a_setting_of_the_tokenizer_of_a_wrong_type_is_found_at_once(tmp_path: Path):
    model = folder(tmp_path / "m")
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": "many"}))
    with pytest.raises(ModelError, match="no tokenizer can be loaded"):
        load_tokenizer(model)


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "vocab_size"])
@pytest.mark.parametrize("size", [0, -3, 10**9, 10**30])
def test_sizes_that_no_model_has_are_refused_at_once(name: str, size: int, tmp_path: Path, capsys):
    model = change(folder(tmp_path / "m"), **{name: size})
    with pytest.raises(ModelError):
        check_policy(model)
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    words = ["run", "sft", f"--model={model}", f"--data={data}", f"--out={tmp_path / 'out'}"]
    assert cli.main(words) == 2
    assert "why:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [4, 40, -8])
def test_weights_that_are_cut_are_refused_before_anything_is_made(cut: int, tmp_path: Path, capsys):
    model = folder(tmp_path / "m")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    words = ["run", "sft", f"--model={model}", f"--data={data}", f"--out={tmp_path / 'out'}"]
    assert cli.main([*words, "--dry-run"]) == 2
    assert "is no safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
