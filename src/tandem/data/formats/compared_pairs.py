"""Published comparisons of two numbered or lettered answers, with a column that says who won.

PKU-SafeRLHF, SHP and the Chatbot Arena; the scored answers of WebGPT, the summaries of TL;DR, and
the ranked answers of Nectar.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from tandem.data.formats import conversations
from tandem.data.formats.fields import DataRow, SkipRow, require_text
from tandem.data.formats.judged import score_group
from tandem.data.formats.structured_text import open_structure
from tandem.data.record import Completion, Group, Message, Preference, Prompt

ARENA_WINNERS = {
    "model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5, "both_bad": 0.5,
    "bothbad": 0.5,
}  # fmt: skip
"""Who won in the arena: P(a is better)."""
ARENA_CHOICES = ("winner_model_a", "winner_model_b", "winner_tie")


def read_safe_rlhf(row: DataRow) -> Group:
    """`prompt`, `response_0`, `response_1`, `better_response_id`: 0 or 1, the better one."""
    better = row.number("better_response_id")
    if better not in (0, 1):
        row.wrong("better_response_id", better, "it is the number of the better response, 0 or 1")
    return judged_pair(row, "prompt", ("response_0", "response_1"), 1.0 - better)


def read_shp(row: DataRow) -> Group:
    """`history`, `human_ref_A`, `human_ref_B`, `labels`: 1 where A was preferred, else 0."""
    return judged_pair(row, "history", ("human_ref_A", "human_ref_B"), float(row.label("labels")))


def read_webgpt(row: DataRow) -> Group:
    """`question`, `answer_0`, `answer_1`, `score_0`, `score_1`: the higher the better.

    The question is a text, or an object with `full_text`.
    """
    asked = row.values["question"]
    asked = open_structure(asked) if isinstance(asked, str) else asked
    if isinstance(asked, dict):
        full = cast("dict[str, Any]", asked).get("full_text")
        row = replace(row, values={**row.values, "question": full})
    prompt = conversations.ask_in_messages(*row.prompt("question"))
    answers = row.answer("answer_0"), row.answer("answer_1")
    conversations.refuse_equal(answers)
    scores = [row.number("score_0"), row.number("score_1")]
    return score_group(Group(Prompt("", *prompt), answers), scores)


def read_tldr(row: DataRow) -> Group:
    """`info` (the post), `summaries` of two, `choice`: 0 or 1, the better one."""
    info, choice = row.values["info"], row.number("choice")
    info = open_structure(info) if isinstance(info, str) else info
    if not isinstance(info, dict):
        row.wrong("info", info, "it is an object with `post` or `article`")
    if choice not in (0, 1):
        row.wrong("choice", choice, "it is the number of the chosen summary, 0 or 1")
    answers = [e.answer("text") for e in row.entries("summaries")]
    if len(answers) != 2:
        row.wrong("summaries", row.values["summaries"], "there are two, and one was chosen")
    conversations.refuse_equal(answers)
    prompt = _post(DataRow(f"{row.place} info", cast("dict[str, Any]", info)))
    return Group(Prompt("", prompt), tuple(answers), preferences=(_vote(1.0 - choice),))


def _post(info: DataRow) -> str:
    """Return a post as the data's authors show it to a model."""
    shown = {"SUBREDDIT: r/": "subreddit", "TITLE: ": "title", "POST: ": "post"}
    parts = [f"{head}{info.text(name)}" for head, name in shown.items() if info.has(name)]
    if not info.has("post"):
        parts.append(f"ARTICLE: {info.text('article')}")
    return "\n\n".join([*parts, "TL;DR:"])


def read_arena(row: DataRow) -> Group:
    """`conversation_a`, `conversation_b`, `winner`: two conversations of one user."""
    winner = row.text("winner").strip().lower()
    if winner not in ARENA_WINNERS:
        row.wrong("winner", winner, f"it is one of {', '.join(ARENA_WINNERS)}")
    names = ("conversation_a", "conversation_b")
    pair = dict(zip(("chosen", "rejected"), (row.values[n] for n in names), strict=True))
    group = conversations.common_turns(replace(row, values=pair))
    return replace(group, preferences=(_vote(ARENA_WINNERS[winner]),))


def read_arena_prompts(row: DataRow) -> Group:
    """`prompt`, `response_a`, `response_b`, each a list of turns, and three columns for who won."""
    chances = [row.number(name) for name in ARENA_CHOICES]
    if sorted(chances) != [0, 0, 1]:
        row.wrong("winner_model_a", chances, "one of a, b and tie is 1, the others are 0")
    asked, first, second = (_turns(row, name) for name in ("prompt", "response_a", "response_b"))
    if not len(asked) == len(first) == len(second):
        row.wrong("response_a", first, f"{len(asked)} prompts need as many responses")
    pair = {
        name: [turn for each in zip(asked, said, strict=True) for turn in _exchange(*each)]
        for name, said in (("chosen", first), ("rejected", second))
    }
    group = conversations.common_turns(replace(row, values=pair))
    return replace(group, preferences=(_vote((1.0, 0.0, 0.5)[chances.index(1)]),))


def read_nectar(row: DataRow) -> Group:
    """`prompt`, `answers: [{answer, model, rank}]`: rank 1 is the best."""
    text, messages = row.prompt()
    entries = row.entries("answers")
    kept = [e for e in entries if e.has("answer") and e.text("answer").strip()]
    if not kept:
        raise SkipRow("empty answer")
    ranks = [e.number("rank") for e in kept]
    answers = [
        Completion(e.text("answer"), author=e.text("model") if e.has("model") else "") for e in kept
    ]
    votes = [
        Preference(i, j)
        for i, j in itertools.permutations(range(len(kept)), 2)
        if ranks[i] < ranks[j]
    ]
    return Group(Prompt("", text, messages), tuple(answers), preferences=tuple(votes))


def judged_pair(row: DataRow, asked: str, names: Sequence[str], p: float) -> Group:
    """Make a group of two columns, the first better with probability p."""
    first, second = (row.answer(name) for name in names)
    conversations.refuse_equal((first, second))
    text, messages = row.prompt(asked)
    if first.turns or second.turns:
        text, messages = conversations.ask_in_messages(text, messages)
    return Group(Prompt("", text, messages), (first, second), preferences=(_vote(p),))


def _vote(p: float) -> Preference:
    return Preference(1, 0) if p == 0 else Preference(0, 1, p)


def _turns(row: DataRow, name: str) -> list[str]:
    value = row.values.get(name)
    value = open_structure(value) if isinstance(value, str) else value
    several = cast("list[Any]", value) if isinstance(value, list) else [value]
    texts = [DataRow(row.place, {f"{name}[{k}]": v}) for k, v in enumerate(several)]
    return [require_text(Completion(t.text(f"{name}[{k}]"))).text for k, t in enumerate(texts)]


def _exchange(question: str, answer: str) -> tuple[Message, Message]:
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}
