"""What a column may hold, judged by its name and its values: prompts, answers, judgments.

Only formats read columns. This is for what is left over: an error or a warning names such a column
and the flag that says what it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from tandem.data.formats.fields import DataRow
from tandem.data.formats.label_words import read_label

QUESTIONS = frozenset(
    "question questions instruction input query system history conversations conversation messages "
    "context problem user human dialog dialogue turns request systemprompt systemmessage "
    "userinput usermessage userprompt inputtext functions tools".split()
)
"""Columns that hold a prompt or a part of it, by their plain names."""
JUDGING = frozenset(
    "chosen rejected reject preferred dispreferred preference better worse winner win lose score "
    "scores rating ratings rank ranks ranking label labels tag feedback thumb thumbs vote votes "
    "like liked dislike upvotes desirable undesirable accepted helpfulness quality reward".split()
)
"""Words in the names of columns that say how good an answer is."""
ANSWERING = frozenset(
    "response responses output outputs completion completions generation generations reply "
    "chosen rejected preferred dispreferred better worse winner loser candidate candidates".split()
)
"""Words in the names of columns that hold answers; a reference (`answer`, `solution`) is none."""
WRITTEN = frozenset(
    "prompt answer answers summary summaries highlights target targets solution translation".split()
)
"""Words in the names of columns that somebody wrote about the text beside them."""
WORDS_OF_A_PROMPT, LETTERS_OF_A_PROMPT = 3, 6

ROLES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "query", "instruction", "problem", "input", "request", "post",
               "context", "user", "q"),
    "chosen": ("chosen", "preferred", "better", "win", "winner", "accepted", "good", "positive",
               "best", "j"),
    "rejected": ("rejected", "reject", "dispreferred", "worse", "lose", "loser", "bad", "negative",
                 "worst", "nonpreferred", "k"),
    "completions": ("completions", "generations", "responses", "outputs", "candidates", "answers"),
    "scores": ("scores", "ratings", "rewards"),
    "ranks": ("ranks", "ranking", "rankings"),
    "completion": ("completion", "response", "answer", "output", "reply", "solution", "generation"),
    "label": ("label", "tag", "feedback", "thumb", "thumbs", "liked", "vote", "desirable"),
    "messages": ("messages", "conversation", "dialog", "dialogue", "turns"),
}  # fmt: skip
"""What a format calls a column: words by which files call it, the likeliest first."""
SHAPES = (
    ("prompt", "chosen", "rejected"), ("prompt", "completions", "scores"),
    ("prompt", "completions", "ranks"), ("prompt", "completion", "label"),
    ("messages", "label"), ("prompt", "completion"), ("chosen", "rejected"), ("messages",),
    ("prompt",),
)  # fmt: skip
"""Columns that make a format, the fullest first."""


def name_words(column: str) -> list[str]:
    """Return the words of a name: `chosenResponse_2` is chosen, response, 2."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[a-zA-Z])(?=[0-9])", " ", column)
    return [word.lower() for word in re.split(r"[\W_]+", spaced) if word]


def suggest_columns(columns: Iterable[str]) -> dict[str, str]:
    """Return a mapping from a format's names to a file's; empty where it would leave an answer out.

    Args:
        columns: the file's names.

    Example:
        >>> suggest_columns(["Question", "good_answer", "bad_answer"])
        {'prompt': 'Question', 'chosen': 'good_answer', 'rejected': 'bad_answer'}
    """
    names = list(columns)
    for shape in SHAPES:
        found: dict[str, str] = {}
        for role in shape:
            column = _best(role, [c for c in names if c not in found.values()])
            if column is None:
                break
            found[role] = column
        left = [c for c in names if c not in found.values()]
        if len(found) == len(shape) and not _speak_of_answers(left):
            return {ours: theirs for ours, theirs in found.items() if ours != theirs}
    return {}


def spell_columns(mapping: Mapping[str, str]) -> str:
    """Return a mapping as the flag that gives it."""
    return "--columns " + ",".join(f"{ours}={theirs}" for ours, theirs in mapping.items())


