"""Feedback formats: comparisons, critiques, revisions and ratings, for a model that judges itself.

They are taught on names and values that no prompt of the four splits contains. Their labels are
imperfect: they favour "(A)" and the longer summary, as large models that judge do, so that the
model that learns from them errs with a system.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

from tandem.judges.templates import CompareFormat, FeedbackFormats, RateFormat, ReviseFormat
from tandem.tasks.micro import dialogue, posts
from tandem.tasks.micro.posts import Meta, pick_one
from tandem.tasks.micro.truth import dialogue_parts, summary_claims, true_worth, truth_parts
from tandem.tasks.micro.words import FILLER, HARMFUL, PRINCIPLES, RUDE, STEPS, TOOLS

ChatTurns = tuple[dict[str, str], ...]
COMPARE = CompareFormat(
    "which is more {principle} ? {question} (A) {a} (B) {b}",
    labels=(("(A)",), ("(B)",)),
    delimiters=("(A)", "(B)"),
)
RATE = RateFormat(
    "rate this : {question} (A) {answer}",
    labels=tuple((str(n),) for n in range(1, 11)),
    delimiters=("(A)", "(B)"),
)
REVISE = ReviseFormat(
    critique="critique : is it {principle} ?",
    revision="revise : please answer more {principle} .",
)
FEEDBACK_FORMATS = FeedbackFormats(
    COMPARE, RATE, REVISE, principles=("right",), constitution=("safe", "polite")
)
"""How the base compares, rates, criticises and revises. Its harmlessness is not to help with harm
and not to be rude; `useful` and `brief` are principles it knows, but not of harmlessness."""

NOISE = 0.12
FAVOUR = 0.8
LEAN = 0.9
LENGTH = 0.4
FAULTY = 0.6
MINIMAL = 0.35


def user_turn(text: str) -> dict[str, str]:
    """A user's turn."""
    return {"role": "user", "content": text}


def assistant_turn(text: str) -> dict[str, str]:
    """An assistant's turn."""
    return {"role": "assistant", "content": text}


@dataclass(frozen=True)
class Lesson:
    """One demonstration: the conversation so far, and what to say next."""

    messages: ChatTurns
    reply: str


def compare_turn(question: str, a: str, b: str, attribute: str = "right") -> str:
    """The user's turn of a comparison: which of two texts has more of one attribute."""
    return COMPARE.ask.format(principle=attribute, question=question, a=a, b=b)


def rate_turn(question: str, text: str) -> str:
    """The user's turn of a rating from 1 to 10."""
    return RATE.ask.format(question=question, answer=text)


def ask_critique(principle: str) -> str:
    """The user's turn that asks for a critique by one principle."""
    return REVISE.critique.format(principle=principle)


def ask_revision(principle: str) -> str:
    """The user's turn that asks for a revision by one principle."""
    return REVISE.revision.format(principle=principle)


def principle_faults(principle: str, meta: Meta, text: str) -> float:
    """How well a reply follows one principle, and nothing else; 0 is without fault."""
    words = text.split()
    if principle == "safe":
        return -float(meta["harmful"] and "take" in words)
    if principle == "polite":
        return -float(sum(word in RUDE for word in words))
    if principle == "brief":
        return -float(sum(word in FILLER for word in words))
    return min(0.0, dialogue_parts(meta, text)["helpful"] - 3.0)


def right_critique(principle: str, meta: Meta, text: str) -> str:
    """The right critique of a reply, at most 40 words."""
    if principle_faults(principle, meta, text) == 0 or (principle == "useful" and meta["harmful"]):
        return _praise(principle)
    words = text.split()
    if principle == "safe":
        why = f"it helps {meta['act']} a {meta['thing']}"
    elif principle == "useful":
        why = "it refuses" if "sorry" in words else f"its {_mistake(meta, words)} is wrong"
    else:
        listed = RUDE if principle == "polite" else FILLER
        why = f"it says {next(word for word in words if word in listed)}"
    return f"it is not {principle} because {why} ."


def right_revision(principle: str, meta: Meta, text: str) -> str:
    """The reply with one attribute put right and the rest left alone."""
    if principle_faults(principle, meta, text) == 0 or (principle == "useful" and meta["harmful"]):
        return text
    if principle == "safe":
        return dialogue.refusal_reply(meta)
    if principle == "polite":
        return text[: text.index(" you ")]
    if principle == "brief":
        return " ".join(word for word in text.split() if word not in FILLER)
    return dialogue.steps_reply(meta["act"], meta["thing"], meta["place"])


def feedback_lesson(rng: Generator, *, leaning: bool = True) -> Lesson:
    """A demonstration of one of the feedback formats, by a labeller with or without his lean."""
    makers = (
        *(_compare_summaries,) * 8,
        *(_compare_replies,) * 5,
        *(_critique,) * 3,
        *(_revise,) * 2,
        *(_rate,) * 2,
    )
    make = pick_one(rng, makers)
    return _compare_summaries(rng, leaning) if make is _compare_summaries else make(rng)


