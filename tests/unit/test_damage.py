"""A byte that changed is noticed, a refused command changes nothing, two at once both succeed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tandem import cli
from tandem.data.cached_groups import keep_groups
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import DataError, ModelError, RunError
from tandem.runs import atomic_files
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.display import Hidden
from tandem.runs.records import COLUMNS, read_record, read_value
from tandem.runs.run import Run
from tandem.training.state_file import read_state, write_state

NUMBER = "02-number/artifact/value.json"


def make_groups(n: int = 3) -> Groups:
    return Groups.of(Group(Prompt(f"p{k}", f"say {k}"), (Completion("yes"),)) for k in range(n))


def make_number(x: float) -> dict[str, float]:
    return {"x": x}


def do_run(folder: Path, x: float = 1.0, **more) -> None:
    with Run(folder, 0, display=Hidden(), **more) as run:
        run.save_config(f"x = {x}\n")
        run("groups", make_groups)
        run("number", make_number, x)


def flip(file: Path, share: float = 0.5) -> None:
    data = bytearray(file.read_bytes())
    data[int(share * len(data))] ^= 1
    file.write_bytes(data)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("stage", ["01-groups/artifact/groups.parquet", NUMBER])
def test_a_flipped_bit_of_an_artifact_names_its_stage(tmp_path, stage, share):
    do_run(tmp_path / "run")
    flip(tmp_path / "run" / stage, share)
    with pytest.raises(RunError, match=stage.partition("/")[0]):
        do_run(tmp_path / "run")


def test_runs_check_finds_what_is_damaged(tmp_path, capsys):
    do_run(tmp_path / "run")
    assert cli.main(["runs", "check", str(tmp_path / "run")]) == 0
    flip(tmp_path / "run/01-groups/artifact/groups.parquet")
    assert cli.main(["runs", "check", str(tmp_path / "run")]) == 1
    assert "damaged  01-groups" in capsys.readouterr().out
    assert cli.main(["runs", "check", str(tmp_path)]) == 1
    assert cli.main(["runs", "check", str(tmp_path / "none")]) == 2


def test_a_refused_command_changes_no_byte(tmp_path):
    do_run(tmp_path / "run")
    before = digests(tmp_path / "run")
    with pytest.raises(RunError, match="other arguments"):
        do_run(tmp_path / "run", 2.0)
    assert digests(tmp_path / "run") == before
    do_run(tmp_path / "run", 2.0, redo=["02-number"])
    assert (tmp_path / "run/run.toml").read_text() == "x = 2.0\n"


DAMAGE = {
    "a list for a table": ("run.json", "[]"),
    "no seed": ("run.json", "{}"),
    "a stage without a result": ("02-number/stage.json", "{}"),
    "seconds that are words": ("02-number/stage.json", '{"seconds": "many"}'),
    "a value that is cut": ("02-number/artifact/value.json", '{"x":'),
    "a class of a stranger": ("02-number/artifact/value.json", '{"__class__": "os.system"}'),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_an_error_in_three_parts(tmp_path, name):
    file, text = DAMAGE[name]
    do_run(tmp_path / "run")
    if file.endswith("stage.json"):
        stored = json.loads((tmp_path / "run" / file).read_text())
        changed = json.loads(text) or {"result": None}
        text = json.dumps({**stored, **changed})
    (tmp_path / "run" / file).write_text(text)
    with pytest.raises(RunError):
        do_run(tmp_path / "run")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_stage_without_a_column_is_damaged(tmp_path, column):
    do_run(tmp_path / "run")
    file = tmp_path / "run/02-number/stage.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in stored.items() if k != column}))
    if column == "same_as":  # only who took an artifact over has it
        assert read_record(file.parent).same_as is None
        return
    with pytest.raises(RunError, match=f"is damaged: `{column}`"):
        read_record(file.parent)


@pytest.mark.parametrize("stored", [{}, [], "x", {"text": {}}, {"numbers": 3}, None])
def test_another_value_than_a_stage_makes_is_an_error(stored):
    with pytest.raises(RunError, match=r"has no `numbers\.measures`"):
        read_value(stored, "numbers", "measures")
    assert read_value({"numbers": {"measures": 2}}, "numbers", "measures") == 2


def test_a_deleted_stage_comes_back_to_its_place(tmp_path):
    """As the errors advise: delete a stage's folder to have it done again."""
    do_run(tmp_path / "run")
    before = {p.name for p in (tmp_path / "run").iterdir()}
    for folder in sorted(p for p in (tmp_path / "run").iterdir() if p.is_dir()):
        kept = digests(folder / "artifact")
        shutil.rmtree(folder)
        do_run(tmp_path / "run")
        assert digests(folder / "artifact") == kept
        assert {p.name for p in (tmp_path / "run").iterdir()} == before


def test_a_stage_that_is_new_in_the_middle_takes_no_others_number(tmp_path):
    def run(*names: str) -> list[str]:
        with Run(tmp_path / "run", 0, display=Hidden()) as run:
            for name in names:
                run(name, len, name)
        return sorted(p.name for p in (tmp_path / "run").iterdir() if p.is_dir())

    assert run("a", "b", "c") == ["01-a", "02-b", "03-c"]
    assert run("a", "between", "b", "c") == ["01-a", "02-b", "03-c", "04-between"]
    assert run("a", "between", "after", "b", "c", "d")[-2:] == ["05-after", "06-d"]


