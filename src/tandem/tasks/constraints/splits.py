"""Prompts by split: new instructions and new kinds of constraints are met in evaluation only.

Three splits train ("sft", "preference", "unlabelled"): they share instructions and the kinds that
are not held out, and no two share a prompt. Prompts of "evaluation" ask for something that no
training prompt asks for, and each has at least one constraint of a kind that training has seen
and one of a kind that it has not. So both shares are read from the same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache

from numpy.random import Generator

from tandem.data.record import Group, Prompt
from tandem.errors import DataError, nearest_name
from tandem.rng import Seed
from tandem.tasks.constraints.checkers import KINDS, Constraint
from tandem.tasks.constraints.draws import draw_constraints
from tandem.tasks.constraints.instructions import Instruction, load_instructions

TRAINING = ("sft", "preference", "unlabelled")
SPLITS = (*TRAINING, "evaluation")
STALE = 200

HELD_OUT_KINDS = (
    "paragraph_count", "limit_word", "avoid_letter", "headings", "bullet_list", "placeholders",
    "bold_phrases", "lowercase", "capital_words", "starts_with",
)  # fmt: skip
"""Kinds of which training sees none; every group has some, beside trained relatives.

Two only forbid something. Where more of them do, saying less is all that one can learn.
"""

TRAINED_KINDS = tuple(kind for kind in KINDS if kind not in HELD_OUT_KINDS)
HELD_OUT_TENTHS = 3
"""Of ten instructions about three are kept for evaluation."""

NUMBERS = ((1, 0.2), (2, 0.4), (3, 0.4))
"""How many constraints a training prompt has, and how often; with one, most pairs are tied."""

POOLS = {
    2: (TRAINED_KINDS, HELD_OUT_KINDS),
    3: (TRAINED_KINDS, HELD_OUT_KINDS, KINDS),
}
"""From where an evaluation prompt's constraints come, by their number."""


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def is_held_out(asked: Instruction) -> bool:
    """Say whether an instruction is kept for evaluation."""
    return _digest(asked.text) % 10 < HELD_OUT_TENTHS


@cache
def instructions_of(split: str) -> tuple[Instruction, ...]:
    """The instructions of a split."""
    return tuple(i for i in load_instructions() if is_held_out(i) == (split == "evaluation"))


def prompt_split(text: str, asked: Instruction) -> str:
    """The one split that a prompt can belong to."""
    return "evaluation" if is_held_out(asked) else TRAINING[_digest(text) % len(TRAINING)]


def write_prompt(rng: Generator, asked: Instruction, constraints: Sequence[Constraint]) -> str:
    """Put an instruction and its constraints into words, in one of three forms."""
    requests = [c.request(int(rng.integers(2))) for c in constraints]
    form = int(rng.integers(3))
    if form == 0 and asked.form == "rewrite":  # or the request reads as part of the text
        form = 1
    if form == 2 and len(requests) > 1:
        return "\n".join([asked.text, "", "Rules:", *(f"- {each}" for each in requests)])
    return ("\n\n" if form == 1 else " ").join([asked.text, " ".join(requests)])


def draw_constraint_prompts(split: str, n: int, seed: Seed) -> Iterator[Group]:
    """Yield n prompts of one split, no two alike.

    Raises:
        DataError: no such split, or it does not hold that many different prompts.
    """
    if split not in SPLITS:
        raise DataError(
            f"the task `constraints` has no split `{split}`",
            f"its splits are {', '.join(SPLITS)}",
            f"name one of them.{nearest_name(split, SPLITS)}",
        )
    seen = set[str]()
    for i in range(n):
        rng = seed.at("constraints", split, i).rng()
        for _ in range(STALE):
            asked, constraints, text = _draw(rng, split, i)
            if text not in seen and prompt_split(text, asked) == split:
                break
        else:
            raise DataError(
                f"the split `{split}` of `constraints` ran out of prompts after {i}",
                f"prompts never repeat, and {STALE} draws brought no new one",
                f"ask for at most {i} prompts",
            )
        seen.add(text)
        yield _group(split, asked, constraints, text)


def _draw(
    rng: Generator, split: str, index: int
) -> tuple[Instruction, tuple[Constraint, ...], str]:
    """Draw an instruction, its constraints and their words; forms of instructions take turns."""
    known = instructions_of(split)
    asked = known[int(rng.integers(len(known)))]
    if split == "evaluation":
        pools = [tuple(pool) for pool in POOLS[2 + index % 2]]
    else:
        numbers, shares = zip(*NUMBERS, strict=True)
        pools = [TRAINED_KINDS] * int(rng.choice(numbers, p=shares))
    constraints = draw_constraints(rng, asked, pools)
    order = rng.permutation(len(constraints))
    constraints = tuple(constraints[int(k)] for k in order)
    return asked, constraints, write_prompt(rng, asked, constraints)


def _group(split: str, asked: Instruction, constraints: Sequence[Constraint], text: str) -> Group:
    name = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    meta = {
        "task": "constraints",
        "form": asked.form,
        "instruction": asked.text,
        "constraints": [c.facts() for c in constraints],
    }
    messages = ({"role": "user", "content": text},)
    return Group(Prompt(f"constraints/{split}/{name}", text, messages=messages, meta=meta))
