"""What a rejection sample became: how hard it was to be accepted, how far it is tilted."""

from __future__ import annotations

from tandem.data.groups import Groups
from tandem.operators import rejection
from tandem.operators.columns import scores_of
from tandem.runs.display import spelled
from tandem.runs.events import Events
from tandem.statistics import tilt


def tilted(pool: Groups, accepted: Groups, how: rejection, *, events: Events) -> dict[str, float]:
    """Say how hard it was to be accepted and how far the accepted are tilted, see `tilt`."""
    units = [how.scale(group) for group in pool]
    rows = [
        scores_of(group, "tilt")[how.candidates(group)] / unit
        for group, unit in zip(pool, units, strict=True)
    ]
    kept = [scores_of(group, "tilt") / unit for group, unit in zip(accepted, units, strict=True)]
    numbers = tilt(rows, kept, how.beta)
    events.log("tilt", text=spelled(numbers), **numbers)
    return numbers
