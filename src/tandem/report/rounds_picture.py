"""Rounds on one axis: what each quantity was when so many labels had been spent.

A panel a quantity: the reward's accuracy on the newest held-out labels, gold, proxy, KL to the
start, and Elo above it, each with its 95 % interval.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PAPER, INK, MUTED, RULE, LINE = "#fcfbf8", "#1c1b19", "#5d5951", "#d8d3c8", "#0b5fa5"
PANELS = {"right": "reward right on the newest", "gold": "gold", "proxy": "proxy", "KL": "KL, nats",
          "Elo": "Elo above the start"}  # fmt: skip


def draw_rounds(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of rounds against labels spent.

    Args:
        rows: the table that `evaluate_rounds` returns as `numbers`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    fixed: Any = {
        "svg.hashsalt": "tandem", "svg.fonttype": "none", "text.parse_math": False,
        "font.family": "sans-serif", "font.size": 9, "text.color": INK, "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
        "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": PAPER,
        "figure.facecolor": PAPER,
    }  # fmt: skip
    series = {name: points for name in PANELS if (points := points_of(rows, name))}
    with mpl.rc_context(fixed):
        figure = Figure(figsize=(2.5 * max(1, len(series)), 2.4), layout="constrained")
        grid = figure.subplots(1, max(1, len(series)), squeeze=False)[0]
        for axes, (name, points) in zip(grid, series.items(), strict=False):
            x, y = [p[0] for p in points], [p[1] for p in points]
            below = [np.maximum(0.0, p[1] - p[2]) for p in points]
            above = [np.maximum(0.0, p[3] - p[1]) for p in points]
            axes.errorbar(x, y, [below, above], color=LINE, marker="o", capsize=2, linewidth=1.2)
            axes.set(title=PANELS[name], xlabel="labels")
        raw = io.StringIO()
        title = f"{len(rows) - 1} rounds: {', '.join(series) or 'nothing was measured'}"
        figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return raw.getvalue()


def points_of(
    rows: Sequence[Mapping[str, Any]], name: str
) -> list[tuple[float, float, float, float]]:
    """Return (labels, mean, low, high) of the rounds in which a quantity was measured.

    Without an interval its ends are nan, and a mark alone is drawn.
    """
    found: list[tuple[float, float, float, float]] = []
    for row in rows:
        cell = row.get(name) if name != "right" else _newest_accuracy(row)
        if not isinstance(cell, Mapping) or cell.get("mean") is None:
            continue
        nan = float("nan")
        low, high = (nan if cell.get(k) is None else float(cell[k]) for k in ("low", "high"))
        found.append((float(row["labels"]), float(cell["mean"]), low, high))
    return found


def _newest_accuracy(row: Mapping[str, Any]) -> Any:
    """Return the accuracy on the newest tranche that the round's reward was fitted to."""
    return row.get(f"right on {int(row['round']) - 1}")