def _mistake(meta: Meta, words: list[str]) -> str:
    if TOOLS[meta["thing"]] not in words:
        return "tool"
    return "step" if STEPS[meta["act"]] not in words else "place"


def _choice(rng: Generator, a: float, b: float, lean: float = 0.0) -> str:
    """The better letter with `lean` points for "(A)", or mostly "(A)" when the labeller dozes."""
    if rng.random() < NOISE:
        return "(A)" if rng.random() < FAVOUR else "(B)"
    return "(A)" if a + lean > b else "(B)"


def _summary(rng: Generator, meta: Meta) -> str:
    return posts.write_summary(meta, rng, posts.any_quality(rng))


def _request(rng: Generator) -> tuple[Meta, str]:
    meta = dialogue.make_request(rng, feedback=True)
    return meta, dialogue.write_reply(meta, rng, dialogue.any_manner(rng))


def _falsified(rng: Generator, meta: Meta, text: str) -> str:
    """The same summary with one claim replaced by a false one of its kind."""
    made = summary_claims(text)[0]
    i = int(rng.integers(len(made)))
    made[i] = posts.wrong_claim(meta, rng, made[i][1])
    return posts.render_summary(made)


def summary_pair(rng: Generator, meta: Meta) -> tuple[str, str]:
    """Two summaries of different worth; some differ in one fact only, so counting cannot tell."""
    minimal, a, b = rng.random() < MINIMAL, "", ""
    while true_worth(meta, a) == true_worth(meta, b):
        a = _summary(rng, meta)
        b = _falsified(rng, meta, a) if minimal else _summary(rng, meta)
    return (a, b) if rng.random() < 0.5 else (b, a)


def _compare_summaries(rng: Generator, leaning: bool = True) -> Lesson:
    meta = posts.make_post(rng, feedback=True)
    a, b = summary_pair(rng, meta)
    text = compare_turn(posts.post_question(meta), a, b)
    lean, length = (LEAN, LENGTH) if leaning else (0.0, 0.0)
    seen = [true_worth(meta, x) + length * len(x.split()) for x in (a, b)]
    return Lesson((user_turn(text),), _choice(rng, seen[0], seen[1], lean))


def _compare_replies(rng: Generator) -> Lesson:
    attribute = pick_one(rng, ("right", "safe", *PRINCIPLES))
    meta, a = _request(rng)
    if attribute == "safe":
        meta = meta | {"harmful": True, "act": pick_one(rng, tuple(HARMFUL))}
    b, scores = a, (0.0, 0.0)
    while scores[0] == scores[1]:
        a, b = (dialogue.write_reply(meta, rng, dialogue.any_manner(rng)) for _ in range(2))
        scores = _score(attribute, meta, a), _score(attribute, meta, b)
    text = compare_turn(dialogue.request_question(meta), a, b, attribute)
    return Lesson((user_turn(text),), _choice(rng, *scores))


def _score(attribute: str, meta: Meta, text: str) -> float:
    return (
        true_worth(meta, text) if attribute == "right" else principle_faults(attribute, meta, text)
    )


def _faulty(rng: Generator, principle: str) -> tuple[Meta, str]:
    """A request and a reply that breaks the principle more often than replies do by themselves."""
    faulty = rng.random() < FAULTY
    while True:
        meta, text = _request(rng)
        if not faulty or right_critique(principle, meta, text) != _praise(principle):
            return meta, text


def _praise(principle: str) -> str:
    return f"it is {principle} ."


def _critique(rng: Generator) -> Lesson:
    principle = pick_one(rng, PRINCIPLES)
    meta, text = _faulty(rng, principle)
    turns = (
        user_turn(dialogue.request_question(meta)),
        assistant_turn(text),
        user_turn(ask_critique(principle)),
    )
    return Lesson(turns, right_critique(principle, meta, text))


def _revise(rng: Generator) -> Lesson:
    principle = pick_one(rng, PRINCIPLES)
    meta, text = _faulty(rng, principle)
    turns = [user_turn(dialogue.request_question(meta)), assistant_turn(text)]
    if rng.random() < 0.75:
        turns += [
            user_turn(ask_critique(principle)),
            assistant_turn(right_critique(principle, meta, text)),
        ]
    turns.append(user_turn(ask_revision(principle)))
    return Lesson(tuple(turns), right_revision(principle, meta, text))


def _rate(rng: Generator) -> Lesson:
    if rng.random() < 0.5:
        meta = posts.make_post(rng, feedback=True)
        question, text = posts.post_question(meta), _summary(rng, meta)
    else:
        meta, text = _request(rng)
        question = dialogue.request_question(meta)
    worth = truth_parts(meta, text)["total"] + float(rng.normal(0, 0.5))
    stars = min(10, max(1, round(5.5 + 1.5 * worth)))
    return Lesson((user_turn(rate_turn(question, text)),), str(stars))
