"""The picture of `tandem game`: what each way of learning does, and how exploitable it is.

Every way has a panel of its own, so that nothing is told by colour alone: the last iterate is a
full line, the average a broken one. A game of three has a triangle above each, too.
"""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import numpy as np

from tandem.cli.game_text import GameFindings, shorten_name
from tandem.statistics.games import Trajectory
from tandem.statistics.numerics import Floats, Ints

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
PAPER, INK, MUTED, RULE = "#fcfbf8", "#1c1b19", "#5d5951", "#d8d3c8"
LAST, AVERAGE = "#0b5fa5", "#b93c0a"
"""Blue and orange-red: told apart with every kind of colour vision, and in grey by the dashes."""

FLOOR = 1e-5
POINTS = 500
COLUMNS = 4


def draw_dynamics(found: GameFindings) -> str:
    """Return an SVG with a title and a description for those who cannot see it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    fixed: Any = {
        "svg.hashsalt": "tandem", "svg.fonttype": "none", "text.parse_math": False,
        "font.family": "sans-serif", "font.size": 9, "text.color": INK, "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED, "xtick.color": RULE, "ytick.color": RULE,
        "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "axes.spines.top": False,
        "axes.spines.right": False, "axes.facecolor": PAPER, "figure.facecolor": PAPER,
    }  # fmt: skip
    played = list(found.played.values())
    three = len(found.profile.matrix) == 3
    lines = math.ceil(len(played) / COLUMNS)
    with mpl.rc_context(fixed):
        size = (10.4, (4.9 if three else 2.6) * lines + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        parts = 2 if three else 1
        heights = [1.5, 1] * lines if three else [1] * lines
        grid = figure.subplots(parts * lines, COLUMNS, height_ratios=heights, squeeze=False)
        for axes in grid.flat[len(played) * parts :] if len(played) % COLUMNS else ():
            axes.set_axis_off()
        for k, trajectory in enumerate(played):
            row, column = parts * (k // COLUMNS), k % COLUMNS
            if three:
                _triangle(grid[row, column], trajectory, found)
            lower = grid[row + parts - 1, column]
            _gap(lower, trajectory, found, left=column == 0)
            grid[row, column].set_title(trajectory.name, fontsize=10, color=INK, loc="left")
        _legend(figure, found)
        raw = io.BytesIO()
        figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None})
    title = "How ways of learning do in a game of preferences"
    return describe_svg(raw.getvalue(), "game", title, describe_dynamics(found))


def describe_dynamics(found: GameFindings) -> str:
    """Say in words what the picture shows."""
    played = found.played.values()
    steps = int(next(iter(played)).steps[-1])
    told = "; ".join(
        f"{t.name}: last iterate {t.exploitability:.4f}, average {t.average_exploitability:.4f}"
        for t in played
    )
    return (
        f"Exploitability of {len(found.played)} ways of learning in a game of "
        f"{len(found.profile.matrix)} actions, against the number of steps, at the end of "
        f"{steps:,} steps at tau = {found.tau:g}. {told}. The regularised equilibrium has "
        f"{found.goal.exploitability:.4f}."
    )


def _gap(axes: Any, trajectory: Trajectory, found: GameFindings, left: bool) -> None:
    kept = _spread(trajectory.steps)
    steps = np.maximum(trajectory.steps[kept], 0.7)
    last, average = (
        np.maximum(gaps[kept] / 2, FLOOR) for gaps in (trajectory.gaps, trajectory.average_gaps)
    )
    goal = found.goal.exploitability
    if goal > FLOOR:
        axes.axhline(goal, color=MUTED, linewidth=0.8, linestyle=":")
    axes.plot(steps, last, "-", color=LAST, linewidth=1.2)
    axes.plot(steps, average, "--", color=AVERAGE, linewidth=1.4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(FLOOR * 0.7, 0.7)
    axes.set_yticks([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], ["≤ .00001", ".0001", ".001", ".01", ".1"])
    decades = 10 ** np.arange(math.floor(math.log10(steps[-1])) + 1)
    axes.set_xticks(decades, [f"{d:,}" for d in decades])
    axes.minorticks_off()
    axes.set_xlabel("steps")
    if left:
        axes.set_ylabel("exploitability")
    else:
        axes.tick_params(labelleft=False)


def _triangle(axes: Any, trajectory: Trajectory, found: GameFindings) -> None:
    corners = _flat(np.eye(3))
    axes.fill(corners[:, 0], corners[:, 1], facecolor="none", edgecolor=RULE, linewidth=1)
    places = (("right", "top"), ("left", "top"), ("center", "bottom"))
    for name, at, (ha, va) in zip(trajectory.names, corners, places, strict=True):
        axes.annotate(shorten_name(name)[:10], at, ha=ha, va=va, fontsize=8, color=MUTED)
    kept = _spread(trajectory.steps)
    last, average = (_flat(p[kept]) for p in (trajectory.policies, trajectory.averages))
    axes.plot(last[:, 0], last[:, 1], "-", color=LAST, linewidth=0.8)
    axes.plot(average[:, 0], average[:, 1], "--", color=AVERAGE, linewidth=1.2)
    axes.plot(*last[0], "o", color=PAPER, mec=LAST, markersize=5)
    axes.plot(*last[-1], "o", color=LAST, mec=PAPER, markersize=5.5)
    goals = ((found.profile.equilibrium, "x"), (found.goal, "+"))
    for equilibrium, mark in goals:
        axes.plot(*_flat(equilibrium.policy[None])[0], mark, color=INK, markersize=7, mew=1.4)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.margins(0.08)


def _flat(policies: Floats) -> Floats:
    """Place policies of three actions in an equilateral triangle, [M, 2]."""
    return policies @ np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])


def _spread(steps: Ints) -> Ints:
    """Choose at most POINTS moments, evenly on the scale of logarithms, with both ends."""
    if len(steps) <= POINTS:
        return np.arange(len(steps))
    return np.unique(np.geomspace(1, len(steps), POINTS).round().astype(np.int64)) - 1


def _legend(figure: Any, found: GameFindings) -> None:
    from matplotlib.lines import Line2D

    entries: Sequence[tuple[str, Any]] = [
        ("last iterate", Line2D([], [], color=LAST, linestyle="-")),
        ("average", Line2D([], [], color=AVERAGE, linestyle="--")),
        (f"equilibrium at tau = {found.tau:g}", Line2D([], [], color=MUTED, linestyle=":")),
    ]
    if len(found.profile.matrix) == 3:
        marks = {"start": ("o", PAPER, LAST), "end": ("o", LAST, PAPER)}
        entries = [
            *entries,
            *(
                (name, Line2D([], [], marker=m, color=c, mec=e, linestyle=""))
                for name, (m, c, e) in marks.items()
            ),
            ("equilibrium", Line2D([], [], marker="x", color=INK, linestyle="")),
            (f"at tau = {found.tau:g}", Line2D([], [], marker="+", color=INK, linestyle="")),
        ]
    figure.legend(
        [handle for _, handle in entries],
        [name for name, _ in entries],
        loc="outside lower center",
        ncols=len(entries),
        frameon=False,
    )


def describe_svg(raw: bytes, name: str, title: str, words: str) -> str:
    """Put a title and a description into a drawing of matplotlib's, and name it by them.

    Args:
        raw: the drawing.
        name: begins the ids of both.
        title: what it is.
        words: what it shows, with numbers.
    """
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(raw)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for place, (tag, text) in enumerate((("title", title), ("desc", words))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    return re.sub(r"\n\s*\n", "\n", ET.tostring(root, encoding="unicode")) + "\n"
