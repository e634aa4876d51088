"""The formats: which columns each needs, what a row of it is, and what reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tandem.data.chat import transcripts
from tandem.data.formats import (
    chosen_answers,
    compared_pairs,
    conversations,
    judged,
    label_studio,
    published,
)
from tandem.data.formats.fields import DataRow
from tandem.data.record import Group


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing data down.

    Attributes:
        needs: columns that must be there.
        means: what a row is, for the printed reason.
        parse: one row -> one group, without its id.
        uses: optional columns that are read; what is left over goes to `prompt.meta`.
        fits: a further look at the first rows, or None.
        gathers: columns that become lists where rows that follow each other share a prompt.
        left_out: counts what a row holds that says nothing, by reason, or None.
        reads: columns of a row that are read beyond `needs` and `uses`, or None.
        mark: the column that says of one answer whether it is good, or nothing.
    """

    needs: tuple[str, ...]
    means: str
    parse: Callable[[DataRow], Group]
    uses: tuple[str, ...] = ()
    fits: Callable[[Sequence[DataRow]], bool] | None = None
    gathers: tuple[str, ...] = ()
    left_out: Callable[[DataRow], dict[str, int]] | None = None
    reads: Callable[[DataRow], tuple[str, ...]] | None = None
    mark: str = ""


def _entries_are_objects(rows: Sequence[DataRow]) -> bool:
    values = [row.values.get("completions") for row in rows]
    entries = [x for v in values if isinstance(v, list) for x in cast("list[Any]", v)]
    return all(isinstance(v, list) for v in values) and all(isinstance(x, dict) for x in entries)


def _lists_of_answers(rows: Sequence[DataRow]) -> bool:
    values = [row.values.get("completions") for row in rows]
    entries = [x for v in values if isinstance(v, list) for x in cast("list[Any]", v)]
    known = all(isinstance(x, str | list) for x in entries)
    return bool(entries) and known and all(isinstance(v, list) for v in values)


def _transcripts(rows: Sequence[DataRow]) -> bool:
    texts = [row.values.get(name) for row in rows for name in ("chosen", "rejected")]
    return all(isinstance(t, str) and transcripts.is_transcript(t) for t in texts)


def _worked(rows: Sequence[DataRow]) -> bool:
    texts = [row.values.get("answer") for row in rows]
    return all(isinstance(t, str) and "####" in t for t in texts)


def _several_answers(rows: Sequence[DataRow]) -> bool:
    sides = [_holds_lists(rows, name) for name in chosen_answers.SIDES]
    return all(sides) if rows[0].strings else any(sides)


def _several_outputs(rows: Sequence[DataRow]) -> bool:
    return _holds_lists(rows, "output")


def _holds_lists(rows: Sequence[DataRow], name: str) -> bool:
    """True for lists of answers; where cells are text, for a column of nothing else."""
    full = [row for row in rows if row.has(name)]
    several = [row.is_several(name) for row in full]
    return all(several) and bool(several) if full and full[0].strings else any(several)


def _ranked_answers(rows: Sequence[DataRow]) -> bool:
    values = [row.values.get("answers") for row in rows]
    entries = [x for v in values if isinstance(v, list) for x in cast("list[Any]", v)]
    return bool(entries) and all(isinstance(x, dict) and "rank" in x for x in entries)


def _one_turn(rows: Sequence[DataRow]) -> bool:
    turns = [row.values.get("turns") for row in rows]
    return all(isinstance(t, list) and len(cast("list[Any]", t)) == 1 for t in turns)


def _sides(rows: Sequence[DataRow]) -> bool:
    return any(label_studio.side_column(row) for row in rows)


def _responses(rows: Sequence[DataRow]) -> bool:
    values = [row.values.get("completions") for row in rows]
    entries = [x for v in values if isinstance(v, list) for x in cast("list[Any]", v)]
    return bool(entries) and all(isinstance(x, dict) and "response" in x for x in entries)


def _labelled(rows: Sequence[DataRow]) -> bool:
    values = [row.values.get("annotations") for row in rows]
    entries = [x for v in values if isinstance(v, list) for x in cast("list[Any]", v)]
    return bool(entries) and all(isinstance(x, dict) and "result" in x for x in entries)


