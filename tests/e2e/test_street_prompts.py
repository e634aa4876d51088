"""Few prompts, one prompt, and test sets of one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_street_models import model

from tandem import cli
from tandem.data.formats.options import ReadingOptions
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import DataError
from tandem.evaluation import reward_evaluation, with_other_prompts
from tandem.tasks import Sizes
from tandem.tasks.own_data import task_from_files


def rows(path: Path, prompts: int, pairs: int, first: int = 0) -> Path:
    written = [
        {"prompt": f"say {first + k}", "chosen": f"yes {k} {n}", "rejected": f"no, not {k} {n}"}
        for k in range(prompts)
        for n in range(pairs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    return path


def words(tmp_path: Path, data: Path, *more: str) -> list[str]:
    source = tmp_path / "model"
    if not source.exists():
        model(source)
    return ["--model", str(source), "--data", str(data), "--out", str(tmp_path / "run"), *more]


def test_few_held_out_prompts_are_named_before_the_first_stage(tmp_path: Path, capsys):
    data = rows(tmp_path / "data.jsonl", 14, 3)
    assert cli.main(["run", "dpo", *words(tmp_path, data), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"# [1-5] held-out prompts?: no verdict is possible", said)
    assert cli.main(["run", "dpo", *words(tmp_path, rows(tmp_path / "d2.jsonl", 400, 1)),
                     "--dry_run"]) == 0  # fmt: skip
    assert "no verdict" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["dpo", "sft", "kto"])
def test_one_prompt_is_an_error_that_says_so(command: str, tmp_path: Path, capsys):
    data = rows(tmp_path / "data.jsonl", 1, 40)
    assert cli.main(["run", command, *words(tmp_path, data), "--dry_run"]) == 2
    said = capsys.readouterr().err
    assert "all 40 rows have one prompt" in said
    assert "held_out_share" not in said
    test = rows(tmp_path / "test.jsonl", 8, 1, first=50)
    code = cli.main(["run", command, *words(tmp_path, data, "--eval_data", str(test)), "--dry_run"])
    said = "".join(capsys.readouterr())
    assert code == (2 if command == "kto" else 0)
    assert ("one prompt" in said) == (command == "kto")


def test_a_reward_on_one_prompt_has_an_exam_without_other_prompts():
    votes = (Preference(0, 1),)
    groups = [
        Group(Prompt(str(k), "q"), (Completion("a"), Completion("b")), np.array([1.0, 0.0]), votes)
        for k in range(20)
    ]
    assert list(with_other_prompts(groups)) == []
    found = reward_evaluation(groups, other_prompts=with_other_prompts(groups))
    assert found.own_prompt is None
    for value in found.as_dict()["measures"].values():
        if isinstance(value, dict) and value["low"] is not None:
            assert 0 <= value["low"] <= value["high"]


def test_a_test_set_of_ones_own(tmp_path: Path):
    model(tmp_path / "model")
    data, test = rows(tmp_path / "data.jsonl", 30, 1), rows(tmp_path / "test.jsonl", 9, 1, first=25)
    task = task_from_files(tmp_path / "model", data, Sizes(), eval_data=test)
    held: Any = task.held_out
    trained: Any = task.preferences
    assert len(held) == len(task.evaluation) == 9
    assert {g.prompt.text for g in trained} == {f"say {k}" for k in range(25)}
    assert any("5 groups of" in line and "not trained on" in line for line in task.notes)
    with pytest.raises(DataError, match="stands in"):
        task_from_files(tmp_path / "model", data, Sizes(), eval_data=data)


def test_names_of_columns_are_those_of_the_training_data(tmp_path: Path):
    model(tmp_path / "model")
    theirs = [{"q": f"say {k}", "good": f"yes {k}", "bad": "no"} for k in range(20)]
    data, test = tmp_path / "theirs.jsonl", rows(tmp_path / "test.jsonl", 9, 1, first=50)
    data.write_text("".join(json.dumps(row) + "\n" for row in theirs))
    named = ReadingOptions(columns="prompt=q,chosen=good,rejected=bad")
    task = task_from_files(tmp_path / "model", data, Sizes(), named, eval_data=test)
    assert len(task.evaluation) == 9
    assert any("read without --columns" in line for line in task.notes)
    test.write_text('{"q": "say 3"}\n')
    with pytest.raises(DataError, match="no column `good`"):
        task_from_files(tmp_path / "model", data, Sizes(), named, eval_data=test)


def test_a_long_step_speaks_within_ten_seconds():
    from io import StringIO

    from tandem.runs.display import Lines
    from tandem.runs.heartbeat import Heartbeat, count_tokens

    now, out = [0.0], StringIO()
    display = Lines(out, lambda: now[0])
    heart = Heartbeat(display, "02-ppo", lambda: now[0])
    for second in range(0, 40, 2):
        now[0] = float(second)
        count_tokens("drawn", 500)
        display.beat("02-ppo", heart.describe)
    said = out.getvalue().splitlines()
    assert len(said) == 4, "every eight seconds or so"
    assert said[0].startswith("02-ppo  at work for 8.0 s  2,500 tokens drawn, 312 a second")
    assert "GiB" in said[0]
    display.progress("02-ppo", 1, 2, "step", {})
