"""Shapes that published data sets and other tools have, each read as it is written.

Orca, LLaMA-Factory (Alpaca and ShareGPT), OpenAI preference files, Label Studio's pairwise
exports, RewardBench 2, UltraFeedback and HelpSteer. The columns `system`, `history` and `tools`
are read beside them by `prompt_context`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from tandem.data.chat import transcripts
from tandem.data.formats import conversations
from tandem.data.formats.fields import DataRow, SkipRow, require_answer, require_text
from tandem.data.formats.messages import object_of
from tandem.data.formats.prompt_context import add_context
from tandem.data.record import Completion, Group, Message, Preference, Prompt

Messages = tuple[Message, ...]

ANSWERS = (
    ("answer1", "answer2"), ("answer_1", "answer_2"), ("response1", "response2"),
    ("response_1", "response_2"), ("output_1", "output_2"), ("output1", "output2"),
    ("answer_a", "answer_b"), ("response_a", "response_b"), ("left", "right"),
)  # fmt: skip
"""What the left and the right answer of a labelling task are called in its data."""
ASKED = ("prompt", "question", "instruction", "query", "input", "text")


def read_orca(row: DataRow) -> Group:
    """`question`, `chosen`, `rejected`, and `system` beside them."""
    return _asked_pair(row, "question")


def read_input_pair(row: DataRow) -> Group:
    """`input`, `chosen`, `rejected`: Orca's pairs as Argilla publishes them."""
    return _asked_pair(row, "input")


def read_instruction_pair(row: DataRow) -> Group:
    """`instruction`, `chosen`, `rejected`, with `input`, `system` and `history`."""
    return _asked_pair(row, "instruction")


def read_sharegpt_pair(row: DataRow) -> Group:
    """`conversations` (from, value), `chosen`, `rejected`: one message each, or a text."""
    messages = row.messages("conversations")
    if messages[-1]["role"] == "assistant":
        raise SkipRow("the prompt ends in an assistant turn")
    answers = row.answer("chosen"), row.answer("rejected")
    return conversations.build_pair(row, *transcripts.prompt_of(messages), answers)


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


def read_openai(row: DataRow) -> Group:
    """`input` with `messages` and `tools`, `preferred_output`, `non_preferred_output`."""
    asked = row.values["input"]
    if not isinstance(asked, dict) or "messages" not in asked:
        row.wrong("input", asked, "it is an object with `messages`")
    asked = cast("dict[str, Any]", asked)
    names = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
    values = {ours: row.values.get(theirs) for ours, theirs in names.items()}
    values |= {"prompt": asked["messages"], "tools": asked.get("tools")}
    own = replace(row, values=values)
    return add_context(own, conversations.read_preference(own))


def read_best_of(row: DataRow) -> Group:
    """`prompt`, `chosen: [...]`, `rejected: [...]`: every chosen beats every rejected one."""
    text, messages = row.prompt()
    good, bad = _texts(row, "chosen"), _texts(row, "rejected")
    if not good or not bad:
        raise SkipRow("no answer is chosen, or none is rejected")
    several = range(len(good)), range(len(good), len(good) + len(bad))
    votes = tuple(Preference(i, j) for i, j in itertools.product(*several))
    answers = tuple(require_text(Completion(text)) for text in [*good, *bad])
    return Group(Prompt("", text, messages), answers, preferences=votes)


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
    return _scored(Group(prompt, tuple(answers)), [_rating(e) for e in kept])


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
    return _scored(group, [scores[k] for k in kept])


def read_helpsteer_preference(row: DataRow) -> Group:
    """`prompt`, `response_1`, `response_2`, `preference_strength`: below 0 the first is better."""
    prompt, names = row.prompt(), ("response_1", "response_2")
    return _graded(row, prompt, names, "preference_strength")


def read_helpsteer3(row: DataRow) -> Group:
    """`context`, `response1`, `response2`, `overall_preference`: below 0 the first is better."""
    prompt = row.prompt("context")
    return _graded(row, prompt, ("response1", "response2"), "overall_preference")


