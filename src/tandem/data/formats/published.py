"""Shapes that published data sets and other tools have, each read as it is written.

Orca, LLaMA-Factory (Alpaca and ShareGPT), OpenAI preference files, Label Studio's pairwise
exports, RewardBench 2, UltraFeedback and HelpSteer. The columns `system`, `history` and `tools`
are read beside them by `prompt_context`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np

from tandem.data.chat import transcripts
from tandem.data.formats import conversations
from tandem.data.formats.fields import DataRow, SkipRow, require_answer
from tandem.data.formats.judged import score_group
from tandem.data.formats.prompt_context import add_context
from tandem.data.formats.structured_text import open_structure
from tandem.data.record import Completion, Group, Message, Preference, Prompt

Messages = tuple[Message, ...]


def read_orca(row: DataRow) -> Group:
    """`question`, `chosen`, `rejected`, and `system` beside them."""
    return conversations.read_asked_pair(row, "question")


def read_input_pair(row: DataRow) -> Group:
    """`input`, `chosen`, `rejected`: Orca's pairs as Argilla publishes them."""
    return conversations.read_asked_pair(row, "input")


def read_instruction_pair(row: DataRow) -> Group:
    """`instruction`, `chosen`, `rejected`, with `input`, `system` and `history`."""
    if conversations.are_whole(row):
        return conversations.common_turns(row)
    return conversations.build_asked_pair(row, *conversations.instruction_prompt(row))


def read_ranked_outputs(row: DataRow) -> Group:
    """`instruction`, `output: [better, worse]`: LLaMA-Factory's pairs of 2023 and 2024."""
    answers = row.several("output")
    if len(answers) != 2:
        row.wrong("output", row.values["output"], "it is a list of two: the better and the worse")
    if answers[0] is None or answers[1] is None:
        raise SkipRow("empty answer")
    prompt = conversations.instruction_prompt(row)
    return conversations.build_pair(row, *prompt, (answers[0], answers[1]))


def read_sharegpt_pair(row: DataRow) -> Group:
    """`conversations` (from, value), `chosen`, `rejected`: one message each, or a text."""
    return conversations.read_asked_pair(row, "conversations")


def read_messages_pair(row: DataRow) -> Group:
    """`messages`, `chosen`, `rejected`: the conversation before them, and two answers to it."""
    return conversations.read_asked_pair(row, "messages")


def read_sharegpt(row: DataRow) -> Group:
    """`conversations` alone: every assistant turn is trained on."""
    return conversations.read_conversation(row, "conversations")


def read_thumb_on_conversation(row: DataRow, name: str, label: str) -> Group:
    """Read a conversation whose last answer is good or bad."""
    messages = row.messages(name)
    if messages[-1]["role"] != "assistant":
        raise SkipRow(f"the conversation ends in a {messages[-1]['role']} turn")
    if len(messages) == 1:
        raise SkipRow("the conversation starts with the assistant")
    prompt = Prompt("", *transcripts.prompt_of(messages[:-1]))
    return Group(prompt, (require_answer(messages[-1:]),), np.array([float(row.label(label))]))


def read_messages_label(row: DataRow) -> Group:
    """`messages`, `label`: the last answer is good or bad."""
    return read_thumb_on_conversation(row, "messages", "label")


def read_sharegpt_thumb(row: DataRow) -> Group:
    """`conversations`, `kto_tag`: the last answer is good or bad."""
    return read_thumb_on_conversation(row, "conversations", "kto_tag")


def read_instruction_thumb(row: DataRow) -> Group:
    """`instruction`, `output`, `kto_tag`: the output is good or bad."""
    group = conversations.read_instruction(row)
    return replace(group, scores=np.array([float(row.label("kto_tag"))]))


def read_question(row: DataRow) -> Group:
    """`turns: [question]`: what is asked, and nobody's answer."""
    asked = row.items("turns")
    if len(asked) != 1:
        row.wrong("turns", asked, "a second turn is asked after an answer, which is not here")
    prompt = [{"role": "user", "content": asked[0]}]
    return conversations.read_prompt(replace(row, values={**row.values, "prompt": prompt}))


def read_openai(row: DataRow) -> Group:
    """`input` with `messages` and `tools`, `preferred_output`, `non_preferred_output`."""
    asked = row.values["input"]
    if isinstance(asked, str):
        asked = open_structure(asked)
    if isinstance(asked, list):
        asked = {"messages": cast("list[Any]", asked)}
    if not isinstance(asked, dict) or "messages" not in asked:
        row.wrong("input", asked, "it is an object with `messages`")
    asked = cast("dict[str, Any]", asked)
    names = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    values = {ours: row.values.get(theirs) for ours, theirs in names.items()}
    values |= {"prompt": asked["messages"], "tools": asked.get("tools")}
    own = replace(row, values=values)
    return add_context(own, conversations.read_preference(own))


def read_ultrafeedback(row: DataRow) -> Group:
    """`instruction`, `completions: [{model, response, ...}]`: the higher rated the better."""
    prompt = Prompt("", *conversations.instruction_prompt(row))
    kept = [e for e in row.entries("completions") if e.text("response").strip()]
    if not kept:
        raise SkipRow("empty answer")
    answers = [
        Completion(e.text("response"), author=e.text("model") if e.has("model") else "")
        for e in kept
    ]
    return score_group(Group(prompt, tuple(answers)), [_rating(e) for e in kept])


def read_helpsteer(row: DataRow) -> Group:
    """`prompt`, `response`, `helpfulness`; rows of one prompt that follow each other are one."""
    text, messages = row.prompt()
    if not row.is_several("response"):
        answers, scores = [row.text("response")], [row.number("helpfulness")]
    else:
        answers, scores = _texts(row, "response"), row.numbers("helpfulness")
    kept = [k for k, answer in enumerate(answers) if answer.strip()]
    if not kept:
        raise SkipRow("empty answer")
    group = Group(Prompt("", text, messages), tuple(Completion(answers[k]) for k in kept))
    return score_group(group, [scores[k] for k in kept])


def read_helpsteer_preference(row: DataRow) -> Group:
    """`prompt`, `response_1`, `response_2`, `preference_strength`: below 0 the first is better."""
    prompt, names = row.prompt(), ("response_1", "response_2")
    return _graded(row, prompt, names, "preference_strength")


def read_helpsteer3(row: DataRow) -> Group:
    """`context`, `response1`, `response2`, `overall_preference`: below 0 the first is better."""
    prompt = row.prompt("context")
    return _graded(row, prompt, ("response1", "response2"), "overall_preference")


def _texts(row: DataRow, name: str) -> list[str]:
    values = row.items(name)
    return [
        DataRow(row.place, {f"{name}[{k}]": v}).text(f"{name}[{k}]") for k, v in enumerate(values)
    ]


def _rating(entry: DataRow) -> float:
    """Return the mean of the four aspects where it is there, else the overall score."""
    for name in ("fine-grained_score", "overall_score"):
        if entry.has(name):
            return entry.number(name)
    return entry.number("overall_score")


def _graded(
    row: DataRow, prompt: tuple[str, Messages | None], names: tuple[str, str], strength: str
) -> Group:
    answers = row.answer(names[0]), row.answer(names[1])
    conversations.refuse_equal(answers)
    value = row.number(strength)
    if abs(value) > 3:
        row.wrong(strength, value, "it lies between -3 (the first) and 3 (the second)")
    first = 0 if value <= 0 else 1
    p = 1.0 if value else 0.5
    vote = Preference(first, 1 - first, p, math.fabs(value) or None)
    return Group(Prompt("", *prompt), answers, preferences=(vote,))
