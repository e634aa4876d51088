"""`tandem plan`: the table adds up, and the advice is for what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.cli import main
from tandem.cli.run_plan import advice_lines, room_lines, table_lines
from tandem.machine import GIB, Lora, Machine
from tandem.pipeline.cost_estimate import FitEstimate, RunEstimate
from tandem.training import free_memory
from tandem.training.memory import MemoryNeed


def estimate(optimizer: int = 1, held: int = 1, longest: int = 100) -> RunEstimate:
    need = MemoryNeed(held * GIB, GIB, optimizer * GIB, 0, 0, GIB, 0)
    fits = tuple(FitEstimate(name, n, 10_000, 1024, 0, need, 60.0, GIB) for name, n in
                 (("sft", 1), ("reward", 5)))  # fmt: skip
    return RunEstimate(fits, 2 * GIB, longest, 100)


def test_parts_add_up_and_repeated_fits_count():
    found = estimate()
    assert found.memory == sum(found.fits[0].need.parts().values()) == 4 * GIB
    assert found.seconds == 360
    assert found.disk == 6 * GIB
    assert any(line.startswith("memory, GiB") and "4.00" in line for line in table_lines(found))


def test_what_does_not_fit_is_said_with_settings_that_are_not_given_yet():
    lines = list(room_lines(estimate(), 3 * GIB, 100 * GIB, Machine()))
    assert "it fits" not in lines
    assert list(room_lines(estimate(), 5 * GIB, 100 * GIB, Machine()))[-1] == "it fits"
    assert any("disk" in x for x in room_lines(estimate(), 5 * GIB, 7 * GIB, Machine()))
    heavy = estimate(optimizer=9)
    assert any("lora" in line for line in advice_lines(heavy, Machine()))
    assert not any("lora" in line for line in advice_lines(heavy, Machine(lora=Lora())))
    assert any("bf16" in line for line in advice_lines(heavy, Machine(precision="fp32")))
    assert "--data.max_length 200" in next(advice_lines(estimate(longest=900), Machine()))


def test_the_command_prints_a_plan_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    words = "plan dpo --task micro --sizes.demonstrations 20 --machine.device cpu".split()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "it fits" in out
    assert "memory, GiB" in out
    assert not list(tmp_path.iterdir())


def test_the_command_says_that_a_model_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(free_memory, "_limits", lambda _: [50 << 20])
    words = "plan sft --task micro --sizes.demonstrations 20 --machine.device cpu".split()
    assert main(words) == 1
    assert "does not fit" in capsys.readouterr().out
