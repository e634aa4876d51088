"""The page of a phase figure: differences in every cell, drawn, tabled, and said in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.bench.outcomes import JUDGES, Outcomes, claim_standing
from tandem.statistics import holm, paired_difference

LOW, MIDDLE, HIGH = "#b35806", "#f7f7f7", "#2166ac"
"""Orange, white, blue: told apart by every kind of colour blindness."""
MARKS = {"resolved": "above", "reversed": "below", "not resolved": ""}


def contrast_cells(
    phase: Any, outcomes: Outcomes, failed: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Estimate every difference in every cell that was done.

    Args:
        phase: the figure.
        outcomes: of `PLACE / ROW`, by seed and prompt.
        failed: each `PLACE / ROW` that failed: its differences count in Holm's family, with p = 1.

    Returns:
        one row a judge, contrast and cell, with the paired estimate and Holm's p over the judge's.
    """
    arms = {arm["name"]: arm for arm in phase.table["arm"]}
    rows: list[dict[str, Any]] = []
    for judge in JUDGES:
        tests, lost = [], 0
        for contrast in phase.table["contrast"]:
            for cell in phase.cells():
                names = [
                    f"{phase.place(cell)} / {_row(phase, arms, name, cell)}"
                    for name in (contrast["a"], contrast["b"])
                ]
                lost += any(name in failed for name in names)
                pair = [outcomes.columns.get(name) for name in names]
                if any(own is None or judge not in own for own in pair):
                    continue
                a, b = (own[judge] for own in pair if own is not None)
                tests.append((contrast, cell, paired_difference(a, b)))
        adjusted = holm([*(t[2].p_value for t in tests), *([1.0] * lost)])[: len(tests)]
        for (contrast, cell, estimate), p in zip(tests, adjusted, strict=True):
            rows.append(
                {
                    "judge": judge, "a": contrast["a"], "b": contrast["b"], "cell": cell,
                    **{k: estimate.as_dict()[k] for k in ("mean", "low", "high", "se")},
                    "holm_p": float(p), "verdict": claim_standing(estimate, float(p)),
                }
            )  # fmt: skip
    return rows


def _row(phase: Any, arms: Mapping[str, Any], name: str, cell: dict[str, Any]) -> str:
    return name if name == "SFT" else phase.row(arms[name], cell)


def contrasts(phase: Any, found: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Any]]]:
    """Yield each contrast with its cells by the truth."""
    for c in phase.table["contrast"]:
        cells = [
            row for row in found["contrasts"]
            if (row["a"], row["b"], row["judge"]) == (c["a"], c["b"], "truth")
        ]  # fmt: skip
        yield c["a"], c["b"], cells


def reading(phase: Any, a: str, b: str, cells: Sequence[Mapping[str, Any]]) -> str:
    """Say in a sentence where a is above b, where below, and where nothing is resolved."""
    if not cells:
        return f"{a} less {b}: no cell was done."
    parts = []
    for verdict, how in (("resolved", "above"), ("reversed", "below")):
        where = [_where(phase, c) for c in cells if c["verdict"] == verdict]
        some = f" ({'; '.join(where)})" if 0 < len(where) <= 4 else ""
        parts.append(f"{how} it in {len(where)}{some}")
    return f"{a} against {b}, in truth: resolved {parts[0]} of {len(cells)} cells, {parts[1]}."


def _where(phase: Any, row: Mapping[str, Any]) -> str:
    return ", ".join(a.spell(row["cell"][a.setting]) for a in phase.axes)


