"""For any seed: prompts can be answered, a broken answer is seen, any text is judged the same."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.rng import Seed
from tandem.tasks.constraints import KINDS, Constraints, constraints_of, read_constraint
from tandem.tasks.constraints.checkers import Constraint
from tandem.tasks.constraints.draws import draw_constraint
from tandem.tasks.constraints.instructions import load_instructions
from tandem.tasks.constraints.scoring import check_answer, share_kept
from tandem.tasks.constraints.splits import SPLITS
from tandem.tasks.constraints.witness import write_witness

SEEDS = st.integers(0, 2**31)
INSTRUCTIONS = st.sampled_from(load_instructions())


def without(text: str, word: str) -> str:
    """Put another word in the place of one, in any case."""
    for form in (word, word.capitalize(), word.upper()):
        text = text.replace(form, "other")
    return text


BROKEN: dict[
    str, Callable[[Constraint, str], str]
] = {  # an answer that keeps it -> one that does not
    "word_minimum": lambda c, t: " ".join(t.split()[: c.n - 1]),
    "word_maximum": lambda c, t: f"{t} word" + " word" * c.n,
    "word_range": lambda c, t: f"{t} word" + " word" * (c.high - c.low),
    "sentence_count": lambda c, t: f"{t} One more.",
    "sentence_maximum": lambda c, t: t + " More." * c.n,
    "paragraph_count": lambda c, t: f"{t}\n\nOne more.",
    "include_words": lambda c, t: without(t, c.words[-1]),
    "avoid_words": lambda c, t: f"{t} {c.words[0]}.",
    "repeat_word": lambda c, t: without(t, c.word),
    "limit_word": lambda c, t: t + f" {c.word}" * c.n,
    "avoid_letter": lambda c, t: f"{t} {c.letter.upper()}",
    "numbered_list": lambda c, t: f"{t}\n{c.n + 1}. More.",
    "bullet_list": lambda c, t: f"{t}\n- More.",
    "json_object": lambda c, t: json.dumps(json.loads(t) | {"more": 1}),
    "headings": lambda c, t: t.replace("## ", "# ", 1),
    "two_answers": lambda c, t: t.replace(c.separator, "or"),
    "title": lambda c, t: t.replace("<<", "<"),
    "bold_phrases": lambda c, t: t.replace("**", "*"),
    "placeholders": lambda c, t: t.replace("[", "("),
    "postscript": lambda c, t: t.replace(c.mark, ""),
    "uppercase": lambda c, t: f"{t} x",
    "lowercase": lambda c, t: f"{t} X",
    "no_comma": lambda c, t: f"{t}, and",
    "no_digits": lambda c, t: f"{t} 7",
    "alphabet": lambda c, t: f"{t} word",
    "capital_words": lambda c, t: t.capitalize(),
    "starts_with": lambda c, t: f"Well. {t}",
    "ends_with": lambda c, t: f"{t} Bye",
    "quoted": lambda c, t: t[:-1],
    "question_end": lambda c, t: f"{t} Yes.",
}


@given(seed=SEEDS, split=st.sampled_from(SPLITS))
@settings(max_examples=60, deadline=None)
def test_every_prompt_can_be_kept_whole_and_each_constraint_broken(seed, split):
    for group in Constraints().prompts(split, 4, Seed(seed)):
        asked = constraints_of(group)
        answer = write_witness(asked)
        assert share_kept(asked, answer) == share_kept(asked, answer, loose=True) == 1
        assert len({c.group for c in asked}) == len(asked)
        for c in asked:
            assert not c.is_kept(BROKEN[c.kind](c, answer)), (c, answer)


@given(seed=SEEDS, kind=st.sampled_from(sorted(KINDS)), asked=INSTRUCTIONS)
@settings(max_examples=200, deadline=None)
def test_one_constraint_scores_one_when_kept_and_zero_when_broken(seed, kind, asked):
    c = draw_constraint(kind, Seed(seed).rng(), asked)
    answer = write_witness([c])
    assert share_kept([c], answer) == 1, answer
    assert share_kept([c], BROKEN[kind](c, answer)) == 0
    assert read_constraint(json.loads(json.dumps(c.facts()))) == c


@given(
    text=st.text(max_size=400) | st.text('aA1.,?!*#<>[]{}"-=\n ', max_size=400),
    seed=SEEDS,
    asked=INSTRUCTIONS,
)
@settings(max_examples=150, deadline=None)
def test_any_text_is_judged_without_an_error_and_loose_forgives(text, seed, asked):
    every = [draw_constraint(kind, Seed(seed).at(kind).rng(), asked) for kind in KINDS]
    strict, loose = check_answer(every, text), check_answer(every, text, loose=True)
    assert all(after or not before for before, after in zip(strict, loose, strict=True))
    assert strict == check_answer(every, text)
    if not text.strip():
        assert not any(loose)
