"""Files in Tandem's own columns, which anybody may have written."""

from __future__ import annotations

import math

from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError


def check_groups(groups: Groups, name: str) -> None:
    """Refuse groups whose numbers mean nothing, each by its id and its column.

    Raises:
        DataError: a preference that is no probability, of an answer over itself, or of one that is
            not there; a score that is no number; an id that two groups have.
    """
    seen: set[str] = set()
    for group in groups:
        if group.id in seen:
            raise _wrong(name, group, "id", group.id, "an id names one group")
        seen.add(group.id)
        _check_votes(name, group)
        for score in () if group.scores is None else group.scores:
            if not math.isfinite(score):
                raise _wrong(name, group, "scores", score, "a score is a finite number")
        for completion in group.completions:
            if not 0 <= completion.weight < math.inf:
                raise _wrong(name, group, "weight", completion.weight, "a weight is 0 or more")


def _check_votes(name: str, group: Group) -> None:
    for vote in group.preferences:
        pair = (vote.i, vote.j)
        if not all(0 <= k < len(group) for k in pair) or vote.i == vote.j:
            rule = f"a preference is between two different of its {len(group)} answers"
            raise _wrong(name, group, "better, worse", pair, rule)
        if not 0 <= vote.p <= 1:
            raise _wrong(name, group, "p", vote.p, "a probability lies between 0 and 1")
        if vote.margin is not None and not math.isfinite(vote.margin):
            raise _wrong(name, group, "margin", vote.margin, "a margin is a finite number")


def _wrong(name: str, group: Group, column: str, value: object, rule: str) -> DataError:
    return DataError(
        f"{name}: group `{group.id[:60]}`, column `{column}`: {value!r}",
        rule,
        "mend the file, or write it again from its source",
    )