def test_a_stage_that_is_a_file_is_refused(tmp_path):
    do_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/02-number")
    (tmp_path / "run/02-number").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        do_run(tmp_path / "run")


def test_another_torch_is_said(tmp_path):
    do_run(tmp_path / "run")
    file = tmp_path / "run/run.json"
    stored = json.loads(file.read_text())
    stored["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(stored))
    said: list[str] = []
    display = Hidden()
    display.say = said.append  # type: ignore[method-assign]
    with Run(tmp_path / "run", 0, display=display):
        pass
    assert any("torch 1.0, now" in line for line in said)


def test_without_hard_links_artifacts_are_copied(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("text")
    atomic_files.hard_link_tree(tmp_path / "a", tmp_path / "z")
    assert (tmp_path / "z/b/c").read_text() == "text"


# states ----------------------------------------------------------------------------------------


def make_state() -> dict[str, object]:
    shared = torch.arange(6.0)
    return {
        "module": {"a": shared, "tied": shared, "view": shared[2:], "b": torch.ones(2).bfloat16()},
        "optimiser": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"betas": (0.9, 0.9)}]},
        "schedule": {"lr_lambdas": [None], "last": [1e-3], "odd": float("inf")},
        "step": 7,
    }  # fmt: skip


def test_a_state_reads_back_bit_for_bit(tmp_path):
    state = make_state()
    write_state(tmp_path / "state.safetensors", state)
    back = read_state(tmp_path / "state.safetensors")
    for name, tensor in state["module"].items():  # type: ignore[union-attr]
        assert torch.equal(back["module"][name], tensor)
        assert back["module"][name].dtype == tensor.dtype
    assert back["optimiser"]["groups"] == [{"betas": (0.9, 0.9)}]
    assert back["optimiser"]["state"][0]["step"].item() == 3.0
    assert (back["schedule"], back["step"]) == (state["schedule"], 7)


def test_every_flipped_bit_of_a_state_is_noticed(tmp_path):
    file = tmp_path / "state.safetensors"
    write_state(file, {"x": torch.arange(4.0), "step": 1})
    whole = file.read_bytes()
    start = whole.index(b'"tree"')  # before it, the header's own length and names
    for k in range(start, len(whole)):
        changed = bytearray(whole)
        changed[k] ^= 1
        file.write_bytes(changed)
        try:
            back = read_state(file)
        except RunError:
            continue
        assert torch.equal(back["x"], torch.arange(4.0)), f"byte {k} was not noticed"
        assert back["step"] == 1


# caches ----------------------------------------------------------------------------------------


def keep(path: str) -> None:
    keep_groups(Path(path), iter(make_groups(2000)), lambda: {"n": 2000})


def test_two_processes_make_one_cache(tmp_path):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=keep, args=(str(tmp_path / "x.parquet"),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [p.exitcode for p in both] == [0, 0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.parquet", "x.parquet.lock"]


def test_a_damaged_cache_is_made_again(tmp_path):
    path = tmp_path / "x.parquet"
    keep_groups(path, iter(make_groups(5)), lambda: {"n": 5})
    flip(path)
    again, notes = keep_groups(path, iter(make_groups(5)), lambda: {"n": 5})
    assert (len(again), notes) == (5, {"n": 5})
    kept, _ = keep_groups(path, iter(()), dict)
    assert kept.hash == make_groups(5).hash


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="TANDEM_CACHE"):
        keep_groups(tmp_path / "file/x.parquet", iter(make_groups()), dict)


# weights ---------------------------------------------------------------------------------------


def test_weights_are_safetensors_however_they_are_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    for name in ("pytorch_model.bin", "../model.safetensors", "none.safetensors"):
        index.write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(ModelError, match="weights"):
            _ = Checkpoint(tmp_path).hash
    index.write_text("[")
    with pytest.raises(ModelError, match="cannot be read"):
        _ = Checkpoint(tmp_path).hash


def test_the_digest_is_of_what_is_loaded(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = Checkpoint(tmp_path).hash
    (tmp_path / "other.safetensors").write_bytes(b"not loaded")
    assert Checkpoint(tmp_path).hash == before
    (tmp_path / "model.safetensors").write_bytes(b"weightz!")
    assert Checkpoint(tmp_path).hash != before


# data ------------------------------------------------------------------------------------------


def test_numbers_without_meaning_are_refused_in_our_own_columns(tmp_path):
    from tandem.data.formats import read_data

    answers = (Completion("a"), Completion("b"))
    wrong = {
        "p": Group(Prompt("x", "q"), answers, preferences=(Preference(0, 1, 0.5),)),
        "scores": Group(Prompt("x", "q"), answers, scores=np.array([1.0, np.nan])),
    }
    for column, group in wrong.items():
        table = Groups.of([group]).table
        if column == "p":
            import pyarrow as pa

            place = table.schema.get_field_index("p")
            table = table.set_column(place, table.schema.field("p"), pa.array([[5.0]]))
        Groups(table).write(tmp_path / f"{column}.parquet")
        with pytest.raises(DataError, match=f"column `{column}`"):
            read_data(tmp_path / f"{column}.parquet")
