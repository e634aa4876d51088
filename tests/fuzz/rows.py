"""A right row of every format that Tandem reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
WORDS = "the red fox says that two small dogs sleep near a warm old house today".split()


def say(dice: random.Random) -> str:
    """Return a few words."""
    return " ".join(dice.choices(WORDS, k=dice.randint(2, 7))) + dice.choice((".", "?", "!", ""))


def two(dice: random.Random) -> tuple[str, str]:
    """Return two different answers."""
    return f"{say(dice)} a", f"{say(dice)} b"


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def bot(text: str) -> Row:
    return {"role": "assistant", "content": text}


def _pair(dice: random.Random, asked: str, **more: Any) -> Row:
    chosen, rejected = two(dice)
    return {asked: say(dice), "chosen": chosen, "rejected": rejected, **more}


def _chat_pair(dice: random.Random) -> Row:
    chosen, rejected = two(dice)
    return {"prompt": [user(say(dice))], "chosen": [bot(chosen)], "rejected": [bot(rejected)]}


def _whole_pair(dice: random.Random) -> Row:
    chosen, rejected, asked = *two(dice), user(say(dice))
    return {"chosen": [asked, bot(chosen)], "rejected": [asked, bot(rejected)]}


def _hh(dice: random.Random) -> Row:
    chosen, rejected = two(dice)
    start = f"\n\nHuman: {say(dice)}\n\nAssistant:"
    return {"chosen": f"{start} {chosen}", "rejected": f"{start} {rejected}"}


def _several(dice: random.Random, name: str) -> Row:
    n = dice.randint(2, 4)
    numbers = dice.sample(range(1, 9), n)
    return {
        "prompt": say(dice),
        "completions": [f"{say(dice)} {k}" for k in range(n)],
        name: numbers,
    }


def _alpacaeval(dice: random.Random) -> Row:
    answers = [
        {"system": f"s{k}", "text": f"{say(dice)} {k}", "win_prob": round(dice.random(), 4)}
        for k in range(dice.randint(2, 4))
    ]
    return {"prompt": say(dice), "completions": answers}


def _outputs(dice: random.Random, asked: str, name: str) -> Row:
    one, other = two(dice)
    return {asked: say(dice), "output_1": one, "output_2": other, name: dice.choice((1, 2))}


def _openai(dice: random.Random) -> Row:
    good, bad = two(dice)
    return {
        "input": {"messages": [user(say(dice))]},
        "preferred_output": [bot(good)],
        "non_preferred_output": [bot(bad)],
    }


def _label_studio(dice: random.Random) -> Row:
    one, other = two(dice)
    vote = {"type": "pairwise", "value": {"selected": dice.choice(("left", "right"))}}
    given = [{"result": [vote], "completed_by": 1, "was_cancelled": False}]
    data = {"prompt": say(dice), "answer1": one, "answer2": other}
    return {"id": dice.randrange(10**6), "data": data, "annotations": given}


def _ultrafeedback(dice: random.Random) -> Row:
    answers = [
        {"model": f"m{k}", "response": f"{say(dice)} {k}", "fine-grained_score": dice.uniform(1, 5)}
        for k in range(3)
    ]
    return {"instruction": say(dice), "completions": answers}


def _graded(dice: random.Random, asked: str, names: tuple[str, str], strength: str) -> Row:
    one, other = two(dice)
    return {asked: say(dice), names[0]: one, names[1]: other, strength: dice.randint(-3, 3)}


def _sharegpt(dice: random.Random) -> list[Row]:
    return [{"from": "human", "value": say(dice)}, {"from": "gpt", "value": say(dice)}]


ROWS: dict[str, Callable[[random.Random], Row]] = {
    "preference": lambda d: _pair(d, "prompt", p_chosen=d.random(), margin=d.uniform(0, 2)),
    "preference-plain": lambda d: _pair(d, "prompt", id=f"q{d.randrange(10**6)}"),
    "preference-chat": _chat_pair,
    "implicit-prompt": _whole_pair,
    "hh": _hh,
    "rewardbench-2": lambda d: {
        "prompt": say(d), "chosen": [f"{say(d)} a"], "rejected": [f"{say(d)} {k}" for k in (1, 2)],
    },
    "llama-factory": lambda d: _pair(d, "instruction", input=say(d)),
    "orca": lambda d: _pair(d, "question", system=say(d)),
    "argilla-orca": lambda d: _pair(d, "input"),
    "sharegpt-preference": lambda d: {
        "conversations": _sharegpt(d)[:1],
        "chosen": {"from": "gpt", "value": f"{say(d)} a"},
        "rejected": {"from": "gpt", "value": f"{say(d)} b"},
    },
    "openai-preference": _openai,
    "label-studio": _label_studio,
    "ultrafeedback": _ultrafeedback,
    "helpsteer-preference": lambda d: _graded(
        d, "prompt", ("response_1", "response_2"), "preference_strength"
    ),
    "helpsteer3": lambda d: {
        **_graded(d, "context", ("response1", "response2"), "overall_preference"),
        "context": [user(say(d))],
    },
    "helpsteer": lambda d: {
        "prompt": say(d), "response": say(d), "helpfulness": d.randint(0, 4),
    },
    "alpacaeval-groups": _alpacaeval,
    "ranked": lambda d: _several(d, "ranks"),
    "scored": lambda d: _several(d, "scores"),
    "answers": lambda d: {"prompt": say(d), "completions": [say(d) for _ in range(3)]},
    "alpaca-comparison": lambda d: _outputs(d, "instruction", "preference"),
    "llmbar": lambda d: _outputs(d, "input", "label"),
    "unpaired": lambda d: {
        "prompt": say(d), "completion": say(d), "label": d.random() < 0.5,
    },
    "messages-label": lambda d: {
        "messages": [user(say(d)), bot(say(d))], "label": d.random() < 0.5,
    },
    "sharegpt-kto": lambda d: {"conversations": _sharegpt(d), "kto_tag": d.random() < 0.5},
    "alpaca-kto": lambda d: {
        "instruction": say(d), "output": say(d), "kto_tag": d.random() < 0.5,
    },
    "prompt-completion": lambda d: {"prompt": say(d), "completion": say(d)},
    "messages": lambda d: {"messages": [user(say(d)), bot(say(d)), user(say(d)), bot(say(d))]},
    "sharegpt": lambda d: {"conversations": _sharegpt(d)},
    "alpaca": lambda d: {"instruction": say(d), "input": say(d), "output": say(d)},
    "gsm8k": lambda d: {
        "question": say(d), "answer": f"{say(d)}\n#### {d.randint(-99, 99)}",
    },
    "prompt": lambda d: {"prompt": say(d)},
}  # fmt: skip
"""Name -> a row of it. Names are those of the format table, some with a variant behind them."""

NUMBERS: dict[str, tuple[str, ...]] = {
    "preference": ("p_chosen", "margin"),
    "llmbar": ("label",),
    "alpaca-comparison": ("preference",),
    "helpsteer3": ("overall_preference",),
    "helpsteer-preference": ("preference_strength",),
    "helpsteer": ("helpfulness",),
}
"""Columns that hold one number that must be finite."""
TEXTS: dict[str, tuple[str, ...]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "preference-plain": ("prompt", "chosen", "rejected"),
    "orca": ("question", "chosen", "rejected"),
    "llmbar": ("input", "output_1", "output_2"),
    "alpaca": ("instruction", "output", "input"),
    "prompt-completion": ("prompt", "completion"),
    "unpaired": ("prompt", "completion"),
    "prompt": ("prompt",),
    "helpsteer3": ("response1", "response2"),
}
"""Columns that hold one text that is read."""
