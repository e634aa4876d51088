"""What counts as a word, a sentence, a paragraph and a line with an item: simple, exact rules."""

from __future__ import annotations

import re
from itertools import groupby

NUMBERED = re.compile(r"[ \t]*(\d{1,3})[.)][ \t]+(?=\S)")
BULLET = re.compile(r"[ \t]*[-*•][ \t]+(?=\S)")
_END = re.compile(r"(?<=[.!?…])[\"'”\u2019)\]*_]*\s+")
ABBREVIATIONS = frozenset("mr. mrs. ms. dr. prof. st. vs. e.g. i.e. etc. p.s. p.p.s.".split())
"""Pieces that end in a full stop and end no sentence."""


def split_words(text: str) -> list[str]:
    """The pieces between spaces that hold a letter or a digit.

    >>> split_words("Well - it's a well-known fact.")
    ['Well', "it's", 'a', 'well-known', 'fact.']
    """
    return [piece for piece in text.split() if any(c.isalnum() for c in piece)]


def split_sentences(text: str) -> list[str]:
    """The sentences: each ends at . ! ? or … before a space, or at the end of its line.

    The mark of a list's item (`1.`, `-`) is no part of a sentence, abbreviations of a short list
    do not end one, and what holds no letter and no digit is none.

    >>> split_sentences("Dr. Lee came. She paid 3.50 and left!")
    ['Dr. Lee came.', 'She paid 3.50 and left!']
    """
    found = (part for line in text.splitlines() for part in _line_sentences(line))
    return [sentence for sentence in found if split_words(sentence)]


def _line_sentences(line: str) -> list[str]:
    mark = NUMBERED.match(line) or BULLET.match(line)
    ended, open_parts = list[str](), list[str]()
    for part in _END.split(line[mark.end() if mark else 0 :]):
        open_parts.append(part)
        last = part[part.rfind(" ") + 1 :]
        if last.lower() not in ABBREVIATIONS:
            ended.append(" ".join(open_parts).strip())
            open_parts = []
    return [*ended, " ".join(open_parts).strip()]


def split_paragraphs(text: str) -> list[str]:
    """The blocks of text between blank lines.

    >>> len(split_paragraphs("one\\nstill one\\n\\ntwo"))
    2
    """
    blocks = groupby(text.splitlines(), key=lambda line: bool(line.strip()))
    return ["\n".join(lines) for full, lines in blocks if full]


def count_occurrences(text: str, word: str) -> int:
    """How often a word occurs, whole and in any case.

    >>> count_occurrences("Rain, rain! Rainy days.", "rain")
    2
    """
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def item_numbers(text: str) -> list[int]:
    """The numbers of the lines that begin with a number, `.` or `)`, a space and a text."""
    found = (NUMBERED.match(line) for line in text.splitlines())
    return [int(mark[1]) for mark in found if mark]


def count_bullets(text: str) -> int:
    """How many lines begin with `-`, `*` or `•`, a space and a text."""
    return sum(bool(BULLET.match(line)) for line in text.splitlines())
