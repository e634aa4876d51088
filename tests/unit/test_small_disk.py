"""Disks that take no more, and names that are too long: three parts, and nothing half-made."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import numpy as np
import pytest

from tandem import cli
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import RunError
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.display import Hidden
from tandem.runs.run import Run

ROOM = 300_000
"""Bytes that a file may have: the kernel refuses every write beyond them."""


@pytest.fixture
def little_room() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(length: int, seed: int = 0) -> str:
    return np.random.default_rng(seed).bytes(length).hex()


def stream_groups() -> Iterator[Group]:
    for k in range(40):
        yield Group(Prompt(f"p{k}", noise(20_000, k)), (Completion("x"),))


def make_groups() -> Groups:
    return Groups.of(stream_groups())


def make_value() -> dict[str, str]:
    return {"text": noise(2 * ROOM)}


def fit(*, ctx: StageContext) -> Checkpoint:
    import torch
    from safetensors.torch import save_file

    (ctx.out / "config.json").write_text("{}")
    save_file({"w": torch.rand(ROOM)}, ctx.out / "model.safetensors")
    return Checkpoint(ctx.out)


def open_file(*, ctx: StageContext) -> int:
    with (ctx.out / "x").open("wb") as file:
        return file.write(bytes(2 * ROOM))


@pytest.mark.parametrize("stage", [stream_groups, make_groups, make_value, fit, open_file])
def test_a_stage_that_finds_no_room_says_so_and_is_done_again(stage, tmp_path, little_room):
    with Run(tmp_path / "run", 0, display=Hidden()) as run, pytest.raises(RunError) as caught:
        run("big", stage)
    assert "File too large" in caught.value.what
    assert not [
        p for p in (tmp_path / "run").rglob("*") if p.is_file() and p.stat().st_size >= ROOM
    ]
    assert not (tmp_path / "run/01-big").exists()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with Run(tmp_path / "run", 0, display=Hidden()) as run:
        run("big", stage)


LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["data", "check", f"{LONG}.jsonl"],
        ["run", "dpo", "--task=micro", f"--out={LONG}"],
        ["run", "dpo", f"--model={LONG}", "--data=d.jsonl"],
        ["run", "dpo", "--task=micro", f"--config={LONG}.toml"],
        ["bench", f"{LONG}.toml"],
        ["report", LONG],
        ["runs", "check", LONG],
        ["game", f"{LONG}.json"],
        ["label", "users", LONG],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_name_that_is_too_long_is_an_answer(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert all(part in told for part in ("error: ", "why: ", "do:  "))
    assert [p.name for p in tmp_path.iterdir()] == ["d.jsonl"]
