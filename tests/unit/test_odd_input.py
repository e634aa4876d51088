"""Input of a shape that nobody meant: read as what it is, or refused in three parts."""

from __future__ import annotations

import csv
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tandem import cli
from tandem.data.formats import read_data
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.errors import ConfigError, DataError
from tandem.runs.display import Hidden
from tandem.runs.run import Run

GRADED = {"prompt": "ask", "completions": [{"text": "a", "win_prob": 0.9},
                                           {"text": "b", "win_prob": 0.2}]}  # fmt: skip
SHARED = {"conversations": [{"from": "human", "value": "hi"}],
          "chosen": {"from": "gpt", "value": "yes"},
          "rejected": {"from": "gpt", "value": "no"}}  # fmt: skip
ULTRA = {"instruction": "ask", "completions": [{"response": "a", "overall_score": 3},
                                               {"response": "b", "overall_score": 1}]}  # fmt: skip
TALK = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def write_both(folder: Path, row: dict[str, Any]) -> tuple[Path, Path]:
    """Write a row as JSON Lines, and as CSV with JSON in its cells."""
    lines, table = folder / "data.jsonl", folder / "data.csv"
    lines.write_text(json.dumps(row) + "\n")
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(row)
        writer.writerow(v if isinstance(v, str) else json.dumps(v) for v in row.values())
    return lines, table


@pytest.mark.parametrize("row", [GRADED, SHARED, ULTRA, TALK], ids=lambda row: "+".join(row))
def test_a_csv_cell_means_what_json_means(row: dict[str, Any], tmp_path: Path):
    one, other = (read_data(path) for path in write_both(tmp_path, row))
    assert one.format == other.format
    assert one.groups.hash == other.groups.hash


def make_groups() -> Groups:
    answers = (Completion("a"), Completion("b"))
    return Groups.of(Group(Prompt(f"p{k}", "q"), answers, None, (Preference(0, 1),)) for k in "xy")


BROKEN: dict[str, tuple[str, Any]] = {
    "a text for a list": ("better", pa.array(["0", "1"])),
    "one author of two": ("author", pa.array([["a"], ["a", "b"]])),
    "one loser too many": ("worse", pa.array([[1], [1, 0]], pa.list_(pa.int32()))),
    "a null in a vote": ("better", pa.array([[None], [0]], pa.list_(pa.int32()))),
    "no id": ("id", pa.array([None, "y"])),
    "meta that is no JSON": ("meta", pa.array(["{", "{}"])),
    "meta that is a list": ("meta", pa.array(["[]", "{}"])),
    "messages of no role": ("messages", pa.array(['[{"content": "a"}]', None])),
    "messages that are a number": ("messages", pa.array(["7", None])),
    "the same id twice": ("id", pa.array(["x", "x"])),
}


@pytest.mark.parametrize("name", BROKEN)
def test_our_own_columns_with_something_else_in_them(name: str, tmp_path: Path):
    column, values = BROKEN[name]
    table = make_groups().table
    path = tmp_path / "groups.parquet"
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, values), path)
    with pytest.raises(DataError):
        read_data(path)
    assert cli.main(["data", "check", str(path)]) == 2


def test_our_own_columns_are_read(tmp_path: Path):
    make_groups().write(tmp_path / "groups.parquet")
    assert read_data(tmp_path / "groups.parquet").groups.hash == make_groups().hash


@pytest.mark.parametrize("who", [["human"], {"a": 1}, None, 3])
def test_a_speaker_that_is_no_name(who: Any, tmp_path: Path):
    turns = [{"from": who, "value": "a"}, {"from": "gpt", "value": "b"}]
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"conversations": turns}) + "\n")
    with pytest.raises(DataError, match=r"data\.jsonl:1"):
        read_data(path)


@pytest.mark.parametrize("limit", [-1, 10**30])
def test_a_limit_has_a_range(limit: int, tmp_path: Path):
    path, _ = write_both(tmp_path, TALK)
    with pytest.raises(ConfigError, match="limit = "):
        read_data(path, limit=limit)
    assert cli.main(["data", "check", str(path), f"--limit={limit}"]) == 2


def make_number(value: float) -> dict[str, Any]:
    return {"numbers": value} if value else {"x": 1}


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_page_of_values_that_are_none(value: float, tmp_path: Path, capsys):
    with Run(tmp_path / "run", 0, display=Hidden()) as run:
        run("policy-exam", make_number, value)
    assert cli.main(["report", str(tmp_path / "run")]) == 2
    assert "no measurements" in capsys.readouterr().err


def test_a_page_of_a_run_that_ended_before_its_exam(tmp_path: Path):
    with Run(tmp_path / "run", 0, display=Hidden()) as run:
        run("groups", make_groups)
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert "ended before its exam" in (tmp_path / "run/report.html").read_text()


def test_a_connection_that_breaks_off_is_tried_again(tmp_path: Path, monkeypatch):
    pytest.importorskip("openai")
    from tandem.engines.language_models.openai import Server
    from tandem.engines.language_models.retry import RetryPolicy
    from tandem.errors import EngineError
    from tandem.machine import Machine

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    half = b'HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{"choices": ['
    asked: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                with line:
                    asked.append(len(line.recv(65536)))
                    line.sendall(half)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        patience = RetryPolicy(timeout=5, retries=2, first=0.01, longest=0.02)
        model = Server("m", url, key=None, patience=patience, kept=tmp_path / "k.sqlite")
        question = Prompt("q", "", ({"role": "user", "content": "(A) or (B)?"},))
        with pytest.raises(EngineError, match="broke off"):
            list(model.open(Machine()).label([question], (("(A)",), ("(B)",))))
    assert len(asked) == 3
