"""Files as other tools write them: each is read as it is meant, or refused by name."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem import cli
from tandem.data.chat import encode_groups
from tandem.data.formats import read_data
from tandem.data.formats.options import ReadingOptions
from tandem.errors import DataError
from vocabularies import CHATML, byte_bpe

ASKS = [f"What floats on river {k}?" for k in range(10)]
GOOD = [f"A barge with {k} crates floats there." for k in range(10)]
BAD = [f"A stone of {k} pounds, they say." for k in range(10)]
CALLS = (
    "{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t | tojson }}{% endfor %}<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} ARGUMENTS</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WRITES = {
    "object": "{{ c.function.arguments | tojson }}",
    "text": "{{ c.function.arguments }}",
    "both": "{{ c.function.arguments if c.function.arguments is string else "
    "c.function.arguments | tojson }}",
    "items": "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}",
}


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(text: str, role: str = "assistant") -> dict[str, str]:
    return {"role": role, "content": text}


def shared(text: str, who: str) -> dict[str, str]:
    return {"from": who, "value": text}


def study(k: int) -> dict[str, Any]:
    side = {"type": "pairwise", "value": {"selected": "left"}}
    return {
        "id": k,
        "data": {"prompt": ASKS[k], "answer1": GOOD[k], "answer2": BAD[k]},
        "annotations": [{"was_cancelled": False, "result": [side], "completed_by": 7}],
    }


SHAPES: dict[str, Any] = {
    "orca": lambda q, a, b: {"system": "Be short.", "question": q, "chosen": a, "rejected": b},
    "llama-factory": lambda q, a, b: {
        "instruction": "Answer.", "input": q, "chosen": a, "rejected": b,
        "history": [["Hello?", "Hello."]], "system": "Be short.",
    },
    "argilla-orca": lambda q, a, b: {"system": "", "input": q, "chosen": a, "rejected": b},
    "sharegpt-preference": lambda q, a, b: {
        "conversations": [shared(q, "human")],
        "chosen": shared(a, "gpt"),
        "rejected": shared(b, "gpt"),
    },
    "openai-preference": lambda q, a, b: {
        "input": {"messages": [said(q, "user")], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [said(a)],
        "non_preferred_output": [said(b)],
    },
    "rewardbench-2": lambda q, a, b: {
        "prompt": q, "chosen": [a], "rejected": [b, b + "!", b + "?"], "subset": "Focus",
    },
    "ultrafeedback": lambda q, a, b: {
        "instruction": q,
        "completions": [
            {"model": "m", "response": a, "overall_score": 8.0, "fine-grained_score": 4.5},
            {"model": "n", "response": b, "overall_score": 9.0, "fine-grained_score": 2.0},
        ],
    },
    "helpsteer-preference": lambda q, a, b: {
        "prompt": q, "response_1": a, "response_2": b, "preference_strength": -2,
    },
    "helpsteer3": lambda q, a, b: {
        "context": [said(q, "user")], "response1": a, "response2": b, "overall_preference": -1,
    },
    "preference": lambda q, a, b: {"prompt": q, "chosen": a, "rejected": b},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_ten_rows_of_each_published_shape(name: str, tmp_path: Path):
    rows = [SHAPES[name](*row) for row in zip(ASKS, GOOD, BAD, strict=True)]
    data = read_data(lines(tmp_path / "data.jsonl", rows))
    assert data.format == name
    assert data.notes.kept == len(rows)
    for k, group in enumerate(data.groups):
        assert ASKS[k] in group.prompt.text
        best = {p.winner for p in group.preferences}
        assert [group.completions[i].text for i in best] == [GOOD[k]]
        roles = [m["role"] for m in group.prompt.messages or ()]
        assert ("system" in roles) == bool(rows[k].get("system"))
        assert len(roles) == 1 + ("system" in roles) + 2 * ("history" in rows[k]) or not roles


@pytest.mark.parametrize(
    "column", ["query", "context", "conversation", "problem", "user_turn", "Question"]
)
def test_the_prompt_is_never_guessed_while_a_column_is_unread(column: str, tmp_path: Path, capsys):
    rows = [
        {column: q, "chosen": f"The answer is: {a}", "rejected": f"The answer is: {b}"}
        for q, a, b in zip(ASKS, GOOD, BAD, strict=True)
    ]
    path = lines(tmp_path / "data.jsonl", rows)
    with pytest.raises(DataError, match="unread") as error:
        read_data(path)
    assert f"`{column}`" in error.value.what
    flags = re.findall(r"--columns \S+(?=;)|--format \S+", error.value.do)
    for words in map(shlex.split, flags):  # what the error advises is done as it stands
        assert cli.main(["data", "check", str(path), *words]) in (0, 1)
        assert "format " in capsys.readouterr().out
    data = read_data(path, columns={"prompt": column})
    assert [g.prompt.text for g in data.groups] == ASKS


def test_answers_that_hold_their_prompt_are_read_without_a_word(tmp_path: Path):
    rows = [
        {"chosen": f"{q}\n{a}", "rejected": f"{q}\n{b}", "source": "web", "question": q}
        for q, a, b in zip(ASKS, GOOD, BAD, strict=True)
    ]
    bare = [{k: v for k, v in row.items() if k != "question"} for row in rows]
    data = read_data(lines(tmp_path / "data.jsonl", bare))
    assert data.format == "implicit-prompt"
    assert data.notes.facts == ("source",)


def test_cancelled_and_empty_annotations_are_counted(tmp_path: Path):
    tasks = [study(k) for k in range(10)]
    tasks[3]["annotations"][0]["was_cancelled"] = True
    tasks[6]["annotations"][0]["result"] = []
    tasks[8]["annotations"].append({"was_cancelled": True, "result": []})
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    data = read_data(path)
    assert (data.format, data.notes.rows, data.notes.kept) == ("label-studio", 10, 8)
    assert data.notes.left_out == {"annotation cancelled": 2, "annotation empty": 1}
    assert data.groups[0].preferences[0].by == "7"
    assert data.notes.unread == ()


def test_helpsteer_rows_of_one_prompt_are_compared(tmp_path: Path):
    rows = [
        {"prompt": q, "response": text, "helpfulness": score, "verbosity": 1}
        for q, a, b in zip(ASKS, GOOD, BAD, strict=True)
        for text, score in ((b, 1), (a, 4))
    ]
    data = read_data(lines(tmp_path / "data.jsonl", rows))
    assert (data.notes.rows, data.notes.kept, len(data.groups)) == (20, 10, 10)
    assert {p.margin for g in data.groups for p in g.preferences} == {3.0}
    assert data.notes.facts == ("verbosity",)


@pytest.mark.parametrize("label", [True, "True", "true", 1, "1"])
def test_labels_as_text(label: Any, tmp_path: Path):
    bad = {True: False, "True": "False", "true": "FALSE", "1": "0"}[label]
    rows = [
        {"prompt": q, "completion": a, "label": label if k % 2 else bad}
        for k, (q, a) in enumerate(zip(ASKS, GOOD, strict=True))
    ]
    data = read_data(lines(tmp_path / "data.jsonl", rows))
    assert [float(g.scores[0]) for g in data.groups if g.scores is not None] == [0.0, 1.0] * 5


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "sail", "arguments": arguments}
    calls = [{"id": "c1", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def called(k: int, *, text: bool) -> dict[str, Any]:
    arguments: Any = {"boat": f"barge {k}", "knots": k}
    return {
        "prompt": [said(ASKS[k], "user")],
        "chosen": [call(json.dumps(arguments) if text else arguments)],
        "rejected": [said(BAD[k])],
        "tools": [
            {"type": "function", "function": {"name": "sail", "parameters": {"type": "object"}}}
        ],
    }


@pytest.mark.parametrize("form", WRITES)
def test_arguments_as_text_and_as_objects_give_the_same_tokens(form: str, tmp_path: Path):
    tokenizer = byte_bpe(CALLS.replace("ARGUMENTS", WRITES[form]))
    tokens = []
    for text in (False, True):
        path = lines(tmp_path / f"{text}.jsonl", [called(k, text=text) for k in range(10)])
        groups = encode_groups(read_data(path).groups, tokenizer, max_length=None).groups
        tokens.append([list(c.tokens) for g in groups for c in g.completions])
        whole = groups[3].prompt.text
        assert whole.startswith("<|im_start|>tools\n{")
        assert '"sail"' in whole
        out = tokenizer.decode(groups[3].completions[0].tokens)
        assert ("boat=barge 3;" if form == "items" else '{"boat": "barge 3", "knots": 3}') in out
    assert tokens[0] == tokens[1]


def test_a_template_that_writes_no_tools_or_calls_says_so(tmp_path: Path):
    plain = [{**called(k, text=False), "chosen": [said(GOOD[k])]} for k in range(10)]
    path = lines(tmp_path / "plain.jsonl", plain)
    counts = encode_groups(read_data(path).groups, byte_bpe(CHATML), max_length=None).counts
    assert any("10 groups offer tools" in line for line in counts.lines())
    path = lines(tmp_path / "calls.jsonl", [called(k, text=False) for k in range(10)])
    for template in (CHATML, None):
        with pytest.raises(DataError, match="tool calls"):
            encode_groups(read_data(path).groups, byte_bpe(template), max_length=None)


def test_parquet_and_json_lines_of_the_same_rows_give_the_same_tokens(tmp_path: Path):
    """Arrow gives every row the keys of all rows, null where a row had none."""
    rows = [called(k, text=False) for k in range(5)]
    for k in range(5, 10):
        rows.append({**called(k, text=False), "chosen": [call({"port": f"quay {k}"})]})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    tokenizer = byte_bpe(CALLS.replace("ARGUMENTS", WRITES["object"]))
    both = [
        encode_groups(read_data(path).groups, tokenizer, max_length=None).groups
        for path in (lines(tmp_path / "data.jsonl", rows), tmp_path / "data.parquet")
    ]
    for one, other in zip(*both, strict=True):
        assert list(one.prompt.tokens) == list(other.prompt.tokens)
        for a, b in zip(one.completions, other.completions, strict=True):
            assert list(a.tokens) == list(b.tokens)


PARTS = [
    [{"type": "text", "text": "A barge"}],
    [{"type": "text", "text": "A "}, {"type": "text", "text": "barge"}],
    [{"text": "A barge"}],
    [{"type": "input_text", "text": "A barge"}],
    [{"type": "output_text", "text": "A bar"}, {"type": "text", "text": "ge", "image": None}],
    ["A ", "barge"],
]


@pytest.mark.parametrize("parts", PARTS)
def test_parts_of_text_are_joined(parts: Any, tmp_path: Path):
    row = {"prompt": [said(ASKS[0], "user")], "chosen": [said(parts)], "rejected": [said("no")]}
    data = read_data(lines(tmp_path / "data.jsonl", [row]))
    assert data.groups[0].completions[0].text == "A barge"


@pytest.mark.parametrize("kind", ["image", "image_url", "input_image", "input_audio", "video"])
def test_a_picture_is_refused_by_name(kind: str, tmp_path: Path):
    parts = [{"type": "text", "text": "See"}, {"type": kind, kind: "x.png"}]
    row = {"prompt": [said(parts, "user")], "chosen": [said("a")], "rejected": [said("b")]}
    with pytest.raises(DataError, match="are not read") as error:
        read_data(lines(tmp_path / "data.jsonl", [row]))
    assert kind in error.value.why
    assert ":1: `prompt[0].content[1]`" in error.value.what


HUGE = "1" + "0" * 400
DIGITS = "7" * 5000
NUMBERS = {
    "margin": '{"prompt": "q", "chosen": "a", "rejected": "b", "margin": X}',
    "p_chosen": '{"prompt": "q", "chosen": "a", "rejected": "b", "p_chosen": X}',
    "scores": '{"prompt": "q", "completions": ["a", "b"], "scores": [1, X]}',
    "ranks": '{"prompt": "q", "completions": ["a", "b"], "ranks": [1, X]}',
    "helpfulness": '{"prompt": "q", "response": "a", "helpfulness": X}',
}


@pytest.mark.parametrize(("name", "number"), [*itertools.product(NUMBERS, (HUGE, DIGITS))])
def test_huge_numbers_are_an_error_at_their_line(name: str, number: str, tmp_path: Path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(NUMBERS[name].replace("X", x) for x in ("1", number)))
    with pytest.raises(DataError) as error:
        read_data(path)
    assert ":2: " in error.value.what
    if number == HUGE:
        assert name in error.value.what
    assert len(str(error.value)) < 800


def test_ids_that_start_again_are_noted(tmp_path: Path):
    rows = [{"id": k % 5, "prompt": q, "completion": "a"} for k, q in enumerate(ASKS)]
    data = read_data(lines(tmp_path / "data.jsonl", rows))
    assert len({g.id for g in data.groups}) == 10
    assert data.notes.repeated_ids == 5
    assert any("5 rows have the id" in line for line in data.notes.lines())


def test_columns_are_spelt_on_the_command_line(tmp_path: Path):
    rows = [{"a": q, "b": a, "c": b} for q, a, b in zip(ASKS, GOOD, BAD, strict=True)]
    path = lines(tmp_path / "data.jsonl", rows)
    for spelt in (
        "prompt=a,chosen=b,rejected=c",
        '{"prompt": "a", "chosen": "b", "rejected": "c"}',
    ):
        assert ReadingOptions(columns=spelt).read(path).format == "preference"
    assert cli.main(["data", "check", str(path), "--columns", "prompt"]) == 2
    assert cli.main(["data", "check", str(path), "--columns", "prompt=z,chosen=b,rejected=c"]) == 2
