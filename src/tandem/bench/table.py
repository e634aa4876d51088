"""Results as a table for the terminal. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def results_table(told: Mapping[str, Any]) -> str:
    """Return the results for the terminal: one row a policy, then the expected orderings."""
    judge = told["judge"]
    wins = {"gold_rm_win": "gold_rm win", "proxy_win": "proxy win"}
    heads = {f"win vs {told['opponent']}": f"{judge} win", f"{judge} gain": f"{judge} gain", **wins,
             "kl": "KL", "length": "length"}  # fmt: skip
    done = [p for p in told["policies"] if p["status"] == "done"]
    shown = {k: v for k, v in heads.items() if any(isinstance(p.get(k), Mapping) for p in done)}
    rows = [("method", *shown.values(), "seconds")]
    for p in done:
        rows.append((p["policy"], *(_cell(p.get(k), k) for k in shown), _spent(p)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [
        f"{p['policy']} failed: {p['reason']}" for p in told["policies"] if p["status"] == "failed"
    ]
    for row in told["order"]:
        if row["gain"] is None:
            lines.append(f"{row['verdict']}: {row['claim']}, Holm p {row['holm_p']:.2g}")
            continue
        gain = _cell(row["gain"], "gain")
        lines.append(
            f"{row['verdict']}: {row['claim']}, {judge} {gain}, Holm p {row['holm_p']:.2g}"
        )
    return "\n".join(["", *lines])


def _spent(row: Mapping[str, Any]) -> str:
    return f"{row['seconds']['mean']:.0f}"


def _cell(value: Any, key: str) -> str:
    if not isinstance(value, Mapping):
        return "-"
    if value["low"] is None and ("win" in key or "gain" in key):  # `method` says why
        return f"{value['mean']:.1%} [-]" if "win" in key else f"{value['mean']:+.3f} [-]"
    if "win" in key:
        form = "{mean:.1%} [{low:.1%}, {high:.1%}]"
    else:
        form = "{mean:+.3f} [{low:+.3f}, {high:+.3f}]" if "gain" in key else "{mean:.2f}"
    return form.format_map(value)
