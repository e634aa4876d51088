"""Every setting has a range, which is checked before anything is made; no setting is lost."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from tandem import cli
from tandem.cli.run import default_configs
from tandem.cli.settings import leaf_settings, read_file
from tandem.errors import ConfigError
from tandem.errors.ranges import Range, range_of_field
from tandem.machine import Lora, Machine
from tandem.methods import METHODS, load_method

CONFIGS = {n: c for name in METHODS for n, c in default_configs(load_method(name)).items()}
SETTINGS = {s.name: s for name, config in CONFIGS.items() for s in leaf_settings(config, name)}
SMALL = [f"--sizes.{n}=4" for n in "demonstrations pairs held_out prompts evaluation".split()]
DRY = ["--task=micro", *SMALL, "--dry_run"]


def number_kinds(hint: object) -> bool:
    return any(kind in str(hint) for kind in ("int", "float"))


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if number_kinds(s.hint)])
def test_every_number_declares_its_range(name):
    assert SETTINGS[name].range is not None


def outside(allowed: Range) -> float | None:
    for value in (-1, allowed.low - 1, allowed.high + 1, allowed.high, allowed.low):
        if math.isfinite(value) and value not in allowed:
            return value
    return None


def owner_of(name: str) -> str:
    return next(method for method in METHODS if name.partition(".")[0] in default_configs(load_method(method)))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.range is not None])
def test_a_value_outside_is_refused_by_its_whole_name(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setting = SETTINGS[name]
    value = outside(setting.range)  # type: ignore[arg-type]
    if value is None:
        pytest.skip("every finite number is allowed")
    number = int(value) if "int" in str(setting.hint) else float(value)
    text = str(number) if not isinstance(setting.default, tuple) else f"[{number},{number}]"
    if "..." in str(setting.hint):
        text = f"[{number}]"
    assert cli.main(["run", owner_of(name), *DRY, f"--{name}={text}"]) == 2
    assert f"error: {name} = " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_defaults_lie_in_their_ranges():
    for config in CONFIGS.values():
        for f in fields(config):
            allowed, value = range_of_field(type(config), f.name), getattr(config, f.name)
            if allowed is not None and value is not None and not is_dataclass(value):
                members = value if isinstance(value, tuple) else (value,)
                assert all(m in allowed for m in members)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None])
def test_what_is_no_number_lies_in_no_range(value):
    assert value not in Range(-1, 1)
    assert value not in Range()


@pytest.mark.parametrize("digits", [301, 401, 5001])
@pytest.mark.parametrize("name", ["best_response.prompts", "best_response.optim.lr"])
def test_numbers_of_hundreds_of_digits_are_refused(name, digits, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    number, table = "1" * digits, name.removesuffix(".prompts").removesuffix(".lr")
    Path("given.toml").write_text(f"[{table}]\n{name.rpartition('.')[2]} = {number}\n")
    for words in ([f"--{name}={number}"], [f"--{name}", number], ["--config=given.toml"]):
        assert cli.main(["run", "best_response", "--task=micro-tastes", "--dry_run", *words]) == 2
        said = capsys.readouterr().err
        assert name in said or "given.toml: Exceeds the limit (4300 digits)" in said
        assert len(said) < 500


def test_a_table_for_a_text_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("given.toml").write_text("[best_response.against.best_response]\nagainst = 1\n")
    words = ["run", "best_response", "--task=micro-tastes", "--dry_run", "--config=given.toml"]
    assert cli.main(words) == 2
    assert "best_response.against = {" in capsys.readouterr().err


@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_a_number_that_no_float_holds_lies_in_no_range(number):
    assert number not in Range()
    assert number not in Range(0, 10, infinite=True)


def test_machines_that_are_not_there_are_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word, said in {
        "--machine.device=tpu": "machine.device = 'tpu'",
        "--machine.device=cuda:99": "machine.device = 'cuda:99'",
        '--machine.lora={"rank":0}': "lora.rank = 0",
        '--machine.lora={"rank":4,"targets":["nope"]}': "no layer 'nope'",
    }.items():
        assert cli.main(["run", "sft", *DRY, word]) == 2
        assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_dataclasses_refuse_as_well():
    for make in (lambda: Machine(log_every=0), lambda: Lora(alpha=0.0)):
        with pytest.raises(ConfigError, match="it has to be"):
            make()


# files -----------------------------------------------------------------------------------------


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert cli.main(["run", "dpo", *SMALL, "--dry_run", *words]) == 0
    file = Path("plan.toml")
    file.write_text(capsys.readouterr().out)
    return read_file(file)


def test_two_files_are_both_read_and_the_later_wins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text("[dpo]\nbeta = 0.3\nepochs = 2\n")
    Path("b.toml").write_text("[dpo]\nepochs = 5\n")
    table = planned(capsys, "--task=micro", "--config", "a.toml", "--config=b.toml")
    assert (table["dpo"]["beta"], table["dpo"]["epochs"]) == (0.3, 5)  # type: ignore[index]


def test_a_task_in_a_file_has_the_defaults_that_the_flag_has(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("task.toml").write_text('task = "micro"\n')
    assert planned(capsys, "--config=task.toml") == planned(capsys, "--task=micro")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", 'config = "b.toml"\n', "`config` in a.toml"),
        ("a.yaml", "dpo: {beta: 0.3}\ndpo: {epochs: 7}\n", "gives `dpo` a second time"),
        ("a.yaml", "dpo: {beta: 0.3, beta: 0.4}\n", "gives `beta` a second time"),
        ("a.yaml", "x: &a [1]\ny: *a\n", "anchor"),
        ("a.yaml", "[" * 3000, "a.yaml"),
    ],
)
def test_what_would_be_lost_in_a_file_is_refused(name, text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    assert cli.main(["run", "dpo", *DRY, f"--config={name}"]) == 2
    assert said in capsys.readouterr().err
