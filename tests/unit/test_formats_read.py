"""Every format: what is detected, why, and what groups come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.data.formats import DataRead, groups_as_chat, prompt_key, read_data
from tandem.data.record import Preference
from tandem.errors import ConfigError, DataError

USER, BOT = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}
BAD = {"role": "assistant", "content": "Go away."}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(tmp_path: Path, *values: Any, **sampling: Any) -> DataRead:
    return read_data(lines(tmp_path / "data.jsonl", *values), **sampling)


CASES = {
    "preference": {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away."},
    "preference, messages": {"prompt": [USER], "chosen": [BOT], "rejected": [BAD]},
    "preference, prompt a string": {"prompt": "Hi?", "chosen": [BOT], "rejected": [BAD]},
    "preference, whole conversations": {
        "prompt": "Hi?",
        "chosen": [USER, BOT],
        "rejected": [USER, BAD],
        "messages": [USER, BOT],
    },
    "preference, prompt repeated in the answers": {
        "prompt": "Hi?",
        "chosen": "Hi?Hello.",
        "rejected": "Hi?Go away.",
    },
    "implicit-prompt": {"chosen": "Hi?\nHello.", "rejected": "Hi?\nGo away."},
    "implicit-prompt, messages": {"chosen": [USER, BOT], "rejected": [USER, BAD]},
    "hh": {
        "chosen": "\n\nHuman: Hi?\n\nAssistant: Hello.",
        "rejected": "\n\nHuman: Hi?\n\nAssistant: Go away.",
    },
    "llmbar": {"input": "Hi?", "output_1": "Hello.", "output_2": "Go away.", "label": 1},
    "alpaca-comparison": {
        "instruction": "Hi?",
        "output_1": "Hello.",
        "output_2": "Go away.",
        "preference": 1.0,
    },
    "ranked": {"prompt": "Hi?", "completions": ["Hello.", "Go away."], "ranks": [1, 2]},
}


@pytest.mark.parametrize("name", CASES)
def test_pairs_in_every_convention(name: str, tmp_path: Path):
    data = rows(tmp_path, {**CASES[name], "extra": {"a": [1, None]}})
    group = data.groups[0]
    assert data.format == name.split(",")[0]
    assert all(f"`{c}`" in data.why for c in ("chosen", "output_1", "ranks") if c in CASES[name])
    assert [c.text for c in group.completions] == ["Hello.", "Go away."]
    assert group.preferences == (Preference(0, 1),)
    assert prompt_key(group.prompt).strip() == "Hi?"
    assert group.prompt.meta["extra"] == {"a": [1, None]}, "extra columns are kept"


def test_a_question_of_one_turn_is_a_prompt(tmp_path: Path):
    asked = {"question_id": 1, "category": "generic", "turns": ["Hi?"]}
    found = rows(tmp_path, asked)
    assert found.format == "question-turns"
    assert found.groups[0].prompt.messages == (USER,)
    assert found.groups[0].prompt.meta["category"] == "generic"
    with pytest.raises(DataError, match="fit no format"):
        rows(tmp_path, {**asked, "turns": ["Hi?", "And then?"]})


def test_conversational_prompts_carry_messages_and_text(tmp_path: Path):
    for name in ("preference, messages", "hh", "llmbar", "alpaca-comparison"):
        prompt = rows(tmp_path, CASES[name]).groups[0].prompt
        assert prompt.messages == (USER,)
        assert prompt.text == "\n\nHuman: Hi?\n\nAssistant:"
    assert rows(tmp_path, CASES["preference"]).groups[0].prompt.messages is None


def test_hh_prompt_is_the_common_prefix_cut_back_to_the_last_assistant_turn(tmp_path: Path):
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    group = rows(tmp_path, {"chosen": start + " Yes, d", "rejected": start + " Yes, e"}).groups[0]
    assert group.prompt.text == start
    assert [m["content"] for m in group.prompt.messages or ()] == ["a", "b", "c"]
    assert [c.text for c in group.completions] == ["Yes, d", "Yes, e"]


def test_hh_dialogues_that_part_in_a_human_turn_keep_their_turns(tmp_path: Path):
    start = "\n\nHuman: a\n\nAssistant:"
    chosen = start + " b\n\nHuman: c\n\nAssistant: d"
    group = rows(tmp_path, {"chosen": chosen, "rejected": start + " b\n\nHuman: x\n\nAssistant: y"})
    first = group.groups[0].completions[0]
    assert group.groups[0].prompt.text == start
    assert [(t["role"], t["content"]) for t in first.turns or ()] == [
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]


def test_implicit_prompt_never_splits_a_word(tmp_path: Path):
    row = {"chosen": "Q: two? A: for sure", "rejected": "Q: two? A: forget it"}
    group = rows(tmp_path, row).groups[0]
    assert group.prompt.text == "Q: two? A:"
    assert [c.text for c in group.completions] == [" for sure", " forget it"]


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_empty_conversation_among_whole_ones_is_dropped(side: str, tmp_path: Path):
    whole = CASES["implicit-prompt, messages"]
    data = rows(tmp_path, whole, {**whole, side: []}, whole)
    assert len(data.groups) == 2
    assert f"`{side}` is an empty list" in str(data.notes.lines())


def test_margin_and_soft_labels(tmp_path: Path):
    group = rows(tmp_path, {**CASES["preference"], "margin": 1.5, "p_chosen": 0.8}).groups[0]
    assert group.preferences == (Preference(0, 1, 0.8, 1.5),)


def test_unpaired_labels_become_scores(tmp_path: Path):
    row = {"prompt": "Hi?", "completion": "Hello."}
    data = rows(tmp_path, {**row, "label": True}, {**row, "label": 0})
    assert data.format == "unpaired"
    assert [g.scores.tolist() for g in data.groups if g.scores is not None] == [[1.0], [0.0]]


def test_demonstrations(tmp_path: Path):
    assert rows(tmp_path, {"prompt": "a", "completion": "b"}).format == "prompt-completion"
    assert rows(tmp_path, {"prompt": "a"}).format == "prompt"
    data = rows(tmp_path, {"instruction": "Add", "input": "1 and 2", "output": "3"})
    assert data.format == "alpaca"
    assert prompt_key(data.groups[0].prompt) == "Add\n\n1 and 2"


def test_messages_split_before_the_first_answer(tmp_path: Path):
    system = {"role": "system", "content": "Be kind."}
    more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Bye."}]
    data = rows(tmp_path, {"messages": [system, USER, BOT, *more]})
    group = data.groups[0]
    assert data.format == "messages"
    assert group.prompt.messages == (system, USER)
    assert group.completions[0].turns == (BOT, *more)
    single = rows(tmp_path, {"messages": [USER, BOT]}).groups[0].completions[0]
    assert single.turns is None
    assert single.text == "Hello."


def test_scores_become_preferences_with_margins(tmp_path: Path):
    data = rows(tmp_path, {"prompt": "a", "completions": ["x", "y", "z"], "scores": [1, 3, 1]})
    group = data.groups[0]
    assert group.scores is not None
    assert group.scores.tolist() == [1, 3, 1]
    assert group.preferences == (Preference(1, 0, 1, 2.0), Preference(1, 2, 1, 2.0))


def test_ranks_compare_every_two_of_different_rank(tmp_path: Path):
    data = rows(tmp_path, {"prompt": "a", "completions": ["x", "y", "z"], "ranks": [2, 1, 2]})
    assert data.groups[0].preferences == (Preference(1, 0), Preference(1, 2))


def test_alpacaeval_pairs_go_through_the_reference(tmp_path: Path):
    """Bradley-Terry with the reference at 0: logit P(i beats j) = logit p_i - logit p_j.

    p_i = .8 (odds 4), p_j = .5 (odds 1): odds 4, so P = .8. p_i = .8, p_k = .2 (odds 1/4):
    odds 16, so P = 16/17.
    """
    entries = [
        {"system": s, "text": t, "win_prob": p}
        for s, t, p in (("A", "x", 0.8), ("B", "y", 0.5), ("C", "z", 0.2), ("D", "", 0.9))
    ]
    data = rows(tmp_path, {"prompt": "a", "reference": "r", "completions": entries})
    group = data.groups[0]
    assert data.format == "alpacaeval-groups"
    assert data.notes.empty_completions == 1
    assert [c.author for c in group.completions] == ["A", "B", "C"]
    assert group.prompt.meta == {"reference": "r"}
    found = {(v.i, v.j): v.p for v in group.preferences}
    assert found == pytest.approx({(0, 1): 0.8, (0, 2): 16 / 17, (1, 2): 0.8})


@pytest.mark.parametrize(("value", "p"), [(1, 1.0), (1.25, 0.75), (1.5, 0.5), (0, 0.5)])
def test_alpaca_preferences(value: float, p: float, tmp_path: Path):
    group = rows(tmp_path, {**CASES["alpaca-comparison"], "preference": value}).groups[0]
    assert group.preferences == (Preference(0, 1, p),)


def test_second_output_better(tmp_path: Path):
    group = rows(tmp_path, {**CASES["llmbar"], "label": 2}).groups[0]
    assert group.preferences == (Preference(1, 0),)


def test_columns_are_renamed(tmp_path: Path):
    data = rows(
        tmp_path,
        {"question": "a", "answer": "b"},
        columns={"prompt": "question", "completion": "answer"},
    )
    assert data.format == "prompt-completion"
    assert data.groups[0].prompt.meta == {}
    with pytest.raises(DataError, match="no column `q`"):
        rows(tmp_path, {"question": "a"}, columns={"prompt": "q"})


def test_unknown_columns_name_the_formats_and_a_way_out(tmp_path: Path):
    with pytest.raises(DataError) as error:
        rows(tmp_path, {"question": "a", "response": "b"})
    assert "`question`, `response` fit no format" in error.value.what
    assert "--columns prompt=question,completion=response" in error.value.do


def test_ambiguous_columns_say_so_and_can_be_chosen(tmp_path: Path):
    row = {**CASES["preference"], "messages": [USER, BOT]}
    assert "also fit `messages-preference`, `messages`" in rows(tmp_path, row).why
    assert rows(tmp_path, row, format="messages").format == "messages"
    with pytest.raises(ConfigError, match="'mesages'") as error:
        rows(tmp_path, row, format="mesages")
    assert "`messages`" in error.value.why
    with pytest.raises(DataError, match="`label`"):
        rows(tmp_path, row, format="unpaired")


def test_rows_that_carry_nothing_are_dropped_and_counted(tmp_path: Path):
    row = CASES["preference"]
    same = {**row, "rejected": row["chosen"]}
    notes = rows(tmp_path, row, same, {**row, "chosen": " "}, same).notes
    assert (notes.rows, notes.kept) == (4, 1)
    assert notes.dropped == {"identical answers": 2, "empty answer": 1}
    assert notes.first["identical answers"] == "data.jsonl:2"
    assert "dropped 2: identical answers (first: data.jsonl:2)" in notes.lines()


def test_ids_are_stable_and_distinguish_repeats(tmp_path: Path):
    a, b = {"prompt": "a"}, {"prompt": "b"}
    first = [g.id for g in rows(tmp_path, a, b, a).groups]
    assert first[2] == f"{first[0]}#2"
    assert first[0] != first[1]
    assert [g.id for g in rows(tmp_path, b, a).groups] == [first[1], first[0]]
    given = rows(tmp_path, {"id": 7, **a}, {"id": 7, **a}, {"id": 8, **b})
    assert [g.id for g in given.groups] == ["7", "7#2", "8"]
    assert given.notes.repeated_prompts == 1


def test_limit_reads_the_first_rows(tmp_path: Path):
    data = rows(tmp_path, *({"prompt": str(k)} for k in range(9)), limit=4)
    assert [g.prompt.text for g in data.groups] == list("0123")
    with pytest.raises(ConfigError):
        rows(tmp_path, {"prompt": "a"}, limit=0)


def test_an_id_may_not_collide_with_the_suffix_of_a_repeat(tmp_path: Path):
    data = rows(
        tmp_path,
        {"id": "a", "prompt": "x"},
        {"id": "a", "prompt": "x"},
        {"id": "a#2", "prompt": "x"},
    )
    ids = [g.id for g in data.groups]
    assert len(set(ids)) == 3


def test_as_chat_makes_plain_prompts_user_messages(tmp_path: Path):
    groups = groups_as_chat(rows(tmp_path, CASES["preference"]).groups)
    assert groups[0].prompt.messages == (USER,)
    assert groups_as_chat(groups).hash == groups.hash


def test_plain_prompt_and_user_message_are_the_same_prompt(tmp_path: Path):
    keys = {
        prompt_key(rows(tmp_path, CASES[c]).groups[0].prompt)
        for c in CASES
        if "\n" not in str(CASES[c]) and c != "implicit-prompt"
    }
    assert keys == {"Hi?"}


def test_scores_are_kept_as_numbers(tmp_path: Path):
    group = rows(tmp_path, {"prompt": "a", "completions": ["x", "y"], "scores": [0.25, -1]}).groups[
        0
    ]
    np.testing.assert_array_equal(group.scores, [0.25, -1.0])
