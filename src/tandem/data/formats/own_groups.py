# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Files in Tandem's own columns, which anybody may have written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from tandem.data.formats.fields import shorten_text
from tandem.data.formats.messages import WrongMessage, read_message
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.errors import DataError

_compute: Any = pyarrow.compute  # its functions are made when it is loaded

ONE_AN_ANSWER = ("tokens", "author", "logp", "stopped", "mask", "weight", "turns")
"""List columns with one value for each completion."""
ONE_OR_NONE = ("scores", "clusters")
"""The same, where they are not null."""
ONE_A_VOTE = ("worse", "p", "margin", "by")
"""List columns with one value for each of `better`."""
NEVER_NULL = ("id", "prompt", "completions", "better", *ONE_AN_ANSWER, *ONE_A_VOTE)
NO_NULL_INSIDE = ("completions", "author", "stopped", "weight", "better", "worse", "p", "by")
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, pa.ArrowException)
"""What a row raises whose texts are no JSON, or JSON of something else."""


def read_own_groups(path: Path, name: str) -> Groups:
    """Read a file in Tandem's own columns; everything in it is checked.

    Raises:
        DataError: a column of another type or length, a preference that is no probability, of an
            answer over itself, or of one that is not there; a score that is no number; an id that
            two groups have; text that is not what its column holds.
    """
    groups = Groups.read(path)
    _check_shape(groups.table, name)
    seen: set[str] = set()
    rows, done = iter(groups), 0
    while True:
        try:
            group = next(rows, None)
        except UNREADABLE as error:
            raise _broken(name, f"row {done}: {type(error).__name__}: {error}") from error
        if group is None:
            return groups
        if group.id in seen:
            raise _wrong(name, group, "id", group.id, "an id names one group")
        seen.add(group.id)
        _check_group(name, group)
        done += 1


def _check_shape(table: Any, name: str) -> None:
    """Refuse list columns that do not go together, row by row."""
    for column in NEVER_NULL:
        inside = _compute.list_flatten(table[column]).null_count if column in NO_NULL_INSIDE else 0
        if table[column].null_count or inside:
            raise _broken(name, f"the column `{column}` holds a null")
    for first, others in (("completions", (*ONE_AN_ANSWER, *ONE_OR_NONE)), ("better", ONE_A_VOTE)):
        wanted = _compute.list_value_length(table[first])
        for column in others:
            same = _compute.equal(_compute.list_value_length(table[column]), wanted)
            if (row := _compute.index(same, False).as_py()) >= 0:
                raise _broken(name, f"row {row}: `{column}` is not as long as `{first}`")


def _check_group(name: str, group: Group) -> None:
    _check_votes(name, group)
    _check_messages(name, group)
    for score in () if group.scores is None else group.scores:
        if not math.isfinite(score):
            raise _wrong(name, group, "scores", score, "a score is a finite number")
    for completion in group.completions:
        if not 0 <= completion.weight < math.inf:
            raise _wrong(name, group, "weight", completion.weight, "a weight is 0 or more")


def _check_messages(name: str, group: Group) -> None:
    if not isinstance(cast("object", group.prompt.meta), dict):
        raise _wrong(name, group, "meta", group.prompt.meta, "it is an object")
    spoken = {"messages": (group.prompt.messages,), "turns": [c.turns for c in group.completions]}
    for column, several in spoken.items():
        for turn in (turn for turns in several for turn in turns or ()):
            try:
                read_message(turn)
            except WrongMessage as wrong:
                raise _wrong(name, group, column, wrong.value, wrong.rule) from wrong


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
        f"{name}: group `{group.id[:60]}`, column `{column}`: {shorten_text(value)}",
        rule,
        "mend the file, or write it again from its source",
    )


def _broken(name: str, what: str) -> DataError:
    return DataError(
        f"{name}: {what[:200]}",
        "its columns have the names of Tandem's own groups, and hold something else",
        "write the file again with `Groups.write`, or name its columns otherwise",
    )
