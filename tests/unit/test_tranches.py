"""Tranches of iterated RLHF: prompts, what is held out, what is remembered, who met whom."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.judges.human import OPEN, STATE
from tandem.methods.iterated_rlhf import (
    IteratedRLHFConfig,
    held_out_part,
    judge_of_round,
    training_part,
)
from tandem.report.rounds_picture import draw_rounds, points_of
from tandem.rng import Seed
from tandem.stages.evaluate_rounds import elo_of, meet_policies
from tandem.stages.tranches import is_measured_only, portion_of, questions_of
from tandem.tasks.micro import Annotator, Drifting

PROMPTS = Groups.of(Group(Prompt(f"p{k}", f"prompt {k}")) for k in range(50))


def tranche(name: str, n: int = 200) -> Groups:
    answers = (Completion("yes"), Completion("no"))
    return Groups.of(
        Group(Prompt(f"{name}{k}", f"{name} {k}"), answers, preferences=(Preference(0, 1),))
        for k in range(n)
    )


def test_portions_share_no_prompt_until_all_were_asked_about():
    first, second = (
        [g.id for g in portion_of(PROMPTS, start, 20, seed=Seed(3))] for start in (0, 20)
    )
    assert not set(first) & set(second)
    third = [g.id for g in portion_of(PROMPTS, 40, 20, seed=Seed(3))]
    assert len(set(third)) == 20
    assert sum(name.endswith("/1") for name in third) == 10


def test_equal_answers_are_not_asked_about_and_open_questions_come_again():
    pairs = Groups.of(
        Group(Prompt(f"p{k}", ""), (Completion("a"), Completion("a" if k == 0 else "b")))
        for k in range(3)
    )
    before = Groups.of(
        Group(Prompt(name, "", meta={STATE: state, "votes": 0}), (Completion("a"), Completion("b")))
        for name, state in (("old", OPEN), ("p1", OPEN), ("done", "answered"))
    )
    assert [g.id for g in questions_of(pairs, before)] == ["p1", "p2", "old"]


def test_what_is_held_out_is_a_matter_of_the_prompt_and_never_trained_on():
    cfg = IteratedRLHFConfig(held_out=0.25)
    data = tranche("a")
    train, held = training_part([data], cfg), held_out_part(data, cfg)
    assert len(train) + len(held) == 200
    assert not {g.id for g in train} & {g.id for g in held}
    assert 30 < len(held) < 70
    assert len(training_part([data], cfg, given=True)) == 200  # held out elsewhere
    assert not any(is_measured_only(g, 0.0) for g in data)


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({}, (1, 1, 1)),
        ({"memory": "window", "window": 2}, (0, 1, 1)),
        ({"memory": "decay", "decay": 0.5}, (0.25, 0.5, 1)),
    ],
)
def test_older_tranches_are_remembered_as_asked(settings: Any, shares: tuple[float, ...]):
    cfg = IteratedRLHFConfig(held_out=0.0, **settings)
    kept = Counter(g.id[0] for g in training_part([tranche(x) for x in "abc"], cfg))
    for name, share in zip("abc", shares, strict=True):
        assert kept[name] == pytest.approx(200 * share, abs=0 if share in (0, 1) else 25)
    skipped = Groups.of([Group(Prompt("s", "s"), (Completion("a"), Completion("b")))])
    assert len(training_part([skipped], cfg)) == 0


def test_every_two_policies_meet_equally_often_and_in_both_orders():
    answers = tuple(
        Groups.of(
            Group(Prompt(f"p{k}", ""), (Completion(f"{name}{k}", author=name),)) for k in range(60)
        )
        for name in ("SFT", "PPO-1", "PPO-2")
    )
    met = Counter(tuple(c.author for c in g.completions) for g in meet_policies(answers))
    assert set(met.values()) == {10}
    assert len(met) == 6


def test_elo_is_above_the_first_policy_and_silent_where_votes_do_not_connect():
    names = ("SFT", "PPO-1", "PPO-2")
    rates = {("SFT", "PPO-1"): 0.25, ("SFT", "PPO-2"): 0.1, ("PPO-1", "PPO-2"): 0.25}

    def votes(rates: dict[tuple[str, str], float]) -> Groups:
        return Groups.of(
            Group(
                Prompt(f"{a}{b}{k}", f"{a}{b}{k}"),
                (Completion("x", author=a), Completion("y", author=b)),
                preferences=(Preference(0, 1, float(k < 100 * rates[a, b])),),
            )
            for a, b in itertools.combinations(names, 2)
            for k in range(100)
        )

    found = elo_of(votes(rates), names)
    assert found["SFT"].mean == 0  # type: ignore[union-attr]
    assert found["PPO-1"].mean == pytest.approx(191, abs=15)  # type: ignore[union-attr]
    assert found["PPO-2"].mean == pytest.approx(382, abs=25)  # type: ignore[union-attr]
    assert elo_of(votes(dict.fromkeys(rates, 0.0)), names) == {}


def test_judges_whose_taste_moves_are_asked_as_of_their_round():
    drifting = judge_of_round(Drifting(), 4)
    assert isinstance(drifting, Drifting)
    assert drifting.round == 4
    assert judge_of_round(Annotator(), 4) == Annotator()


def test_tranches_grow_as_asked():
    assert IteratedRLHFConfig(rounds=3, labels=100, growth=1.5).sizes == (100, 150, 225)
    assert IteratedRLHFConfig(acquisition="d_optimal", pool=4).drawn == 4
    assert IteratedRLHFConfig(pool=4).drawn == 1


def test_rounds_are_drawn_with_what_was_measured():
    def number(mean: float) -> dict[str, Any]:
        return {"mean": mean, "low": mean - 0.5, "high": mean + 0.25}

    first = {"right on 0": number(0.75), "gold": number(2.0)}
    second = {"right on 0": None, "right on 1": number(0.5)}
    rows = [
        {"round": 0, "policy": "SFT", "labels": 0, "gold": {"mean": 1.0, "low": None}, "Elo": None},
        {"round": 1, "policy": "PPO-1", "labels": 40, **first},
        {"round": 2, "policy": "PPO-2", "labels": 90, **second},
    ]
    assert points_of(rows, "right") == [(40, 0.75, 0.25, 1.0), (90, 0.5, 0.0, 0.75)]
    bare, gold = points_of(rows, "gold")
    assert (bare[:2], gold) == ((0, 1.0), (40, 2.0, 1.5, 2.25))
    assert math.isnan(bare[2])
    assert math.isnan(bare[3])
    assert points_of(rows, "Elo") == []
    svg = draw_rounds(rows)
    assert ET.fromstring(svg).tag.endswith("svg")
    assert "gold" in svg
    assert "Elo above" not in svg
