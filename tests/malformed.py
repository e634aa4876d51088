"""Inputs that are broken in one way each, and what the error must name.

`DATA` breaks files and folders: `case.make(folder)` writes one and returns its path.
`TOKENIZERS` breaks the tokenizer or its template: `case.make()` returns one, for good data.
Both are run through the library by `tests/e2e/test_malformed.py`; anything else that reads data
can run the same lists.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vocabularies import CHATML, FORGETFUL, byte_bpe

PAIR = {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away."}
USER, BOT = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}
TALK = {"messages": [USER, BOT, USER, BOT]}
LEFT = {"type": "pairwise", "value": {"selected": "left"}}
TASK = {"data": {"prompt": "Hi?", "answer1": "Hello.", "answer2": "Go away."}}


def _task(who: str) -> dict[str, Any]:
    """A labelling task as Label Studio exports it, with one vote of `who`."""
    return {"id": 1, **TASK, "annotations": [{"result": [LEFT], "completed_by": who}]}


@dataclass(frozen=True)
class Case:
    """One broken input.

    Attributes:
        name: what is broken.
        make: folder -> path of the broken source.
        expect: words that the error must hold: the offending value and its place.
    """

    name: str
    make: Callable[[Path], Path]
    expect: tuple[str, ...]


@dataclass(frozen=True)
class BadTokenizer:
    """One broken tokenizer.

    Attributes:
        name: what is broken.
        make: returns the tokenizer.
        expect: words that the error must hold.
        row: the good row to encode with it.
        max_length: context to encode into.
    """

    name: str
    make: Callable[[], Any]
    expect: tuple[str, ...]
    row: dict[str, Any]
    max_length: int | None = 64


def _bytes(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _rows(*rows: Any, name: str = "data.jsonl") -> Callable[[Path], Path]:
    return _bytes(name, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _second(row: dict[str, Any], first: dict[str, Any] = PAIR) -> Callable[[Path], Path]:
    """A good row, then a bad one: the error must name line 2."""
    return _rows(first, row)


def _truncated_parquet(folder: Path) -> Path:
    path = folder / "data.parquet"
    pq.write_table(pa.Table.from_pylist([PAIR] * 100), path)
    path.write_bytes(path.read_bytes()[:-50])
    return path


def _folder(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "d").mkdir()
        for name in names:
            (folder / "d" / name).write_text("nothing\n")
        return folder / "d"

    return make


def _messages(*turns: Any) -> Callable[[Path], Path]:
    return _second({"messages": list(turns)}, TALK)


_GZIP = gzip.compress(json.dumps(PAIR).encode() * 200)
_LABEL = {"prompt": "a", "completion": "b", "label": True}
_SCORED = {"prompt": "a", "completions": ["x", "y"], "scores": [1, 2]}
_RANKED = {"prompt": "a", "completions": ["x", "y"], "ranks": [1, 2]}
_OUTPUTS = {"input": "a", "output_1": "x", "output_2": "y", "label": 1}
_ALPACA = {"instruction": "a", "output_1": "x", "output_2": "y", "preference": 1}
_GRADED = {"prompt": "a", "completions": [{"text": "x", "win_prob": 0.4}]}

DATA = [
    Case("no such file", lambda f: f / "dta.jsonl", ("no such file", "dta.jsonl")),
    Case("empty file", _bytes("data.jsonl", b""), ("data.jsonl", "0 bytes")),
    Case("blank lines only", _bytes("data.jsonl", b"\n \n"), ("no rows",)),
    Case("unknown extension", _bytes("data.xlsx", b"x"), (".xlsx", ".jsonl")),
    Case("no extension", _bytes("data", b"x"), ("unknown kind", "data")),
    Case("columns of no format", _rows({"a": 1, "b": 2}), ("`a`, `b`", "fit no format")),
    Case("pair without rejected", _rows({"chosen": "a"}), ("`chosen`", "fit no format")),
    Case("missing value", _second({**PAIR, "rejected": None}), ("data.jsonl:2", "`rejected`")),
    Case("missing key", _second({"prompt": "a", "chosen": "b"}), ("data.jsonl:2", "`rejected`")),
    Case("number for text", _second({**PAIR, "chosen": 3}), ("data.jsonl:2", "`chosen` is 3")),
    Case("object for text", _second({**PAIR, "chosen": {"t": 1}}), (":2", "`chosen` is {'t': 1}")),
    Case("lone surrogate", _second({**PAIR, "chosen": "\ud800"}), (":2", "surrogate")),
    Case("lone surrogate in a name", _second(_task("\ud800"), _task("ann")), (":2", "surrogate")),
    Case("empty answers only", _rows({**PAIR, "chosen": ""}), ("none of 1 rows", "empty answer")),
    Case("identical pairs only", _rows({**PAIR, "rejected": "Hello."}), ("identical answers",)),
    Case("empty prompts only", _rows({**PAIR, "prompt": " "}), ("empty prompt", "data.jsonl:1")),
    Case("row is a list", _rows(PAIR, [1, 2]), ("data.jsonl:2", "[1, 2] (list)")),
    Case(
        "broken JSON line", _bytes("data.jsonl", b'{"prompt": "a"}\n{"prompt": \n'), (":2", "JSON")
    ),
    Case(
        "JSON that is no list", _bytes("data.json", b'{\n"prompt": "a"\n}'), ("top level", "dict")
    ),
    Case("JSON cut short", _bytes("data.json", b'[{"prompt": "a"},'), ("data.json", "not JSON")),
    Case("broken gzip", _bytes("data.jsonl.gz", b"\x1f\x8bnonsense"), ("broken gzip",)),
    Case("no gzip at all", _bytes("data.jsonl.gz", b'{"prompt": "a"}'), ("broken gzip",)),
    Case("gzip cut short", _bytes("data.jsonl.gz", _GZIP[:-20]), ("broken gzip", "data.jsonl.gz")),
    Case("gzip without .gz", _bytes("data.jsonl", _GZIP), ("not UTF-8", "gzipped but not named")),
    Case("broken UTF-8", _bytes("data.jsonl", b'{"prompt": "caf\xe9"}\n'), ("xe9", "not UTF-8")),
    Case(
        "broken UTF-8 in CSV", _bytes("data.csv", b"prompt\ncaf\xe9\n"), ("data.csv", "not UTF-8")
    ),
    Case(
        "CSV quote never closed",
        _bytes("data.csv", b'prompt\n"a\nb\n'),
        ("data.csv, after line", "not CSV"),
    ),
    Case(
        "CSV quote inside",
        _bytes("data.csv", b'prompt\n"a" b\n'),
        ("data.csv, after line 1", "not CSV"),
    ),
    Case("CSV row too long", _bytes("data.csv", b"prompt\na,b\n"), ("data.csv:2", "more cells")),
    Case(
        "CSV row too short", _bytes("d.csv", b"prompt,completion\na\n"), ("d.csv:2", "fewer cells")
    ),
    Case("CSV score", _bytes("d.csv", b"prompt,completion,label\na,b,maybe\n"), (":2", "'maybe'")),
    Case("Parquet cut short", _truncated_parquet, ("data.parquet", "cannot be read")),
    Case("Parquet by name only", _bytes("data.parquet", b"prompt"), ("data.parquet",)),
    Case("folder without files", _folder(), ("folder without data", "no files")),
    Case("folder without data", _folder("README.md"), ("folder without data", "README.md")),
    Case("broken dataset folder", _folder("state.json"), ("`datasets` cannot open",)),
    Case(
        "label no boolean",
        _second({**_LABEL, "label": "so so"}, _LABEL),
        (":2", "`label` is 'so so'"),
    ),
    Case("label 2 of KTO", _second({**_LABEL, "label": 2}, _LABEL), (":2", "`label` is 2")),
    Case("label 3 of LLMBar", _second({**_OUTPUTS, "label": 3}, _OUTPUTS), (":2", "`label` is 3")),
    Case("preference 3", _second({**_ALPACA, "preference": 3}, _ALPACA), (":2", "is 3.0")),
    Case("NaN score", _second({**_SCORED, "scores": [1, float("nan")]}, _SCORED), (":2", "nan")),
    Case("infinite score", _second({**_SCORED, "scores": [1e400, 1]}, _SCORED), (":2", "inf")),
    Case("score is text", _second({**_SCORED, "scores": [1, "2"]}, _SCORED), (":2", "scores[1]")),
    Case(
        "scores of other length",
        _second({**_SCORED, "scores": [1]}, _SCORED),
        (":2", "2 completions"),
    ),
    Case(
        "ranks of other length", _second({**_RANKED, "ranks": [1, 2, 3]}, _RANKED), (":2", "not 3")
    ),
    Case(
        "completions no list", _second({**_SCORED, "completions": "x"}, _SCORED), (":2", "a list")
    ),
    Case(
        "win probability 40",
        _second({**_GRADED, "completions": [{"text": "x", "win_prob": 40}]}, _GRADED),
        (":2 completions[0]", "`win_prob` is 40"),
    ),
    Case("margin is text", _second({**PAIR, "margin": "much"}), (":2", "`margin` is 'much'")),
    Case("margin NaN", _second({**PAIR, "margin": float("nan")}), (":2", "`margin` is nan")),
    Case("messages without role", _messages({"content": "a"}, BOT), (":2", "messages[0].role")),
    Case("messages of unknown role", _messages({**USER, "role": "crowd"}, BOT), (":2", "'crowd'")),
    Case("messages of text", _messages("Hi?", "Hello."), (":2", "messages[0]", "'Hi?'")),
    Case("message content of parts", _messages({**USER, "content": [1]}, BOT), (":2", ".content")),
    Case("no assistant turn", _rows({"messages": [USER]}), ("no assistant turn", ":1")),
    Case("conversations end in user turn", _rows({"messages": [USER, BOT, USER]}), ("user turn",)),
    Case("assistant speaks first", _rows({"messages": [BOT, USER, BOT]}), ("starts with the",)),
    Case("prompt ends in assistant turn", _rows({"prompt": [USER, BOT]}), ("assistant turn",)),
    Case("prompt of chosen differs", _rows({"chosen": "abc", "rejected": "xyz"}), ("in common",)),
]


def _without_eos() -> Any:
    tokenizer = byte_bpe(CHATML)
    tokenizer.eos_token = None
    return tokenizer


_CHAT = {"prompt": [USER], "chosen": [BOT], "rejected": [{**BOT, "content": "Go away."}]}
_THINK = CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif")

TOKENIZERS = [
    BadTokenizer("no tokenizer", lambda: None, ("the tokenizer is None",), PAIR),
    BadTokenizer("a name for a tokenizer", lambda: "gpt2", ("'gpt2'", "(str)"), PAIR),
    BadTokenizer("no EOS", _without_eos, ("no EOS",), PAIR),
    BadTokenizer(
        "template forgets", lambda: byte_bpe(FORGETFUL), ("not prefix-preserving", "2 of 4"), TALK
    ),
    BadTokenizer("template thinks", lambda: byte_bpe(_THINK), ("not prefix-preserving",), _CHAT),
    BadTokenizer("template does not parse", lambda: byte_bpe("{% for"), ("does not parse",), _CHAT),
    BadTokenizer(
        "template refuses",
        lambda: byte_bpe("{{ raise_exception('no system role') }}"),
        ("no system role",),
        _CHAT,
    ),
    BadTokenizer("prompt too long", byte_bpe, ("prompt alone fills 2 tokens",), PAIR, 2),
    BadTokenizer("answers too long", byte_bpe, ("longer than 6 tokens",), PAIR, 6),
    BadTokenizer("no room at all", byte_bpe, ("max_length = 1",), PAIR, 1),
    BadTokenizer(
        "template renders nothing", lambda: byte_bpe("{# nothing #}"), ("has no tokens",), _CHAT
    ),
]
