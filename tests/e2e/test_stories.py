"""The stories experiment: its reward on texts that can be counted, and a small real climb."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stories
from tandem.data.record import Completion, Group, Prompt
from tandem.machine import Machine

ROOT = Path(__file__).parents[2]
MODEL = ROOT.parent / "shared" / "models" / "stories260k"
GALLERY = ROOT / "docs" / "gallery"


def group(*texts: str) -> Group:
    return Group(Prompt("p", "Once"), tuple(Completion(t) for t in texts))


def test_the_reward_by_hand():
    """Two of three sentences are happy, no pair twice: 2/3. "so happy" three times in six words:
    five pairs, two of them different, so 1 - 2 * 3/5. Nothing at all: 0."""
    (judged,) = stories.Cheer()(
        [group("He smiled. The end. They are friends", "so happy " * 3, "")]
    )
    np.testing.assert_allclose(judged.scores, [2 / 3, 1 - 2 * 3 / 5, 0.0])


def test_known_words():
    pool = [group("a cat sat", "a cat ran", "a dog")]
    assert stories.vocabulary(pool, least=2) == ("a", "cat")
    (judged,) = stories.English(("a", "cat"))([group("A cat flew away", "")])
    assert judged.scores is not None
    assert judged.scores.tolist() == [0.5, 0.0]


def test_prompts_are_all_different_and_names_are_kept_out():
    train, held = stories.prompts("Lily Tom".split()), stories.prompts(stories.HELD_OUT)
    assert len({g.id for g in [*train, *held]}) == len(train) + len(held) == 64
    assert not any(name in g.prompt.text for g in train for name in stories.HELD_OUT)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not MODEL.exists(), reason="needs the real model in ../shared")
def test_a_small_climb_becomes_a_page(tmp_path: Path):
    cfg = replace(stories.CFG, prompts=4, rounds=2, minibatch=4)
    found = stories.do(MODEL, tmp_path / "run", Machine(precision="fp32"), cfg)
    found = json.loads(json.dumps(found))
    rows = {row["what"]: row for row in found["table"]}
    assert rows["kl"]["before"]["mean"] == pytest.approx(0, abs=1e-3)
    assert rows["kl"]["after"]["mean"] != 0
    assert 0.7 < rows["english"]["before"]["mean"] < 1
    assert [p["round"] for p in found["curve"]] == [0, 2]
    assert len(found["samples"]) >= stories.SHOWN
    assert "| reward |" in stories.page(found)


@pytest.mark.skipif(not (GALLERY / "stories.json").exists(), reason="not run yet")
def test_the_page_is_made_from_its_numbers(tmp_path: Path):
    found = json.loads((GALLERY / "stories.json").read_text())
    assert stories.page(found) == (GALLERY / "stories.md").read_text()
    stories.draw(found, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == (GALLERY / "stories.svg").read_text()
