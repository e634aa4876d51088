"""The task `constraints`: every kind on answers written by hand, splits, judges, readability."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt
from tandem.errors import ConfigError, DataError
from tandem.rng import Seed
from tandem.tasks.constraints import (
    HELD_OUT_KINDS,
    KINDS,
    TRAINED_KINDS,
    ConstraintAnnotator,
    ConstraintRater,
    Constraints,
    ConstraintTruth,
    constraints_of,
    kept_by_kind,
    read_constraint,
)
from tandem.tasks.constraints.checkers import constraint as spoken
from tandem.tasks.constraints.checkers import counting, layout, marks
from tandem.tasks.constraints.checkers.letters import ALPHABETS
from tandem.tasks.constraints.draws import CLASHES, DRAWS, UNSUITED, is_compatible
from tandem.tasks.constraints.instructions import ANSWER_FORMS, load_instructions
from tandem.tasks.constraints.scoring import check_answer, loose_variants, share_kept
from tandem.tasks.constraints.splits import SPLITS, instructions_of

TASK = Constraints()
LONG = "is what one can say about this well"

CASES = {  # kind: (parameters, answers that keep it, answers that do not)
    "word_minimum": ({"n": 3}, ["one two three", "It's well-known - yes 4"], ["one two", "- - -"]),
    "word_maximum": ({"n": 3}, ["one two three", "a - b - c"], ["one two three four"]),
    "word_range": ({"low": 2, "high": 3}, ["one two", "one two three"], ["one", "a b c d"]),
    "sentence_count": (
        {"n": 2},
        [
            "One. Two!",
            "Dr. Lee came. She left at 3.50",
            'He said "No." Then he left.',
            "One\nTwo",
            "We meet at 5 p.m. today. Bring food.",
            "Tea, rice, etc. Then we sleep.",
            "1. A. 2. B.",
            "J. K. Rowling wrote it. I read it.",
            "A Title\n\nOne day. The end.",
            "So am I. Good.",
        ],
        ["One.", "One. Two. Three?", "One.Two.", "We meet at 5 p.m. today."],
    ),
    "sentence_maximum": ({"n": 2}, ["One.", "One. Two?"], ["One. Two. Three.", "1\n2\n3"]),
    "paragraph_count": (
        {"n": 2},
        ["a\n\nb", "a\nb\n \n\nc", "\n\na\n\nb\n"],
        ["a\nb", "a\n\nb\n\nc", "a\n\n---"],
    ),
    "include_words": (
        {"words": ["sun", "rain"]},
        ["Rain and sun.", "SUN, rain", "_sun_ rain"],
        ["Sunny and rainy", "sun only"],
    ),
    "avoid_words": ({"words": ["sun"]}, ["sunny", "moon"], ["The Sun.", "sun-dried"]),
    "repeat_word": ({"word": "sea", "n": 2}, ["Sea, sea", "sea sea sea"], ["sea seas", "sea"]),
    "limit_word": ({"word": "sea", "n": 2}, ["Sea, sea", "the sea"], ["seas", "sea sea sea"]),
    "avoid_letter": ({"letter": "k"}, ["no such letter"], ["kind", "OK"]),
    "numbered_list": (
        {"n": 3},
        [
            "1. a\n2. b\n3. c",
            "**1.** a\n**2.** b\n**3.** c",
            "1. a\n  1. x\n2. b\n3. c",
            "Here:\n 1) a\n\n2) b\nmore\n3) c\nDone.",
        ],
        ["1. a\n2. b", "1. a\n3. b\n2. c", "1.a\n2.b\n3.c", "1. a\n2. b\n3. c\n4. d", "1. 2. 3."],
    ),
    "bullet_list": (
        {"n": 2},
        ["- a\n- b", "- a\n* * *\n- b", "So:\n* a\n • b"],
        ["- a", "-a\n-b", "- a\n- b\n- c"],
    ),
    "json_object": (
        {"keys": ["a", "b"]},
        ['{"a": 1, "b": [2]}', '```json\n{"b": "", "a": {}}\n```', '```\n{"a": 1, "b": 2}\n```'],
        [
            '{"a": 1}',
            '{"a": 1, "b": 2, "c": 3}',
            'Here: {"a": 1, "b": 2}',
            '["a", "b"]',
            "```",
            "{'a': 1, 'b': 2}",
            "[" * 100_000,
        ],
    ),
    "headings": ({"n": 2}, ["## A\nx\n## B\ny"], ["## A", "# A\n# B", "##A\n##B", "##  \n## \n"]),
    "two_answers": (
        {"separator": "====="},
        ["one\n=====\ntwo", "one\n  ===== \n\ntwo words"],
        [
            "one ===== two",
            "one\n=====\n",
            "one\n=====\none",
            "a\n=====\nb\n=====\nc",
            "one\n====\ntwo",
        ],
    ),
    "title": (
        {},
        ["<<A boat>>\nOnce", "Once <<x>>"],
        ["<A boat>", "<< >> x", "<<a\nb>>", "<<..>>", "such as <<my title>>."],
    ),
    "bold_phrases": (
        {"n": 2},
        ["**a** and **b c**"],
        ["**a** b", "** ** **!**", "**a\nb** **c", "**like this**, **phrase**"],
    ),
    "placeholders": ({"n": 2}, ["Dear [name], on [date]"], ["Dear [name]", "[] [ ]", "[a\nb] [c]"]),
    "postscript": (
        {"mark": "P.S."},
        ["Hello.\n\nP.S. Bye", "a\n P.S. b\nc"],
        ["P.S. Bye", "Hello. P.S. Bye", "a\nP.S.", "a\nPS b", "a\n\nP.S. b\n\nc", "a\nP.S.S. b"],
    ),
    "uppercase": ({}, ["ALL 3 CAPITALS!", "ДА"], ["All", "123"]),
    "lowercase": ({}, ["no capitals 3", "да"], ["No", "123"]),
    "no_comma": ({}, ["a; b"], ["a, b"]),
    "no_digits": ({}, ["three"], ["3", "x²"]),
    "alphabet": ({"alphabet": "Cyrillic"}, ["Привет, 3 мира!"], ["Привет, world", "123", "γεια"]),
    "capital_words": ({"n": 2}, ["this IS BIG", "NASA, US"], ["I am A man", "this IS big"]),
    "starts_with": (
        {"phrase": "In short:"},
        ["in short: yes", "  In short: a"],
        ["So in short: a"],
    ),
    "ends_with": (
        {"phrase": "That is all."},
        ["Yes. that is all. \n"],
        ["That is all", "That is all. Bye"],
    ),
    "quoted": ({}, ['"all of it"', "“x y”"], ['"open', 'x "y"', '""', '"']),
    "question_end": ({}, ["Is it? ", "And you?\n"], ["Is it? Yes.", 'She asked "Why?"']),
}


def constraint(kind: str):
    return read_constraint({"kind": kind, **CASES[kind][0]})


def answered(*texts: str, index: int = 0, split: str = "evaluation") -> Group:
    prompt = TASK.prompts(split, index + 1, Seed(3))[index].prompt
    return Group(prompt, tuple(Completion(text) for text in texts))


# checkers -------------------------------------------------------------------------------------


def test_every_kind_has_cases_and_draws_give_every_parameter():
    assert set(CASES) == set(KINDS)
    assert {kind for kind in KINDS if fields(KINDS[kind])} == set(DRAWS)


@pytest.mark.parametrize("kind", CASES)
def test_a_kind_is_kept_and_broken_as_its_words_say(kind):
    asked = constraint(kind)
    _, good, bad = CASES[kind]
    assert [text for text in good if not asked.is_kept(text)] == []
    assert [text for text in bad if asked.is_kept(text)] == []
    assert read_constraint(asked.facts()) == asked


def test_the_page_of_the_task_lists_every_kind_with_its_rule():
    page = (Path(__file__).parents[2] / "docs/tasks-constraints.md").read_text(encoding="utf-8")
    for kind, each in KINDS.items():
        sort = "new" if kind in HELD_OUT_KINDS else "trained"
        assert f"| `{kind}` | {each.group} | {sort} | {inspect.getdoc(each)} |" in page
    for split in ("sft", "evaluation"):
        assert f"{len(instructions_of(split))} " in page
    assert f"{len(load_instructions())} instructions" in page


@pytest.mark.parametrize("kind", CASES)
def test_a_request_is_a_sentence_with_its_parameters(kind):
    asked = constraint(kind)
    told = [asked.request(which) for which in range(len(asked.wordings))]
    assert len(set(told)) == len(told) == 2
    for text in told:
        assert not re.search(r"[{}]|  |None", text)
        assert text[0].isupper()
        assert text[-1] in '."'
        for name, value in CASES[kind][0].items():
            shown = ALPHABETS[value] if name == "alphabet" else value
            for each in shown if isinstance(shown, list) else [shown]:
                assert str(each) in text or (each == 2 and "twice" in text)


@pytest.mark.parametrize("module", [counting, layout, marks, spoken])
def test_examples_in_docstrings_are_true(module):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 0


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"kind": "word_maximun", "n": 3}, "Did you mean `word_maximum`"),
        ({"kind": "word_maximum"}, "word_maximum has the parameters {}"),
        ({"kind": "word_maximum", "n": "3"}, "n (int)"),
        ({"kind": "include_words", "words": [1]}, "words (tuple[str, ...])"),
        ({"kind": "no_comma", "n": 1}, "its parameters are: none"),
        ({}, "kind None"),
        ({"kind": ["no_comma"]}, "kind ['no_comma']"),
    ],
)
def test_facts_of_no_constraint_are_refused(facts, what):
    with pytest.raises(DataError, match=re.escape(what)):
        read_constraint(facts)


def test_hostile_answers_take_no_time():
    long = 50_000
    texts = ["<" * long, "*" * long, "[" * long, ". " * long, "\n \n" * long, "a" * long,
             '{"a":' * long, "1. " * long, "e.g. " * long]  # fmt: skip
    slow: list[tuple[str, str, float]] = []
    for text in texts:
        for kind in CASES:
            start = time.perf_counter()
            constraint(kind).is_kept(text)
            if (spent := time.perf_counter() - start) > 2:
                slow.append((kind, text[:6], spent))
    assert slow == []


# scoring --------------------------------------------------------------------------------------


def test_strict_reads_the_answer_and_loose_forgives_what_is_wrapped_around_it():
    asked = [
        read_constraint({"kind": "lowercase"}),
        read_constraint({"kind": "word_maximum", "n": 9}),
    ]
    text = f"Sure! Here you are:\n**two {LONG}**\nHope this helps!"
    assert check_answer(asked, text) == [False, False]
    assert check_answer(asked, text, loose=True) == [True, True]
    assert share_kept(asked, f"Two {LONG}") == 0.5
    assert len(set(loose_variants("*a*\n*b*\n*c*"))) == 8


@pytest.mark.parametrize(
    "text", ["", " \n ", "a", "why?", "no no no no no no no no no", "\u200b" * 9]
)
def test_an_answer_that_says_nothing_keeps_nothing(text):
    asked = [
        read_constraint({"kind": "no_comma"}),
        read_constraint({"kind": "word_maximum", "n": 9}),
    ]
    assert share_kept(asked, text) == share_kept(asked, text, loose=True) == 0
    assert share_kept(asked, LONG) == 1


def test_loose_does_not_keep_by_deleting_everything():
    asked = [read_constraint({"kind": "no_comma"})]
    assert check_answer(asked, f"{LONG}, b", loose=True) == [False]


# instructions and splits ----------------------------------------------------------------------


def test_instructions_are_readable():
    known = load_instructions()
    assert len(known) >= 200
    assert len({i.text for i in known}) == len(known)
    assert Counter(i.form for i in known).keys() == set(ANSWER_FORMS)
    for asked in known:
        assert asked.text.isascii()
        assert asked.text[0].isupper()
        assert asked.text[-1] in ".?"
        assert 4 <= len(asked.text.split()) <= 25
        assert len(set(asked.words)) == 4
        assert all(re.fullmatch("[a-z]{3,}", word) for word in asked.words)


@pytest.fixture(scope="module")
def drawn() -> dict[str, Groups]:
    return {split: TASK.prompts(split, 300, Seed(1)) for split in SPLITS}


def test_splits_share_no_prompt_and_evaluation_no_instruction(drawn):
    texts = [g.prompt.text for groups in drawn.values() for g in groups]
    assert len(set(texts)) == len(texts)
    asked = {s: {g.prompt.meta["instruction"] for g in groups} for s, groups in drawn.items()}
    trained = asked["sft"] | asked["preference"] | asked["unlabelled"]
    assert not trained & asked["evaluation"]
    assert len(instructions_of("evaluation")) >= 60
    assert len(asked["evaluation"]) >= 60


def test_some_kinds_are_met_in_evaluation_only(drawn):
    kinds = {s: [[c.kind for c in constraints_of(g)] for g in gs] for s, gs in drawn.items()}
    for split in ("sft", "preference", "unlabelled"):
        assert {k for each in kinds[split] for k in each} == set(TRAINED_KINDS)
        assert {len(each) for each in kinds[split]} == {1, 2, 3}
    assert {k for each in kinds["evaluation"] for k in each} == set(KINDS)
    for each in kinds["evaluation"]:
        assert set(each) & set(TRAINED_KINDS)
        assert set(each) & set(HELD_OUT_KINDS)
    groups = {KINDS[kind].group for kind in HELD_OUT_KINDS}
    assert groups == {kind.group for kind in KINDS.values()}


def test_prompts_hang_on_seed_and_index_alone():
    few, many = TASK.prompts("sft", 5, Seed(2)), TASK.prompts("sft", 9, Seed(2))
    assert few.hash == many[:5].hash
    assert few.hash != TASK.prompts("sft", 5, Seed(3)).hash


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="Did you mean `evaluation`"):
        TASK.prompts("evaluations", 3, Seed(0))


def test_prompts_ask_for_their_instruction_and_every_constraint(drawn):
    for groups in drawn.values():
        for g in groups:
            text = g.prompt.text
            assert g.prompt.messages == ({"role": "user", "content": text},)
            assert text.startswith(g.prompt.meta["instruction"])
            for c in constraints_of(g):
                assert any(c.request(k) in text for k in range(2))


def test_what_contradicts_itself_does_not_go_together(drawn):
    assert not is_compatible(["uppercase", "lowercase"])
    assert not is_compatible(["json_object", "starts_with"])
    assert is_compatible(["word_maximum", "numbered_list", "no_comma"])
    assert all(len(pair) == 2 and pair <= set(KINDS) for pair in CLASHES)
    assert all(kinds <= set(KINDS) for kinds in UNSUITED.values())
    for groups in drawn.values():
        for g in groups:
            kinds = [c.kind for c in constraints_of(g)]
            assert is_compatible(kinds)
            assert not set(kinds) & UNSUITED[g.prompt.meta["form"]]


# judges ---------------------------------------------------------------------------------------


def two(a: str, b: str, *constraints: dict, name: str = "x") -> Group:
    meta = {"constraints": list(constraints)}
    return Group(Prompt(name, "?", meta=meta), (Completion(a), Completion(b)))


COMMA, DIGITS = {"kind": "no_comma"}, {"kind": "no_digits"}


def test_truth_writes_the_share_kept():
    judged = next(ConstraintTruth()([two(f"{LONG}, 3", f"{LONG}, b", COMMA, DIGITS)]))
    assert judged.scores.tolist() == [0, 0.5]
    loose = next(
        ConstraintTruth(loose=True)([two(f"Sure, yes:\n{LONG}", f"{LONG}, b", COMMA, DIGITS)])
    )
    assert loose.scores.tolist() == [1, 0.5]


def test_prompts_of_another_task_are_refused():
    with pytest.raises(DataError, match=r"no constraints in `prompt\.meta`"):
        list(ConstraintTruth()([Group(Prompt("a", "b"), (Completion("c"),))]))


@pytest.mark.parametrize("flips", [0.0, 0.25])
def test_an_annotator_errs_at_his_rate(flips):
    groups = [two(LONG, f"{LONG}, b", COMMA, name=f"g{k}") for k in range(2000)]
    judge = ConstraintAnnotator(flips=flips, temperature=0, length=0)
    right = np.mean([g.preferences[0].p for g in judge(groups)])
    assert abs(right - (1 - flips)) < 4 * np.sqrt(0.25 / 2000) * (flips > 0) + 1e-9


def test_an_annotator_has_a_taste_for_length_that_is_smaller_than_the_truth():
    long, short = f"{LONG} " * 13, LONG
    even = [two(long, short, COMMA, name=f"g{k}") for k in range(2000)]
    judge = ConstraintAnnotator(flips=0)
    liked = np.mean([g.preferences[0].p for g in judge(even)])
    assert abs(liked - judge.p(0.0005 * 96)) < 0.05
    assert 0.55 < liked < 0.75
    lost = [two(f"{long}, x", short, COMMA, name=f"g{k}") for k in range(500)]
    assert np.mean([g.preferences[0].p for g in judge(lost)]) < 0.02


def test_an_annotator_does_not_depend_on_order_or_neighbours():
    groups = [two(LONG, f"{LONG}, b", COMMA, name=f"g{k}") for k in range(50)]
    judge = ConstraintAnnotator(seed=Seed(5))
    there = {g.id: g.preferences for g in judge(groups)}
    back = {g.id: g.preferences for g in judge(reversed(groups))}
    assert there == back
    assert there != {g.id: g.preferences for g in replace(judge, seed=Seed(6))(groups)}
    assert next(judge([two("same", "same", COMMA)])).preferences[0].p == 0.5


def test_an_annotator_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"flips = 0\.7"):
        ConstraintAnnotator(flips=0.7)


def test_a_rater_finds_the_better_answer_more_often_than_not():
    groups = [two(LONG, f"{LONG}, b", COMMA, name=f"g{k}") for k in range(500)]
    rated = [g.scores for g in ConstraintRater()(groups)]
    assert 0.97 < np.mean([a > b for a, b in rated]) <= 1
    assert np.std([a for a, _ in rated]) == pytest.approx(0.25, rel=0.15)


def test_tallies_and_kinds_tell_trained_from_new():
    told = TASK.tallies()
    group = answered("word", "Word, 3?")
    trained = [c for c in constraints_of(group) if c.kind in TRAINED_KINDS]
    new = [c for c in constraints_of(group) if c.kind in HELD_OUT_KINDS]
    texts = ("word", "Word, 3?")
    assert told["trained kinds"](group) == np.mean([share_kept(trained, t) for t in texts])
    assert told["new kinds"](group) == np.mean([share_kept(new, t) for t in texts])
    assert 0 <= told["all kept"](group) <= told["loose"](group) <= 1
    by_kind = kept_by_kind([group])
    assert set(by_kind) == {c.kind for c in constraints_of(group)}
    assert all(n == 2 for _, n in by_kind.values())


def test_the_task_loads_no_torch():
    code = "import sys, tandem.tasks.constraints; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
