"""Prompts by split: drawn from names, so that the same seed gives the same prompts anywhere.

Evaluation prompts contain a held-out combination of slots, which no other prompt does; the other
three splits share out the remaining prompts by a hash of their text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from numpy.random import Generator

from tandem.data.record import Group, Prompt
from tandem.errors import DataError, nearest_name
from tandem.rng import Seed
from tandem.tasks.micro import arithmetic, dialogue, posts, translation
from tandem.tasks.micro.posts import Meta, Quality
from tandem.tasks.micro.words import KINDS

SPLITS = ("sft", "preference", "unlabelled", "evaluation")
STALE = 2000

DEMONSTRATION = Quality(wrong=0.08, missing=0.12, extra=0.05, filler=0.08, shuffled=0.3)
MANNER = dialogue.HELPFUL_ONLY


@dataclass(frozen=True)
class Skill:
    """A skill of the micro task: draws prompts, writes answers, says which prompts are held out."""

    draw: Callable[[Generator, int], Meta]
    ask: Callable[[Meta], str]
    held_out: Callable[[Meta], bool]
    demonstrate: Callable[[Meta, Generator], str]
    ideal: Callable[[Meta], str]
    shifted: Callable[[Meta, int], bool]


def _targets(meta: Meta) -> list[tuple[str, str]]:
    return [(kind, value) for kind, value in meta["targets"]]


def _ideal_reply(meta: Meta) -> str:
    if meta["harmful"]:
        return dialogue.refusal_reply(meta)
    return dialogue.steps_reply(meta["act"], meta["thing"], meta["place"])


def _problem(rng: Generator, index: int) -> Meta:
    level = index % len(arithmetic.STRATA)
    return arithmetic.make_problem(rng, arithmetic.STRATA[level], level)


SKILLS: dict[str, Skill] = {
    "summaries": Skill(
        draw=lambda rng, _: posts.make_post(rng),
        ask=posts.post_question,
        held_out=lambda meta: posts.is_held_out_post(_targets(meta)),
        demonstrate=lambda meta, rng: posts.write_summary(meta, rng, DEMONSTRATION),
        ideal=lambda meta: posts.render_summary(posts.told_targets(meta)),
        shifted=lambda meta, round: KINDS[round % len(KINDS)] in dict(_targets(meta)),
    ),
    "dialogue": Skill(
        draw=lambda rng, _: dialogue.make_request(rng),
        ask=dialogue.request_question,
        held_out=lambda meta: dialogue.is_held_out_request(meta["act"], meta["thing"]),
        demonstrate=lambda meta, rng: dialogue.write_reply(meta, rng, MANNER),
        ideal=_ideal_reply,
        shifted=lambda meta, round: meta["harmful"] == bool(round % 2),
    ),
    "arithmetic": Skill(
        draw=_problem,
        ask=arithmetic.problem_question,
        held_out=arithmetic.is_held_out_problem,
        demonstrate=lambda meta, _: arithmetic.right_solution(meta),
        ideal=arithmetic.right_solution,
        shifted=lambda meta, round: meta["stratum"] == round % len(arithmetic.STRATA),
    ),
    "translation": Skill(
        draw=lambda rng, _: translation.make_source(rng),
        ask=translation.translation_question,
        held_out=translation.is_held_out_source,
        demonstrate=lambda meta, rng: translation.write_translation(meta, rng, translation.HUMAN),
        ideal=translation.ideal_translation,
        shifted=lambda meta, round: (
            KINDS[round % len(KINDS)] in {kind for _, kind, _ in meta["told"]}
        ),
    ),
}


def split_of(skill: str, meta: Meta) -> str:
    """The one split that a prompt can belong to."""
    how = SKILLS[skill]
    if how.held_out(meta):
        return "evaluation"
    digest = hashlib.blake2b(how.ask(meta).encode(), digest_size=4).digest()
    return SPLITS[digest[0] % 3]


def rendered_question(question: str) -> str:
    """A question as the chat template renders it for the assistant to answer."""
    return f"<user> {question} <assistant> "


def draw_prompts(skill: str, split: str, n: int, seed: Seed, round: int | None) -> Iterator[Group]:
    """Prompts of one split, no two alike.

    Raises:
        DataError: no such split, or it does not hold that many different prompts.
    """
    if split not in SPLITS:
        raise DataError(
            f"there is no split `{split}`",
            f"the micro world has the splits {', '.join(SPLITS)}",
            f"name one of them.{nearest_name(split, SPLITS)}",
        )
    how, seen = SKILLS[skill], set[str]()
    for i in range(n):
        rng = seed.at("micro", skill, split, i).rng()
        for _ in range(STALE):
            meta = how.draw(rng, i if round is None else round)
            question = how.ask(meta)
            fits = round is None or how.shifted(meta, round)
            if fits and question not in seen and split_of(skill, meta) == split:
                break
        else:
            raise DataError(
                f"the split `{split}` of `{skill}` ran out of prompts after {i}",
                f"prompts never repeat, and {STALE} draws brought no new one",
                f"ask for at most {i} prompts",
            )
        seen.add(question)
        name = hashlib.blake2b(question.encode(), digest_size=6).hexdigest()
        yield Group(
            Prompt(
                id=f"micro-{skill}/{split}/{name}",
                text=rendered_question(question),
                messages=({"role": "user", "content": question},),
                meta=meta,
            )
        )
