"""Groups in the tokens of one tokenizer, marked with whose they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from tandem.data import chat
from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError

TOKENIZER_KEY = "tokenizer"
GROUPS_PER_TOKENISING = 256


def mark_tokenizer(group: Group, whose: str) -> Group:
    """Write into the prompt's `meta` whose tokens these are."""
    return replace(
        group, prompt=replace(group.prompt, meta={**group.prompt.meta, TOKENIZER_KEY: whose})
    )


def tokenise(groups: Iterable[Group], tokenizer: Any) -> Iterator[Group]:
    """Yield the groups in this tokenizer's tokens; those that already are pass through.

    Raises:
        DataError: a group cannot be tokenised whole.
    """
    whose = tokenizer_hash(tokenizer)
    stream = iter(groups)
    while chunk := list(itertools.islice(stream, GROUPS_PER_TOKENISING)):
        foreign = [i for i, g in enumerate(chunk) if g.prompt.meta.get(TOKENIZER_KEY) != whose]
        if foreign:
            ours = chat.encode_groups(
                Groups.of(chunk[i] for i in foreign), tokenizer, max_length=None
            )
            _same(chunk, foreign, ours.groups)
            for i, group in zip(foreign, ours.groups, strict=True):
                chunk[i] = mark_tokenizer(group, whose)
        yield from chunk


def _same(chunk: list[Group], foreign: list[int], ours: Groups) -> None:
    wanted = [(chunk[i].id, len(chunk[i])) for i in foreign]
    got = [(g.id, len(g)) for g in ours]
    if wanted != got:
        lost = next(
            (w for w, g in zip(wanted, [*got, ("", 0)], strict=False) if w != g), wanted[-1]
        )
        raise DataError(
            f"group `{lost[0]}` with {lost[1]} completions cannot be tokenised whole",
            "a judge gives each completion a score, so none may be lost on the way",
            "look at the group with `tandem data check`: an empty answer, or a message it lacks",
        )
