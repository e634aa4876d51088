"""The cache of reference columns stays below its size; what was used last stays longest."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from climbing import FP32
from tandem.data.cached_groups import file_lock
from tandem.data.groups import Groups
from tandem.errors import ConfigError
from tandem.machine import Machine
from tandem.models.reference import reference_logprobs
from tandem.runs.atomic_files import evict_oldest, mark_used
from tandem.runs.checkpoint import Checkpoint
from tiny import folder, group


def files(place: Path, *names: str) -> list[Path]:
    """Files of 100 bytes, last used one second after the other."""
    made = [place / f"{name}.parquet" for name in names]
    for age, file in enumerate(made):
        file.write_bytes(b"x" * 100)
        os.utime(file, (1000 + age, 1000))
    return made


def test_the_least_recently_used_go_first_with_what_belongs_to_them(tmp_path: Path):
    a, b, c = files(tmp_path, "a", "b", "c")
    (tmp_path / "b.arrow").write_bytes(b"x" * 300)
    mark_used(a)
    evict_oldest(tmp_path.glob("*.parquet"), 250)
    assert (a.exists(), b.exists(), c.exists()) == (True, False, True)
    assert not (tmp_path / "b.arrow").exists()
    assert a.stat().st_mtime == 1000  # used is not changed


def test_a_file_that_somebody_works_on_stays(tmp_path: Path):
    a, b = files(tmp_path, "a", "b")
    with file_lock(a):
        evict_oldest(tmp_path.glob("*.parquet"), 0)
    assert (a.exists(), b.exists()) == (True, False)


def test_reference_columns_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """At 0 GB only the newest column is there, and each is computed again, alike."""
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    policy = Checkpoint(folder(tmp_path / "model"))
    rng = np.random.default_rng(0)
    one, two = (Groups.of([group(name, rng, 3, [4, 5])]) for name in "ab")
    first = reference_logprobs(policy, one, FP32)[0].completions[0].logp
    reference_logprobs(policy, two, FP32)
    place = tmp_path / "cache" / "reference"
    assert len(list(place.glob("*.parquet"))) == 2
    monkeypatch.setenv("TANDEM_CACHE_GB", "0")
    reference_logprobs(policy, one + two, FP32)
    assert len(list(place.glob("*.parquet"))) == 1
    again = reference_logprobs(policy, one, FP32)[0].completions[0].logp
    np.testing.assert_array_equal(again, first)
    monkeypatch.setenv("TANDEM_CACHE_GB", "plenty")
    with pytest.raises(ConfigError, match="TANDEM_CACHE_GB = 'plenty'"):
        reference_logprobs(policy, two, FP32)


def test_a_column_in_another_precision_is_another_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`auto` is bf16 on one machine and fp32 on the next, and both may share the cache."""
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    policy = Checkpoint(folder(tmp_path / "model"))
    one = Groups.of([group("a", np.random.default_rng(0), 3, [4, 5])])
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("tandem.models.reference.resolve_precision", lambda _, d=dtype: d)
        reference_logprobs(policy, one, Machine(device="cpu"))
    assert len(list((tmp_path / "cache" / "reference").glob("*.parquet"))) == 2
