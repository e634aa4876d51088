"""A language model criticises an answer by a principle and writes it again.

Bai et al. 2022, arXiv:2212.08073, section 3.1. Each round is a conversation of its own: prompt,
the answer as it is now, critique, revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.engines import Sampling
from tandem.engines.language_models import LanguageModel, messages_of
from tandem.judges.llm import add_turn, cost_of
from tandem.judges.templates import FeedbackFormats
from tandem.machine import Machine
from tandem.rng import Seed
from tandem.runs.events import Events, Silent


def revise(
    answers: Groups,
    lm: LanguageModel,
    formats: FeedbackFormats,
    *,
    K: int,
    sampling: Sampling,
    seed: Seed,
    machine: Machine,
    events: Events = Silent(),
) -> Iterator[Group]:
    """Criticise and rewrite each group's first completion K times; keep the K revisions."""
    speaker = lm.open(machine)
    now = [group.completions[0] for group in answers]
    revisions: list[tuple[Completion, ...]] = [() for _ in now]
    for k in range(K):
        draws = seed.at("revision", k)
        principles = [_one_of(formats.constitution, draws.at(g.id)) for g in answers]
        asked = [
            answered_prompt(g.prompt, y.text, formats.revise.critique.format(principle=p))
            for g, y, p in zip(answers, now, principles, strict=True)
        ]
        critiques = list(speaker.complete(asked, sampling, draws.at("critique")))
        asked = [
            add_turn(q, c.text, formats.revise.revision.format(principle=p))
            for q, c, p in zip(asked, critiques, principles, strict=True)
        ]
        now = list(speaker.complete(asked, sampling, draws.at("revision")))
        now = [replace(y, author=f"revision-{k + 1}", logp=None) for y in now]
        revisions = [(*earlier, y) for earlier, y in zip(revisions, now, strict=True)]
        events.progress(k + 1, K, "revisions")
    if cost := cost_of(speaker):
        events.log("asked", **cost)
    for group, kept in zip(answers, revisions, strict=True):
        yield Group(group.prompt, kept)


def answered_prompt(prompt: Prompt, answer: str, then: str) -> Prompt:
    """Return the conversation in which the answer was given, and the user's next turn."""
    return add_turn(Prompt(prompt.id, "", tuple(messages_of(prompt))), answer, then)


def _one_of(principles: tuple[str, ...], draw: Seed) -> str:
    return principles[int(draw.rng().integers(len(principles)))]
