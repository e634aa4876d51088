"""Stages that turn texts into a policy's tokens: demonstrations, preferences, questions."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tandem.data import chat
from tandem.data.chat import Truncation
from tandem.data.chat.clock import frozen_date, parse_date
from tandem.data.chat.encoding_rules import EncodingRules
from tandem.data.chat.tokens import tokenizer_hash
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.data.verifiable import PromptStyle, QuestionFormat
from tandem.errors import ConfigError, DataError
from tandem.machine import cache_folder
from tandem.models.folders import context_length
from tandem.models.tokenise import mark_tokenizer
from tandem.models.tokenizers import load_tokenizer
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events

PARALLEL_FROM = 20_000
"""Groups from which tokenising is shared among processes and its result is cached."""


def encode(
    groups: Groups,
    policy: Checkpoint,
    *,
    max_length: int | None = None,
    truncation: Truncation = "drop",
    room: int = 0,
    events: Events,
    encoding: EncodingRules = EncodingRules(),
) -> Iterator[Group]:
    """Tokenise with a policy's tokenizer and template; what is lost is counted, never silent.

    Args:
        groups: texts and messages.
        policy: whose tokenizer, template and context length.
        max_length: longest prompt + completion in tokens; the run's, or the model's context.
        truncation: what happens to longer ones, see `tandem.data.chat`; the run's if `drop`.
        room: tokens that must stay free behind each prompt, for an answer to be sampled.
        encoding: what the run decided about length, truncation and the template's date.

    Raises:
        DataError: nothing is left.
        ConfigError: no prompt could have that much room.
    """
    tokenizer = load_tokenizer(policy.path)
    asked = None if room else encoding.max_length  # a prompt to be answered has the context
    limit = max_length or asked or context_length(policy.path)
    if truncation == "drop":
        truncation = encoding.truncation
    check_room(room, limit)
    workers = min(os.cpu_count() or 1, 8) if len(groups) >= PARALLEL_FROM else 0
    with frozen_date(parse_date(encoding.date) if encoding.date else None):
        encoded = chat.encode_groups(
            groups,
            tokenizer,
            max_length=limit,
            truncation=truncation,
            workers=workers,
            cache=cache_folder() / "tokens" if workers else None,
            progress=lambda done, total: events.progress(done, total, "groups"),
        )
    lines = encoded.counts.lines()
    lost = sum(not _has_room(group, room, limit) for group in encoded.groups)
    if lost:
        lines.append(f"dropped {lost} groups: the prompt leaves no room for {room} tokens")
    events.log("encoded", text="; ".join(lines))
    if lost == len(encoded.groups):
        raise DataError(
            f"none of {len(groups)} groups fits into {limit} tokens with {room} left free",
            "longer ones are dropped and counted, and nothing is left to work on",
            "raise --data.max_length, give --data.truncation keep-end, or lower "
            "--sampling.max_tokens",
        )
    whose = tokenizer_hash(tokenizer)
    return (
        mark_tokenizer(group, whose) for group in encoded.groups if _has_room(group, room, limit)
    )


def check_room(room: int, limit: int) -> None:
    """Refuse answers that are as long as the context.

    Raises:
        ConfigError: no prompt could have that much room.
    """
    if room >= limit:
        raise ConfigError(
            f"room for {room} tokens of answer in a context of {limit}",
            "a prompt of at least one token comes first",
            "lower sampling.max_tokens: a flag of `tandem run`, [settings.sampling] of a plan",
        )


def _has_room(group: Group, room: int, limit: int) -> bool:
    return len(group.prompt.tokens) + room <= limit


def ask_questions(
    questions: Groups,
    wording: QuestionFormat,
    form: PromptStyle,
    policy: Checkpoint,
    *,
    hint: bool = False,
    room: int = 0,
    events: Events,
    encoding: EncodingRules = EncodingRules(),
) -> Iterator[Group]:
    """Put questions in a form, with or without their answers given away, in a policy's tokens.

    Args:
        questions: groups of which only the prompts are read, and their answer keys for hints.
        room: tokens that must stay free for an answer.
        encoding: what the run decided about length, truncation and the template's date.
    """
    put = wording.ask_with_hint if hint else wording.ask
    asked = Groups.of(Group(put(g.prompt, form)) for g in questions)
    return encode(asked, policy, room=room, events=events, encoding=encoding)
