"""The verbs that a method is written in. Each is a stage: values in, an artifact out.

encode    texts -> tokens of a policy                 judge      a judge's columns written
sample    n completions of each prompt                select     an operator applied
merge     two collections of the same prompts as one
mix       completions of several policies, each drawn from one of them
ask       questions put in one of the task's forms

What is sampled from is a `Policy`: a checkpoint, or a way of decoding one (`BestOf`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tandem.data import chat
from tandem.data.chat import Truncation
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.data.verifiable import Form, Wording
from tandem.engines import Sampling
from tandem.engines.torch import TorchEngine
from tandem.errors import ConfigError, DataError
from tandem.judges import Judge, opened
from tandem.machine import Machine
from tandem.models.folders import context_length
from tandem.models.forward import log_probs
from tandem.models.opening import open_policy
from tandem.models.tokenise import marked, tokenised
from tandem.models.tokenizers import load_tokenizer, tokenizer_hash
from tandem.operators import Operator
from tandem.operators.columns import scores_of
from tandem.rng import Seed
from tandem.runs.cache import cache
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import Events, Silent


@dataclass(frozen=True)
class BestOf:
    """A decoding policy: draw n answers of a policy and give the one that a judge likes best.

    A handle like a checkpoint: `sample` draws from it and exams compare it with other policies.
    Nothing was trained and there are no weights, so it has no log-probabilities to read; how far
    it is from its policy is known from n alone, `statistics.best_of.kl_bound`.

    Attributes:
        policy: the policy that is sampled.
        judge: the scoring judge that chooses; ties go to the earlier answer.
        n: answers drawn for each answer given, at least 1.
        name: the author of the answers; best-of-n by default.
    """

    policy: Checkpoint
    judge: Judge
    n: int
    name: str = ""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(
                f"best of n = {self.n}",
                "it gives one of n draws",
                "give n of 1 or more; 1 is the policy itself",
            )

    def __str__(self) -> str:
        return self.name or f"best-of-{self.n}"

    def choose(self, drawn: Group) -> Group:
        """Cut a judged group into blocks of n and keep the best of each."""
        blocks = scores_of(drawn, "best-of-n").reshape(-1, self.n)
        kept = np.arange(len(blocks)) * self.n + blocks.argmax(1)
        return replace(drawn.keep(kept.tolist()), scores=None)


Policy = Checkpoint | BestOf

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
        truncation: what happens to longer ones, see `tandem.data.chat`.
        room: tokens that must stay free behind each prompt, for an answer to be sampled.

    Raises:
        DataError: nothing is left.
        ConfigError: no prompt could have that much room.
    """
    tokenizer = load_tokenizer(policy.path)
    limit = max_length or context_length(policy.path)
    check_room(room, limit)
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
    whose = tokenizer_hash(tokenizer)
    return (marked(group, whose) for group in encoded.groups if _has_room(group, room, limit))


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


def ask(
    questions: Groups,
    wording: Wording,
    form: Form,
    policy: Checkpoint,
    *,
    hint: bool = False,
    room: int = 0,
    events: Events,
) -> Iterator[Group]:
    """Put questions in a form, with or without their answers given away, in a policy's tokens.

    Args:
        questions: groups of which only the prompts are read, and their answer keys for hints.
        room: tokens that must stay free for an answer.
    """
    put = wording.hinted if hint else wording.ask
    asked = Groups.of(Group(put(g.prompt, form)) for g in questions)
    return encode(asked, policy, room=room, events=events)


def sample(
    policy: Policy,
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
        policy: the policy; its name becomes the completions' author. Of `BestOf` m, n times m
            are drawn.
        prompts: groups of which only the prompts are read.
        n: completions per prompt.
        how: temperature, truncation, longest answer.
    """
    if isinstance(policy, BestOf):
        given = {"how": how, "seed": seed, "machine": machine, "events": events}
        drawn = sample(policy.policy, prompts, n=n * policy.n, **given)
        yield from map(_by(policy), map(policy.choose, opened(policy.judge, machine)(drawn)))
        return
    trunk = open_policy(policy.path, replace(machine, lora=None))
    tokenizer = load_tokenizer(policy.path)
    engine = TorchEngine(trunk.inner, tokenizer, dtype=trunk.dtype, compiled=machine.compiled)
    own = tokenised((Group(g.prompt) for g in prompts), tokenizer)
    for done, group in enumerate(engine.sample(own, n, how, seed), 1):
        yield _by(policy)(group)
        if done % 64 == 0 or done == len(prompts):
            events.progress(done, len(prompts), "prompts")


def _by(policy: Policy) -> Callable[[Group], Group]:
    """Sign completions with a policy's name."""

    def signed(group: Group) -> Group:
        named = (replace(c, author=str(policy)) for c in group.completions)
        return replace(group, completions=tuple(named))

    return signed


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


def select(groups: Groups, operator: Operator, *, seed: Seed, events: Events) -> Iterator[Group]:
    """Apply an operator: it reads what judges wrote and opens no model.

    How much is left is logged: prompts, completions, and completions a prompt over all prompts
    that there were.
    """
    prompts, completions, pairs = 0, 0, 0
    for group in operator(groups, seed):
        prompts, completions = prompts + 1, completions + len(group)
        pairs += len(group.preferences)
        yield group
    before = sum(len(group) for group in groups)
    events.log(
        "selected",
        prompts=prompts,
        completions=completions,
        pairs=pairs,
        of_prompts=len(groups),
        of_completions=before,
        per_prompt=completions / max(1, len(groups)),
        text=f"{completions} of {before} completions left, of {prompts} of {len(groups)} prompts",
    )


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


def mix(
    policies: Sequence[Groups], shares: Sequence[float], *, n: int, seed: Seed
) -> Iterator[Group]:
    """Draw n completions a prompt, each anew from one of several policies' samples, by its share.

    Raises:
        ConfigError: not one share for each policy.
        DataError: the collections do not hold the same prompts, or too few completions.
    """
    if len(policies) != len(shares) or not policies:
        raise ConfigError(
            f"{len(policies)} policies and {len(shares)} shares",
            "each policy needs its share",
            "give as many shares as policies, for example (.5, .25, .25)",
        )
    edges = np.cumsum(shares[:-1]) / sum(shares)
    for groups in zip(*policies, strict=True):
        if len({g.id for g in groups}) > 1 or min(map(len, groups)) < n:
            raise DataError(
                f"the groups {[g.id for g in groups]} hold {[len(g) for g in groups]} completions",
                f"{n} completions for one prompt are taken from any of the policies",
                f"sample all policies on the same prompts with n={n}",
            )
        draws = seed.at("mix", groups[0].id).rng().random(n)
        writers = np.searchsorted(edges, draws, "right").tolist()
        chosen = [groups[writer].completions[k] for k, writer in enumerate(writers)]
        yield Group(groups[0].prompt, tuple(chosen))


def reference(policy: Checkpoint, groups: Groups, *, machine: Machine) -> Iterator[Group]:
    """Write the completions' log-probabilities under a policy, in that policy's tokens."""
    trunk = open_policy(policy.path, replace(machine, lora=None))
    own = tokenised(groups, load_tokenizer(policy.path))
    yield from log_probs(trunk, own, machine.tokens)