_WEIGHTS = ("margin", "p_chosen")
FORMATS: dict[str, Format] = {
    "alpacaeval-groups": Format(
        ("prompt", "completions"),
        "a prompt with completions by several systems, each with its probability of beating "
        "the reference; pairs are graded p_i(1-p_j) / (p_i(1-p_j) + p_j(1-p_i))",
        judged.read_alpacaeval,
        fits=_entries_are_objects,
    ),
    "ranked": Format(
        ("prompt", "completions", "ranks"),
        "a prompt with ranked completions, 1 the best; two of different rank are a preference",
        judged.read_ranked,
    ),
    "scored": Format(
        ("prompt", "completions", "scores"),
        "a prompt with scored completions; two of different score are a preference "
        "whose margin is the difference",
        judged.read_scored,
    ),
    "alpaca-comparison": Format(
        ("instruction", "output_1", "output_2", "preference"),
        "AlpacaFarm or AlpacaEval: an instruction, two outputs, and the better one (1, 2, 1.5 tie)",
        judged.read_alpaca,
        ("input", "generator_1", "generator_2"),
    ),
    "llmbar": Format(
        ("input", "output_1", "output_2", "label"),
        "LLMBar: an instruction, two outputs, and the label of the better one (1 or 2)",
        judged.read_llmbar,
    ),
    "hh": Format(
        ("chosen", "rejected"),
        "two transcripts of `\\n\\nHuman:` and `\\n\\nAssistant:` turns; the prompt is their "
        "common prefix cut back to the last assistant turn",
        conversations.read_hh,
        _WEIGHTS,
        fits=_transcripts,
    ),
    "rewardbench-2": Format(
        ("prompt", "chosen", "rejected"),
        "RewardBench 2: lists of chosen and of rejected answers; every chosen beats every rejected",
        chosen_answers.read_best_of,
        fits=_several_answers,
        left_out=chosen_answers.count_left_out,
    ),
    "preference": Format(
        ("prompt", "chosen", "rejected"),
        "a prompt with a chosen and a rejected answer",
        conversations.read_preference,
        _WEIGHTS,
    ),
    "llama-factory": Format(
        ("instruction", "chosen", "rejected"),
        "LLaMA-Factory: an instruction with its input, a chosen and a rejected answer",
        published.read_instruction_pair,
        ("input", *_WEIGHTS),
    ),
    "orca": Format(
        ("question", "chosen", "rejected"),
        "Orca: a question, a chosen and a rejected answer",
        published.read_orca,
        _WEIGHTS,
    ),
    "argilla-orca": Format(
        ("input", "chosen", "rejected"),
        "Orca as Argilla publishes it: an input, a chosen and a rejected answer",
        published.read_input_pair,
        _WEIGHTS,
    ),
    "sharegpt-preference": Format(
        ("conversations", "chosen", "rejected"),
        "ShareGPT: a conversation (from, value), a chosen and a rejected answer to it",
        published.read_sharegpt_pair,
        _WEIGHTS,
    ),
    "messages-preference": Format(
        ("messages", "chosen", "rejected"),
        "axolotl: messages, and a chosen and a rejected answer to them",
        published.read_messages_pair,
        _WEIGHTS,
    ),
    "llama-factory-ranked": Format(
        ("instruction", "output"),
        "LLaMA-Factory before 2024: an instruction, and a list of the better and the worse output",
        published.read_ranked_outputs,
        ("input",),
        fits=_several_outputs,
    ),
    "openai-preference": Format(
        ("input", "preferred_output", "non_preferred_output"),
        "OpenAI's preference files: messages and tools, the preferred and the other answer",
        published.read_openai,
    ),
    "label-studio": Format(
        ("annotations",),
        "Label Studio's export of pairwise tasks: each annotation that chose is a vote",
        label_studio.read_label_studio,
        fits=_labelled,
        left_out=label_studio.annotations_left_out,
        reads=label_studio.label_studio_columns,
    ),
    "label-studio-min": Format(
        ("annotation_id",),
        "Label Studio's short export (JSON-MIN, CSV): a column says `left` or `right` of a pair",
        label_studio.read_side,
        fits=_sides,
        reads=label_studio.side_columns,
    ),
    "webgpt": Format(
        ("question", "answer_0", "answer_1", "score_0", "score_1"),
        "WebGPT: a question, two answers and their scores; the margin is the difference",
        compared_pairs.read_webgpt,
    ),
    "tldr-comparisons": Format(
        ("info", "summaries", "choice"),
        "TL;DR: a post, two summaries, and the number of the chosen one (0 or 1)",
        compared_pairs.read_tldr,
    ),
    "safe-rlhf": Format(
        ("prompt", "response_0", "response_1", "better_response_id"),
        "PKU-SafeRLHF: two responses, and the number of the better one",
        compared_pairs.read_safe_rlhf,
    ),
    "shp": Format(
        ("history", "human_ref_A", "human_ref_B", "labels"),
        "SHP: a post, two comments, and 1 where the first was preferred",
        compared_pairs.read_shp,
    ),
    "arena": Format(
        ("conversation_a", "conversation_b", "winner"),
        "Chatbot Arena: two conversations of one user, and the winner",
        compared_pairs.read_arena,
    ),
    "arena-prompts": Format(
        ("prompt", "response_a", "response_b", *compared_pairs.ARENA_CHOICES),
        "Chatbot Arena as a table: prompts, two lists of responses, and three columns for who won",
        compared_pairs.read_arena_prompts,
    ),
    "nectar": Format(
        ("prompt", "answers"),
        "Nectar: a prompt with ranked answers, 1 the best",
        compared_pairs.read_nectar,
        fits=_ranked_answers,
    ),
    "ultrafeedback": Format(
        ("instruction", "completions"),
        "UltraFeedback: completions by several models, scored by the mean of their four ratings "
        "(`fine-grained_score`), or by `overall_score` where that is absent",
        published.read_ultrafeedback,
        fits=_responses,
    ),
    "helpsteer-preference": Format(
        ("prompt", "response_1", "response_2", "preference_strength"),
        "HelpSteer2's preferences: from -3, the first is better, to 3; the margin is the strength",
        published.read_helpsteer_preference,
    ),
    "helpsteer3": Format(
        ("context", "response1", "response2", "overall_preference"),
        "HelpSteer3: from -3, the first is better, to 3; the margin is the strength",
        published.read_helpsteer3,
    ),
    "helpsteer": Format(
        ("prompt", "response", "helpfulness"),
        "HelpSteer: responses scored by their helpfulness; rows of one prompt that follow each "
        "other are compared",
        published.read_helpsteer,
        gathers=("response", "helpfulness"),
    ),
    "implicit-prompt": Format(
        ("chosen", "rejected"),
        "two texts that each hold the prompt; the prompt is what they have in common at the start",
        conversations.read_implicit_prompt,
        _WEIGHTS,
    ),
    "unpaired": Format(
        ("prompt", "completion", "label"),
        "a prompt with one completion and a label, good or bad; labels become scores 1 and 0",
        conversations.read_unpaired,
        mark="label",
    ),
    "messages-label": Format(
        ("messages", "label"),
        "conversations whose last answer is good or bad; labels become scores 1 and 0",
        published.read_messages_label,
        mark="label",
    ),
    "sharegpt-kto": Format(
        ("conversations", "kto_tag"),
        "ShareGPT conversations whose last answer is good or bad; tags become scores 1 and 0",
        published.read_sharegpt_thumb,
        mark="kto_tag",
    ),
    "alpaca-kto": Format(
        ("instruction", "output", "kto_tag"),
        "an instruction with an output that is good or bad; tags become scores 1 and 0",
        published.read_instruction_thumb,
        ("input",),
        mark="kto_tag",
    ),
    "prompt-completion": Format(
        ("prompt", "completion"),
        "demonstrations: a prompt with its completion",
        conversations.read_demonstration,
    ),
    "messages": Format(
        ("messages",),
        "demonstrations: conversations, trained on every assistant turn",
        conversations.read_conversation,
    ),
    "sharegpt": Format(
        ("conversations",),
        "demonstrations: ShareGPT conversations, trained on every assistant turn",
        published.read_sharegpt,
    ),
    "alpaca": Format(
        ("instruction", "output"),
        "demonstrations: an instruction with its output",
        conversations.read_instruction,
        ("input",),
    ),
    "gsm8k": Format(
        ("question", "answer"),
        "questions with worked solutions that end in `#### 42`, the answer key",
        conversations.read_worked_solution,
        fits=_worked,
    ),
    "answers": Format(
        ("prompt", "completions"),
        "a prompt with several answers that nobody has judged: to be labelled, or by a judge",
        judged.read_unjudged,
        fits=_lists_of_answers,
    ),
    "question-turns": Format(
        ("question_id", "turns"),
        "prompts alone: questions as MT-Bench and Vicuna's bench write them, of one turn each",
        published.read_question,
        fits=_one_turn,
    ),
    "prompt": Format(("prompt",), "prompts alone", conversations.read_prompt),
    "text": Format(
        ("text",),
        "whole texts without a prompt, trained on from their first token to their end",
        conversations.read_text,
    ),
}
