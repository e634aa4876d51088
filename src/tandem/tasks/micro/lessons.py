"""What the base model is taught: demonstrations of mixed quality of every skill at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from numpy.random import Generator

from tandem.tasks.micro import arithmetic, dialogue, feedback, posts, reading
from tandem.tasks.micro.feedback import Lesson, user_turn
from tandem.tasks.micro.posts import Meta, pick_one

SHARES = {
    "summaries": 0.36,
    "dialogue": 0.09,
    "arithmetic": 0.17,
    "reading": 0.08,
    "feedback": 0.30,
}
LATE_SHARES = {
    "summaries": 0.14,
    "dialogue": 0.05,
    "arithmetic": 0.60,
    "reading": 0.03,
    "feedback": 0.18,
}
SLIPS = 0.04
LESSON_FORMS = ("plain", "plain", "plain", "plain", "plain", "steps", "only", "hint", "hint")
HINTED_SLIPS = 0.2
OTHER_TOPICS = 0.15
REPLIES = 0.25


def make_lesson(rng: Generator, skill: str, *, leaning: bool = True) -> Lesson:
    """One demonstration of a skill, never on a held-out combination."""
    if skill == "feedback":
        return feedback.feedback_lesson(rng, leaning=leaning)
    return LESSONS[skill](rng)


def make_lessons(
    rng: Generator, n: int, shares: Mapping[str, float] = SHARES, *, leaning: bool = True
) -> Iterator[tuple[str, Lesson]]:
    """Demonstrations in their shares.

    While labels are not yet `leaning`, comparisons follow the truth but for dozing.
    """
    skills = tuple(shares)
    for which in rng.choice(len(skills), size=n, p=tuple(shares.values())):
        yield skills[which], make_lesson(rng, skills[which], leaning=leaning)


def reading_alone(rng: Generator, n: int) -> Iterator[tuple[str, Lesson]]:
    """Nothing but the reading of summaries."""
    yield from (("reading", _check(rng)) for _ in range(n))


def encode_lesson(ids: dict[str, int], taught: Lesson) -> tuple[list[int], int]:
    """Tokens of a demonstration as the chat template renders it, and where the reply starts."""
    words: list[str] = []
    for turn in taught.messages:
        words += [f"<{turn['role']}>", *turn["content"].split()]
        words += ["</s>"] if turn["role"] == "assistant" else []
    words.append("<assistant>")
    reply = [*taught.reply.split(), "</s>"]
    return [ids[word] for word in (*words, *reply)], len(words)


def prompt_tokens(ids: dict[str, int], messages: Sequence[dict[str, str]]) -> list[int]:
    """Tokens of a conversation that awaits the assistant."""
    tokens, start = encode_lesson(ids, Lesson(tuple(messages), ""))
    return tokens[:start]


def training_post(rng: Generator, *, feedback: bool = False) -> Meta:
    """A post without held-out combinations."""
    while True:
        meta = posts.make_post(rng, feedback=feedback)
        if not posts.is_held_out_post([(kind, value) for kind, value in meta["targets"]]):
            return meta


def training_request(rng: Generator, *, feedback: bool = False) -> Meta:
    """A request without a held-out combination."""
    while True:
        meta = dialogue.make_request(rng, feedback=feedback)
        if not dialogue.is_held_out_request(meta["act"], meta["thing"]):
            return meta


def training_problem(rng: Generator, stratum: arithmetic.Stratum, level: int = -1) -> Meta:
    """A problem without a held-out combination."""
    while True:
        meta = arithmetic.make_problem(rng, stratum, level)
        if not arithmetic.is_held_out_problem(meta):
            return meta


def _summary(rng: Generator) -> Lesson:
    meta = training_post(rng, feedback=bool(rng.random() < OTHER_TOPICS))
    return Lesson(
        (user_turn(posts.post_question(meta)),),
        posts.write_summary(meta, rng, posts.any_quality(rng)),
    )


def _reply(rng: Generator) -> Lesson:
    meta = training_request(rng, feedback=bool(rng.random() < OTHER_TOPICS))
    return Lesson(
        (user_turn(dialogue.request_question(meta)),),
        dialogue.write_reply(meta, rng, dialogue.any_manner(rng)),
    )


def _solution(rng: Generator) -> Lesson:
    meta = training_problem(rng, arithmetic.any_stratum(rng))
    form = pick_one(rng, LESSON_FORMS)
    slips = HINTED_SLIPS if form == "hint" else SLIPS
    return Lesson(
        (user_turn(arithmetic.problem_question(meta, form)),),
        arithmetic.write_solution(meta, rng, slips, form),
    )


def _check(rng: Generator) -> Lesson:
    meta = training_post(rng, feedback=bool(rng.random() < 0.5))
    asked, said = reading.summary_question(rng, meta)
    return Lesson((user_turn(asked),), said)


def _reading(rng: Generator) -> Lesson:
    if rng.random() >= REPLIES:
        return _check(rng)
    asked, said = reading.reply_question(
        rng, training_request(rng, feedback=bool(rng.random() < 0.5))
    )
    return Lesson((user_turn(asked),), said)


LESSONS = {
    "summaries": _summary,
    "dialogue": _reply,
    "arithmetic": _solution,
    "reading": _reading,
}
