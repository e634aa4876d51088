"""What every test of this project has in common."""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVIEST_FIRST = (
    "tests/theory/test_selection_f2.py",
    "tests/golden/test_curves.py",
    "tests/e2e/test_bench.py",
    "tests/e2e/test_bench_interrupt.py",
    "tests/e2e/test_bench_methods.py",
    "tests/unit/test_preference.py",
    "tests/property/test_layouts.py",
    "tests/e2e/test_command_line.py",
    "tests/theory/test_self_improvement.py",
    "tests/unit/test_formats_shared.py",
    "tests/unit/test_room.py",
    "tests/docs/test_blocks.py",
    "tests/unit/test_loop.py",
)
"""Files that keep a worker busy for long. Begun last, they would leave the other worker idle."""


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Columns kept between runs stay inside the test session."""
    os.environ["TANDEM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _own_token() -> None:
    """Clusters of Ray that tests start know each other, and leave no token in the home."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums depend on their number, and a bench's workers share them out."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later collection of garbage, as a command does."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest (`make test` keeps this order)."""
    missing = [name for name in HEAVIEST_FIRST if not (ROOT / name).is_file()]
    if missing:
        raise pytest.UsageError(f"HEAVIEST_FIRST in tests/conftest.py names no file: {missing}")
    place = {name: k for k, name in enumerate(HEAVIEST_FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))
