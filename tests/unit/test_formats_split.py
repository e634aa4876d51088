"""Splits by prompt: no prompt on two sides, and a prompt's side depends on nothing else."""

from __future__ import annotations

import pytest

from tandem.data.formats import prompt_key, split_groups
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError
from tandem.rng import Seed

SHARES = {"train": 0.7, "heldout": 0.2, "test": 0.1}


def groups(n: int, repeats: int = 2) -> Groups:
    return Groups.of(
        Group(Prompt(f"{k}#{r}", f"prompt {k}"), (Completion(f"{r}"),))
        for r in range(repeats)
        for k in range(n)
    )


def keys(part: Groups) -> set[str]:
    return {prompt_key(g.prompt) for g in part}


def test_no_prompt_is_in_two_splits_and_none_is_lost():
    parts = split_groups(groups(600), SHARES, 3)
    assert list(parts) == list(SHARES)
    found = [keys(p) for p in parts.values()]
    assert sum(map(len, found)) == len(set().union(*found)) == 600
    assert sum(map(len, parts.values())) == 1200


def test_shares_are_what_was_asked_for():
    """600 prompts at .7: standard deviation sqrt(600 * .7 * .3) = 11, so within 4.5 of them."""
    sizes = {name: len(part) / 2 for name, part in split_groups(groups(600), SHARES, 0).items()}
    assert all(abs(sizes[name] - 600 * share) < 50 for name, share in SHARES.items())


def test_a_prompts_side_depends_on_prompt_and_seed_alone():
    some = split_groups(groups(100), SHARES, Seed(5))
    more = split_groups(Groups.of(reversed(list(groups(300, 1)))), SHARES, Seed(5))
    for name in SHARES:
        assert keys(some[name]) <= keys(more[name])
    other = split_groups(groups(100), SHARES, Seed(6))
    assert keys(other["train"]) != keys(some["train"])


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_shares_that_are_none(shares: dict[str, float]):
    with pytest.raises(ConfigError, match="fractions"):
        split_groups(groups(3), shares)


def test_an_empty_side_is_an_empty_collection():
    parts = split_groups(groups(5), {"all": 1.0, "none": 0.0})
    assert len(parts["all"]) == 10
    assert len(parts["none"]) == 0
