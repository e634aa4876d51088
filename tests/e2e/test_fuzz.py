"""A little of the fuzz campaign, with every kind of case; `make fuzz` is an hour of it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from fuzz.corpus import HOME, Corpus
from fuzz.damage import change_bytes, change_tree
from fuzz.data_files import check_file
from fuzz.state import State, Tally
from fuzz.verdicts import Answer, Verdict, has_three_parts, judge_answer, without_values
from fuzz.worker import do_case, open_kinds

CASES = {"data": 200, "configurations": 15, "plans": 2, "servers": 5, "models": 3, "runs": 2}
"""What fits into the time of the tests."""
SEED = 1


@pytest.mark.parametrize("name", CASES)
def test_no_case_ends_in_a_fault(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kind = open_kinds(Corpus())[name]
    kind.prepare(tmp_path)
    faults: dict[int, dict[str, str]] = {}
    endings: Counter[str] = Counter()
    for number in range(CASES[name]):
        verdict = do_case(kind, SEED, number, tmp_path / "case")
        endings[verdict.ending] += 1
        if verdict.faults:
            faults[number] = verdict.faults
    assert not faults
    assert endings.total() == CASES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["models", "runs", "servers", "kills"])
def test_more_cases_of_the_slow_kinds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CASES, name, 20)
    test_no_case_ends_in_a_fault(name, tmp_path, monkeypatch)


@pytest.mark.parametrize("path", sorted(HOME.glob("*.*")), ids=lambda path: path.name)
def test_what_once_met_an_answer_meets_one_again(path: Path, tmp_path: Path):
    copy = tmp_path / f"data.{path.name.partition('.')[2]}"
    copy.write_bytes(path.read_bytes())
    _, verdict = check_file(copy, tmp_path)
    assert not verdict.faults


def test_faults_are_seen():
    """The campaign's own eyes: what it calls a fault, and what it does not."""
    right = "error: a\n  why: b\n  do:  c\n"
    wrong = {
        "traceback": Answer(70, "", "Traceback (most recent call last)"),
        "wrong code": Answer(1, "", right),
        "": Answer(2, "", right),
    }
    for fault, answer in wrong.items():
        verdict = Verdict("x")
        judge_answer(answer, verdict)
        assert list(verdict.faults) == [fault][: bool(fault)]
    assert not has_three_parts("error: a\n  why: \n  do:  c\n")
    assert without_values("data.csv:7: `x` is 31") == without_values("other.csv:1: `y` is 4")


def test_damage_is_the_same_for_the_same_dice():
    tree = {"a": [1, {"b": "c"}], "d": None}
    changed = [repr(change_tree(tree, random.Random(k))) for k in range(200)]
    assert changed == [repr(change_tree(tree, random.Random(k))) for k in range(200)]
    assert len(set(changed)) > 100
    assert tree == {"a": [1, {"b": "c"}], "d": None}
    assert change_bytes(b"hello", random.Random(3)) == change_bytes(b"hello", random.Random(3))


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path):
    state = State(5, tallies={"data": Tally()})
    verdict = Verdict("refused", {"hang": "seen"}, "why", counts={"kills": 2})
    for _ in range(2):
        state.tallies["data"].add(verdict, 0.5)
    state.save(tmp_path / "state.json")
    again = State.load(tmp_path / "state.json", 5)
    assert again == state
    (row,) = again.figures({"data": 10})["kinds"].values()
    assert (row["cases"], row["faults"], row["counts"]) == (2, {"hang": 2}, {"kills": 4})
    with pytest.raises(SystemExit):
        State.load(tmp_path / "state.json", 6)
