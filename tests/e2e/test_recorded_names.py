"""Run folders outlive the names of files: one made by version 0.1 is kept, stage by stage."""

from __future__ import annotations

import importlib
import json
import tarfile
from pathlib import Path

import pytest

from tandem import cli
from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.groups import Groups
from tandem.errors import RunError
from tandem.models.tokenise import TOKENIZER_KEY
from tandem.models.tokenizers import load_tokenizer
from tandem.runs.identity import describe_value
from tandem.runs.names import FORMER, RECORDED, as_recorded, find_recorded, record_as, recorded_name
from tandem.runs.run import Run

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """RLP with two rounds on a tiny model, as the first version left it."""
    with tarfile.open(DATA / "run-0.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return json.loads((tmp_path / "words.json").read_text())


def test_a_folder_of_version_0_1_is_kept_whole(old, capsys):
    """Every stage is found again but the comparison of policies, whose gold is another judge now.

    The old comparison stays where it is, and the new one has a name of its own. The reward that
    chose the policy is examined, which it was not then.
    """
    done = {p: p.stat().st_mtime_ns for p in Path("run").rglob("stage.json")}
    assert len(done) == 29
    assert cli.main(["run", *old]) == 0
    told = capsys.readouterr().err.splitlines()
    kept = {line.split()[0] for line in told if line.endswith("  kept")}
    assert {p.parent.relative_to("run").as_posix() for p in done} - kept == {"24-policy-exam"}
    assert [line.split()[0] for line in told if "done in" in line] == [
        "25-reward-held-exam", "26-policy-evaluation",
    ]  # fmt: skip
    after = {p: p.stat().st_mtime_ns for p in Path("run").rglob("stage.json")}
    assert {p: after[p] for p in done} == done


def test_whose_tokens_groups_hold_is_read_as_it_was_written(old):
    """The tokenizer's hash in a prompt's `meta` is today's of the model that encoded it."""
    written = {g.prompt.meta[TOKENIZER_KEY] for g in Groups.read(kept_groups("held-out"))}
    assert written == {tokenizer_hash(load_tokenizer(Path("model")))}


def kept_groups(stage: str) -> Path:
    (folder,) = Path("run").glob(f"*-{stage}")
    return folder / "artifact/groups.parquet"


def test_another_setting_is_still_refused(old, capsys):
    assert cli.main(["run", *old, "--reward.batch=4"]) == 2
    assert "cfg.batch: 8 -> 4" in capsys.readouterr().err


def test_everything_recorded_is_where_the_table_says():
    for name, home in RECORDED.items():
        module, _, attribute = home.rpartition(".")
        assert recorded_name(getattr(importlib.import_module(module), attribute)) == name


def test_every_former_name_has_a_name_of_today():
    assert set(FORMER.values()) <= set(RECORDED)
    assert not set(FORMER) & set(RECORDED)


def test_a_stranger_cannot_name_a_class():
    with pytest.raises(RunError, match="subprocess"):
        find_recorded("subprocess.Popen")
    with pytest.raises(RunError, match=r"'os\.system'"):
        find_recorded("os.system")


@pytest.mark.parametrize("name", ["evaluate_answers", "evaluate", "sft.fit"])
def test_a_stranger_cannot_have_a_function_called(name):
    """Tandem records functions too; a value is made of classes alone."""
    assert name in RECORDED
    with pytest.raises(RunError, match="holds a value of the class"):
        find_recorded(name)


def test_a_value_of_ones_own_class_is_read_back_where_it_was_named(tmp_path):
    from dataclasses import dataclass

    @record_as("tests.Score")
    @dataclass(frozen=True)
    class Score:
        points: tuple[int, ...]

    def scored() -> Score:
        return Score((1, 2))

    scored.__qualname__ = "scored"
    with Run(tmp_path / "run") as run:
        assert run("scored", scored) == Score((1, 2))
    with Run(tmp_path / "run") as run:
        assert run("scored", scored) == Score((1, 2))
    assert describe_value(Score((3,))) == {"class": "tests.Score", "points": [3]}


def test_former_names_are_read_inside_lists_and_tables():
    stored = {
        "a": [{"class": "tandem.loop.Optim", "lr": 1.0}],
        "b": {"enum": "tandem.rng.Seed.X"},
    }
    assert as_recorded(stored) == {"a": [{"class": "Optim", "lr": 1.0}], "b": {"enum": "Seed.X"}}
