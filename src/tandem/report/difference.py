"""Two reports side by side: what changed between A and B, and what was set differently.

The two are treated as independent samples: their prompts and seeds need not be the same, so the
interval is wider than that of a paired comparison inside one bench. The page says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tandem.errors import DataError
from tandem.report import views
from tandem.report.numbers import NONE, spell_note
from tandem.report.page import fill_template, save_page
from tandem.report.results_file import BENCH, Results, read_results, refusing_what_is_none
from tandem.report.verdict import OPEN, RESOLVED, WORSE, Sentence, listed_rows, open_estimate
from tandem.statistics import Estimate, holm
from tandem.statistics.crossed import ALPHA
from tandem.statistics.numerics import t_quantile, t_tails
from tandem.statistics.power import degrees_of_freedom

SIDES = ("A", "B")
PLACES = ("title", "task", "command", "commit", "seeds", "prompts", "judge", "opponent", "budget")


def write_comparison(a: Path, b: Path, out: Path | None = None) -> Path:
    """Write what changed from report A to report B, as an HTML page and as JSON.

    Args:
        a: see `read_results`.
        b: the same.
        out: the HTML file; `report-diff.html` in B's folder unless given.

    Raises:
        DataError: one of the two holds nothing, or they share no policy.
    """
    with refusing_what_is_none(f"{a} or {b}"):
        results = {side: read_results(path) for side, path in zip(SIDES, (a, b), strict=True)}
        rows = measured_changes(results["A"], results["B"])
        settings = list(setting_differences(results["A"], results["B"]))
        html = fill_template(
            "compare.html.jinja",
            "",
            paths=dict(zip(SIDES, map(str, (a, b)), strict=True)),
            headline=comparison_headline(rows, judge_difference(results["A"], results["B"])),
            rows=[_shown(row, rows) for row in rows],
            settings=settings,
        )
        numbers = {
            "a": str(a),
            "b": str(b),
            "changes": [_plain(row) for row in rows],
            "settings": [{"setting": name, "a": x, "b": y} for name, x, y in settings],
        }
    target = out or (b if b.is_dir() else b.parent) / "report-diff.html"
    return save_page(html, numbers, target, (a, b, a / BENCH, b / BENCH))


def measured_changes(a: Results, b: Results) -> list[dict[str, Any]]:
    """Return B minus A of every number that both have, with Holm over all of them.

    Wins and gains by different judges are different numbers.

    Raises:
        DataError: no policy is in both.
    """
    mine = {row["policy"]: row for row in a["policies"]}
    columns = [
        c for c in views.shown_columns(b) if not (judge_difference(a, b) and _of_a_judge(c.key, b))
    ]
    rows: list[dict[str, Any]] = []
    for row in listed_rows(b):
        if (before := mine.get(row["policy"])) is None:
            continue
        for column in columns:
            first, second = (
                open_estimate(before.get(column.key)),
                open_estimate(row.get(column.key)),
            )
            if first and second and _has_interval(first) and _has_interval(second):
                change = independent_difference(first, second)
                rows.append(
                    {"policy": row["policy"], "column": column, "a": first, "b": second,
                     "change": change}
                )  # fmt: skip
    if not rows:
        raise DataError(
            f"A has {', '.join(mine) or 'no policies'} and B has "
            f"{', '.join(row['policy'] for row in b['policies']) or 'none'}",
            "a change is one policy's number in B minus the same number in A",
            "compare two benches, or two runs, that share a policy and a judge",
        )
    adjusted = holm([row["change"].p_value for row in rows])
    for row, p in zip(rows, adjusted.tolist(), strict=True):
        row["p"] = p
    return rows


def _of_a_judge(key: str, results: Results) -> bool:
    """Say whether a column is what the deciding judge said."""
    return key.startswith("win vs ") or key in ("lc_win", f"{results.get('judge')} gain")


def _has_interval(found: Estimate) -> bool:
    return math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high


def independent_difference(a: Estimate, b: Estimate) -> Estimate:
    """Return B minus A, as of independent samples.

    Each end is as far from the difference as the two intervals' own ends together, by their
    squares (Zou and Donner's MOVER). So few seeds stay as uncertain as they are in A and B, and
    a difference of shares stays inside [-1, 1]. The p-value is below .05 where the interval leaves
    out 0; further out its tail is that of Student's t with the fewer degrees of freedom of the two.
    """
    mean, se = b.mean - a.mean, math.hypot(a.se, b.se)
    below = math.hypot(b.mean - b.low, a.high - a.mean)
    above = math.hypot(b.high - b.mean, a.mean - a.low)
    toward = below if mean > 0 else above
    df = min(degrees_of_freedom(a), degrees_of_freedom(b))
    t = t_quantile(ALPHA / 2, df) * abs(mean) / toward if toward > 0 else float("nan")
    return Estimate(
        mean, mean - below, mean + above, min(a.n, b.n), float(2 * t_tails(t, df)),
        "difference of independent estimates", se, min(a.seeds, b.seeds),
    )  # fmt: skip


def judge_difference(a: Results, b: Results) -> str:
    """Say who judges the two, where it is not the same judge; else nothing."""
    if a.get("judge") == b.get("judge"):
        return ""
    first, second = (side.get("judge") or "nobody" for side in (a, b))
    return f"Wins and gains are not compared: A is judged by {first}, B by {second}."


def comparison_headline(rows: list[dict[str, Any]], judges: str = "") -> Sentence:
    """Return the headline: how many of the compared numbers changed beyond their intervals.

    Args:
        rows: what was compared.
        judges: a sentence about what was not.
    """
    moved = [row for row in rows if _standing(row) != OPEN]
    names = list(dict.fromkeys(f"{row['policy']} ({row['column'].title})" for row in moved))
    told = f"{len(rows)} numbers were compared, with Holm's adjustment over all of them. {judges}"
    told = told.strip()
    if not moved:
        return Sentence(OPEN, "Nothing is shown to have changed.", told)
    return Sentence(RESOLVED, f"{len(moved)} of {len(rows)} numbers changed.",
                    f"{', '.join(names)}. {told}")  # fmt: skip


def setting_differences(
    a: Mapping[str, Any], b: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Yield what was set differently: the head of the results, then settings, then versions."""
    for name in PLACES:
        yield from _leaves(name, a.get(name), b.get(name))
    yield from _leaves("", a.get("config") or {}, b.get("config") or {})
    places = [side.get("environment") or {} for side in (a, b)]
    for name in ("python", "platform", "cpu", "cpus", "versions"):
        yield from _leaves(name, *(place.get(name) for place in places))


def _leaves(name: str, x: object, y: object) -> Iterator[tuple[str, str, str]]:
    if isinstance(x, Mapping) and isinstance(y, Mapping):
        first: Mapping[str, object] = x  # pyright: ignore[reportUnknownVariableType]
        second: Mapping[str, object] = y  # pyright: ignore[reportUnknownVariableType]
        for key in dict.fromkeys([*first, *second]):
            inner = f"{name}.{key}" if name else key
            yield from _leaves(inner, first.get(key), second.get(key))
    elif x != y:
        yield name, NONE if x is None else str(x), NONE if y is None else str(y)


def _standing(row: Mapping[str, Any]) -> str:
    if not (row["change"].resolved and row.get("p", 1.0) < 0.05):
        return OPEN
    return RESOLVED if row["change"].mean > 0 else WORSE


def _shown(row: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    spell, key = row["column"].spell, row["column"].key
    found: Estimate = row["change"]
    scale = views.interval_scale(r["change"].as_dict() for r in rows if r["column"].key == key)
    # More KL or more length is neither better nor worse: it rose or it fell.
    how = _standing(row)
    change = views.Cell(
        spell(found.mean) if found.mean <= 0 else f"+{spell(found.mean).lstrip('+')}",
        spell_note(found, spell),
        views.interval_bar(found, scale, how),
        {RESOLVED: "rose", WORSE: "fell", OPEN: OPEN}[how],
    )
    sides = [views.Cell(spell(row[s].mean), spell_note(row[s], spell)) for s in ("a", "b")]
    return {"policy": row["policy"], "measure": row["column"].title, "sides": sides,
            "change": change}  # fmt: skip


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    estimates = {name: row[name].as_dict() for name in ("a", "b", "change")}
    return {"policy": row["policy"], "measure": row["column"].key, **estimates,
            "holm_p": row.get("p")}  # fmt: skip
