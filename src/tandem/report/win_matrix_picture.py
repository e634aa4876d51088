"""The picture of a win matrix: a square for every pair, told by number and by colour."""

from __future__ import annotations

import html

from tandem.evaluation.win_matrix import WinMatrix

CELL, LEFT, TOP = 58, 130, 96
WIN, LOSS, EVEN = (11, 95, 165), (185, 60, 10), (252, 251, 248)
"""Blue where the row wins and orange where it loses, as in `tandem game`'s picture."""
FULL = 0.25
"""Distance from one half at which a square has its full colour."""


def draw_win_matrix(found: WinMatrix) -> str:
    """Return an SVG with a title and a description for those who cannot see it."""
    n = len(found.names)
    width, height = LEFT + n * CELL + 8, TOP + n * CELL + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-labelledby="wins-title wins-desc" font-family="sans-serif" font-size="11">',
        '<title id="wins-title">How often each policy (row) beats each other (column)</title>',
        f'<desc id="wins-desc">{html.escape(describe_win_matrix(found))}</desc>',
        f'<rect width="{width}" height="{height}" fill="#fcfbf8"/>',
    ]
    for k, name in enumerate(found.names):
        middle = CELL * (k + 0.5)
        label = html.escape(name)
        parts.append(
            f'<text x="{LEFT - 6}" y="{TOP + middle + 4:g}" text-anchor="end">{label}</text>'
        )
        at = f"{LEFT + middle:g} {TOP - 8}"
        parts.append(f'<text transform="translate({at}) rotate(-45)">{label}</text>')
    for i, a in enumerate(found.names):
        for j, b in enumerate(found.names):
            parts.append(_square(found, a, b, LEFT + j * CELL, TOP + i * CELL))
    return "\n".join([*parts, "</svg>"]) + "\n"


def describe_win_matrix(found: WinMatrix) -> str:
    """Say in words what the picture shows: who loses most to whom."""
    told = (
        f"{name} loses {by:.1%} above one half to {to}" for name, (by, to) in found.losses().items()
    )
    return "; ".join(told)


def _square(found: WinMatrix, a: str, b: str, x: int, y: int) -> str:
    p = found.win(a, b)
    share = min(1.0, abs(p - 0.5) / FULL)
    tone = WIN if p > 0.5 else LOSS
    fill = "#" + "".join(
        f"{round(e + share * (t - e)):02x}" for e, t in zip(EVEN, tone, strict=True)
    )
    ink = "#ffffff" if share > 0.55 else "#1c1b19"
    weight = ' font-weight="bold"' if found.is_resolved(a, b) else ""
    text = "" if a == b else f"{100 * p:.0f}{'*' * found.is_resolved(a, b)}"
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" fill="{fill}"/>'
        f'<text x="{x + CELL / 2 - 1:g}" y="{y + CELL / 2 + 4:g}" text-anchor="middle" '
        f'fill="{ink}"{weight}>{text}</text>'
    )
