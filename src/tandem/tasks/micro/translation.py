"""Translation from the micro language into a second surface of it: other words, another order.

    i visited park . ana met aunt .   ->   drum tighten i and happy price ana .

Every value becomes a value of the next kind, every verb one of two words that mean the same, and
the clause is turned round; names stay. So the reference is one of several right translations, and
an answer can be right and look unlike it. All words are in the base model's vocabulary, but their
meaning here is new to it: what it can of the task it has learned from demonstrations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from numpy.random import Generator

from tandem.tasks.micro import posts
from tandem.tasks.micro.posts import Fact, Meta, pick_one
from tandem.tasks.micro.words import AUTHOR, CLAUSES, KINDS, MAIN, NAMES, STEPS, VALUES

SENTENCES = 4
"""Sentences of a source text."""
HELD_OUT = 16
"""One in so many combinations of two facts is held out; of four facts, every third text has one."""
JOINT, END = "and", "."
_SYNONYMS = tuple(STEPS.values())
VERBS = {kind: _SYNONYMS[2 * i : 2 * i + 2] for i, kind in enumerate(KINDS)}
"""Kind -> the two words that its verb may be translated with."""


@dataclass(frozen=True)
class TranslatorQuality:
    """How good a translator is: chances of each fault.

    Attributes:
        wrong: a fact gets the word of another value.
        missing: a fact is left out.
        swapped: two neighbouring facts change places, once in a text.
    """

    wrong: float = 0.0
    missing: float = 0.0
    swapped: float = 0.0


PERFECT = TranslatorQuality()
HUMAN = TranslatorQuality(wrong=0.12, missing=0.08, swapped=0.1)


def make_source(rng: Generator) -> Meta:
    """A text of four sentences as data."""
    return {"skill": "translation", "told": posts.make_post(rng)["told"][:SENTENCES]}


def translation_question(meta: Meta) -> str:
    """The user's turn: the source text."""
    told = (f"{name} {CLAUSES[kind].format(value)} {END}" for name, kind, value in meta["told"])
    return "reply : " + " ".join(told)


def is_held_out_source(meta: Meta) -> bool:
    """Whether two of the facts form a combination that only evaluation prompts contain."""
    return posts.is_held_out_post([(kind, value) for _, kind, value in meta["told"]], HELD_OUT)


def translate_value(kind: str, value: str) -> str:
    """The word for a value: one of the next kind, a different one for each."""
    values, main = VALUES[kind], MAIN.stop
    i = values.index(value)
    there = (7 * i + 5) % main if i < main else main + (3 * (i - main) + 1) % (len(values) - main)
    return VALUES[KINDS[(KINDS.index(kind) + 1) % len(KINDS)]][there]


def render_translation(facts: Sequence[Fact], verbs: Sequence[str]) -> str:
    """A translation that says these facts, with these words for their verbs."""
    clauses = (
        f"{translate_value(kind, value)} {verb} {name}"
        for (name, kind, value), verb in zip(facts, verbs, strict=True)
    )
    return f" {JOINT} ".join(clauses) + f" {END}"


def write_translation(meta: Meta, rng: Generator, quality: TranslatorQuality) -> str:
    """A translation by a translator of this quality; of right words for a verb, any."""
    facts: list[Fact] = []
    for name, kind, value in meta["told"]:
        luck = float(rng.random())
        if luck < quality.wrong:
            others = [v for v in VALUES[kind][MAIN] if v != value]
            facts.append((name, kind, pick_one(rng, others)))
        elif luck >= quality.wrong + quality.missing:
            facts.append((name, kind, value))
    facts = facts or [tuple(meta["told"][0])]
    if len(facts) > 1 and rng.random() < quality.swapped:
        at = int(rng.integers(len(facts) - 1))
        facts[at : at + 2] = facts[at + 1], facts[at]
    return render_translation(facts, [pick_one(rng, VERBS[kind]) for _, kind, _ in facts])


def ideal_translation(meta: Meta) -> str:
    """The reference: every fact in order, with the first word for each verb."""
    told: list[Fact] = [(name, kind, value) for name, kind, value in meta["told"]]
    return render_translation(told, [VERBS[kind][0] for _, kind, _ in told])


def translation_facts(text: str) -> list[Fact | None]:
    """The facts that a translation says, in order; None for a clause that says nothing."""
    words = text.split()
    body = " ".join(words[:-1] if words[-1:] == [END] else words)
    return [_clauses().get(clause.strip()) for clause in body.split(f" {JOINT} ")]


def translation_parts(meta: Meta, text: str) -> dict[str, float]:
    """Counts behind the truth of a translation, and `total` between 0 and 1.

    With m the length of the longest sequence of facts that source and translation share, in order:
    total = 2 m / (facts of the source + clauses of the translation), less a tenth where the text
    does not end.
    """
    told: list[Fact | None] = [(name, kind, value) for name, kind, value in meta["told"]]
    said = translation_facts(text)
    shared = _common_length(told, said)
    ends = text.split()[-1:] == [END]
    total = 2 * shared / (len(told) + len(said))
    return {
        "right": float(shared),
        "invented": float(sum(fact is not None and fact not in told for fact in said)),
        "broken": float(sum(fact is None for fact in said)),
        "clauses": float(len(said)),
        "total": total if ends else 0.9 * total,
    }


@cache
def _clauses() -> dict[str, Fact]:
    return {
        f"{translate_value(kind, value)} {verb} {name}": (name, kind, value)
        for name in (AUTHOR, *NAMES)
        for kind in KINDS
        for verb in VERBS[kind]
        for value in VALUES[kind]
    }


def _common_length(a: Sequence[Fact | None], b: Sequence[Fact | None]) -> int:
    """Length of the longest common subsequence; None is equal to nothing."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]
