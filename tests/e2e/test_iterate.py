"""Rounds with people: the process ends when it waits, and the same command goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tandem.cli import main
from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.machine import Machine
from tandem.methods import dpo, iterated_rlhf, reward, sft
from tandem.methods.dpo import DPOConfig
from tandem.methods.iterated_rlhf import IteratedRLHFConfig, training_part
from tandem.rng import Seed
from tandem.runs.run import Run
from tandem.stages.encoding import encode
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.tasks import Sizes, load
from tandem.training.optim import Optim

pytestmark = pytest.mark.slow
CPU = Machine(device="cpu", precision="fp32")
BRIEF = {
    "task": "micro", "sizes.demonstrations": 64, "sizes.prompts": 200, "sft.epochs": 1,
    "iterated_rlhf.rounds": 2, "iterated_rlhf.labels": 40, "iterated_rlhf.comparisons": 12,
    "iterated_rlhf.learn": "dpo", "dpo.epochs": 1, "dpo.batch": 8, "reward.batch": 8,
}  # fmt: skip


def iterate(out: Path, **more: Any) -> int:
    given = BRIEF | {"out": out} | more
    return main(["iterate", *(f"--{name}={value}" for name, value in given.items())])


def vote(folder: Path, missing: int = 0) -> int:
    """Prefer the longer answer; add ties, a skip, somebody who disagrees, and rows twice."""
    with (folder / "questions.csv").open(newline="") as file:
        asked = list(csv.DictReader(file))
    rows = [
        (q["question"], "ann", "a" if len(q["a"]) >= len(q["b"]) else "b")
        for q in asked[: len(asked) - missing]
    ]
    if missing:
        rows[0], rows[1] = (*rows[0][:2], "tie"), (*rows[1][:2], "skip")
        rows += [(name, "bob", "b" if said == "a" else "a") for name, _, said in rows[2:4]]
        rows += rows[4:7]
    with (folder / "votes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "by", "vote"), *rows])
    return len(asked)


def test_a_round_with_people_waits_goes_on_and_loses_nothing(tmp_path: Path, capsys: Any):
    people = {"iterated_rlhf.annotator": "people", "iterated_rlhf.need": 0.5}
    out = tmp_path / "run"
    assert iterate(out, **people) == 3
    assert "waiting: 0 of " in capsys.readouterr().err
    asked = vote(out / "ask" / "tranche-0", missing=10)
    assert iterate(out, **people) == 3  # the second tranche's questions are there now
    count = json.loads((out / "ask" / "tranche-0" / "count.json").read_text())
    assert (count["questions"], count["open"], count["declined"]) == (asked, 10, 1)
    assert (count["repeated"], count["disputed"], count["ties"]) == (3, 2, 1)
    assert count["counted"] == asked - 10 - 1 + 2
    tranche = Groups.read(next(out.glob("*-tranche-0/artifact/*.parquet")))
    assert sum(bool(g.preferences) for g in tranche) == asked - 10 - 1
    again = Groups.read(out / "ask" / "tranche-1" / "questions.parquet")
    assert {g.id for g in tranche if not g.preferences} - {g.id for g in again} == {
        g.id for g in tranche if g.prompt.meta["asked"] == "declined"
    }
    vote(out / "ask" / "tranche-1")
    assert iterate(out, **people) == 3
    vote(out / "ask" / "comparisons")
    assert iterate(out, **people) == 0
    table = capsys.readouterr().out
    assert "right on 1" in table
    assert (out / "rounds.svg").read_text().count("labels") >= 3
    assert iterate(out, **people) == 0  # everything is kept
    assert "DPO-2" in capsys.readouterr().out


def test_rounds_choose_what_to_ask_and_follow_a_taste_that_moves(tmp_path: Path, capsys: Any):
    """Chosen pairs are flagged, held-out prompts are drawn, and free labels join the next round."""
    chosen = {
        "task": "micro-flip", "iterated_rlhf.acquisition": "d_optimal", "iterated_rlhf.pool": 2,
        "iterated_rlhf.memory": "window", "iterated_rlhf.window": 1,
        "iterated_rlhf.labels": 24, "iterated_rlhf.growth": 1.5, "iterated_rlhf.held_out": 0.25,
    }  # fmt: skip
    out = tmp_path / "run"
    assert iterate(out, **chosen) == 0
    assert "PPO" not in capsys.readouterr().out
    for t, size in ((0, 24), (1, 36)):
        tranche = Groups.read(next(out.glob(f"*-tranche-{t}/artifact/*.parquet")))
        sources = [g.prompt.meta.get("source") for g in tranche]
        assert {"d_optimal", "uniform", None} == set(sources)
        assert size - 6 <= len(tranche) <= size
        assert sources.count(None) <= round(0.25 * size)
    votes = [json.loads(p.read_text()) for p in sorted(out.glob("*-tranche-*/stage.json"))]
    assert [v["arguments"]["judges"][0]["round"] for v in votes] == [0, 1]


def test_rounds_without_new_labels_are_offline_to_the_bit(tmp_path: Path):
    """Given comparisons, and none asked for: the very reward and policy of an offline run."""
    task = load.load_task("micro", Sizes(demonstrations=64, pairs=24, prompts=60), Seed(0))
    how, optim = Sampling(max_tokens=24), Optim(lr=1e-3)
    fits = {
        "reward": reward.RewardConfig(batch=8),
        "dpo": DPOConfig(epochs=1, batch=8, optim=optim),
    }
    cfg = IteratedRLHFConfig(rounds=3, labels=0, learn="dpo", comparisons=4, **fits)  # type: ignore[arg-type]
    with Run(tmp_path / "run", machine=CPU) as run:
        pi_sft = sft.recipe(run, task.base, task.demonstrations, sft.SFTConfig(epochs=1))
        assert task.asked is not None
        assert task.annotator is not None
        pairs = run("given", sample, pi_sft, task.asked, n=2, sampling=how)
        D = run("labelled", judge, pairs, task.annotator)
        prompts = run("unlabelled", encode, task.prompts, task.base, room=24)
        off = Run.scope(run, "offline", run.seed)
        offline = dpo.recipe(off, pi_sft, training_part([D], cfg, given=True), cfg.dpo)
        on = iterated_rlhf.recipe(
            run.scope("online", run.seed), task.base, pi_sft, D, prompts, task.annotator,
            task.formats, task.same, task.truth, how, cfg,
        )  # fmt: skip
    assert str(on) == "DPO-1"
    left, right = (load_file(c.path / "model.safetensors") for c in (offline, on))
    assert all((left[k] == right[k]).all() for k in left)
