"""Files as users of other tools bring them, by kind: the right value, or an error by name."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from other_tools import ALL, ASKED, TOOL, TOOLS, A, B, Case, Q, said, write
from tandem import cli
from tandem.data.chat.template import tools_of
from tandem.data.formats import read_data
from tandem.errors import DataError


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_the_right_value_or_an_error_by_name(case: Case, tmp_path: Path):
    path = write(tmp_path, case)
    if case.refused:
        with pytest.raises(DataError) as error:
            read_data(path)
        text, at = str(error.value), 0
        for words in case.refused:
            at = text.find(words, at) + len(words)
            assert at >= len(words), f"{words!r} is not in {text}"
        return
    found = read_data(path)
    wanted = case.kept or (len(case.rows) if isinstance(case.rows, list) else found.notes.kept)
    assert len(found.groups) == wanted
    group = found.groups[0]
    assert said(group) == case.prompt
    texts = [c.text for c in group.completions]
    assert {(texts[v.winner], texts[v.loser]) for v in group.preferences} == set(case.votes)
    scores = None if group.scores is None else float(group.scores[0])
    assert scores == case.score


def test_parquet_says_what_json_lines_say(tmp_path: Path):
    """Arrow gives every row the keys of all rows, and nulls where a row had none."""
    compared = 0
    for case in (c for c in ALL if isinstance(c.rows, list) and c.kind in ("json", "jsonl")):
        try:
            paths = [write(tmp_path, replace(case, kind=kind)) for kind in ("jsonl", "parquet")]
        except (pa.ArrowException, OverflowError):
            continue  # rows of several types, or numbers that Arrow does not hold
        one, other = map(outcome, paths)
        assert one == other, case.name
        compared += 1
    assert compared > 150


def outcome(path: Path) -> object:
    try:
        groups = read_data(path).groups
    except DataError as error:
        return str(error).splitlines()[1:]
    return [(said(g), [c.text for c in g.completions], g.preferences) for g in groups]


@pytest.mark.parametrize("asked", [Q, [ASKED]], ids=["text", "messages"])
@pytest.mark.parametrize("column", ["tools", "functions"])
@pytest.mark.parametrize("name", TOOLS)
def test_tools_reach_the_prompt(name: str, column: str, asked: Any, tmp_path: Path):
    given, there = TOOLS[name]
    row = {"prompt": asked, "chosen": A, "rejected": B, column: given}
    prompt = read_data(write(tmp_path, Case(name, [row]))).groups[0].prompt
    assert tools_of(prompt) == ([TOOL] if there else [])
    assert (prompt.messages is not None) == (there or asked != Q)


@pytest.mark.parametrize("given", [3, "[{'a': ", '{"a": ', [3], ["x"]])
def test_what_is_no_tool_is_refused(given: Any, tmp_path: Path):
    row = {"prompt": Q, "chosen": A, "rejected": B, "tools": given}
    with pytest.raises(DataError, match=":1: `tools`"):
        read_data(write(tmp_path, Case("", [row])))


ADVISED = [case for case in ALL if any("--" in words for words in case.refused)]


@pytest.mark.parametrize("case", ADVISED, ids=lambda case: case.name)
def test_advice_is_done_as_it_stands(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Every flag that an error names is one that the command takes, and the file is then read."""
    path = write(tmp_path, case)
    assert cli.main(["data", "check", str(path)]) == 2
    advice = re.findall(r"--(?:columns|format) [^;\s]+", capsys.readouterr().err)
    assert advice
    for words in advice:
        code = cli.main(["data", "check", str(path), *shlex.split(words)])
        assert code in (0, 1), capsys.readouterr().err
