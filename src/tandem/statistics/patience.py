"""Early stopping: which value of a curve was best, and when to wait no longer for a better one.

curve = [0.31, 0.44, 0.42, 0.40]
best_index(curve)                       # 1
is_out_of_patience(curve, patience=2)   # True: two values in a row were no better
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def best_index(values: Sequence[float]) -> int:
    """Return the index of the highest value, the first of equal ones; NaN is below everything.

    Raises:
        ValueError: there are no values.
    """
    return max(range(len(values)), key=lambda k: -math.inf if math.isnan(values[k]) else values[k])


def is_out_of_patience(values: Sequence[float], patience: int | None) -> bool:
    """Return True when the last values in a row were no better than the best before them.

    Args:
        values: a curve; the first value is where it started.
        patience: how many in a row are enough; None is never out of patience.

    Raises:
        ValueError: there are no values.
    """
    return patience is not None and len(values) - 1 - best_index(values) >= patience
