"""What counts as a word, a sentence, a paragraph and a line with an item: simple, exact rules."""

from __future__ import annotations

import re
from itertools import groupby, pairwise

NUMBERED = re.compile(r"([ \t]*)(?:\*\*)?(\d{1,3})[.)](?:\*\*)?[ \t]+(?=\S)")
BULLET = re.compile(r"[ \t]*[-*•][ \t]+(?=\S)")
_PIECE = re.compile(r"[^\W_]+")
_END = re.compile(r"(?<=[.!?…])[\"'”\u2019)\]*_]*\s+")
ABBREVIATIONS = frozenset("mr. mrs. ms. dr. prof. st. mt. vs. fig. e.g. i.e. p.s. p.p.s.".split())
"""Pieces that end in a full stop and end no sentence."""
MAY_END = frozenset("etc. a.m. p.m. u.s. u.k. jr. sr. inc. ltd. co.".split())
"""Abbreviations that end a sentence where no small letter follows."""
_MARK = re.compile(r"\d{1,3}[.)]")
_INITIAL = re.compile(r"[^\W\d_]\.")


def split_words(text: str) -> list[str]:
    """The pieces between spaces that hold a letter or a digit.

    >>> split_words("Well - it's a well-known fact.")
    ['Well', "it's", 'a', 'well-known', 'fact.']
    """
    return [piece for piece in text.split() if any(c.isalnum() for c in piece)]


def count_different(text: str) -> int:
    """How many different words there are, in any case and without the signs around them.

    >>> count_different("Rain, rain! Go away.")
    3
    """
    return len({piece.casefold() for piece in _PIECE.findall(text)})


def split_sentences(text: str) -> list[str]:
    """The sentences: each ends at . ! ? or … before a space, or at the end of its line.

    The mark of a list's item (`1.`, `-`) is no part of a sentence, abbreviations of a short list
    and initials do not end one, and what holds no letter and no digit is none. Where some line
    ends a sentence, lines without any end are titles or greetings, and count for nothing.

    >>> split_sentences("Dr. Lee came at 5 p.m. on foot. She paid 3.50 and left!")
    ['Dr. Lee came at 5 p.m. on foot.', 'She paid 3.50 and left!']
    """
    lines = [_line_sentences(line) for line in text.splitlines()]
    full = [found for found, ends in lines if ends] or [found for found, _ in lines]
    return [sentence for found in full for sentence in found if split_words(sentence)]


def _line_sentences(line: str) -> tuple[list[str], bool]:
    """Cut a line into sentences, and say whether any ends in it; an item of a list is whole."""
    mark = NUMBERED.match(line) or BULLET.match(line)
    parts = _END.split(f"{line[mark.end() if mark else 0 :].rstrip()} ")
    ended, open_parts = list[str](), list[str]()
    for part, after in pairwise(parts):
        open_parts.append(part)
        if not _goes_on(part, after):
            ended.append(" ".join(open_parts).strip())
            open_parts = []
    return [*ended, " ".join([*open_parts, parts[-1]]).strip()], bool(mark or ended)


def _goes_on(part: str, after: str) -> bool:
    """Say whether a sentence goes on behind the full stop that a part ends with."""
    *before, last = part.rsplit(maxsplit=2)[-2:] or [""]
    small = last.lower()
    if small in ABBREVIATIONS or _MARK.fullmatch(last):
        return True
    if small in MAY_END:
        return after[:1].islower()
    initial = _INITIAL.fullmatch(last) and last != "I." and after[:1].isupper()
    return bool(initial) and not any(word[:1].islower() for word in before)


def split_paragraphs(text: str) -> list[str]:
    """The blocks of text between blank lines.

    >>> len(split_paragraphs("one\\nstill one\\n\\ntwo"))
    2
    """
    blocks = groupby(text.splitlines(), key=lambda line: bool(line.strip()))
    found = ("\n".join(lines) for full, lines in blocks if full)
    return [block for block in found if split_words(block)]


def count_occurrences(text: str, word: str) -> int:
    """How often a word occurs, whole and in any case.

    >>> count_occurrences("Rain, rain! Rainy days.", "rain")
    2
    """
    return len(re.findall(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", text, re.IGNORECASE))


def item_numbers(text: str) -> list[int]:
    """The numbers of the lines that begin with a number, `.` or `)`, a space and a text.

    Lines that stand further in than the first of them are lists within an item.

    >>> item_numbers("1. a\\n   1. b\\n2) c")
    [1, 2]
    """
    found = [mark for line in text.splitlines() if (mark := NUMBERED.match(line))]
    outer = len(found[0][1]) if found else 0
    return [int(mark[2]) for mark in found if len(mark[1]) <= outer]


def count_bullets(text: str) -> int:
    """How many lines begin with `-`, `*` or `•`, a space and a text; `* * *` is a rule."""
    lines = (line for line in text.splitlines() if BULLET.match(line))
    return sum(bool(split_words(line)) for line in lines)
