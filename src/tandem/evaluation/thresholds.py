"""What a threshold keeps: ReST's first has to lie above the mean reward."""

from __future__ import annotations

import numpy as np

from tandem.data.groups import Groups
from tandem.operators import above
from tandem.operators.columns import scores_of
from tandem.runs.events import Events


def above_mean(D: Groups, how: above, *, events: Events) -> dict[str, float]:
    """Say what the threshold keeps, and how much of that is no better than the mean.

    A threshold at or below the mean leaves answers to be learned from that make the policy no
    better: arXiv:2308.08998 asks for tau_1 > mean R. The mean is that of the threshold's scope.

    Returns:
        `mean` of all scores; `kept`, share of completions above the threshold; `worse`, share of
        the kept that score no more than the mean, above 0 where the threshold is too low.
    """
    rows = [scores_of(group, "threshold") for group in D]
    scopes = rows if how.scope == "per_prompt" else [np.concatenate(rows)]
    kept = np.concatenate([r > how.cut(r) for r in scopes])
    worse = kept & np.concatenate([r <= r.mean() for r in scopes])
    numbers = {
        "mean": float(np.concatenate(rows).mean()),
        "kept": float(kept.mean()),
        "worse": float(worse.sum() / max(1, kept.sum())),
    }
    text = f"{numbers['kept']:.0%} of answers lie above the first threshold"
    if worse.any():
        text += f", which is not above the mean: {numbers['worse']:.0%} of them score no more"
    events.log("threshold", text=text, **numbers)
    return numbers
