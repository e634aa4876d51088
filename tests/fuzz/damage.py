"""Damage on order: odd values, trees with one node changed, bytes flipped, cut and doubled."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

DEEP: Any = "x"
for _ in range(60):
    DEEP = [DEEP]

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 0.5, -0.5, 1.5, 1e308, -1e308, 5e-324, float("nan"),
    float("inf"), float("-inf"), 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, "", " ", "\n", "\x00",
    "\ud800", "\udfff x", "\u202e", "\u2028", "\ufeff", "\U0001f642", "e\u0301" * 40, "a" * 9000,
    "NaN", "null", "None", "NA", "1", "-1", "true", "1e400", "<script>alert(1)</script>",
    "{{ 7 * 7 }}", "{% for %}", "%s%n", "../../x", "=1+1", ",", '"', "'", "\r\n", "\t", [], [[]],
    {}, [None], [0], ["a"], ["a", "b"], {"": None}, {"role": "user", "content": "a"}, DEEP,
    [{"role": "assistant", "content": "b"}], [{"role": "user", "content": "a"}],
    [{"role": "user"}], [{"content": "a"}], {"text": "a"}, [1, "a", None], {"a": {"b": [1]}},
    [{"type": "text", "text": "a"}], [{"type": "image"}], {"messages": []}, {"messages": 3},
)  # fmt: skip
"""Values of every kind that a file may hold where another was meant."""


def odd_value(dice: random.Random) -> Any:
    """Return one odd value."""
    return copy.deepcopy(dice.choice(ODD))


def places_of(tree: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every node below a tree's root."""
    steps = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    found: list[tuple[Any, ...]] = []
    for step, inner in steps:
        found.append((*here, step))
        found += places_of(inner, (*here, step))
    return found


def change_tree(tree: Any, dice: random.Random) -> Any:
    """Return a tree with one node replaced, removed, renamed, doubled, wrapped or swapped."""
    tree = copy.deepcopy(tree)
    places = places_of(tree)
    if not places:
        return odd_value(dice)
    *path, last = dice.choice(places)
    inner = tree
    for step in path:
        inner = inner[step]
    how = dice.choice(("replace", "replace", "replace", "remove", "add", "wrap", "swap", "double"))
    if how == "remove":
        del inner[last]
    elif how == "add" and isinstance(inner, dict):
        inner[dice.choice(KEYS)] = odd_value(dice)
    elif how == "double" and isinstance(inner, list):
        inner.insert(last, copy.deepcopy(inner[last]))
    elif how == "wrap":
        inner[last] = [inner[last]] if dice.random() < 0.5 else {"value": inner[last]}
    elif how == "swap" and len(inner) > 1:
        other = dice.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner[last], inner[other] = inner[other], inner[last]
    else:
        inner[last] = odd_value(dice)
    return tree


KEYS = (
    "prompt", "chosen", "rejected", "label", "messages", "completion", "completions", "id", "tools",
    "system", "history", "margin", "p_chosen", "input", "", " ", "a.b", "__class__", "\ud800", "é",
    "x" * 300, "annotations", "data", "role", "content", "tool_calls", "answer", "scores",
)  # fmt: skip


def change_bytes(data: bytes, dice: random.Random, others: list[bytes] | None = None) -> bytes:
    """Return bytes with one place flipped, cut off, taken out, doubled, filled or spliced."""
    found = bytearray(data)
    at = dice.randrange(len(found) + 1)
    size = min(len(found) - at, int(dice.expovariate(1 / 12)) + 1)
    how = dice.choice(("flip", "flip", "byte", "cut", "out", "double", "noise", "splice", "zeros"))
    if how == "flip" and at < len(found):
        found[at] ^= 1 << dice.randrange(8)
    elif how == "byte" and at < len(found):
        found[at] = dice.choice(b'{}[]",:\\\n\r\x00\xff\xc3\xed0-9eE.tfn ')
    elif how == "cut":
        del found[at:]
    elif how == "out":
        del found[at : at + size]
    elif how == "double":
        found[at:at] = found[at : at + size]
    elif how == "zeros":
        found[at : at + size] = bytes(size)
    elif how == "splice" and others:
        piece = dice.choice(others)
        start = dice.randrange(len(piece) + 1)
        found[at : at + size] = piece[start : start + 200]
    else:
        found[at:at] = dice.randbytes(dice.randint(1, 8))
    return bytes(found)


def change_json(text: str, dice: random.Random) -> str:
    """Return the text of a JSON file with one node of its tree changed."""
    return json.dumps(change_tree(json.loads(text), dice), indent=1)