def draw_phase(phase: Any, found: Mapping[str, Any], path: Path) -> None:
    """Draw one panel a contrast: colour and number are the difference, a frame means resolved."""
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    colours = LinearSegmentedColormap.from_list("phase", [LOW, MIDDLE, HIGH])
    panels = list(contrasts(phase, found))
    x, y = phase.axes
    largest = max((abs(c["mean"]) for *_, cells in panels for c in cells), default=1.0) or 1.0
    scale = Normalize(-largest, largest)
    with mpl.rc_context({"svg.hashsalt": "tandem", "svg.fonttype": "none", "font.size": 9}):
        size = (8.0, 0.9 + 0.55 * len(y.values))
        figure = Figure(figsize=size, layout="constrained", dpi=100)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (a, b, cells) in zip(grid, panels, strict=True):
            axes.set_title(f"{a} less {b}", fontsize=9)
            for c in cells:
                i, j = x.values.index(c["cell"][x.setting]), y.values.index(c["cell"][y.setting])
                _draw_cell(axes, i, j, c, colours(scale(c["mean"])))
            axes.set_xlim(-0.5, len(x.values) - 0.5)
            axes.set_ylim(-0.5, len(y.values) - 0.5)
            axes.set_xticks(range(len(x.values)), [str(v) for v in x.values])
            axes.set_yticks(range(len(y.values)), [str(v) for v in y.values])
            axes.set_xlabel(x.label)
            for side in axes.spines.values():
                side.set_visible(False)
            axes.tick_params(length=0)
        grid[0].set_ylabel(y.label)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _draw_cell(axes: Any, i: int, j: int, row: Mapping[str, Any], colour: Any) -> None:
    from matplotlib.patches import Rectangle

    resolved = row["verdict"] != "not resolved"
    axes.add_patch(
        Rectangle(
            (i - 0.46, j - 0.44), 0.92, 0.88, facecolor=colour, zorder=2 if resolved else 1,
            edgecolor="#111111" if resolved else "#bbbbbb", linewidth=2.0 if resolved else 0.5,
        )
    )  # fmt: skip
    light = sum(colour[:3]) > 1.5
    axes.text(
        i, j, f"{row['mean']:+.2f}", ha="center", va="center", zorder=3,
        color="#111111" if light else "#ffffff", fontweight="bold" if resolved else "normal",
    )  # fmt: skip


def phase_page(phase: Any, found: Mapping[str, Any]) -> str:
    """Return the page in Markdown."""
    name, table = found["name"], phase.table
    panels = list(contrasts(phase, found))
    said = [reading(phase, a, b, cells) for a, b, cells in panels]
    numbers = "; ".join(
        f"{a} less {b}, {_where(phase, c)}: {c['mean']:+.2f}"
        for a, b, cells in panels
        for c in cells
    )
    caption = (
        f"Difference in truth by {phase.axes[0].label} and {phase.axes[1].label}: blue, the first "
        "is better; orange, the second. A black frame: resolved, over "
        f"{len(found['seeds'])} seeds and {found['prompts']} prompts, with Holm over all cells."
    )
    return "\n\n".join(
        [
            f"# {table['question']}",
            f"<!-- Made by `{found['command']}`. -->",
            f"Expected, before the first run: {' '.join(table['expected'].split())}",
            *said,
            f"![{numbers}](phase-{name}.svg)",
            f"*{caption}*",
            "## Every cell",
            _table(phase, found),
            *_failures(found["failed"]),
            "## How to repeat it",
            f"```sh\n{found['command']}\n```",
            f"Made at commit `{found['commit']}`. The page comes from "
            f"[outcomes by prompt](phase-{name}.parquet): `python experiments/phases.py --again`. "
            "Proxy is the reward that was optimised; gold is a reward of other people's labels. "
            "The world is small and artificial: [how far it is from people](../claims/world.md).",
        ]
    ) + "\n"  # fmt: skip


def _failures(failed: Mapping[str, str]) -> Iterator[str]:
    """Name what failed: a cell has no difference where an arm of it failed on one seed."""
    if failed:
        yield "Failed, so their cells are left out, and count in Holm's family with p = 1:"
        yield "\n".join(f"- {name}, {why}" for name, why in failed.items())


def _table(phase: Any, found: Mapping[str, Any]) -> str:
    x, y = phase.axes
    head = ["difference", x.label, y.label, *JUDGES, "by the truth"]
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join(["---"] * len(head)) + " |"]
    by = {
        (r["a"], r["b"], r["judge"], r["cell"][x.setting], r["cell"][y.setting]): r
        for r in found["contrasts"]
    }
    for a, b, cells in contrasts(phase, found):
        for c in cells:
            at = (c["cell"][x.setting], c["cell"][y.setting])
            told = [_cell(by.get((a, b, judge, *at))) for judge in JUDGES]
            verdict = MARKS[c["verdict"]] or "not resolved"
            lines.append(f"| {' | '.join([f'{a} less {b}', *map(str, at), *told, verdict])} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["low"] is None:
        return f"{row['mean']:+.3f} [-]"
    return f"{row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
