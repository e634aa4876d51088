"""Large collections: the same content wherever they lie, and memory that does not follow rows."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.data import groups as collections
from tandem.data.check.check import check_data
from tandem.data.check.facts import Lengths
from tandem.data.formats import read_data, split_groups
from tandem.data.formats.compact_map import SMALLEST, CompactMap
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Prompt

CHUNK = collections.ROWS_PER_CHUNK


def write_pairs(path: Path, rows: int) -> Path:
    dice = random.Random(1)
    lines = [
        {"prompt": f"ask {k % (rows - 9)}", "chosen": f"a{dice.random()}", "rejected": f"b{k}"}
        for k in range(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)), max_size=60))
def test_a_compact_map_is_a_dict(pairs: list[tuple[int, int]]):
    compact, known = CompactMap(), dict[int, int]()
    for key, value in pairs:
        key = key or 1  # 0 and 1 are one key
        assert compact.set_default(key, value) == known.get(key)
        known.setdefault(key, value)
    assert len(compact) == len(known)
    assert all(key in compact for key in known)


@pytest.mark.parametrize("values", ["lower half", "others"])
def test_a_compact_map_grows(values: str):
    compact = CompactMap()
    keys = [random.Random(k).getrandbits(64) | 1 for k in range(4 * SMALLEST)]
    wanted = [key & 0xFFFFFFFF if values == "lower half" else key >> 40 for key in keys]
    assert [compact.set_default(k, v) for k, v in zip(keys, wanted, strict=True)] == [None] * len(
        keys
    )
    assert [compact.set_default(k, 0) for k in keys] == wanted
    assert (2 in compact, len(compact)) == (False, len(keys))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=50), st.integers(0, 40))
def test_counted_lengths_have_the_quantiles_of_the_list(sizes: list[int], limit: int):
    found = Lengths.of(Counter(sizes), "tokens", limit)
    assert found.quantiles == tuple(int(np.quantile(sizes, q) + 1e-9) for q in (0, 0.5, 0.95, 1))
    assert found.counts == tuple(np.histogram(sizes, bins=10)[0].tolist())
    assert found.too_long == sum(size > limit for size in sizes)


def test_what_lies_in_a_file_is_what_lies_in_memory(tmp_path, monkeypatch):
    path = write_pairs(tmp_path / "data.jsonl", 3 * CHUNK)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    small = read_data(path).groups
    parts = {name: part.hash for name, part in split_groups(small, {"a": 0.8, "b": 0.2}).items()}
    checked = check_data(path).json()
    monkeypatch.setattr(collections, "MAP_ABOVE_BYTES", 1000)
    large = read_data(path).groups
    assert large._mappings
    assert not small._mappings
    assert large.hash == small.hash
    assert [g.id for g in large[CHUNK - 2 : CHUNK + 2]] == [
        g.id for g in small[CHUNK - 2 : CHUNK + 2]
    ]
    assert {n: p.hash for n, p in split_groups(large, {"a": 0.8, "b": 0.2}).items()} == parts
    assert check_data(path).json() == checked
    both = large + large
    assert (len(both), both[-1].id) == (2 * len(large), large[-1].id)
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_rows_are_kept_where_asked():
    groups = Groups.of(Group(Prompt(f"p{k}", "x"), (Completion("y"),)) for k in range(CHUNK + 5))
    kept = np.arange(len(groups)) % 3 == 0
    assert [g.id for g in groups.keep_where(kept)] == [f"p{k}" for k in np.flatnonzero(kept)]
    assert len(groups.keep_where(np.zeros(len(groups), bool))) == 0


MEASURED = """
import resource, sys
from tandem.data import groups
from tandem.data.formats import reader
groups.MAP_ABOVE_BYTES = reader.STREAM_ABOVE_BYTES = 1 << 18
from tandem.data.check.check import check_data
assert check_data(sys.argv[1]).facts.groups == int(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_the_memory_of_a_check_does_not_follow_the_rows(tmp_path, monkeypatch):
    """With ten times the rows the peak grows by less than 30 bytes a row beyond 16 MiB."""
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    peaks = {}
    for rows in (4000, 40_000):
        path = write_pairs(tmp_path / f"{rows}.jsonl", rows)
        command = [sys.executable, "-c", MEASURED, str(path), str(rows)]
        peaks[rows] = float(subprocess.run(command, capture_output=True, check=True).stdout)
    assert peaks[40_000] < peaks[4000] + 16 + 30 * 36_000 / 2**20