def read_label_studio(row: DataRow) -> Group:
    """A labelling task's data, and its annotations: `left` or `right` of a pair, one vote each."""
    given = row.items("annotations")
    votes = [(side, by) for side, by in map(_vote, given) if side]
    if not votes:
        left_out = annotations_left_out(row)
        raise SkipRow(" and ".join(f"{why}" for why in left_out) or "no annotation")
    question, (left, right) = _labelled_columns(row)
    text, messages = transcripts.prompt_of([{"role": "user", "content": row.text(question)}])
    answers = row.answer(left), row.answer(right)
    if answers[0].text == answers[1].text:
        raise SkipRow("identical answers")
    pairs = {"left": (0, 1), "right": (1, 0)}
    for side, _ in votes:
        if side not in pairs:
            row.wrong("annotations.selected", side, "a pairwise choice is `left` or `right`")
    preferences = tuple(Preference(*pairs[side], by=by) for side, by in votes)
    return Group(Prompt("", text, messages), answers, preferences=preferences)


def annotations_left_out(row: DataRow) -> dict[str, int]:
    """Count the annotations of a labelling task that say nothing."""
    counts: dict[str, int] = {}
    for annotation in row.items("annotations"):
        cancelled = object_of(annotation).get("was_cancelled")
        if cancelled or not _vote(annotation)[0]:
            why = "annotation cancelled" if cancelled else "annotation empty"
            counts[why] = counts.get(why, 0) + 1
    return counts


def label_studio_columns(row: DataRow) -> tuple[str, ...]:
    """Return the columns of a labelling task that are read."""
    question, answers = _labelled_columns(row)
    return (question, *answers)


def _labelled_columns(row: DataRow) -> tuple[str, tuple[str, str]]:
    lower = {name.lower(): name for name in row.values}
    answers = next((pair for pair in ANSWERS if all(a in lower for a in pair)), None)
    question = next((q for q in ASKED if q in lower), None)
    if answers is None or question is None:
        row.wrong(
            "prompt" if question is None else "answer1",
            sorted(set(row.values) - {"annotations", "id"}),
            "a pairwise task has a prompt and two answers in its data",
        )
    return lower[question], (lower[answers[0]], lower[answers[1]])


def _vote(annotation: Any) -> tuple[str, str]:
    """Return (side, who) of an annotation; the side is empty where it chooses nothing."""
    known = object_of(annotation)
    if known.get("was_cancelled"):
        return "", ""
    for part in map(object_of, known.get("result") or ()):
        side = object_of(part.get("value")).get("selected")
        if part.get("type") == "pairwise" and side:
            by = known.get("completed_by", "")
            by = object_of(by).get("id", "") if isinstance(by, dict) else by
            return str(side), "" if by is None else str(by)
    return "", ""


def _asked_pair(row: DataRow, name: str) -> Group:
    if conversations.are_whole(row):
        return conversations.common_turns(row)
    text, messages = conversations.instruction_prompt(row, name)
    return conversations.build_pair(
        row, text, messages, (row.answer("chosen"), row.answer("rejected"))
    )


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


def _scored(group: Group, scores: Sequence[float]) -> Group:
    votes = [
        Preference(i, j, margin=scores[i] - scores[j])
        for i, j in itertools.permutations(range(len(scores)), 2)
        if scores[i] > scores[j]
    ]
    return replace(group, scores=np.array(scores), preferences=tuple(votes))


def _graded(
    row: DataRow, prompt: tuple[str, Messages | None], names: tuple[str, str], strength: str
) -> Group:
    answers = row.answer(names[0]), row.answer(names[1])
    if answers[0].text == answers[1].text:
        raise SkipRow("identical answers")
    value = row.number(strength)
    if abs(value) > 3:
        row.wrong(strength, value, "it lies between -3 (the first) and 3 (the second)")
    first = 0 if value <= 0 else 1
    p = 1.0 if value else 0.5
    vote = Preference(first, 1 - first, p, math.fabs(value) or None)
    return Group(Prompt("", *prompt), answers, preferences=(vote,))
