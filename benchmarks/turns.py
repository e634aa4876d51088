"""Ways of doing the same, each in a process of its own, by turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, make_model

TURNS = 5
Found = dict[str, list[dict[str, Any]]]
"""Way -> what each of its processes printed."""


def by_turns(
    script: str,
    ways: Mapping[str, list[str]],
    told: list[str],
    threads: int,
    turns: int = TURNS,
) -> Found:
    """Run `script --child WORKLOAD FOLDER WAY ...`, whose last line of JSON is what it found.

    Args:
        script: a benchmark's file.
        ways: way -> the command that starts Python.
        told: the workload's name, and what else the child is told.
        threads: of each process.
        turns: how often each way is run.
    """
    seen: Found = {way: [] for way in ways}
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as place:
        make_model(Path(place), WORKLOADS[told[0]].shape)
        for _ in range(turns):
            for way, start in ways.items():
                words = [*start, script, "--child", told[0], place, way, *told[1:]]
                out = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
                lines = [line for line in out.stdout.splitlines() if line.startswith("{")]
                seen[way].append(json.loads(lines[-1]))
    return seen


def medians(seen: Found, key: str) -> dict[str, float]:
    """Way -> the median of what its processes printed under a key."""
    return {way: statistics.median(one[key] for one in found) for way, found in seen.items()}


def as_child(child: Callable[..., None]) -> bool:
    """Be the child if this process was started as one."""
    if sys.argv[1:2] != ["--child"]:
        return False
    name, place, *rest = sys.argv[2:]
    child(name, Path(place), *rest)
    return True
