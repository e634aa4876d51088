"""Groups -> items: what is asked, in which split, in which random order.

Two answers are a pair. Three to nine are one ranking, or all their pairs where asked for. The
split is by a hash of the prompt, so that what is held out for evaluation shares no prompt with
what a reward is trained on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from tandem.errors import ConfigError, DataError
from tandem.labelling import schema
from tandem.labelling.data_access import Answered
from tandem.rng import Seed

MOST_ANSWERS = 9
LARGEST_ANSWER = 4 << 20
ROWS_AT_ONCE = 500
GOLD = "gold"
"""The column of the data that names the known better answer: 1, 2, ... or 0 for a tie."""


@dataclass(frozen=True)
class Questions:
    """How data becomes items.

    Attributes:
        ask: rank 3 to 9 answers at once (`ranking`), or compare them two by two (`pairs`).
        overlap: how many people judge each item.
        held_out_share: share of prompts that are kept for evaluation.
        known_share: share of the pairs that the data already judged which become gold items.
    """

    ask: Literal["ranking", "pairs"] = "ranking"
    overlap: int = 1
    held_out_share: float = 0.2
    known_share: float = 0.0

    def __post_init__(self) -> None:
        if self.overlap < 1:
            raise ConfigError(
                f"--overlap {self.overlap}",
                "every item is judged by at least one person",
                "give 1 or more; 2 or 3 are needed to see agreement",
            )
        if not 0 <= self.known_share <= 1:
            raise ConfigError(
                f"--known_share {self.known_share}",
                "it is the share of judged pairs that become gold items",
                "give a number from 0 to 1, for example 0.05",
            )
        if not 0 <= self.held_out_share < 1:
            raise ConfigError(
                f"--held_out_share {self.held_out_share}",
                "it is the share of prompts that no reward is trained on",
                "give a number from 0 to below 1, for example 0.2",
            )


def add_questions(
    connection: sa.Connection, rows: Iterable[Answered], how: Questions, seed: Seed
) -> int:
    """Insert what is not there yet; return the number of new items.

    Raises:
        DataError: a prompt has too many answers, or an answer is too large to show.
    """
    there = set(connection.execute(sa.select(schema.item.c.name)).scalars())
    new = [
        values for row in rows for values in _items(row, how, seed) if values["name"] not in there
    ]
    for start in range(0, len(new), ROWS_AT_ONCE):
        connection.execute(sa.insert(schema.item), new[start : start + ROWS_AT_ONCE])
    return len(new)


def _items(row: Answered, how: Questions, seed: Seed) -> Iterator[dict[str, Any]]:
    n = len(row.answers)
    _check_sizes(row)
    members: list[tuple[int, ...]] = [tuple(range(n))]
    if n > 2 and how.ask == "pairs":
        members = list(itertools.combinations(range(n), 2))
    prompt = prompt_hash(row)
    held_out = Seed(0).at("held out", prompt).uniform() < how.held_out_share
    for chosen in members:
        name = f"{row.id}/{'-'.join(map(str, chosen))}"
        gold = _gold(row, chosen, seed.at("gold", name).uniform() < how.known_share)
        yield {
            "name": name,
            "group_id": row.id,
            "members": list(chosen),
            "kind": "pair" if len(chosen) == 2 else "ranking",
            "question": _clean(
                {
                    "text": row.text,
                    "messages": row.messages,
                    "answers": [row.answers[k] for k in chosen],
                    "turns": [row.turns[k] for k in chosen],
                }
            ),
            "authors": _clean([row.authors[k] for k in chosen]),
            "meta": _clean(row.meta),
            "split": "held_out" if held_out else "train",
            "gold": gold,
            "wanted": how.overlap,
            "votes": 0,
            "skips": 0,
            "open": gold is None,  # known ones are only asked as gold
            "draw": seed.at("draw", name).uniform(),
            "priority": 0.0,
            "why": None,
        }


def _gold(row: Answered, chosen: tuple[int, ...], is_known: bool) -> dict[str, Any] | None:
    if len(chosen) != 2:
        return None
    i, j = chosen
    named = row.meta.get(GOLD)
    if isinstance(named, int) and len(row.answers) == 2 and 0 <= named <= 2:
        return {"strength": {0: 0, 1: 1, 2: -1}[named], "by": "data"}
    known = row.strengths.get((i, j), -row.strengths.get((j, i), 0)) if is_known else 0
    return {"strength": known, "by": "data"} if known else None


def prompt_hash(row: Answered) -> str:
    """Return what two prompts share when they are the same."""
    said: Mapping[str, Any] = {"messages": row.messages, "text": row.text}
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=12).hexdigest()


def _check_sizes(row: Answered) -> None:
    if len(row.answers) > MOST_ANSWERS:
        raise DataError(
            f"prompt `{row.id}` has {len(row.answers)} answers",
            f"more than {MOST_ANSWERS} cannot be told apart by key or by eye",
            f"keep {MOST_ANSWERS} at most, for example with `Group.keep`",
        )
    large = next((k for k, a in enumerate(row.answers) if len(a) > LARGEST_ANSWER), None)
    if large is not None:
        raise DataError(
            f"answer {large + 1} of prompt `{row.id}` has {len(row.answers[large]):,} characters",
            f"nobody reads more than {LARGEST_ANSWER:,}, and a page that large stops a browser",
            "cut such answers, or leave the prompt out",
        )


def _clean(value: Any) -> Any:
    """Return the same with what no database or page can hold replaced: NUL, lone surrogates."""
    if isinstance(value, str):
        return value.replace("\0", "\u2400").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_clean(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    return value
