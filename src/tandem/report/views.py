"""What each section shows: cells with their intervals drawn, the matrix, the samples, the costs.

Everything here is a value that the page's template prints; text stays plain and is escaped there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tandem.report.numbers import (
    NONE,
    round_up,
    spell_decimal,
    spell_memory,
    spell_note,
    spell_p_value,
    spell_percent,
    spell_seconds,
    spell_signed,
)
from tandem.report.results_file import Results, missing_measurements
from tandem.report.verdict import (
    OPEN,
    comparisons_still_needed,
    difference_standing,
    listed_rows,
    open_estimate,
)
from tandem.statistics import Estimate

WIDTH = 116
"""Length of an interval's bar, in its own units."""
STRIP = {
    "pairs": "labelled pairs", "held_out": "held-out pairs", "flips": "labels flipped",
    "weaker": "pairs by weaker policies", "held_out_share": "share held out",
    "gold_share": "share for gold_rm",
}  # fmt: skip
"""Names of sizes, in words."""
SAMPLE_BYTES = 420_000
"""Room for model text on the page."""


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval as places on a line of WIDTH units; without ends there is none."""

    low: float | None
    mean: float
    high: float | None
    null: float
    standing: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A number, its interval in small print, and its bar where it has one."""

    text: str
    note: str = ""
    bar: Bar | None = None
    standing: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the method table: how its numbers are found and spelled."""

    key: str
    title: str
    help: str
    spell: Callable[[float | None], str] = spell_decimal
    drawn: bool = False


def shown_columns(results: Mapping[str, Any]) -> list[Column]:
    """Return the columns that at least one policy has a number for."""
    judge, opponent = results.get("judge"), results.get("opponent")
    known = (
        Column(f"win vs {opponent}", f"wins against {opponent}",
               f"share of prompts won by {judge}, ties one half", spell_percent, True),
        Column(f"{judge} gain", f"{judge} gained", f"paired, over {opponent}", spell_signed, True),
        Column("lc_win", "length-controlled", "win rate at equal length", spell_percent),
        Column("gold_rm_win", "gold wins", "of other data, never optimised", spell_percent),
        Column("proxy_win", "proxy wins", "the reward that was optimised", spell_percent),
        Column(
            "annotator_win", "annotator", "who gave the preferences, asked again", spell_percent
        ),
        Column("llm_win", "LLM judge", "in both orders", spell_percent),
        Column("kl", "KL", f"nats, to {opponent}"),
        Column("length", "length", "tokens", lambda x: spell_decimal(x, 1)),
        Column("invented", "invented", "facts that are not in the prompt"),
    )  # fmt: skip
    rows = results["policies"]
    return [c for c in known if any(open_estimate(row.get(c.key)) for row in rows)]


def method_table(results: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out one row a policy, best first, with the paper's numbers apart."""
    shown = shown_columns(results)
    rows = listed_rows(results)
    scales = {c.key: interval_scale(row.get(c.key) for row in rows) for c in shown if c.drawn}
    labels = list(dict.fromkeys(label for row in rows for label in row.get("paper") or {}))
    return {
        "columns": shown,
        "paper": labels,
        "cost": any(row.get("seconds") for row in rows),
        "memory": any(row.get("peak_bytes") for row in rows),
        "rows": [_row(row, shown, scales, labels, results) for row in rows],
    }


def _row(
    row: Mapping[str, Any],
    shown: Sequence[Column],
    scales: Mapping[str, tuple[float, float]],
    labels: Sequence[str],
    results: Mapping[str, Any],
) -> dict[str, Any]:
    opponent, name = results.get("opponent"), row["policy"]
    tags = {"base": "before training", "reference": "written with the data", opponent: "baseline"}
    paper, spent = row.get("paper") or {}, row.get("seconds") or {}
    return {
        "name": name,
        "tag": " · ".join(t for t in (tags.get(name, ""), _out_of_line(row)) if t),
        "method": row.get("method", ""),
        "failed": row.get("status") == "failed",
        "reason": row.get("reason", "no reason was recorded"),
        "cells": [_cell(row, column, scales.get(column.key), results) for column in shown],
        "seconds": spell_seconds(spent.get("mean")),
        "memory": spell_memory(row.get("peak_bytes")),
        "paper": [_as_printed(paper.get(label)) for label in labels],
    }