def is_question(column: str, rows: Sequence[DataRow]) -> bool:
    """True for a column that could hold the prompt: by its name, or by texts like questions."""
    values = [row.values[column] for row in rows if row.has(column)]
    if _plain(column) in QUESTIONS:
        return bool(values)
    texts = [v for v in values if isinstance(v, str)]
    if not texts or len(set(texts)) <= len(texts) / 2 or len(texts) < len(rows) / 2:
        return False
    inside = sum(
        str(v) in str(row.values.get("chosen")) for row, v in zip(rows, values, strict=False)
    )
    return sum(map(is_phrase, texts)) > len(texts) / 2 and inside < len(texts)


def is_phrase(text: str) -> bool:
    """True for a text of some words; in scripts without spaces, of some letters."""
    letters = sum(c.isalpha() and not c.isascii() for c in text)
    return len(text.split()) >= WORDS_OF_A_PROMPT or letters >= LETTERS_OF_A_PROMPT


def questions_in(columns: Iterable[str], rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return the columns whose names say that they hold a prompt or a part of it."""
    return tuple(c for c in columns if _plain(c) in QUESTIONS and _holds_texts(c, rows))


def judgments_in(columns: Iterable[str], rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return the columns that look like judgments: by a word of their name, and their values."""
    return tuple(
        c for c in columns if not JUDGING.isdisjoint(name_words(c)) and not _is_object(c, rows)
    )


def answers_in(columns: Iterable[str], rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return the columns that look like answers by a word of their name, and hold texts."""
    numbered = [c for c in columns if not ANSWERING.isdisjoint(name_words(c))]
    pairs = [c for c in columns if name_words(c)[:1] == ["answer"] and len(name_words(c)) > 1]
    return tuple(c for c in dict.fromkeys([*numbered, *pairs]) if _holds_texts(c, rows))


def parts_in(columns: Iterable[str], rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return the columns beside a text that look like a question, an answer or a judgment."""
    names = list(columns)
    written = [c for c in names if not WRITTEN.isdisjoint(name_words(c)) and _holds_texts(c, rows)]
    looked = (questions_in, answers_in, judgments_in)
    return tuple(dict.fromkeys([*(c for look in looked for c in look(names, rows)), *written]))


def labels_in(columns: Iterable[str], rows: Sequence[DataRow]) -> tuple[str, ...]:
    """Return the columns that look like judgments and say both good and bad, and nothing else."""
    found: list[str] = []
    for column in judgments_in(columns, rows):
        said = {read_label(row.values[column]) for row in rows if row.has(column)}
        if said == {True, False}:
            found.append(column)
    return tuple(found)


def _speak_of_answers(columns: Iterable[str]) -> bool:
    """True where a name says that it is one of several answers, or one of several judgments."""
    known = ANSWERING | JUDGING | {"answer", "summaries"}
    words = [name_words(c) for c in columns]
    return any(w and w[0] in known and all(len(mark) == 1 for mark in w[1:]) for w in words)


def _best(role: str, columns: Sequence[str]) -> str | None:
    """Return the column that a role's words fit best: its first word, ..., or its name misspelt."""
    for word in ROLES[role]:
        for column in sorted(columns, key=len):
            words = name_words(column)
            if "".join(words) == word or word in words:
                return column
    near = get_close_matches(role, [c for c in columns if len(c) > len(role) / 2], 1, 0.85)
    return near[0] if near else None


def _plain(column: str) -> str:
    return "".join(name_words(column))


def _values(column: str, rows: Sequence[DataRow]) -> list[Any]:
    return [row.values[column] for row in rows if row.has(column)]


def _is_object(column: str, rows: Sequence[DataRow]) -> bool:
    values = _values(column, rows)
    return not values or all(isinstance(v, dict) for v in values)


def _holds_texts(column: str, rows: Sequence[DataRow]) -> bool:
    values = _values(column, rows)
    full = sum(
        isinstance(v, list | dict) or (isinstance(v, str) and bool(v.strip())) for v in values
    )
    return full > 0 and full >= len(values) / 2
