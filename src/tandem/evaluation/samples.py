"""Answers of several policies to the same prompts, side by side, for people to read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

from tandem.data.chat.transcripts import prompt_key
from tandem.data.record import Group

WIDTH = 96
LONGEST = 600
"""Characters of an answer that are shown."""


def lay_out_samples(answers: Mapping[str, Iterable[Group]]) -> str:
    """Show each prompt once, and every policy's answers under it.

    Args:
        answers: policy -> its answers to the same prompts, in the same order.
    """
    width = max(map(len, answers), default=0)
    blocks: list[str] = []
    for row in zip(*answers.values(), strict=True):
        lines = [_indented(prompt_key(row[0].prompt), "prompt".ljust(width))]
        for name, group in zip(answers, row, strict=True):
            lines += [_indented(c.text, name.ljust(width)) for c in group.completions]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def printable_text(text: str) -> str:
    """Return text without signs that would command a terminal; line ends and tabs stay."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _indented(text: str, name: str) -> str:
    text = printable_text(text).strip()
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}... ({len(text):,} characters)"
    rows = [
        piece
        for line in text.splitlines() or ["(nothing)"]
        for piece in textwrap.wrap(line, WIDTH) or [""]
    ]
    space = " " * len(name)
    return "\n".join(f"{name if k == 0 else space}  {row}" for k, row in enumerate(rows))