def _out_of_line(row: Mapping[str, Any]) -> str:
    seeds = row.get("deviant_seeds") or []
    return f"out of line: seed {', '.join(map(str, seeds))}" if seeds else ""


def _as_printed(value: object) -> str:
    return NONE if value is None else str(value)


def _cell(
    row: Mapping[str, Any],
    column: Column,
    line: tuple[float, float] | None,
    results: Mapping[str, Any],
) -> Cell:
    found = open_estimate(row.get(column.key))
    if found is None:
        return Cell(NONE)
    text, note = column.spell(found.mean), spell_note(found, column.spell)
    if line is None:
        return Cell(text, note)
    if not column.key.startswith("win"):
        return Cell(text, note, interval_bar(found, line, "plain"))
    how = difference_standing(found, row.get("Holm p"), float(results.get("alpha", 0.05)))
    if (ties := row.get(f"ties vs {results.get('opponent')}")) is not None:
        return Cell(text, note, interval_bar(found, line, how), how, f"{spell_percent(ties)} ties")
    return Cell(text, note, interval_bar(found, line, how), how)


def interval_scale(values: Iterable[object]) -> tuple[float, float]:
    """Return the ends of a line that holds all these intervals and their nulls."""
    found = [e for v in values if (e := open_estimate(v))]
    ends = [x for e in found for x in (e.low, e.high, e.mean, e.null) if np.isfinite(x)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    room = (high - low) * 0.04 or 1.0
    return low - room, high + room


def interval_bar(found: Estimate, line: tuple[float, float], how: str) -> Bar:
    """Place an interval on a scale; a number that has none is a mark alone."""

    def place(x: float) -> float:
        return round(WIDTH * (x - line[0]) / (line[1] - line[0]), 1)

    known = np.isfinite(found.low) and np.isfinite(found.high)
    low, high = (place(x) if known else None for x in (found.low, found.high))
    return Bar(low, place(found.mean), high, place(found.null), how)


def claims_view(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay out the claims about who is better than whom."""
    claims = results.get("order") or []
    line = interval_scale(claim.get("gain") for claim in claims)
    rows: list[dict[str, Any]] = []
    for claim in claims:
        gain, more = open_estimate(claim.get("gain")), claim.get("needs")
        how = claim.get("verdict") or OPEN
        cell = Cell(NONE, standing=how)
        if gain is not None:
            drawn = interval_bar(gain, line, how)
            text, note = spell_signed(gain.mean), spell_note(gain, spell_signed)
            cell = Cell(text, note, drawn, how)
        rows.append(
            {
                "claim": claim.get("claim") or f"{claim['a']} < {claim['b']}",
                "gain": cell,
                "p": spell_p_value(claim.get("holm_p")),
                "verdict": how,
                "needs": f"about {round_up(more)} more" if more else NONE,
            }
        )
    return rows


def win_matrix_view(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lay out who wins against whom: the row's policy against the column's."""
    found = results.get("matrix")
    if not found or not found.get("names"):
        return None
    names, alpha = found["names"], float(results.get("alpha", 0.05))
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        cells: list[dict[str, Any] | None] = []
        for j in range(len(names)):
            win = open_estimate(found["win"][i][j])
            p = found["holm_p"][i][j] if found.get("holm_p") else None
            cells.append(None if win is None or i == j else _meeting(win, p, alpha))
        rows.append({"name": name, "cells": cells})
    return {"names": names, "rows": rows}


def _meeting(win: Estimate, p: float | None, alpha: float) -> dict[str, Any]:
    how, more = difference_standing(win, p, alpha), comparisons_still_needed(win)
    level = min(4, int(abs(win.mean - 0.5) * 20))
    about = f"about {round_up(more)} more comparisons" if more else "not resolved"
    return {
        "text": spell_percent(win.mean),
        "note": spell_p_value(p) if how != OPEN else about,
        "standing": how,
        "shade": ("up" if win.mean > 0.5 else "down") + str(level) if how != OPEN else "",
    }


def reward_view(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lay out how good the reward is on judgments it has not seen."""
    found = (results.get("reward") or {}).get("numbers") or {}
    if not found.get("measures"):
        return None
    measures = [
        (name, Cell(spell_decimal(e.mean, 3), spell_note(e, lambda x: spell_decimal(x, 3))))
        if (e := open_estimate(value))
        else (name, Cell(spell_decimal(value, 3) if isinstance(value, int | float) else NONE))
        for name, value in found["measures"].items()
        if value is not None
    ]
    line = interval_scale(part.get("accuracy") for part in found.get("slices", []))
    slices: dict[str, list[dict[str, Any]]] = {}
    for part in found.get("slices", []):
        if (e := open_estimate(part["accuracy"])) is not None:
            drawn = interval_bar(e, line, difference_standing(e, None, 0.05))
            cell = Cell(spell_percent(e.mean), spell_note(e, spell_percent), drawn)
            row = {"part": part["part"], "n": f"{part['n']:,}", "accuracy": cell}
            slices.setdefault(part["slice"], []).append(row)
    return {
        "judgments": found.get("judgments"),
        "ties": found.get("ties"),
        "measures": measures,
        "slices": slices,
        "by_length": length_view(found.get("slices", [])),
    }


def length_view(slices: Sequence[Mapping[str, Any]]) -> str | None:
    """Say so where the reward is right about longer answers and wrong about shorter ones."""
    right = {p["part"]: open_estimate(p["accuracy"]) for p in slices if p["slice"] == "length"}
    longer, shorter = right.get("longer answer wins"), right.get("shorter answer wins")
    if longer is None or shorter is None or not longer.low > shorter.high:
        return None
    return (
        f"It follows length: right in {spell_percent(longer.mean)} of the judgments where the "
        "longer "
        f"answer won, and in {spell_percent(shorter.mean)} of those where the shorter one did."
    )


def length_points(results: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Return answers with a length and a reward, and which reward it is."""
    given = (results.get("length_bias") or {}).get("scatter")
    answers = given or [a for s in results.get("samples", []) for a in s["answers"]]
    for score in ("proxy", "gold_rm", "truth"):
        found = [a for a in answers if _known(a, score) and _known(a, "length")]
        if found:
            return [{"policy": "", **a} for a in found], score
    return [], "proxy"


def length_buckets(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay out win rates by how much longer the answer is than the opponent's."""
    parts = (results.get("length_bias") or {}).get("by_difference") or []
    line = interval_scale(part.get("win") for part in parts)
    return [
        {
            "bucket": part["bucket"],
            "n": part.get("n", NONE),
            "win": Cell(
                spell_percent(e.mean),
                spell_note(e, spell_percent),
                interval_bar(e, line, difference_standing(e, None, 1)),
            ),
        }
        for part in parts
        if (e := open_estimate(part.get("win"))) is not None
    ]


def samples_view(results: Mapping[str, Any]) -> dict[str, Any]:
    """Choose what is shown of the samples, and the places by which they can be sorted."""
    given: list[dict[str, Any]] = results.get("samples", [])
    judge, opponent = str(results.get("judge")), str(results.get("opponent"))
    gold = next((k for k in (judge, "truth", "gold_rm") if _anywhere(given, k)), None)
    shown: list[dict[str, Any]] = []
    room = SAMPLE_BYTES
    gaps = _disagreements(given, gold, opponent)
    for k, sample in enumerate(given):
        size = len(json.dumps(sample, ensure_ascii=False).encode()) + 400
        if size > SAMPLE_BYTES:  # alone too long for the page
            continue
        if size > room:
            break
        room -= size
        shown.append(_sample(k, sample, gaps[k], gold, opponent))
    orders = [("random", "random (the default, so that nobody picks)")]
    if gold is not None and _anywhere(given, "proxy"):
        orders.append(("gap", f"where proxy and {gold} disagree most"))
    if gold is not None:
        orders.append(("regression", f"largest regressions in {gold}"))
    orders.append(("length", "longest answers"))
    return {"shown": shown, "left_out": len(given) - len(shown), "orders": orders}


def _sample(
    k: int, sample: Mapping[str, Any], gap: tuple[float, str], gold: str | None, opponent: str
) -> dict[str, Any]:
    answers: list[dict[str, Any]] = sample["answers"]
    base = next((a for a in answers if a["policy"] == opponent), None)
    falls = [
        a[gold] - base[gold]
        for a in answers
        if gold and base and a is not base and _known(a, gold) and _known(base, gold)
    ]
    scores = [key for key in ("truth", "gold_rm", "proxy") if _anywhere([sample], key)]
    return {
        "number": k + 1,
        "prompt": sample["prompt"],
        "reference": sample.get("reference"),
        "why": gap[1],
        "gap": round(gap[0], 4),
        "regression": round(min(falls, default=0.0), 4),
        "length": max((a.get("length") or len(a["text"]) for a in answers), default=0),
        "answers": [
            {
                "policy": a["policy"],
                "text": a["text"],
                "numbers": [(key, spell_decimal(a.get(key))) for key in scores]
                + ([("tokens", str(a["length"]))] if _known(a, "length") else []),
            }
            for a in answers
        ],
    }


def _disagreements(
    given: Sequence[Mapping[str, Any]], gold: str | None, opponent: str
) -> list[tuple[float, str]]:
    """Say for each sample how far proxy and gold part about one answer against the opponent's.

    Differences are divided by their standard deviation over all answers, so that two rewards of
    different scale can be compared.
    """
    rows: list[tuple[int, str, float, float]] = []
    for k, sample in enumerate(given):
        base = next((a for a in sample["answers"] if a["policy"] == opponent), None)
        for a in sample["answers"]:
            keys = () if gold is None or base is None or a is base else ("proxy", gold)
            if keys and all(_known(x, key) for x in (a, base) for key in keys):
                proxy, true = (a[key] - base[key] for key in keys)  # type: ignore[index]
                rows.append((k, a["policy"], proxy, true))
    if not rows:
        return [(0.0, "")] * len(given)
    spread = [float(np.std([row[c] for row in rows])) or 1.0 for c in (2, 3)]  # type: ignore[misc]
    best = [(0.0, "")] * len(given)
    for k, name, proxy, true in rows:
        gap = abs(proxy / spread[0] - true / spread[1]) if proxy * true < 0 else 0.0
        if gap > best[k][0]:
            text = f"{name} against {opponent}: proxy {spell_signed(proxy)}, "
            text += f"{gold} {spell_signed(true)}"
            best[k] = (gap, text)
    return best


def _known(table: Mapping[str, Any] | None, key: str) -> bool:
    return table is not None and isinstance(table.get(key), int | float)


def _anywhere(given: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(_known(answer, key) for sample in given for answer in sample["answers"])


def costs_view(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Lay out what every stage took, over seeds."""
    rows: list[dict[str, Any]] = results.get("cost") or []
    if not rows:
        return None
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_stage.setdefault(row["stage"], []).append(row)
    total = sum(row["seconds"] for row in rows)
    longest = max(sum(r["seconds"] for r in group) for group in by_stage.values()) or 1.0
    return {
        "total": spell_seconds(total),
        "rows": [
            {
                "stage": stage,
                "times": len(group),
                "seconds": spell_seconds(sum(r["seconds"] for r in group)),
                "share": round(WIDTH * sum(r["seconds"] for r in group) / longest, 1),
                "memory": spell_memory(max(r.get("peak_bytes") or 0 for r in group) or None),
            }
            for stage, group in by_stage.items()
        ],
    }


def limits_view(results: Results) -> list[str]:
    """Return what the page does not show: the bench's own lines, then what is missing."""
    return [*results.get("limits", []), *missing_measurements(results)]


def sizes_view(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the comparison was made of, for the strip under the verdict."""
    seeds, budget = results.get("seeds"), results.get("budget") or {}
    known = {
        "task": results.get("task"),
        "prompts": results.get("prompts"),
        "training seeds": len(seeds) if seeds else None,
        "judge": results.get("judge"),
        "against": results.get("opponent"),
        **{STRIP.get(k, k): v for k, v in budget.items() if k not in ("prompts", "evaluation")},
    }
    return [
        (k, f"{v:,}" if isinstance(v, int | float) else str(v))
        for k, v in known.items()
        if v is not None
    ]


def facts_view(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what one must know to do it again."""
    place: Mapping[str, Any] = results.get("environment") or {}
    versions = ", ".join(f"{k} {v}" for k, v in (place.get("versions") or {}).items() if v)
    budget = results.get("budget")
    known = {
        "task": results.get("task"),
        "budget": ", ".join(f"{k} {v}" for k, v in budget.items()) if budget else None,
        "seeds": ", ".join(map(str, results.get("seeds", []))),
        "commit": results.get("commit") or place.get("git"),
        "python": place.get("python"),
        "machine": ", ".join(str(place[k]) for k in ("cpu", "platform") if place.get(k)),
        "processors": place.get("cpus"),
        "versions": versions,
    }
    return [(k, str(v)) for k, v in known.items() if v not in (None, "", {}, [])]
