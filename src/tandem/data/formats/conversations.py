"""Rows of pairs and demonstrations: Hugging Face (TRL) columns, HH transcripts, Alpaca, texts.

Each function makes one group of one row, with an empty id. A pair is (chosen, rejected) in this
order, with the preference 0 over 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tandem.data.chat import transcripts
from tandem.data.formats import chosen_answers
from tandem.data.formats.fields import DataRow, SkipRow, require_answer, require_text
from tandem.data.record import Completion, Group, Message, Preference, Prompt
from tandem.data.verifiable import StatedAnswer

Messages = tuple[Message, ...]

_KEY = StatedAnswer(("####",))
WORDS_THAT_REPEAT = 3
"""Answers that both begin with a prompt of so many words repeat it."""
_OTHER_PROMPT = "the two answers are conversations, and they begin with another prompt"
_READ_ANSWERS = (
    "mend that row; or, to take the prompt that they begin with, --format implicit-prompt"
)


def read_preference(row: DataRow) -> Group:
    """`prompt`, `chosen`, `rejected`: strings or messages, and an optional `margin`."""
    if are_whole(row):
        return common_turns(row, "prompt")
    text, messages = row.prompt()
    answers = row.answer("chosen"), row.answer("rejected")
    if messages is None and (row.is_list("chosen") or row.is_list("rejected")):
        messages = ({"role": "user", "content": text},)
        return build_pair(row, *transcripts.prompt_of(messages), answers)
    return build_pair(row, text, messages, answers if messages else _behind_prompt(text, answers))


def read_asked_pair(row: DataRow, name: str) -> Group:
    """A pair whose question stands in a column of another name, as text or as messages."""
    if are_whole(row):
        return common_turns(row, name)
    return build_asked_pair(row, *ask_in_messages(*row.prompt(name)))


def build_asked_pair(row: DataRow, text: str, messages: Messages) -> Group:
    """Make a group of `chosen` and `rejected`, one answer each or several, to a conversation."""
    if chosen_answers.has_several(row) and not row.strings:
        return chosen_answers.build_best_of(row, text, messages)
    answers = row.answer("chosen"), row.answer("rejected")
    if not (row.is_list("chosen") or row.is_list("rejected")):
        answers = _behind_prompt(str(messages[-1].get("content") or ""), answers)
    return build_pair(row, text, messages, answers)


def ask_in_messages(text: str, messages: Messages | None) -> tuple[str, Messages]:
    """Return a prompt as a conversation; a text is what the user says."""
    return transcripts.prompt_of(messages or ({"role": "user", "content": text},))


def _behind_prompt(text: str, answers: tuple[Completion, ...]) -> tuple[Completion, ...]:
    """Return answers without the prompt, where all of them repeat it at their start.

    A prompt of a word or two is no proof: "Hi!" may well be answered by "Hi! How are you?". No
    answer begins with somebody else's question.
    """
    proof = len(text.split()) >= WORDS_THAT_REPEAT or text[-1:].isspace() or text[-1:] in "?:"
    if not proof or not all(a.text.startswith(text) for a in answers):
        return answers
    return tuple(require_text(Completion(a.text[len(text) :])) for a in answers)


def are_whole(row: DataRow) -> bool:
    """True where both answers are conversations that hold their prompt."""
    if not (row.is_list("chosen") and row.is_list("rejected")) or chosen_answers.has_several(row):
        return False
    return all(row.messages(name)[0]["role"] != "assistant" for name in ("chosen", "rejected"))


def common_turns(row: DataRow, asked: str = "") -> Group:
    """Read two conversations; the prompt is the turns that they have in common.

    Args:
        row: with `chosen` and `rejected`.
        asked: the column that holds the prompt too; it must say the same, and a system turn that
            it alone has is kept.

    Raises:
        DataError: the column holds another prompt.
    """
    group = _common_turns(row, row.messages("chosen"), row.messages("rejected"))
    if not asked or not row.has(asked):
        return group
    found = group.prompt.messages or ()
    if not row.is_list(asked):
        given = row.text(asked).strip()
        said = [str(m.get("content") or "").strip() for m in found]
        if given and not any(part and (part in given or given in part) for part in said):
            row.wrong(asked, given, _OTHER_PROMPT, _READ_ANSWERS)
        return group
    messages = row.messages(asked)
    if messages[0]["role"] in ("system", "developer") and messages[1:] == found:
        prompt = Prompt("", *transcripts.prompt_of(messages))
        return Group(prompt, group.completions, preferences=group.preferences)
    if not set(map(transcripts.turn_text, messages)) & set(map(transcripts.turn_text, found)):
        row.wrong(asked, messages[-1], _OTHER_PROMPT, _READ_ANSWERS)
    return group


def read_implicit_prompt(row: DataRow) -> Group:
    """`chosen`, `rejected` that both begin with the prompt: strings or messages."""
    if row.is_list("chosen") or row.is_list("rejected"):
        return common_turns(row)
    chosen, rejected = row.text("chosen"), row.text("rejected")
    if chosen == rejected:
        raise SkipRow("identical answers")
    cut = _word_boundary(chosen, rejected)
    if not chosen[:cut].strip():
        raise SkipRow("the two answers have no prompt in common")
    answers = require_text(Completion(chosen[cut:])), require_text(Completion(rejected[cut:]))
    return build_pair(row, chosen[:cut], None, answers)


def read_hh(row: DataRow) -> Group:
    """`chosen`, `rejected`: whole transcripts (HH-RLHF)."""
    chosen, rejected = row.text("chosen"), row.text("rejected")
    if chosen == rejected:
        raise SkipRow("identical answers")
    cut = transcripts.split_transcripts(chosen, rejected)
    if cut is None:
        raise SkipRow("the two transcripts have no assistant turn in common")
    text = chosen[:cut]
    answers = _transcript_answer(chosen[cut:]), _transcript_answer(rejected[cut:])
    return build_pair(row, text, transcripts.parse_transcript(text), answers)


def read_worked_solution(row: DataRow) -> Group:
    """`question`, `answer`: a worked solution that ends in `#### 42`, the answer key (GSM8K)."""
    solution = row.answer("answer")
    answer = _KEY(solution.text)
    if not answer:
        row.wrong("answer", solution.text[-40:], "a solution ends in `####` and a number")
    text, messages = transcripts.prompt_of([{"role": "user", "content": row.text("question")}])
    return Group(Prompt("", text, messages, meta={"answer": answer}), (solution,))


def read_unpaired(row: DataRow) -> Group:
    """`prompt`, `completion`, `label`: the label becomes a score, 1 good or 0 bad."""
    group = read_demonstration(row)
    score = np.array([float(row.label("label"))])
    return Group(group.prompt, group.completions, score)


def read_demonstration(row: DataRow) -> Group:
    """`prompt`, `completion`: strings or messages."""
    text, messages = row.prompt()
    if messages is None and row.is_list("completion"):
        text, messages = transcripts.prompt_of([{"role": "user", "content": text}])
    return Group(Prompt("", text, messages), (row.answer("completion"),))


def read_conversation(row: DataRow, name: str = "messages") -> Group:
    """`messages`: the prompt ends before the first answer; every assistant turn is trained on."""
    messages = row.messages(name)
    first = next((k for k, m in enumerate(messages) if m["role"] == "assistant"), None)
    if first is not None and not any(map(transcripts.is_trained_on, messages)):
        raise SkipRow("no turn is to be trained on (weight 0)")
    if first is None:
        raise SkipRow("the conversation has no assistant turn")
    if first == 0:
        raise SkipRow("the conversation starts with the assistant")
    text, asked = transcripts.prompt_of(messages[:first])
    return Group(Prompt("", text, asked), (require_answer(messages[first:]),))


def read_instruction(row: DataRow) -> Group:
    """`instruction`, `output` and an optional `input`."""
    text, messages = instruction_prompt(row)
    return Group(Prompt("", text, messages), (row.answer("output"),))


def read_prompt(row: DataRow) -> Group:
    """`prompt` alone."""
    return Group(Prompt("", *row.prompt()))


def read_text(row: DataRow) -> Group:
    """`text` alone: there is no prompt, and the whole of it is trained on."""
    text = row.text("text")
    if not text.strip():
        raise SkipRow("empty text")
    return transcripts.group_whole_text(text)


def instruction_prompt(row: DataRow, name: str = "instruction") -> tuple[str, Messages]:
    """Return (plain text, messages) of an instruction with its optional `input` below it.

    Either of the two may be empty; in Alpaca's files the input often is.
    """
    names = (name, "input") if name == "instruction" else (name,)
    if not any(row.has(n) for n in names):
        row.text(name)
    parts = [row.text(n) for n in names if row.has(n)]
    said = "\n\n".join(part for part in parts if part.strip())
    if not said:
        raise SkipRow("empty prompt")
    return transcripts.prompt_of([{"role": "user", "content": said}])


def pair_group(row: DataRow, prompt: tuple[str, Messages], p: float) -> Group:
    """Make a group of `output_1` and `output_2`, the first better with probability p."""
    answers = row.answer("output_1"), row.answer("output_2")
    refuse_equal(answers)
    names = [row.text(g) if row.has(g) else "" for g in ("generator_1", "generator_2")]
    answers = tuple(Completion(a.text, author=n) for a, n in zip(answers, names, strict=True))
    vote = Preference(1, 0) if p == 0 else Preference(0, 1, p)
    return Group(Prompt("", *prompt), answers, preferences=(vote,))


def refuse_equal(answers: Sequence[Completion]) -> None:
    """Raise SkipRow where two answers say the same, their reasoning included."""
    first, second = ((a.text, _reasoning(a)) for a in answers)
    if first == second:
        raise SkipRow("identical answers")


def _reasoning(completion: Completion) -> list[Any]:
    names = ("reasoning_content", "reasoning", "thinking")
    return [turn[name] for turn in completion.turns or () for name in names if turn.get(name)]


def build_pair(
    row: DataRow, text: str, messages: Messages | None, answers: tuple[Completion, ...]
) -> Group:
    """Make a group of a chosen and a rejected answer, with `p_chosen` and `margin`."""
    refuse_equal(answers)
    p = row.number("p_chosen") if row.has("p_chosen") else 1.0
    if not 0 <= p <= 1:
        row.wrong("p_chosen", p, "it is the probability that chosen is better, from 0 to 1")
    vote = Preference(0, 1, p, row.number("margin") if row.has("margin") else None)
    return Group(Prompt("", text, messages), answers, preferences=(vote,))


def _common_turns(row: DataRow, chosen: Sequence[Message], rejected: Sequence[Message]) -> Group:
    """Cut the common start of two conversations back to the last assistant turn."""
    if list(chosen) == list(rejected):
        raise SkipRow("identical answers")
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    starts = [
        k
        for k in range(1, common + 1)
        if all(k < len(c) and c[k]["role"] == "assistant" for c in (chosen, rejected))
    ]
    if not starts:
        raise SkipRow("the two conversations have no prompt in common")
    cut = starts[-1]
    text, messages = transcripts.prompt_of(chosen[:cut])
    answers = require_answer(tuple(chosen[cut:])), require_answer(tuple(rejected[cut:]))
    return build_pair(row, text, messages, answers)


def _transcript_answer(text: str) -> Completion:
    turns = transcripts.parse_transcript(transcripts.ASSISTANT + text)
    if not turns:
        raise SkipRow("empty answer")
    return require_answer(turns)


def _word_boundary(a: str, b: str) -> int:
    """Length of the common prefix, cut back so that no word is split between prompt and answer.

    The cut stands behind a line end, or before a space with which both answers begin.
    """
    cut = transcripts.common_prefix_length(a, b)
    while cut and a[cut - 1] != "\n" and not (a[cut : cut + 1] + b[cut : cut + 1]).isspace():
        cut -= 1
    return cut
