"""Dates make tranches, and a change of taste shows; a change of what is asked does not."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.cli import main
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import DataError
from tandem.evaluation.dated_accuracy import accuracy_by_month
from tandem.evaluation.taste_shift import (
    dated_pairs,
    matching_weights,
    measure_taste_shift,
    parse_time,
)

GOOD, BAD, PLAIN = "kind warm clear".split(), "rude cold vague".split(), "the a of and to".split()


def comparison(
    k: int, month: int, rng: np.random.Generator, *, flipped: bool, longer: bool
) -> Group:
    """One answer has good words, the other bad ones; who likes which is the taste."""
    filler = [" ".join(rng.choice(PLAIN, size=4)) for _ in range(2)]
    good, bad = (f"{rng.choice(w)} {f}" for w, f in zip((GOOD, BAD), filler, strict=True))
    good = good + " the of" * (3 * longer)
    likes_good = (rng.random() < 0.85) != flipped
    meta = {"date": f"2026-{month:02d}-{1 + k % 27:02d}", "source": "a" if k % 2 else "b"}
    votes = (Preference(0, 1, float(likes_good)),)
    return Group(Prompt(f"{month}-{k}", f"q {month} {k}", meta=meta), (Completion(good), Completion(bad)), preferences=votes)  # fmt: skip  # noqa: E501


def months(flip_at: int, longer_at: int = 99, n: int = 120) -> list[Group]:
    rng = np.random.default_rng(0)
    return [
        comparison(k, m, rng, flipped=m >= flip_at, longer=m >= longer_at and k % 3 > 0)
        for m in (1, 2, 3)
        for k in range(n)
    ]


def test_a_change_of_taste_is_seen_when_it_happens_and_only_then():
    found = measure_taste_shift(months(flip_at=3), "date")
    assert found.moved == ["2026-03"]
    (_, _, home, there, gap) = found.rows[1]
    assert home.mean > 0.7 > 0.4 > there.mean
    assert gap.high < -0.3
    assert "taste has moved in 2026-03" in str(found)


def test_no_change_is_no_alarm_also_where_answers_grow_longer():
    """Matched for length: longer answers of the same taste are no change."""
    for groups in (months(flip_at=9), months(flip_at=9, longer_at=3)):
        found = measure_taste_shift(groups, "date")
        assert not found.moved
        assert all(gap.low < 0 < gap.high for *_, gap in found.rows)
        assert "could be missed" in str(found)


def test_alarms_are_as_rare_as_they_should_be():
    """Twenty worlds without change, two steps each: a one-sided alarm in about 2.5 %."""
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        groups = [
            comparison(k, m, rng, flipped=False, longer=False) for m in (1, 2, 3) for k in range(60)
        ]
        alarms += len(measure_taste_shift(groups, "date").moved)
    assert alarms <= 4


def test_weights_make_strata_as_frequent_as_before():
    pairs, _ = dated_pairs(months(flip_at=9, longer_at=3), "date")
    here = [p for p in pairs if p.time.month == 2]
    after = [p for p in pairs if p.time.month == 3]
    weight = matching_weights(here, after)
    assert weight.sum() == pytest.approx(1)
    share = sum(w for w, p in zip(weight, after, strict=True) if p.source == "a")
    assert share == pytest.approx(np.mean([p.source == "a" for p in here]), abs=0.02)


def test_tranches_of_equal_size_and_dates_of_several_kinds():
    found = measure_taste_shift(months(flip_at=9), "date", tranches=4)
    assert list(found.sizes.values()) == [90] * 4
    noon = datetime.datetime(2026, 11, 29, 12, tzinfo=datetime.UTC)
    for said in (
        "2026-11-29T12:00:00Z",
        "2026-11-29 12:00",
        noon.timestamp(),
        "2026-11-29T13:00+01:00",
        str(noon.timestamp()),
    ):
        assert parse_time(said) == noon
    for said in ("yesterday", None, True, [], 1e30, "2026", "0001-01-01T00:00:00+01:00"):
        assert parse_time(said) is None


def test_months_of_one_prompt_say_nothing_and_shared_prompts_are_not_tried_in_sample():
    """Each prompt has a taste of its own, the same every month: nothing carries to new prompts."""
    rng = np.random.default_rng(0)
    alone = [
        replace(g, prompt=Prompt(g.id, "one", meta=g.prompt.meta))
        for m in (1, 2)
        for k in range(60)
        for g in [comparison(k, m, rng, flipped=False, longer=False)]
    ]  # fmt: skip
    found = measure_taste_shift(alone, "date")
    ((_, _, home, there, gap),) = found.rows
    assert [np.isnan(e.mean) for e in (home, there, gap)] == [True] * 3
    assert not found.moved
    assert "1 of 1 steps have too few prompts" in str(found)
    shared = [
        Group(
            Prompt(f"{m}-{k}", f"q{k}", meta={"date": f"2026-0{m}-01"}),
            (Completion(f"w{k}"), Completion(f"v{k}")), preferences=(Preference(0, 1),),
        )
        for m in (1, 2)
        for k in range(200)
    ]  # fmt: skip
    ((_, _, home, there, _),) = measure_taste_shift(shared, "date").rows
    assert there.mean == pytest.approx(home.mean, abs=0.02)


def test_what_cannot_be_dated_is_said():
    with pytest.raises(DataError, match="no comparison has a date in the column `dat`"):
        measure_taste_shift(months(9), "dat")
    with pytest.raises(DataError, match="make 1 tranche"):
        measure_taste_shift(months(9)[:120], "date")
    groups = months(9)
    groups[0] = Group(Prompt("x", "x"), groups[0].completions, preferences=groups[0].preferences)
    assert measure_taste_shift(groups, "date").undated == 1


def test_the_check_answers_on_the_command_line(tmp_path: Path, capsys: Any):
    rows = [
        {
            "prompt": g.prompt.text, "date": g.prompt.meta["date"],
            "chosen": g.completions[g.preferences[0].winner].text,
            "rejected": g.completions[g.preferences[0].loser].text,
        }
        for g in months(flip_at=3)
    ]  # fmt: skip
    file = tmp_path / "dated.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "check", str(file), "--data.time", "date"]) == 0
    assert "taste has moved in 2026-03" in capsys.readouterr().out
    main(["data", "check", str(file), "--data.time", "date", "--json"])
    assert json.loads(capsys.readouterr().out)["taste"]["moved"] == ["2026-03"]
    assert main(["data", "check", str(file), "--data.tranches", "3"]) == 2


def test_a_trained_reward_by_month():
    judged = [
        Group(g.prompt, g.completions, np.array([1.0, 0.0]), g.preferences)
        for g in months(flip_at=3)
    ]
    table = accuracy_by_month(judged, "date").as_dicts()
    assert [row["month"] for row in table] == ["2026-01", "2026-02", "2026-03"]
    assert table[0]["less the first month"] is None
    assert table[1]["less the first month"]["high"] > 0
    assert table[2]["less the first month"]["high"] < -0.5
