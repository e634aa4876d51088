"""People as a judge: questions go out as a file, the run waits, a file of votes comes back.

    folder = Path("runs/mine/ask/round-1")
    D = run("votes-1", judge, pairs, HumanVotes(folder))    # raises Pending until there are votes

The process ends meanwhile (exit code 3); the same command looks again. When the stage is done, its
votes are part of the run, and a later change of the file changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from tandem.data.record import Group, Preference
from tandem.errors import Pending
from tandem.errors.ranges import Range, check_ranges
from tandem.judges.vote_files import count_vote_rows, read_votes, write_questions
from tandem.runs.atomic_files import write_json

OPEN, DECLINED, ANSWERED = "open", "declined", "answered"
STATE = "asked"
"""The column of a question's `meta` that says what became of it."""


@dataclass(frozen=True)
class HumanVotes:
    """A judge that asks people by a file and waits for their votes.

    A label is the share of people who prefer the first answer. Questions that were skipped or
    left open come back without a preference, and `Prompt.meta` says which they are.

    Attributes:
        folder: where questions are written and votes are looked for.
        need: share of the questions that somebody must have dealt with before the run goes on.
        name: the judge's name in tables and in `Preference.by`.
    """

    compares: ClassVar[bool] = True
    folder: Path = field(compare=False)
    need: Annotated[float, Range(0, 1, above=True)] = 0.8
    name: str = "people"

    def __post_init__(self) -> None:
        check_ranges(self, "people")

    def __call__(self, groups: Iterable[Group]) -> Iterator[Group]:
        """Yield the questions with `preferences`.

        Raises:
            Pending: too few votes are there; the questions are.
            DataError: a file of votes is broken, or answers what was not asked.
        """
        asked = list(groups)
        table = write_questions(asked, self.folder)
        said, count = count_vote_rows(read_votes(self.folder), [g.id for g in asked])
        need = math.ceil(self.need * len(asked))
        if len(said) < need:
            raise Pending(str(table), len(said), need)
        write_json(self.folder / "count.json", count.as_dict())
        return iter([self._judged(g, said.get(g.id)) for g in asked])

    def _judged(self, group: Group, shares: list[float] | None) -> Group:
        state = OPEN if shares is None else ANSWERED if shares else DECLINED
        meta = {**group.prompt.meta, STATE: state, "votes": len(shares or ())}
        votes = (Preference(0, 1, float(np.mean(shares)), by=self.name),) if shares else ()
        return replace(group, prompt=replace(group.prompt, meta=meta), preferences=votes)


def open_questions(groups: Iterable[Group]) -> list[Group]:
    """Return the questions that nobody dealt with, as they were asked."""
    left = [g for g in groups if g.prompt.meta.get(STATE) == OPEN]
    return [replace(g, prompt=replace(g.prompt, meta=_without_state(g))) for g in left]


def _without_state(group: Group) -> dict[str, object]:
    return {k: v for k, v in group.prompt.meta.items() if k not in (STATE, "votes")}
