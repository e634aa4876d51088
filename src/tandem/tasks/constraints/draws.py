"""Which constraints an instruction gets: kinds that go together, with parameters drawn by a seed.

Two constraints of a prompt are never of one group, never a pair of `CLASHES`, and suit the
instruction's form. What is left is proven: a prompt is only made if `write_witness` can write an
answer that keeps all of its constraints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

from numpy.random import Generator

from tandem.errors import DataError
from tandem.tasks.constraints.checkers import (
    KINDS,
    Alphabet,
    AvoidLetter,
    AvoidWords,
    BoldPhrases,
    BulletList,
    CapitalWords,
    Constraint,
    EndsWith,
    Headings,
    IncludeWords,
    JSONObject,
    LimitWord,
    NumberedList,
    ParagraphCount,
    Placeholders,
    Postscript,
    RepeatWord,
    SentenceCount,
    SentenceMaximum,
    StartsWith,
    TwoAnswers,
    WordMaximum,
    WordMinimum,
    WordRange,
)
from tandem.tasks.constraints.instructions import AnswerForm, Instruction
from tandem.tasks.constraints.scoring import share_kept
from tandem.tasks.constraints.witness import write_witness

TRIES = 200

LENGTHS: dict[AnswerForm, tuple[int, int]] = {
    "question": (30, 80), "rewrite": (15, 40), "list": (30, 80), "story": (50, 120),
    "explain": (40, 110), "email": (40, 100),
}  # fmt: skip
"""Words of a usual answer: minima are drawn from the lower half, maxima from the upper."""

UNSUITED: dict[AnswerForm, frozenset[str]] = {
    "question": frozenset({"placeholders", "postscript"}),
    "rewrite": frozenset({"numbered_list", "bullet_list", "json_object", "headings", "alphabet",
                          "paragraph_count", "placeholders", "title"}),
    "list": frozenset({"sentence_count", "sentence_maximum", "paragraph_count", "two_answers",
                       "placeholders", "quoted"}),
    "story": frozenset({"numbered_list", "bullet_list", "json_object", "two_answers",
                        "placeholders", "alphabet"}),
    "explain": frozenset({"two_answers", "placeholders"}),
    "email": frozenset({"numbered_list", "bullet_list", "json_object", "headings", "alphabet",
                        "title", "quoted", "sentence_count", "sentence_maximum",
                        "paragraph_count"}),
}  # fmt: skip

_LISTS = ("numbered_list", "bullet_list", "headings")
_SENTENCES = ("sentence_count", "sentence_maximum")
_LATIN = ("include_words", "repeat_word", "limit_word", "starts_with", "ends_with", "postscript",
          "json_object", "title", "placeholders")  # fmt: skip
_BESIDE_JSON = frozenset({"json_object", "word_maximum", "include_words", "avoid_words",
                          "avoid_letter", "lowercase", "no_digits"})  # fmt: skip
CLASHES: frozenset[frozenset[str]] = frozenset(
    map(
        frozenset[str],
        [
            *(("json_object", kind) for kind in KINDS if kind not in _BESIDE_JSON),
            *((a, b) for a in _SENTENCES for b in (*_LISTS, "two_answers", "title", "postscript")),
            *(("paragraph_count", b) for b in (*_LISTS, "two_answers", "title", "postscript")),
            *(("quoted", b) for b in (*_LISTS, "two_answers", "postscript")),
            *((end, "postscript") for end in ("ends_with", "question_end")),
            *((a, b) for a in ("uppercase", "lowercase") for b in ("starts_with", "ends_with")),
            *((a, b) for a in ("uppercase", "lowercase") for b in ("placeholders", "title")),
            ("lowercase", "postscript"),
            ("no_digits", "numbered_list"),
            *(("alphabet", b) for b in (*_LATIN, "avoid_words", "avoid_letter")),
            *(("alphabet", b) for b in ("word_minimum", "word_range")),
        ],
    )
)
"""Pairs that contradict each other, or that nobody would ask for together."""

OPENINGS = ("Here is my answer:", "In a few words:", "To begin with", "Let me think:",
            "First of all", "It goes like this:", "Imagine this:")  # fmt: skip
ENDINGS = ("That is all.", "I hope this helps.", "And that is the whole matter.",
           "Thank you for reading.", "This is where it ends.")  # fmt: skip
KEYS = ("answer", "reason", "summary", "topic", "details", "advice")
SEPARATORS = ("=====", "-----", "+++++")
LETTERS = "jkvxz"
"""Letters that one can do without, some with more care than others."""
MARKS = ("P.S.", "P.P.S.")

Draw = Callable[[Generator, Instruction], Constraint]


def _some(rng: Generator, given: Sequence[str], low: int, high: int) -> tuple[str, ...]:
    n = int(rng.integers(low, high + 1))
    return tuple(given[int(k)] for k in rng.permutation(len(given))[:n])


def _one(rng: Generator, given: Sequence[str]) -> str:
    return given[int(rng.integers(len(given)))]


def _count(low: int, high: int, kind: Callable[[int], Constraint]) -> Draw:
    return lambda rng, _: kind(int(rng.integers(low, high + 1)))


def _length(rng: Generator, asked: Instruction, *, upper: bool) -> int:
    """Words in fives, from the lower or the upper half of what is usual for the form."""
    low, high = LENGTHS[asked.form]
    middle = (low + high) / 2
    start, end = (middle, high) if upper else (low, middle)
    return 5 * round(float(rng.uniform(start, end)) / 5)


def _range(rng: Generator, asked: Instruction) -> Constraint:
    low = _length(rng, asked, upper=False)
    return WordRange(low, low + int(rng.choice([10, 15, 20, 30])))


DRAWS: dict[str, Draw] = {
    "word_minimum": lambda rng, asked: WordMinimum(_length(rng, asked, upper=False)),
    "word_maximum": lambda rng, asked: WordMaximum(_length(rng, asked, upper=True)),
    "word_range": _range,
    "sentence_count": _count(2, 5, SentenceCount),
    "sentence_maximum": _count(2, 4, SentenceMaximum),
    "paragraph_count": _count(2, 4, ParagraphCount),
    "include_words": lambda rng, asked: IncludeWords(_some(rng, asked.words, 1, 3)),
    "avoid_words": lambda rng, asked: AvoidWords(_some(rng, asked.words, 1, 2)),
    "repeat_word": lambda rng, a: RepeatWord(_one(rng, a.words), int(rng.integers(2, 5))),
    "limit_word": lambda rng, a: LimitWord(_one(rng, a.words), int(rng.integers(1, 3))),
    "avoid_letter": lambda rng, _: AvoidLetter(_one(rng, LETTERS)),
    "numbered_list": _count(3, 6, NumberedList),
    "bullet_list": _count(3, 6, BulletList),
    "json_object": lambda rng, _: JSONObject(_some(rng, KEYS, 2, 3)),
    "headings": _count(2, 3, Headings),
    "two_answers": lambda rng, _: TwoAnswers(_one(rng, SEPARATORS)),
    "bold_phrases": _count(2, 4, BoldPhrases),
    "placeholders": _count(2, 3, Placeholders),
    "postscript": lambda rng, _: Postscript(_one(rng, MARKS)),
    "alphabet": lambda rng, _: Alphabet(_one(rng, ("Cyrillic", "Greek"))),
    "capital_words": _count(2, 4, CapitalWords),
    "starts_with": lambda rng, _: StartsWith(_one(rng, OPENINGS)),
    "ends_with": lambda rng, _: EndsWith(_one(rng, ENDINGS)),
}
"""How parameters are drawn, for the kinds that have any."""


def is_compatible(kinds: Iterable[str]) -> bool:
    """Say whether no two kinds are of one group or clash."""
    return not any(
        KINDS[a].group == KINDS[b].group or frozenset((a, b)) in CLASHES
        for a, b in combinations(kinds, 2)
    )


def draw_kinds(rng: Generator, form: AnswerForm, pools: Sequence[Sequence[str]]) -> list[str]:
    """Draw a kind from each pool, each among those that suit the form and the kinds before it.

    The pools are gone through in a drawn order, so that kinds which go with few others are met
    too. The result is empty where some pool has none left.
    """
    kinds: list[str] = []
    for which in rng.permutation(len(pools)):
        left = [
            k for k in pools[int(which)] if k not in UNSUITED[form] and is_compatible([*kinds, k])
        ]
        if not left:
            return []
        kinds.append(_one(rng, left))
    return kinds


def draw_constraint(kind: str, rng: Generator, asked: Instruction) -> Constraint:
    """Draw a kind's parameters for an instruction."""
    return DRAWS[kind](rng, asked) if kind in DRAWS else KINDS[kind]()


def draw_constraints(
    rng: Generator, asked: Instruction, pools: Sequence[Sequence[str]]
) -> tuple[Constraint, ...]:
    """Draw one constraint from each pool of kinds, such that one answer can keep them all.

    Args:
        rng: where the draws come from.
        asked: the instruction; its form and words matter.
        pools: for each constraint the kinds that it may be of.

    Raises:
        DataError: no combination was found.
    """
    for _ in range(TRIES):
        kinds = draw_kinds(rng, asked.form, pools)
        drawn = tuple(draw_constraint(kind, rng, asked) for kind in kinds)
        if kinds and share_kept(drawn, write_witness(drawn)) == 1:
            return drawn
    raise DataError(
        f"no constraints of the kinds {[list(pool) for pool in pools]} suit {asked.text!r}",
        f"{TRIES} draws brought no combination that one answer could keep",
        "give pools with more kinds",
    )
