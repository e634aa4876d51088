"""Who is gold: a reward of other people's comparisons, or nobody."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion
from tandem.errors import ConfigError
from tandem.machine import Machine
from tandem.models.folders import layer_count
from tandem.operators.columns import scores_of
from tandem.pipeline.inputs import Inputs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.stages.judging import judge
from tandem.tasks import LEAST_GOLD, Sizes
from tandem.tasks.load import load_task
from tandem.tasks.micro import Micro
from tandem.tasks.micro.posts import Quality, write_summary
from tandem.tasks.own_data import task_from_files


def pairs_file(folder: Path, n: int) -> Path:
    rows = [{"prompt": f"say {i}", "chosen": f"{i}", "rejected": f"no {i}"} for i in range(n)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder / "pairs.jsonl"


def ids(groups: Groups) -> set[str]:
    return {g.prompt.text for g in groups}


def test_a_part_is_held_back_that_nothing_else_sees(tmp_path: Path):
    data = pairs_file(tmp_path, 1500)
    task = task_from_files(tmp_path, data)
    assert task.gold_labels is not None
    assert task.preferences is not None
    assert task.held_out is not None
    gold = ids(task.gold_labels)
    assert 200 < len(gold) < 400
    for other in (task.preferences, task.demonstrations, task.prompts, task.held_out):
        assert not gold & ids(other)
    assert any(f"{len(gold)} comparisons are held back for gold_rm" in n for n in task.notes)
    without = task_from_files(tmp_path, data, Sizes(gold_share=0.0))
    assert without.gold_labels is None
    assert without.held_out is not None
    assert ids(without.held_out) == ids(task.held_out)
    assert without.preferences is not None
    assert ids(without.preferences) == gold | ids(task.preferences)


def test_with_a_test_set_of_ones_own_the_share_is_of_all_prompts(tmp_path: Path):
    """Nothing of the data is held out then, so the share is not divided by what is left."""
    data = pairs_file(tmp_path, 1600)
    (tmp_path / "own").mkdir()
    own = pairs_file(tmp_path / "own", 4)
    task = task_from_files(tmp_path, data, Sizes(held_out_share=0.5, gold_share=0.5), eval_data=own)
    assert task.gold_labels is not None
    assert 700 < len(task.gold_labels) < 900


def test_where_it_would_be_too_little_nothing_is_held_back(tmp_path: Path):
    data = pairs_file(tmp_path, 300)
    task = task_from_files(tmp_path, data)
    same = task_from_files(tmp_path, data, Sizes(gold_share=0.0))
    assert task.gold_labels is None
    assert task.preferences is not None
    assert same.preferences is not None
    assert ids(task.preferences) == ids(same.preferences)
    assert any("no gold_rm: a share of 0.2" in n and str(LEAST_GOLD) in n for n in task.notes)


def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path: Path):
    data = pairs_file(tmp_path, 300)
    with pytest.raises(ConfigError, match="gold_share") as caught:
        task_from_files(tmp_path, data, Sizes(held_out_share=0.5, gold_share=0.5))
    assert all([caught.value.what, caught.value.why, caught.value.do])


def test_the_micro_task_ships_a_gold_reward_that_is_larger_than_any_proxy():
    gold = load_task("micro", Sizes(pairs=2, held_out=2, prompts=2, evaluation=2)).gold
    assert gold is not None
    assert layer_count(gold.checkpoint.path) > layer_count(Micro().model())  # type: ignore[attr-defined]
    made = json.loads((gold.checkpoint.path / "made.json").read_text())  # type: ignore[attr-defined]
    assert made["seed"] > 1000  # no table, search or test of policies uses it


@pytest.mark.parametrize(
    ("own", "judgments", "low", "judges"),
    [
        (True, 500, 0.62, True),
        (True, 500, 0.48, False),
        (True, 12, 0.48, True),
        (False, 500, 0.48, False),
        (False, 12, None, False),
    ],
)
def test_no_gold_reward_judges_that_is_no_better_than_a_coin(own, judgments, low, judges):
    """One that comes with the task is tested like any other, where there is enough to see it."""
    few = Sizes(demonstrations=2, pairs=LEAST_GOLD, held_out=2, prompts=2, evaluation=2)
    exam = {"numbers": {"judgments": judgments, "measures": {"accuracy": {"low": low}}}}

    def run(stage: str, *_: Any, **__: Any) -> Any:
        return exam if stage == "gold-exam" else Checkpoint(Path(), stage)

    inputs = Inputs(run, load_task("micro" if own else "micro-tastes", few), defaultdict(dict))  # type: ignore[arg-type]
    assert (inputs.gold_rm is not None) == judges


def test_the_shipped_gold_reward_judges_no_task_of_which_it_knows_nothing():
    few = Sizes(demonstrations=2, pairs=LEAST_GOLD, held_out=2, prompts=2, evaluation=2)
    assert load_task("micro-translation", few).gold is None
    tastes = load_task("micro-tastes", few)
    assert tastes.gold is None
    assert tastes.asked_gold is not None  # its own people teach one
    assert tastes.asked is not None
    assert not ids(tastes.asked_gold) & ids(tastes.asked)


def test_the_shipped_gold_reward_knows_the_truth_within_a_prompt():
    """Summaries of every quality for posts that nobody trained on."""
    world, writers = (
        Micro(),
        [Quality(), Quality(wrong=0.5), Quality(missing=0.6), Quality(extra=1)],
    )
    posts = world.prompts("evaluation", 60, Seed(3))
    drawn = Groups.of(
        replace(g, completions=tuple(
            Completion(write_summary(g.prompt.meta, Seed(3).at(g.id, k).rng(), w))
            for k, w in enumerate(writers * 2)
        ))
        for g in posts
    )  # fmt: skip
    gold = world.gold()
    assert gold is not None
    scores = [
        np.stack([scores_of(g, "gold") for g in judge(drawn, who, machine=Machine(device="cpu"))])
        for who in (world.truth(), gold)
    ]
    x, y = (s - s.mean(axis=1, keepdims=True) for s in scores)
    assert (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()) > 0.8
