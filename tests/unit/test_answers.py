"""Answers read from texts, questions put in forms, and keys that stay where they are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tandem.data.formats import read_data
from tandem.data.record import Completion, Group, Prompt
from tandem.data.verifiable import (
    PromptStyle,
    QuestionFormat,
    StatedAnswer,
    answer_key,
    question_text,
    without_answer,
)
from tandem.errors import ConfigError, DataError
from tandem.judges.agreement import Agreement, SameAnswer
from tandem.judges.answer_key import AnswerKey
from tandem.methods.lmsi import _in_form, only_questions
from tandem.rng import Seed
from tandem.tasks import Sizes, gsm8k
from tandem.tasks.micro import Micro, arithmetic
from tandem.tasks.own_data import task_from_files

GSM8K = Path(__file__).parents[2] / ".." / "shared" / "data" / "gsm8k_train.jsonl.gz"

SEED = Seed(3)
STATED = {
    "#### 42": "42",
    "so 6 * 7 = 42\n#### 42 miles": "42",
    "#### 1,234.50": "1234.5",
    "The answer is $1,234.5.": "1234.5",
    "the ANSWER IS 1000000": "1000000",
    "#### 100": "100",
    "#### -3": "-3",
    "#### \u22123": "-3",
    "#### -$5": "-5",
    "#### -0.0": "0",
    "Answer: **7** apples": "7",
    "\\boxed{12}": "12",
    "answer is .5": "0.5",
    "answer is 1/2": "0.5",
    "answer is 2/6": "1/3",
    "#### 12 no, wait. #### 13": "13",
    "#### 3. And 5 more": "3",
    "3 + 4 = 7": "",
    "the answer is not known": "",
    "": "",
    "#### " + "9" * 5000: "",
}


@pytest.mark.parametrize(("text", "answer"), STATED.items(), ids=lambda x: str(x)[:20])
def test_the_last_stated_number_in_one_spelling(text: str, answer: str):
    assert StatedAnswer()(text) == answer


def test_micro_reads_answers_with_its_wordings_value():
    read = arithmetic.WORDING.read
    assert read("3 + 4 = 7 . answer 7") == "7"
    assert read("answer 7 . answer 9") == "9"
    assert read("answer : 7") == read("7") == ""
    problems = Micro("arithmetic").prompts("unlabelled", 30, SEED)
    judged = (Micro("arithmetic").truth(), AnswerKey(read))
    ideal = Micro("arithmetic").ideals(problems)
    wrong = ideal.map(lambda g: Group(g.prompt, (Completion("answer 98"),)))
    for groups in (ideal, wrong):
        truth, by_key = ([g.scores.tolist() for g in j(groups)] for j in judged)
        assert truth == by_key


WORDING = QuestionFormat(
    StatedAnswer(),
    (
        PromptStyle("shown", shots=(("1 + 1 ?", "1 + 1 = 2. The answer is 2."),)),
        PromptStyle("stepwise", " Think."),
        PromptStyle("short", target="answer"),
    ),
)


def test_a_form_puts_examples_before_and_words_behind():
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "2 + 3 ?"})
    prompt = Prompt("x", "old", messages, np.array([1], np.int32), {"answer": 5})
    shown = WORDING.ask(prompt, WORDING.form("shown"))
    assert [m["content"] for m in shown.messages] == [
        "Be kind.", "1 + 1 ?", "1 + 1 = 2. The answer is 2.", "2 + 3 ?",
    ]  # fmt: skip
    assert shown.text == "Q: 1 + 1 ?\nA: 1 + 1 = 2. The answer is 2.\n\nQ: 2 + 3 ?\nA:"
    assert question_text(WORDING.ask(prompt, WORDING.form("stepwise"))) == "2 + 3 ? Think."
    hinted = WORDING.ask_with_hint(prompt, WORDING.form("short"))
    assert question_text(hinted) == "2 + 3 ? (the answer is 5)"
    assert WORDING.ask(Prompt("x", "2 + 3 ?"), WORDING.form("short")).messages is None
    assert WORDING.asking("answer").name == "short"
    with pytest.raises(ConfigError, match=r"no form 'shwn'.*`?shown"):
        WORDING.form("shwn")


def test_micro_hints_are_those_its_grammar_teaches():
    problem = Micro("arithmetic").prompts("unlabelled", 1, SEED)[0].prompt
    hinted = arithmetic.WORDING.ask_with_hint(problem, arithmetic.WORDING.forms[0])
    assert question_text(hinted) == arithmetic.problem_question(problem.meta, "hint")
    for form in arithmetic.WORDING.forms:
        asked = arithmetic.WORDING.ask(problem, form)
        assert question_text(asked) == arithmetic.problem_question(problem.meta, form.name)


def test_votes_count_answers_and_never_their_absence():
    texts = ("#### 7", "answer is 7.0", "#### 8", "seven", "nothing")
    group = Group(Prompt("x", "?"), tuple(map(Completion, texts)))
    assert next(Agreement(SameAnswer(StatedAnswer()))([group])).clusters.tolist() == [
        0,
        0,
        1,
        -1,
        -1,
    ]


def test_a_key_is_needed_and_said_to_be_missing():
    with pytest.raises(DataError, match="no answer key"):
        next(AnswerKey(StatedAnswer())([Group(Prompt("x", "?"), (Completion("#### 1"),))]))
    assert answer_key(Prompt("x", "?", meta={"answer": "1,200.0"})) == "1200"


class Guarded(Prompt):
    """A prompt whose answer key cannot be read without a test failing."""

    def __getattribute__(self, name: str):
        assert name != "meta", "the answer key was read"
        return super().__getattribute__(name)


def test_lmsi_takes_questions_without_reading_their_keys():
    guarded = Guarded("x", "2 + 3 ?", meta={"answer": 5})
    with pytest.raises(AssertionError, match="was read"):
        answer_key(guarded)
    (only,) = only_questions([Group(guarded, (Completion("#### 5"),), np.ones(1))])
    assert only.prompt.meta == {}
    assert not len(only)
    assert only.scores is None
    assert without_answer(guarded).text == "2 + 3 ?"


def test_equal_paths_become_one_with_their_number():
    texts = ("2 + 3 = 5 #### 5", "2 + 3 = 5 #### 5", "#### 5")
    group = Group(Prompt("x", "old"), tuple(map(Completion, texts)))
    asked = Prompt("x", "2 + 3 ?")
    paths = _in_form(group, asked, WORDING, WORDING.form("stepwise"))
    assert [(c.text, c.weight) for c in paths.completions] == [(texts[0], 2.0), (texts[2], 1.0)]
    assert (paths.id, paths.prompt.text) == ("x/stepwise", "Q: 2 + 3 ? Think.\nA:")
    short = _in_form(group, asked, WORDING, WORDING.form("short"))
    assert [(c.text, c.weight) for c in short.completions] == [("The answer is 5.", 3.0)]


def test_gsm8k_rows_become_questions_with_keys(tmp_path: Path):
    rows = [
        {"question": f"what is {n} ?", "answer": f"It is <<{n}={n}>>{n}.\n#### {n:,}.0"}
        for n in range(990, 1020)
    ]
    file = tmp_path / "sums.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    found = read_data(file)
    assert found.format == "gsm8k"
    assert [answer_key(g.prompt) for g in found.groups] == [str(n) for n in range(990, 1020)]
    world = task_from_files(tmp_path, file, Sizes(held_out_share=0.3))
    assert world.wording is gsm8k.GSM8K_WORDING
    assert next(world.truth(world.demonstrations)).scores.tolist() == [1.0]


def test_a_solution_without_a_number_stops_the_reading(tmp_path: Path):
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps({"question": "what ?", "answer": "#### none"}) + "\n")
    with pytest.raises(DataError, match="`answer` is '#### none'"):
        read_data(file)


def test_the_worked_examples_arrive_at_their_answers():
    assert [gsm8k.GSM8K_WORDING.read(path) for _, path in gsm8k.REASONED] == [
        answer for *_, answer in gsm8k.WORKED
    ]


@pytest.mark.shared
@pytest.mark.skipif(not GSM8K.exists(), reason="needs ../shared")
def test_every_solution_of_gsm8k_arrives_at_its_key():
    """3,000 real solutions: the key is a number, and reading the whole solution finds it."""
    groups = read_data(GSM8K).groups
    assert len(groups) == 3000
    assert all(s.scores.all() for s in AnswerKey(StatedAnswer())(groups))
    assert all(float(g.prompt.meta["answer"]) is not None for g in groups)
