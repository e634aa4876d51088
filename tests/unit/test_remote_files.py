"""Data and models behind addresses: fetched once, and again when they changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest

from tandem.cli import main
from tandem.data.formats import read_data
from tandem.data.remote_files import fetch_files, is_address
from tandem.errors import DataError, ModelError
from tandem.models.model_finder import find_model
from tandem.runs.checkpoint import Checkpoint
from tiny import folder

PAIRS = [
    {"prompt": f"What is {i}?", "chosen": f"a number {i}", "rejected": "a fruit"} for i in range(8)
]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path.name}"


def _put(url: str, data: bytes) -> str:
    files, place = fsspec.core.url_to_fs(url)
    files.makedirs(place.rpartition("/")[0], exist_ok=True)
    files.pipe_file(place, data)
    return url


def _lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_an_address_is_told_from_a_path():
    assert all(map(is_address, ["s3://b/x", "memory://x", "file:///x", "https://host/x.jsonl"]))
    assert not any(map(is_address, ["C:\\data.csv", "owner/name", "data/x.jsonl", "s3:/b", None]))


def test_data_are_read_as_if_they_lay_here(root: str, cache: Path):
    url = _put(f"{root}/pairs.jsonl", _lines(PAIRS))
    assert len(read_data(url).groups) == len(PAIRS)
    [first] = cache.glob("fetched/*/pairs.jsonl")
    stamp = first.stat().st_mtime_ns
    assert len(read_data(url).groups) == len(PAIRS)
    assert first.stat().st_mtime_ns == stamp, "fetched once"
    _put(url, _lines(PAIRS[:5]))
    assert len(read_data(url).groups) == 5, "and again when it changed"
    assert not list(cache.glob("fetched/.coming-*"))


def test_a_folder_of_data(root: str):
    _put(f"{root}/data/train.jsonl", _lines(PAIRS[:6]))
    _put(f"{root}/data/test.jsonl", _lines(PAIRS[6:]))
    assert len(read_data(f"{root}/data", split="train").groups) == 6


def test_a_model_is_the_folder_that_it_was(root: str, tmp_path: Path):
    """Without files that are no model's: nothing that could be run is fetched."""
    made = folder(tmp_path / "made")
    for file in made.iterdir():
        _put(f"{root}/my-model/{file.name}", file.read_bytes())
    _put(f"{root}/my-model/modeling.py", b"raise SystemExit")
    _put(f"{root}/my-model/pytorch_model.bin", b"pickle")
    found = find_model(f"{root}/my-model")
    assert found.name == "my-model"
    assert found.hash == Checkpoint(made).hash
    assert {f.suffix for f in found.path.iterdir()} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.parametrize(("read", "kind"), [(read_data, DataError), (find_model, ModelError)])
def test_what_is_not_there_is_said(read: Any, kind: type[Exception], root: str):
    with pytest.raises(kind, match="nothing is at"):
        read(f"{root}/nowhere")
    with pytest.raises(kind, match="no-such-store"):
        read("no-such-store://bucket/name")
    with pytest.raises(kind, match="holds a key") as told:
        read("s3://me:canary@bucket/name")
    assert "canary" not in str(told.value)


class Hostile:
    """A store whose files have names that lead elsewhere."""

    def __init__(self, name: str) -> None:
        self.name = name

    def exists(self, place: str) -> bool:
        return True

    def isfile(self, place: str) -> bool:
        return False

    def find(self, place: str) -> list[str]:
        return [f"{place}/{self.name}"]


@pytest.mark.parametrize("name", ["../out.jsonl", "a/../../out.jsonl", "..\\out.jsonl"])
def test_names_that_lead_out_are_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (Hostile(name), "bucket/data"))
    with pytest.raises(DataError, match="leads out"):
        fetch_files("s3://bucket/data", DataError)


def test_a_store_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, cache: Path, root: str):
    url = _put(f"{root}/pairs.jsonl", _lines(PAIRS))
    kind = type(fsspec.core.url_to_fs(url)[0])

    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "get_file", broken)
        with pytest.raises(DataError, match="was not fetched: ConnectionError: gone"):
            read_data(url)
    assert not list(cache.rglob("*.jsonl"))
    assert len(read_data(url).groups) == len(PAIRS)


def test_the_command_line_takes_addresses(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    url = _put(f"file://{tmp_path}/store/pairs.jsonl", _lines(PAIRS))
    assert main(["data", "check", url]) == 0
    assert "pairs.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    "url",
    [
        "https://host/get?token=SECRET&file=p.jsonl",
        "https://b.s3.amazonaws.com/p.jsonl?X-Amz-Credential=SECRET",
        "https://b.s3.amazonaws.com/p.jsonl?X-Amz-Signature=SECRET",
        "s3://me:SECRET/with@bucket/p.jsonl",
    ],
)
def test_an_address_with_a_secret_is_refused_without_saying_it(url: str):
    with pytest.raises(DataError, match="holds a key") as refused:
        read_data(url)
    assert "SECRET" not in f"{refused.value.what}{refused.value.why}{refused.value.do}"
