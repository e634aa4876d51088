"""Constraints that a program can check: each a value with its parameters, its rule and its words.

    WordMaximum(50).is_kept("Short.")                      # True
    WordMaximum(50).request()                              # "Use at most 50 words."
    read_constraint({"kind": "word_maximum", "n": 50})     # the same value, from a prompt's facts

The idea is that of IFEval (arXiv:2311.07911): instructions whose following is a matter of fact.
Kinds, wording, rules and parameters are our own. Every rule is exact; where people would differ
about a word or a sentence, `counting` says what counts here. `group` is what a kind is about; a
prompt has at most one constraint of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tandem.errors import DataError, nearest_name
from tandem.tasks.constraints.checkers.constraint import Constraint
from tandem.tasks.constraints.checkers.edges import EndsWith, QuestionEnd, Quoted, StartsWith
from tandem.tasks.constraints.checkers.layout import (
    BulletList,
    Headings,
    JSONObject,
    NumberedList,
    TwoAnswers,
)
from tandem.tasks.constraints.checkers.length import (
    ParagraphCount,
    SentenceCount,
    SentenceMaximum,
    WordMaximum,
    WordMinimum,
    WordRange,
)
from tandem.tasks.constraints.checkers.letters import (
    Alphabet,
    CapitalWords,
    Lowercase,
    NoComma,
    NoDigits,
    Uppercase,
)
from tandem.tasks.constraints.checkers.marks import BoldPhrases, Placeholders, Postscript, Title
from tandem.tasks.constraints.checkers.words import (
    AvoidLetter,
    AvoidWords,
    IncludeWords,
    LimitWord,
    RepeatWord,
)

__all__ = [
    "KINDS",
    "Constraint",
    "read_constraint",
    "WordMinimum",
    "WordMaximum",
    "WordRange",
    "SentenceCount",
    "SentenceMaximum",
    "ParagraphCount",
    "IncludeWords",
    "AvoidWords",
    "RepeatWord",
    "LimitWord",
    "AvoidLetter",
    "NumberedList",
    "BulletList",
    "JSONObject",
    "Headings",
    "TwoAnswers",
    "Title",
    "BoldPhrases",
    "Placeholders",
    "Postscript",
    "Uppercase",
    "Lowercase",
    "NoComma",
    "NoDigits",
    "Alphabet",
    "CapitalWords",
    "StartsWith",
    "EndsWith",
    "Quoted",
    "QuestionEnd",
]

KINDS: dict[str, type[Constraint]] = {
    each.kind: each
    for each in (
        WordMinimum, WordMaximum, WordRange, SentenceCount, SentenceMaximum, ParagraphCount,
        IncludeWords, AvoidWords, RepeatWord, LimitWord, AvoidLetter,
        NumberedList, BulletList, JSONObject, Headings, TwoAnswers,
        Title, BoldPhrases, Placeholders, Postscript,
        Uppercase, Lowercase, NoComma, NoDigits, Alphabet, CapitalWords,
        StartsWith, EndsWith, Quoted, QuestionEnd,
    )
}  # fmt: skip


def read_constraint(facts: Mapping[str, Any]) -> Constraint:
    """Read a constraint from what `facts` wrote.

    Raises:
        DataError: there is no such kind, or its parameters are others.
    """
    own = dict(facts)
    kind = own.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise DataError(
            f"a prompt has a constraint of the kind {kind!r}.{nearest_name(str(kind), KINDS)}",
            "only what a program can check is a constraint",
            f"use one of: {', '.join(KINDS)}",
        )
    types = {f.name: str(f.type) for f in fields(KINDS[kind])}
    if sorted(own) != sorted(types) or not all(_is_of(own[k], t) for k, t in types.items()):
        needed = ", ".join(f"{name} ({type_})" for name, type_ in types.items())
        raise DataError(
            f"the constraint {kind} has the parameters {own}",
            f"its parameters are: {needed or 'none'}",
            "use prompts of the task `constraints` as they were made",
        )
    return KINDS[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in own.items()})


def _is_of(value: Any, type_: str) -> bool:
    """Say whether a value is of a parameter's type: `int`, `str`, or `tuple[str, ...]`."""
    if type_ == "tuple[str, ...]":
        return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
    return isinstance(value, {"int": int, "str": str}[type_])
