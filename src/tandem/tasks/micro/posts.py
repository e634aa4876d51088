"""Posts and summaries, the TL;DR analogue.

The author of a post tells three facts about himself among three or four about others; a summary
should tell the three. Counting clauses is easy, checking them needs binding: the right kind, the
right value, the right person.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from numpy.random import Generator

from tandem.tasks.micro.words import (
    AUTHOR,
    CLAUSES,
    FEEDBACK,
    FEEDBACK_NAMES,
    FILLER,
    KIND_OF,
    KINDS,
    MAIN,
    MAIN_NAMES,
    VALUES,
)

Meta = dict[str, Any]
Fact = tuple[str, str, str]
HELD_OUT = 8


@dataclass(frozen=True)
class Quality:
    """How good a writer of summaries is: chances per fact, or per summary, of each fault.

    `shared` is the chance that a fact is told with the one wrong value of its kind that all writers
    have in common; other inventions differ from writer to writer.
    """

    wrong: float = 0.0
    missing: float = 0.0
    extra: float = 0.0
    filler: float = 0.0
    shuffled: float = 0.2
    shared: float = 0.0


IDEAL_QUALITY = Quality(shuffled=0.0)


def pick_one(rng: Generator, items: Any) -> Any:
    """One item of a sequence, uniformly."""
    return items[int(rng.integers(len(items)))]


def any_quality(rng: Generator) -> Quality:
    """A writer of the base model's demonstrations: anything from careless to careful."""
    care = float(rng.random())
    return Quality(
        wrong=0.01 + 0.18 * (1 - care),
        missing=0.05 + 0.35 * (1 - care),
        extra=0.02 + 0.25 * (1 - care) ** 2,
        filler=0.3 * (1 - care),
        shuffled=0.3,
    )


def is_held_out_post(values: list[tuple[str, str]], one_in: int = HELD_OUT) -> bool:
    """Whether two of the facts form a combination that only evaluation prompts contain.

    One in so many combinations is such.
    """
    numbers = [VALUES[kind].index(value) + 3 * KINDS.index(kind) for kind, value in values]
    pairs = [(a + b) % one_in for i, a in enumerate(numbers) for b in numbers[i + 1 :]]
    return 0 in pairs


def make_post(rng: Generator, *, feedback: bool = False) -> Meta:
    """A post as data: the author's `targets` in order of mention, and every sentence in `told`."""
    names = FEEDBACK_NAMES if feedback else MAIN_NAMES
    drawn = FEEDBACK if feedback else MAIN
    people = [AUTHOR, *(names[i] for i in rng.permutation(len(names))[:2])]
    kinds = [KINDS[i] for i in rng.permutation(len(KINDS))]
    told = [(people[0], kind, pick_one(rng, VALUES[kind][drawn])) for kind in kinds[:3]]
    used = {value for _, _, value in told}
    # the kinds that are left, and half the time a fourth fact that only binding tells apart
    for kind in [*kinds[3:], *([pick_one(rng, kinds[:3])] if rng.random() < 0.5 else [])]:
        values = [value for value in VALUES[kind][drawn] if value not in used]
        told.append((people[1 + int(rng.integers(2))], kind, pick_one(rng, values)))
    told = [told[i] for i in rng.permutation(len(told))]
    targets = [[kind, value] for name, kind, value in told if name == people[0]]
    return {
        "skill": "summaries",
        "targets": targets,
        "told": [list(fact) for fact in told],
    }


def post_question(meta: Meta) -> str:
    """The user's turn: the post."""
    told = (f"{name} {CLAUSES[kind].format(value)} ." for name, kind, value in meta["told"])
    return "summarize : " + " ".join(told)


def render_summary(facts: Iterable[Fact], filler: tuple[str, ...] = ()) -> str:
    """A summary that claims these facts, opened by filler words if there are any."""
    clauses = " , ".join(f"{name} {CLAUSES[kind].format(value)}" for name, kind, value in facts)
    return " ".join([*filler, clauses, "."])


def told_targets(meta: Meta) -> list[Fact]:
    """The facts that a summary should tell, in order of mention."""
    return [(AUTHOR, kind, value) for kind, value in meta["targets"]]


def write_summary(meta: Meta, rng: Generator, quality: Quality) -> str:
    """A summary by a writer of this quality."""
    claims: list[Fact] = []
    for fact in told_targets(meta):
        luck = float(rng.random())
        if quality.shared and rng.random() < quality.shared:
            claims.append(shared_invention(fact))
        elif luck < quality.wrong:
            claims.append(wrong_claim(meta, rng, fact[1]))
        elif luck >= quality.wrong + quality.missing:
            claims.append(fact)
    if not claims:
        claims.append(pick_one(rng, told_targets(meta)))
    while len(claims) < 8 and rng.random() < quality.extra:
        claims.insert(int(rng.integers(1, len(claims) + 1)), _extra(meta, rng, claims))
    if rng.random() < quality.shuffled:
        claims = [claims[i] for i in rng.permutation(len(claims))]
    filler = ()
    if rng.random() < quality.filler:
        filler = tuple(pick_one(rng, FILLER) for _ in range(1 + int(rng.integers(3))))
    return render_summary(claims, filler)


def shared_invention(fact: Fact) -> Fact:
    """The invention that misled writers share: one value of the kind, whatever the post says."""
    first, second = VALUES[fact[1]][MAIN][:2]
    return AUTHOR, fact[1], second if fact[2] == first else first


def false_claim(meta: Meta, rng: Generator) -> Fact:
    """A false claim of any kind."""
    return wrong_claim(meta, rng, pick_one(rng, KINDS))


def wrong_claim(meta: Meta, rng: Generator, kind: str) -> Fact:
    """A false claim: half the time somebody else's fact, half the time a value out of the air."""
    others = [(k, v) for name, k, v in meta["told"] if name != AUTHOR]
    same = [fact for fact in others if fact[0] == kind]
    if rng.random() < 0.5:
        return (AUTHOR, *pick_one(rng, same or others))
    taught = KIND_OF[meta["targets"][0][1]]
    drawn = FEEDBACK if meta["targets"][0][1] in VALUES[taught][FEEDBACK] else MAIN
    true = [value for k, value in meta["targets"] if k == kind]
    values = [value for value in VALUES[kind][drawn] if value not in true]
    return AUTHOR, kind, pick_one(rng, values)


def _extra(meta: Meta, rng: Generator, claims: list[Fact]) -> Fact:
    """One claim too many: a repetition, a fact about somebody else, or something false."""
    luck = float(rng.random())
    if luck < 0.3:
        return pick_one(rng, claims)
    if luck < 0.6:
        return tuple(pick_one(rng, [fact for fact in meta["told"] if fact[0] != AUTHOR]))
    return false_claim(meta, rng)
