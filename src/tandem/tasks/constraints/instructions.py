"""What is asked, without its constraints: read from `instructions.toml`, which people can edit."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

FILE = Path(__file__).parent / "instructions.toml"
AnswerForm = Literal["question", "rewrite", "list", "story", "explain", "email"]
ANSWER_FORMS: tuple[AnswerForm, ...] = get_args(AnswerForm)


@dataclass(frozen=True)
class Instruction:
    """One thing that can be asked of a chat model.

    Attributes:
        form: what kind of answer it wants.
        text: the instruction.
        words: words that a good answer is likely to use.
    """

    form: AnswerForm
    text: str
    words: tuple[str, ...]


@cache
def load_instructions() -> tuple[Instruction, ...]:
    """Every instruction, in the order of the file."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return tuple(
        Instruction(form, text, tuple(words.split()))
        for form in ANSWER_FORMS
        for text, words in table[form].items()
    )
