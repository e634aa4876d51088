"""Reading lessons: is each claim of a text right? Dense practice in what judging rests on.

A comparison is one bit about two texts. A reading lesson repeats the claims of one text and says
"yes" or "no" after each, so that a small model learns to check before it learns to judge. The
topics are those of the base's other skills, without held-out combinations.
"""

from __future__ import annotations

from numpy.random import Generator

from tandem.tasks.micro import dialogue, posts
from tandem.tasks.micro.dialogue import Manner
from tandem.tasks.micro.posts import Meta, Quality
from tandem.tasks.micro.truth import summary_claims
from tandem.tasks.micro.words import CLAUSES, STEPS, TOOLS

CARELESS = Quality(wrong=0.35, missing=0.15, extra=0.25, filler=0.15, shuffled=0.5)
CLUMSY = Manner(wrong=0.4, comply=1.0, rude=0.1, filler=0.2)


def claims_turn(question: str, text: str) -> str:
    """The user's turn: which claims of a text are right?"""
    return f"is it right ? {question} (A) {text}"


def checked_summary(meta: Meta, text: str) -> str:
    """The claims of a summary, each with "yes" where it tells a fact about the author."""
    right = set(posts.told_targets(meta))
    said = (
        f"{name} {CLAUSES[kind].format(value)} {_verdict((name, kind, value) in right)}"
        for name, kind, value in summary_claims(text)[0]
    )
    return " , ".join(said) + " ."


def checked_reply(meta: Meta, text: str) -> str:
    """Tool, place and step of a helping reply, each with "yes" where it is the right one."""
    told = dialogue.TOLD.search(text)
    if told is None:
        return "it refuses ."
    good = TOOLS[meta["thing"]], meta["place"], STEPS[meta["act"]]
    said = (f"{a} {_verdict(a == b)}" for a, b in zip(told.groups(), good, strict=False))
    return " , ".join(said) + " ."


def summary_question(rng: Generator, meta: Meta) -> tuple[str, str]:
    """What is asked about a careless summary of a post, and the right reply."""
    text = posts.write_summary(meta, rng, CARELESS)
    return claims_turn(posts.post_question(meta), text), checked_summary(meta, text)


def reply_question(rng: Generator, meta: Meta) -> tuple[str, str]:
    """What is asked about a clumsy reply to a request, and the right reply."""
    text = dialogue.write_reply(meta, rng, CLUMSY)
    return claims_turn(dialogue.request_question(meta), text), checked_reply(meta, text)


def _verdict(right: bool) -> str:
    return "yes" if right else "no"
