"""What every test of this project has in common."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Columns kept between runs stay inside the test session."""
    os.environ["TANDEM_CACHE"] = str(tmp_path_factory.mktemp("cache"))
