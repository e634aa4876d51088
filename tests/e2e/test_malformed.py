"""Each broken input ends in one error of three parts that names the value and its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from malformed import DATA, TOKENIZERS, BadTokenizer, Case, _rows
from tandem.data.chat import encode_groups
from tandem.data.check.check import check_data
from tandem.data.formats import read_data
from tandem.errors import TandemError


def assert_helps(error: TandemError, expect: tuple[str, ...]) -> None:
    for part in (error.what, error.why, error.do):
        assert part.strip(), f"an empty part in {error!s}"
        assert "\n" not in part
    for words in expect:
        assert words in str(error), f"{words!r} not in {error!s}"


def test_there_are_enough_cases_and_names_are_unique():
    names = [case.name for case in (*DATA, *TOKENIZERS)]
    assert len(names) == len(set(names)) >= 60


@pytest.mark.parametrize("case", DATA, ids=lambda case: case.name)
def test_broken_data(case: Case, tmp_path: Path):
    path = case.make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TandemError) as error:
        read_data(path)
    assert_helps(error.value, case.expect)
    assert sorted(tmp_path.rglob("*")) == before, "no half result is left behind"


@pytest.mark.parametrize("case", TOKENIZERS, ids=lambda case: case.name)
def test_broken_tokenizer(case: BadTokenizer, tmp_path: Path):
    groups = read_data(_rows(case.row)(tmp_path)).groups
    with pytest.raises(TandemError) as error:
        encode_groups(groups, case.make(), max_length=case.max_length, cache=tmp_path / "cache")
    assert_helps(error.value, case.expect)
    finished = [p for p in tmp_path.rglob("encoded-*") if p.suffix in (".parquet", ".json")]
    assert not finished, "no half result is left behind"


def test_check_refuses_what_read_refuses(tmp_path: Path):
    for case in DATA[:6]:
        folder = tmp_path / case.name
        folder.mkdir()
        with pytest.raises(TandemError):
            check_data(case.make(folder))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_row_that_breaks_late_leaves_no_half_cache(
    streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if streamed:
        monkeypatch.setattr("tandem.data.formats.reader.STREAM_ABOVE_BYTES", 0)
    path = _rows(*[{"prompt": f"{k}"} for k in range(3000)], {"prompt": 7})(tmp_path)
    for _ in range(2):
        with pytest.raises(TandemError, match=r"data\.jsonl:3001"):
            read_data(path, cache=tmp_path / "cache")
    assert not list(tmp_path.rglob("read-*.parquet"))
