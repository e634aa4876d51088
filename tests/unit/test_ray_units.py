"""Units of work that are handed out, lost, and given back in the order of the prompts."""

from __future__ import annotations

import itertools

import pytest

from tandem.data.record import Group, Prompt
from tandem.engines.ray.cluster import check_cluster
from tandem.engines.ray.worker_pool import TRIES, _Units
from tandem.errors import EngineError


def _unit(name: str) -> list[Group]:
    return [Group(Prompt(f"{name}{i}", name)) for i in range(2)]


def test_what_is_done_early_waits_for_its_turn():
    units = _Units(map(_unit, "abc"))
    given = [units.take() for _ in range(4)]
    assert [g and g[0] for g in given] == [0, 1, 2, None]
    assert list(units.in_turn(2, _unit("c"))) == []
    assert units.held == 1
    assert [g.id for g in units.in_turn(0, _unit("a"))] == ["a0", "a1"]
    assert [g.id for g in units.in_turn(1, _unit("b"))] == ["b0", "b1", "c0", "c1"]
    assert units.held == 0


def test_a_lost_unit_comes_first_and_is_not_kept_waiting():
    units = _Units(map(_unit, itertools.cycle("ab")))
    first, second = units.take(), units.take()
    assert first is not None
    assert second is not None
    assert not list(units.in_turn(*second))
    units.put_back(*first, OSError("gone"))
    assert units.held == 0  # else nobody would be free to do it
    assert units.take() == first
    assert units.held == 1


def test_a_unit_that_ends_every_worker_ends_the_run():
    units = _Units([_unit("a")])
    for _ in range(TRIES - 1):
        given = units.take()
        assert given is not None
        units.put_back(*given, OSError("gone"))
    with pytest.raises(EngineError, match=r"3 workers ended.* `a0` on: out of memory"):
        units.put_back(0, _unit("a"), OSError("out of\nmemory"))


def test_an_address_that_nobody_answers_is_named(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray", reason="pip install 'tandem-rlhf[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(EngineError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        check_cluster("machine.engine = ray", "leave it out")
