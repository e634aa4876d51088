"""How numbers are spelled on the page: true minus signs, few digits, units that people read."""

from __future__ import annotations

import math
from collections.abc import Callable

from tandem.statistics import Estimate

MINUS, THIN, NONE = "\u2212", "\u202f", "\u2013"


def spell_decimal(x: float | None, digits: int = 2) -> str:
    """Spell `−0.42`; a dash where there is no number."""
    if x is None or not math.isfinite(x):
        return NONE
    text = f"{x:,.{digits}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) else f"{0:.{digits}f}"


def spell_signed(x: float | None, digits: int = 2) -> str:
    """Spell `+0.24`, `−0.69`."""
    text = spell_decimal(x, digits)
    rises = x is not None and x > 0 and any(c in "123456789" for c in text)
    return f"+{text}" if rises else text


def spell_percent(x: float | None) -> str:
    """Spell a share as `57.5 %`."""
    return NONE if x is None or not math.isfinite(x) else f"{spell_decimal(100 * x, 1)}{THIN}%"


def spell_interval(found: Estimate, spell: Callable[[float], str]) -> str:
    """Spell `[54.9 %, 60.1 %]`; empty where the interval is unknown."""
    if math.isnan(found.low) or math.isnan(found.high):
        return ""
    return f"[{spell(found.low)}, {spell(found.high)}]"


def spell_note(found: Estimate, spell: Callable[[float], str]) -> str:
    """Spell what stands below a number: its interval, or why there is none."""
    return spell_interval(found, spell) or found.method


def spell_p_value(p: float | None) -> str:
    """Spell `p = 0.031` or `p < 0.001`."""
    if p is None or not math.isfinite(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def spell_count(n: int, what: str) -> str:
    """Spell `1,000 prompts`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def round_up(n: int) -> str:
    """Spell about how many: two digits, rounded up, with thousands marked."""
    digits = 10 ** max(0, len(str(n)) - 2)
    return f"{math.ceil(n / digits) * digits:,}"


def spell_seconds(s: float | None) -> str:
    """Spell `8.8 s`, `1 min 20 s`, `2 h 05 min`."""
    if s is None or not math.isfinite(s):
        return NONE
    if s < 60:
        return f"{s:.1f} s"
    minutes, rest = divmod(round(s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def spell_memory(size: float | None) -> str:
    """Spell bytes as `2.36 GiB`."""
    return NONE if size is None else f"{size / 2**30:.2f} GiB"
