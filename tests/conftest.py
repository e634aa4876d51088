"""What every test of this project has in common."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

HEAVIEST_FIRST = (
    "tests/e2e/test_bench_methods.py",
    "tests/e2e/test_bench.py",
    "tests/golden/test_curves.py",
)
"""Files in which a worker is busy for long. Begun last, they would leave the other worker idle."""


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Columns kept between runs stay inside the test session."""
    os.environ["TANDEM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums depend on their number, and a bench's workers share them out."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest (`make test` keeps this order)."""
    place = {name: k for k, name in enumerate(HEAVIEST_FIRST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))
