"""The verbs that a method is written in. Each is a stage: values in, an artifact out.

encode    texts -> tokens of a policy                 judge      a judge's columns written
sample    n completions of each prompt                select     an operator applied
merge     two collections of the same prompts as one
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tandem import chat, models
from tandem.artifacts import Checkpoint
from tandem.chat import Truncation
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.errors import ConfigError, DataError
from tandem.events import Silent
from tandem.groups import Group, Groups
from tandem.judges import Judge, opened
from tandem.kernel import open_policy
from tandem.machine import Machine
from tandem.operators import Operator
from tandem.reading import cache, log_probs
from tandem.rng import Seed
from tandem.runs import Events
from tandem.tokens import marked, tokenised

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
) -> Iterator[Group]:
    """Tokenise with a policy's tokenizer and template; what is lost is counted, never silent.

    Args:
        groups: texts and messages.
        policy: whose tokenizer, template and context length.
        max_length: longest prompt + completion in tokens; the model's context by default.
        truncation: what happens to longer ones, see `tandem.chat`.
        room: tokens that must stay free behind each prompt, for an answer to be sampled.

    Raises:
        DataError: nothing is left.
        ConfigError: no prompt could have that much room.
    """
    tokenizer = models.load_tokenizer(policy.path)
    limit = max_length or models.context(policy.path)
    if room >= limit:
        raise ConfigError(
            f"room for {room} tokens of answer in a context of {limit}",
            "a prompt of at least one token comes first",
            "lower sampling.max_tokens",
        )
    workers = min(os.cpu_count() or 1, 8) if len(groups) >= PARALLEL_FROM else 0
    encoded = chat.encode(
        groups,
        tokenizer,
        max_length=limit,
        truncation=truncation,
        workers=workers,
        cache=cache() / "tokens" if workers else None,
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
            "raise the length, choose truncation keep-start or keep-end, or a longer context",
        )
    whose = models.tokenizer_hash(tokenizer)
    return (marked(group, whose) for group in encoded.groups if _has_room(group, room, limit))


def _has_room(group: Group, room: int, limit: int) -> bool:
    return len(group.prompt.tokens) + room <= limit


def sample(
    policy: Checkpoint,
    prompts: Groups,
    *,
    n: int,
    how: Sampling = Sampling(),
    seed: Seed,
    machine: Machine,
    events: Events,
) -> Iterator[Group]:
    """Draw n completions of each prompt from a policy; other columns of the prompts are left out.

    Args:
        policy: the policy; its name becomes the completions' author.
        prompts: groups of which only the prompts are read.
        n: completions per prompt.
        how: temperature, truncation, longest answer.
    """
    trunk = open_policy(policy.path, replace(machine, lora=None))
    tokenizer = models.load_tokenizer(policy.path)
    engine = TorchEngine(trunk.inner, tokenizer, dtype=trunk.dtype)
    own = tokenised((Group(g.prompt) for g in prompts), tokenizer)
    for done, group in enumerate(engine.sample(own, n, how, seed), 1):
        named = (replace(c, author=str(policy)) for c in group.completions)
        yield replace(group, completions=tuple(named))
        if done % 64 == 0 or done == len(prompts):
            events.progress(done, len(prompts), "prompts")


def judge(
    groups: Groups, *judges: Judge, machine: Machine, events: Events = Silent()
) -> Iterator[Group]:
    """Let judges write their columns, one after the other; those that cost something say so."""
    stream: Iterable[Group] = groups
    hearing = [opened(each, machine) for each in judges]
    for each in hearing:
        stream = each(stream)
    for done, group in enumerate(stream, 1):
        yield group
        if done % 64 == 0 or done == len(groups):
            events.progress(done, len(groups), "judged")
    for each in hearing:
        if hasattr(each, "told") and (told := each.told()):  # type: ignore[attr-defined]
            events.log("asked", **told)


def select(groups: Groups, operator: Operator, *, seed: Seed) -> Iterator[Group]:
    """Apply an operator: it reads what judges wrote and opens no model."""
    yield from operator(groups, seed)


def merge(first: Groups, second: Groups) -> Iterator[Group]:
    """Put two collections of the same prompts together: completions side by side.

    Raises:
        DataError: the prompts differ.
    """
    for a, b in zip(first, second, strict=True):
        if a.id != b.id:
            raise DataError(
                f"prompt `{a.id}` stands beside `{b.id}`",
                "a comparison is between answers to the same prompt",
                "sample both from the same prompts",
            )
        yield Group(a.prompt, a.completions + b.completions)


def reference(policy: Checkpoint, groups: Groups, *, machine: Machine) -> Iterator[Group]:
    """Write the completions' log-probabilities under a policy, in that policy's tokens."""
    trunk = open_policy(policy.path, replace(machine, lora=None))
    own = tokenised(groups, models.load_tokenizer(policy.path))
    yield from log_probs(trunk, own, machine.tokens)
