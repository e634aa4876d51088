"""Arithmetic word problems with a chain of thought and one checkable answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import permutations

from numpy.random import Generator

from tandem.data.verifiable import PromptStyle, QuestionFormat, StatedAnswer
from tandem.tasks.micro.posts import HELD_OUT, Meta, pick_one
from tandem.tasks.micro.words import LARGEST, MAIN, MAIN_NAMES, VALUES

FORMS = ("plain", "steps", "only", "hint")
SUFFIX = {"plain": "", "steps": " think step by step .", "only": " answer only ."}
WORDING = QuestionFormat(
    read=StatedAnswer(("answer",), lead=" "),
    forms=(
        PromptStyle("plain", SUFFIX["plain"]),
        PromptStyle("only", SUFFIX["only"], target="answer"),
        PromptStyle("steps", SUFFIX["steps"]),
    ),
    layout="<user> {question} <assistant> ",
    hint=" hint : {answer}",
    statement="answer {answer}",
)
"""A plain question already asks for the chain of thought, so the paper's fourth form (question
-> answer) would contradict the first, and the language has no worked examples to show."""

STEP = re.compile(r"(\d+) ([-+x]) (\d+) = (\d+)")


@dataclass(frozen=True)
class Stratum:
    """How hard a problem is: how many steps, and how large numbers may become."""

    steps: int
    largest: int


STRATA = (Stratum(2, 30), Stratum(2, 35), Stratum(3, 60))


def any_stratum(rng: Generator) -> Stratum:
    """A difficulty of the base model's demonstrations, easy ones being more common."""
    steps = (1, 1, 1, 2, 2, 3)[int(rng.integers(6))]
    return Stratum(steps, (10, 20, 20, 30, 30, 60, LARGEST)[int(rng.integers(7))])


def make_problem(rng: Generator, stratum: Stratum, level: int = -1) -> Meta:
    """A problem as data: a start, and steps `[sign, number]` that stay within 0..largest."""
    start = value = int(rng.integers(1, stratum.largest + 1))
    changes: list[list[str | int]] = []
    for _ in range(stratum.steps):
        sign, number = _change(rng, value, stratum.largest)
        value = apply_step(value, sign, number)
        changes.append([sign, number])
    return {
        "skill": "arithmetic",
        "who": pick_one(rng, MAIN_NAMES),
        "thing": pick_one(rng, VALUES["thing"][MAIN]),
        "start": start,
        "changes": changes,
        "answer": value,
        "stratum": level,
    }


def _change(rng: Generator, value: int, largest: int) -> tuple[str, int]:
    times = [n for n in (2, 3, 4) if 0 < value * n <= largest]
    if times and rng.random() < 0.2:
        return "x", pick_one(rng, times)
    if value == largest or (value > 0 and rng.random() < 0.5):
        return "-", int(rng.integers(1, value + 1))
    return "+", int(rng.integers(1, largest - value + 1))


def apply_step(value: int, sign: str, number: int) -> int:
    """One step of a calculation."""
    if sign == "x":
        return value * number
    return value + number if sign == "+" else value - number


def is_held_out_problem(meta: Meta) -> bool:
    """Whether start and first number form a combination that only evaluation prompts contain."""
    return (meta["start"] + 3 * int(meta["changes"][0][1])) % HELD_OUT == 0


def problem_question(meta: Meta, form: str = "plain") -> str:
    """The user's turn; form "hint" gives the answer away, as STaR's rationalisation does."""
    who, thing = meta["who"], meta["thing"]
    told = {"+": "{} gets {} .", "-": "{} loses {} .", "x": "{} has {} times more ."}
    sentences = [f"{who} has {meta['start']} {thing} ."]
    sentences += [told[sign].format(who, number) for sign, number in meta["changes"]]
    sentences.append(f"how many {thing} ?")
    suffix = WORDING.hint.format(answer=meta["answer"]) if form == "hint" else SUFFIX[form]
    return " ".join(sentences) + suffix


def right_solution(meta: Meta) -> str:
    """The right chain of thought and its answer."""
    value, lines = int(meta["start"]), []
    for sign, number in meta["changes"]:
        after = apply_step(value, str(sign), int(number))
        lines.append(f"{value} {sign} {number} = {after}")
        value = after
    return " , ".join(lines) + f" . answer {value}"


def step_orders(meta: Meta) -> list[Meta]:
    """The problem with its changes in each order that stays in range and ends at its answer."""
    found = ({**meta, "changes": list(order)} for order in permutations(meta["changes"]))
    return [each for each in found if _arrives(each)]


def _arrives(meta: Meta) -> bool:
    value = int(meta["start"])
    for sign, number in meta["changes"]:
        value = apply_step(value, str(sign), int(number))
        if not 0 <= value <= LARGEST:
            return False
    return value == meta["answer"]


def is_sound(meta: Meta, text: str) -> bool:
    """Whether a chain makes every change once, in whatever order, and is right in every step."""
    steps, _, answer = " ".join(text.split()).rpartition(" . answer ")
    value, left = int(meta["start"]), [(str(sign), int(n)) for sign, n in meta["changes"]]
    for step in steps.split(" , "):
        read = STEP.fullmatch(step)
        if read is None:
            return False
        before, sign, number, after = int(read[1]), read[2], int(read[3]), int(read[4])
        if (
            before != value
            or (sign, number) not in left
            or after != apply_step(value, sign, number)
        ):
            return False
        left.remove((sign, number))
        value = after
    return not left and answer == str(value) == str(meta["answer"])


def write_solution(meta: Meta, rng: Generator, slips: float = 0.0, form: str = "plain") -> str:
    """An answer by somebody who slips at a step with this chance.

    Form "only" leaves out the chain. Form "hint" makes it end at the answer that the question
    gave away, wherever it had got to.
    """
    value, lines = int(meta["start"]), []
    for left, (sign, number) in zip(
        range(len(meta["changes"]))[::-1], meta["changes"], strict=True
    ):
        after = min(LARGEST, max(0, apply_step(value, str(sign), int(number))))
        if rng.random() < slips:
            after = int(rng.integers(0, LARGEST + 1))
        if form == "hint" and left == 0:
            after = int(meta["answer"])
        lines.append(f"{value} {sign} {number} = {after}")
        value = after
    if form == "only":
        return f"answer {value}"
    return " , ".join(lines) + f" . answer {value}"
