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
from tandem.engines.language_models import LanguageModel, OpenLanguageModel, messages_of
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
    """Criticise and rewrite each group's first completion K times; keep the K revisions.

    A group about which a question failed at a server is left out, counted and logged.
    """
    speaker = lm.open(machine)
    now = {i: group.completions[0] for i, group in enumerate(answers)}
    revisions: dict[int, tuple[Completion, ...]] = dict.fromkeys(now, ())
    for k in range(K):
        draws = seed.at("revision", k)
        asked, principles = dict[int, Prompt](), dict[int, str]()
        for i, y in now.items():
            group = answers[i]
            principles[i] = _one_of(formats.constitution, draws.at(group.id))
            then = formats.revise.critique.format(principle=principles[i])
            asked[i] = answered_prompt(group.prompt, y.text, then)
        critiques = _heard(speaker, asked, sampling, draws.at("critique"))
        asked = {
            i: add_turn(asked[i], c.text, formats.revise.revision.format(principle=principles[i]))
            for i, c in critiques.items()
        }
        revised = _heard(speaker, asked, sampling, draws.at("revision"))
        now = {i: replace(y, author=f"revision-{k + 1}", logp=None) for i, y in revised.items()}
        revisions = {i: (*revisions[i], y) for i, y in now.items()}
        events.progress(k + 1, K, "revisions")
    if cost := cost_of(speaker):
        events.log("asked", **cost)
    if lost := len(answers) - len(now):
        text = f"{lost} of {len(answers)} answers are left out: a question about them failed"
        events.log("unrevised", text=text, failed=lost)
    for i, kept in revisions.items():
        yield Group(answers[i].prompt, kept)


def _heard(
    speaker: OpenLanguageModel, asked: dict[int, Prompt], sampling: Sampling, seed: Seed
) -> dict[int, Completion]:
    """Return the completions of questions that did not fail, by the questions' numbers."""
    said = speaker.complete(list(asked.values()), sampling, seed)
    return {i: y for i, y in zip(asked, said, strict=True) if y is not None}


def answered_prompt(prompt: Prompt, answer: str, then: str) -> Prompt:
    """Return the conversation in which the answer was given, and the user's next turn."""
    return add_turn(Prompt(prompt.id, "", tuple(messages_of(prompt))), answer, then)


def _one_of(principles: tuple[str, ...], draw: Seed) -> str:
    return principles[int(draw.rng().integers(len(principles)))]
