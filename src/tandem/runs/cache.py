"""How much is kept between runs: the size of the cache of computed columns."""

from __future__ import annotations

import math
import os

from tandem.errors import ConfigError


def cache_limit() -> int:
    """Return how large the cache of reference columns may grow, in bytes: `$TANDEM_CACHE_GB`.

    Raises:
        ConfigError: the variable is not a number of gigabytes.
    """
    given = os.environ.get("TANDEM_CACHE_GB", "20")
    try:
        size = float(given)
    except ValueError:
        size = math.nan
    if not size >= 0:
        raise ConfigError(
            f"TANDEM_CACHE_GB = {given!r}",
            "columns that were not used for longest are deleted above this size",
            "give a number of gigabytes, for example 20; 0 keeps only the newest column",
        )
    return int(size * 1e9)
