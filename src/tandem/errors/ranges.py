"""Which values a setting may have: said at the field, checked by one function.

    @dataclass(frozen=True)
    class Optim:
        lr: Positive = 1e-5
        clip: Positive | None = 1.0

        def __post_init__(self) -> None:
            check_ranges(self, "optim")

The command line checks the same declarations before it makes anything.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from tandem.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Range:
    """An interval of numbers; nan lies in none.

    Attributes:
        low: the least value.
        high: the greatest value; infinity itself only where `infinite` is set.
        above: `low` itself is left out.
        below: `high` itself is left out.
        infinite: an infinite value is allowed where the interval has no end.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    infinite: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            return False
        if math.isinf(value) and not self.infinite:
            return False
        inside = self.low < value if self.above else self.low <= value
        return inside and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high) and not self.above:
            if not self.below:
                return f"from {_spell(self.low)} to {_spell(self.high)}"
            return f"from {_spell(self.low)} to below {_spell(self.high)}"
        low = "" if self.low == -math.inf else f"above {_spell(self.low)}"
        if low and not self.above:
            low = f"{_spell(self.low)} or more"
        if self.high == math.inf:
            return low or "a finite number"
        high = f"below {_spell(self.high)}" if self.below else f"{_spell(self.high)} or less"
        return f"{low}, {high}" if low else high


MANY = 10**9
"""More steps, epochs, prompts or tokens than any run on any machine has."""

Count = Annotated[int, Range(1, MANY)]
"""One or more."""
CountOrZero = Annotated[int, Range(0, MANY)]
"""None at all, or some."""
Number = Annotated[float, Range()]
"""Any finite number."""
Positive = Annotated[float, Range(0, above=True)]
"""Above 0."""
NotNegative = Annotated[float, Range(0)]
"""0 or more."""
Share = Annotated[float, Range(0, 1)]
"""A part of a whole, from 0 to 1."""
Decay = Annotated[float, Range(0, 1, below=True)]
"""From 0 to 1, without 1."""
LabelNoise = Annotated[float, Range(0, 0.5, below=True)]
"""A share of wrong labels: at 1/2 the rest says nothing."""


def check_ranges(config: Any, prefix: str) -> None:
    """Refuse a dataclass with a value outside the range that its field declares.

    Args:
        config: a dataclass whose fields carry a `Range` in `Annotated`.
        prefix: what the settings are called: `optim` for `optim.lr`; empty where a field's name is
            the setting's.

    Raises:
        ConfigError: naming the setting, its value and its range.
    """
    hints = _field_hints(type(config))
    for f in fields(config):
        check_value(f"{prefix}.{f.name}".lstrip("."), hints[f.name], getattr(config, f.name))


def check_value(name: str, hint: Any, value: Any) -> None:
    """Refuse a value outside the range in a type hint; a hint without one allows everything.

    Raises:
        ConfigError: naming the setting, its value and its range.
    """
    allowed = find_range(hint)
    if allowed is None or value is None:
        return
    for member in value if isinstance(value, tuple | list) else (value,):
        if member not in allowed:
            shown = list(value) if isinstance(value, tuple | list) else value
            raise ConfigError(
                f"{name} = {_shorten(shown)}",
                f"it has to be {allowed}" + (", each part" if member is not value else ""),
                f"give {name} a value in this range, or leave it out for its default",
            )


def find_range(hint: Any) -> Range | None:
    """Return the range in a type hint: of a number, of an optional one, of a tuple's members."""
    if get_origin(hint) is Annotated:
        return next((m for m in get_args(hint)[1:] if isinstance(m, Range)), None)
    if get_origin(hint) in (Union, UnionType, tuple, list):
        members = (find_range(a) for a in get_args(hint) if a not in (NoneType, Ellipsis))
        return next((r for r in members if r is not None), None)
    return None


def range_of_field(kind: type, name: str) -> Range | None:
    """Return the range that a dataclass declares for a field, or None."""
    return find_range(_field_hints(kind)[name])


@cache
def _field_hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _spell(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
