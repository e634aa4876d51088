"""An answer that keeps every one of several constraints, written by a program.

It says nothing. It proves that a prompt does not contradict itself, and it is what tests break to
see a constraint fail.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import Any

from tandem.tasks.constraints.checkers import Constraint, counting

FILLERS = {
    "Latin": "some people like to do it this way but other ones do not mind at once".split(),
    "Cyrillic": "мы идём домой и потом снова пьём горячий чай".split(),
    "Greek": "εμείς πάμε σπίτι και μετά πίνουμε λίγο τσάι μαζί".split(),
}
USUAL, SENTENCES = 24, 3


@dataclass(frozen=True)
class _Wanted:
    """Parameters of several constraints, looked up by kind."""

    constraints: tuple[Constraint, ...]

    def get(self, kind: str, name: str, default: Any) -> Any:
        """The parameter of the constraint of a kind, or the default where there is none."""
        return next((getattr(c, name) for c in self.constraints if c.kind == kind), default)

    def __contains__(self, kind: str) -> bool:
        return any(c.kind == kind for c in self.constraints)


def write_witness(constraints: Sequence[Constraint]) -> str:
    """Write an answer that keeps all of them, where that is possible; see `draws.CLASHES`."""
    wanted = _Wanted(tuple(constraints))
    low = wanted.get("word_minimum", "n", wanted.get("word_range", "low", 0))
    high = wanted.get("word_maximum", "n", wanted.get("word_range", "high", 10**6))
    fill = USUAL
    text = _written(wanted, fill)
    length = len(counting.split_words(text))
    if length < low:
        return _written(wanted, fill + low - length)
    return _written(wanted, max(0, fill + high - length)) if length > high else text


def _written(wanted: _Wanted, fill: int) -> str:
    """Write with so many words of filling."""
    words = [*_needed(wanted), *islice(cycle(_filler(wanted)), fill)]
    text = _json(wanted, words) if "json_object" in wanted else _prose(wanted, words)
    if "uppercase" in wanted:
        text = text.upper()
    if "lowercase" in wanted:
        text = text.lower()
    return f'"{text}"' if "quoted" in wanted else text


def _filler(wanted: _Wanted) -> list[str]:
    """Words that may occur as often as one likes."""
    counted = {*wanted.get("avoid_words", "words", ()), wanted.get("limit_word", "word", "")}
    letter = wanted.get("avoid_letter", "letter", "\0")
    known = FILLERS[wanted.get("alphabet", "alphabet", "Latin")]
    return [word for word in known if word not in counted and letter not in word]


def _needed(wanted: _Wanted) -> list[str]:
    """Words and marks that have to occur."""
    words = [*wanted.get("include_words", "words", ())]
    words += [wanted.get("repeat_word", "word", "")] * wanted.get("repeat_word", "n", 0)
    words += [wanted.get("limit_word", "word", "")] * ("limit_word" in wanted)
    more = _filler(wanted)
    words += [w.upper() for w in islice(cycle(more), wanted.get("capital_words", "n", 0))]
    words += [f"**{w}**" for w in islice(cycle(more), wanted.get("bold_phrases", "n", 0))]
    return words + [f"[{w}]" for w in islice(cycle(more), wanted.get("placeholders", "n", 0))]


def _json(wanted: _Wanted, words: Sequence[str]) -> str:
    keys = wanted.get("json_object", "keys", ())
    return json.dumps({key: " ".join(words) if key == keys[0] else words[-1] for key in keys})


def _prose(wanted: _Wanted, words: list[str]) -> str:
    listed = max(wanted.get(kind, "n", 0) for kind in ("numbered_list", "bullet_list", "headings"))
    blocks = listed or _blocks(wanted)
    words += _filler(wanted)[: max(0, 2 * blocks - len(words))]
    sentences = [_sentence(part) for part in _cut(words, blocks)]
    if "question_end" in wanted:
        sentences[-1] = sentences[-1].removesuffix(".") + "?"
    text = _laid_out(wanted, sentences)
    if "title" in wanted:
        text = f"<<{_filler(wanted)[0]}>>\n{text}"
    join = "\n" if listed else " "
    text = join.join(
        part
        for part in (
            wanted.get("starts_with", "phrase", ""), text, wanted.get("ends_with", "phrase", "")
        )
        if part
    )  # fmt: skip
    if "postscript" in wanted:
        text += f"\n\n{wanted.get('postscript', 'mark', '')} {_filler(wanted)[0]}."
    return text


def _blocks(wanted: _Wanted) -> int:
    """Sentences of plain text; a last sentence whose words are given comes on top of them."""
    asked = wanted.get("sentence_count", "n", wanted.get("sentence_maximum", "n", 0))
    if asked:
        return asked - ("ends_with" in wanted)
    return max(SENTENCES, wanted.get("paragraph_count", "n", 0))


def _sentence(words: Sequence[str]) -> str:
    text = " ".join(words)
    return f"{text[:1].upper()}{text[1:]}."


def _cut(words: Sequence[str], parts: int) -> list[Sequence[str]]:
    """Cut words into parts of nearly one length."""
    edges = [round(k * len(words) / parts) for k in range(parts + 1)]
    return [words[a:b] for a, b in pairwise(edges)]


def _laid_out(wanted: _Wanted, sentences: list[str]) -> str:
    """Put sentences into a list, sections, two answers, or paragraphs."""
    if "numbered_list" in wanted:
        return "\n".join(f"{k}. {each}" for k, each in enumerate(sentences, 1))
    if "bullet_list" in wanted:
        return "\n".join(f"- {each}" for each in sentences)
    if "headings" in wanted:
        return "\n".join(f"## {_filler(wanted)[0]}\n{each}" for each in sentences)
    if "two_answers" in wanted:
        separator = wanted.get("two_answers", "separator", "")
        return f"{sentences[0]}\n{separator}\n{' '.join(sentences[1:])}"
    paragraphs = wanted.get("paragraph_count", "n", 1)
    return "\n\n".join(" ".join(part) for part in _cut(sentences, paragraphs))
