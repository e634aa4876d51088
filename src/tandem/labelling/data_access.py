"""The only door to the rest of Tandem: groups in, groups out, seeds, checks of settings.

Everything else in this package sees plain values, so that a change of the record is met here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.data import formats
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.rng import Seed
from tandem.statistics import Estimate, wilson

__all__ = [
    "Answered",
    "Estimate",
    "Judged",
    "Message",
    "Seed",
    "draw_posts",
    "micro_model",
    "read_answered",
    "wilson",
    "write_judged",
    "write_pairs",
]

Message = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """A prompt with its answers, as plain values.

    Attributes:
        id: the prompt's id.
        text: the prompt as text.
        messages: the conversation, or None for plain text.
        answers: the answers' texts.
        turns: for each answer its messages where it is several turns, else None.
        authors: who wrote them.
        meta: what the data says beside the prompt.
        strengths: (i, j) -> 1 where i is known to be better, -1 where j is, 0 for a tie.
    """

    id: str
    text: str
    messages: tuple[Message, ...] | None
    answers: tuple[str, ...]
    turns: tuple[tuple[Message, ...] | None, ...]
    authors: tuple[str, ...]
    meta: dict[str, Any]
    strengths: dict[tuple[int, int], int]


@dataclass(frozen=True)
class Judged:
    """A prompt with its answers and what people think of them.

    Attributes:
        pairs: (i, j, p, margin): P(answer i is better than answer j), and its mean strength.
        by: whose labels these are.
    """

    answered: Answered
    pairs: tuple[tuple[int, int, float, float | None], ...]
    by: str = "people"


def read_answered(source: str | Path, limit: int | None = None) -> tuple[list[Answered], list[str]]:
    """Read data in any format that `tandem data check` reads.

    Returns:
        the prompts with two or more answers, and what was noticed on the way.

    Raises:
        DataError: the source is missing or broken.
    """
    found = formats.read_data(source, limit=limit)
    kept = [_answered(g) for g in found.groups if len(g) >= 2]
    notes = [f"{source}: {found.format}, because {found.why}", *found.notes.lines()]
    if alone := len(found.groups) - len(kept):
        notes.append(f"{alone} prompts with fewer than two answers cannot be compared")
    return kept, notes


def _answered(group: Group) -> Answered:
    strengths = {(p.i, p.j): (p.p > 0.5) - (p.p < 0.5) for p in group.preferences}
    return Answered(
        group.id,
        group.prompt.text,
        group.prompt.messages,
        tuple(c.text for c in group.completions),
        tuple(c.turns for c in group.completions),
        tuple(c.author for c in group.completions),
        dict(group.prompt.meta),
        strengths,
    )


def _group(judged: Judged) -> Group:
    asked = judged.answered
    columns = zip(asked.answers, asked.turns, asked.authors, strict=True)
    return Group(
        Prompt(asked.id, asked.text, asked.messages, meta=asked.meta),
        tuple(Completion(text, author=who, turns=turns) for text, turns, who in columns),
        preferences=tuple(
            Preference(i, j, p, margin, by=judged.by) for i, j, p, margin in judged.pairs
        ),
    )


def write_judged(rows: Iterable[Judged], path: Path) -> int:
    """Write groups that `tandem run`, `tandem eval` and `Groups.read` open; return how many."""
    groups = Groups.of(_group(row) for row in rows)
    groups.write(path)
    return len(groups)


def write_pairs(rows: Sequence[Judged], path: Path) -> Mapping[str, int]:
    """Write TRL's preference format (JSON Lines or Parquet); return what was left out and why.

    Raises:
        DataError: no pair is decided.
    """
    groups = Groups.of(_group(row) for row in rows)
    return formats.write_data(groups, path, "preference").left_out


def draw_posts(n: int, seed: Seed) -> list[tuple[Answered, int]]:
    """Return posts of the micro world with two summaries each, and which is truly better.

    The truth is 1 where the first is better, -1 where the second is; ties are drawn again.
    """
    from tandem.tasks.micro import Micro, posts, true_worth

    found: list[tuple[Answered, int]] = []
    careful, careless = posts.Quality(0.02, 0.1, 0.05), posts.Quality(0.15, 0.35, 0.25, 0.3)
    for group in Micro("summaries").prompts("preference", n, seed):
        meta, draw = dict(group.prompt.meta), seed.at("answers", group.id)
        gap, texts = 0.0, ("", "")
        for k in range(100):
            rng = draw.at(k).rng()
            writers = (careful, careless) if rng.random() < 0.5 else (careless, careful)
            texts = (
                posts.write_summary(meta, rng, writers[0]),
                posts.write_summary(meta, rng, writers[1]),
            )
            gap = true_worth(meta, texts[0]) - true_worth(meta, texts[1])
            if abs(gap) > 1e-6:
                break
        said = _answered(Group(group.prompt, tuple(Completion(t) for t in texts)))
        found.append((said, 1 if gap > 0 else -1))
    return found


def micro_model() -> Path:
    """Return the folder of the small model that reads such posts."""
    from tandem.tasks.micro import Micro

    return Micro("summaries").model()
