"""Tranches: which prompts are asked about in a round, which are held out, which are forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.judges.human import open_questions
from tandem.rng import Seed

SPLIT = Seed(0)
"""Of the splits by prompt, which are the same in every run."""


def portion_of(prompts: Groups, start: int, size: int, *, seed: Seed) -> Iterator[Group]:
    """Take prompts from a shuffled collection, read on and on: no label is asked for twice in it.

    A prompt that comes round again gets a name of its own.
    """
    order = seed.rng().permutation(len(prompts))
    for at in range(start, start + size):
        turn, inside = divmod(at, len(prompts))
        group = prompts[int(order[inside])]
        name = f"{group.id}/{turn}" if turn else group.id
        yield Group(replace(group.prompt, id=name))


def questions_of(pairs: Groups, before: Groups) -> Iterator[Group]:
    """Leave out pairs of equal answers, and ask again what nobody dealt with in the last round."""
    for group in pairs:
        if group.completions[0].text != group.completions[1].text:
            yield group
    new = {g.id for g in pairs}
    yield from (g for g in open_questions(before) if g.id not in new)


def is_remembered(group: Group, share: float) -> bool:
    """True for the share of a tranche's groups that is kept as it ages, always the same ones."""
    return share >= 1 or SPLIT.at("forget", group.id).uniform() < share


def is_measured_only(group: Group, share: float) -> bool:
    """True for prompts on which rewards are only measured, in whatever tranche they come."""
    return SPLIT.at("held out", group.prompt.text).uniform() < share
