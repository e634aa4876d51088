"""The stage `evaluate`: policies on the same prompts with the same draws, against an opponent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import worlds
from tandem.cli.evaluate import without_repeats
from tandem.data.groups import Groups
from tandem.data.record import Group, Prompt
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.run import Run
from tandem.stages.evaluate_policy import evaluate

TWO = Sampling(max_tokens=2)


@dataclass(frozen=True)
class Reward:
    """F2's reward of an answer."""

    name: str = "truth"

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        for group in groups:
            scores = [worlds.F2_REWARD[c.text] for c in group.completions]
            yield replace(group, scores=np.array(scores))


@pytest.fixture(scope="module")
def f2(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("f2")
    ref = worlds.f2_model(folder / "ref")
    always_a = worlds.f2_model(folder / "a", first={"a": 1 - 1e-9, "b": 1e-9})
    return {
        "ref": Checkpoint(ref, "ref"),
        "same": Checkpoint(ref, "same"),
        "a": Checkpoint(always_a, "a"),
    }


@pytest.fixture
def prompts() -> Groups:
    return Groups.of(Group(Prompt(f"p{i}", "<bos>")) for i in range(300))


def test_scores_wins_and_kl_are_those_of_the_laws(f2, prompts, tmp_path: Path):
    """E r = .6 (.3) + .4 (.2 (.5) - .8) = -.1 under the reference, and .3 where a comes first.

    KL(a first || ref) = -log .6 = .511 nats, whatever is drawn.
    """
    with Run(tmp_path / "run", seed=1) as run:
        found = run(
            "evaluation", evaluate, [f2["a"], f2["same"]], prompts, Reward(),
            opponent=f2["ref"], sampling=TWO,
        )  # fmt: skip
    rows = {row["policy"]: row for row in found["numbers"]["policies"]}
    assert set(rows) == {"ref", "a", "same"}
    truth = {name: row["truth"] for name, row in rows.items()}
    assert truth["a"]["low"] < 0.3 < truth["a"]["high"]
    assert truth["ref"]["low"] < -0.1 < truth["ref"]["high"]
    assert truth["same"] == truth["ref"]  # the same draws
    assert rows["a"]["kl"]["mean"] == pytest.approx(-np.log(0.6), abs=1e-3)
    assert rows["same"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    assert "a" in found["text"]


def test_a_prompt_that_comes_again_is_asked_once():
    given = Groups.of(Group(Prompt(f"p{i}", f"q{i % 3}")) for i in range(7))
    assert [g.id for g in without_repeats(given)] == ["p0", "p1", "p2"]


def test_names_that_cannot_be_told_apart_are_refused(f2, prompts, tmp_path: Path):
    with Run(tmp_path / "run") as run:
        with pytest.raises(ConfigError, match="two policies are called 'ref'"):
            run("same", evaluate, f2["ref"], prompts, Reward(), opponent=f2["ref"])
        with pytest.raises(ConfigError, match="two judges are called 'truth'"):
            run("judges", evaluate, f2["a"], prompts, [Reward(), Reward()], opponent=f2["ref"])
