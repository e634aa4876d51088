"""The page of preferences that circle, and what is kept of what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tandem.evaluation.win_matrix import WinMatrix, policy_win_matrix
from tandem.report.win_matrix_picture import draw_win_matrix
from tandem.statistics import holm, mean_of, paired_difference

CLAIMED = "64"
"""Candidates of the exploitability that the claims ask for."""
OUTCOMES = pa.schema(
    [("world", pa.string()), ("seed", pa.string()), ("of", pa.string()), ("name", pa.string()),
     ("values", pa.list_(pa.float32()))]
)  # fmt: skip
CLAIMS = (
    ("circle", "Nash-MD .125", "PPO"),
    ("circle", "Nash-MD .125", "RLOO"),
    ("circle", "Nash-MD .125", "GRPO"),
    ("circle", "Nash-MD .125", "DPO"),
    ("circle", "Nash-MD .25", "RLOO"),
    ("circle", "self-play", "RLOO"),
    ("circle", "Nash-MD .125", "best response"),
    ("ranking", "Nash-MD .125", "RLOO"),
    ("ranking", "self-play", "RLOO"),
)
"""(world, who is less exploitable, than whom); Holm over all of them. Of the last two no difference
is expected."""
METHODS = {
    "ppo": ("PPO",),
    "grpo": ("GRPO", "RLOO"),
    "dpo": ("DPO",),
    "nash_md": ("Nash-MD .125", "Nash-MD .25", "Nash-MD .5"),
    "nash_ema": ("Nash-EMA",),
    "past_play": ("past play",),
    "self_play": ("self-play",),
    "best_response": ("best response",),
    "online_dpo": ("online IPO",),
}
"""Method -> its policies here; docs/methods/*.md read what `write_record` says of them."""


def write_page(record: Mapping[str, Any], page_file: Path) -> None:
    """Write the page, and a picture of each world's win matrix beside it."""
    for world in record["found"]:
        picture = page_file.with_name(f"nash-{world}.svg")
        picture.write_text(draw_win_matrix(matrix_of(record["found"], world)), encoding="utf-8")
    page_file.write_text(page(record), encoding="utf-8")


def _arms(found: Mapping[str, Any]) -> list[str]:
    """The policies that were trained, in their order."""
    seeds = next(iter(found.values()))
    return [arm for arm in next(iter(seeds.values()))["exams"] if arm != "SFT"]


def column(found: Mapping[str, Any], world: str, arm: str, what: str) -> np.ndarray:
    """[S, P] numbers of an arm."""
    rows = [seed["exams"][arm] for seed in found[world].values()]
    return np.array([r["exploit"][what] if what in r["exploit"] else r[what] for r in rows])


def verdicts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Test what was claimed: exploitability of the first less that of the second, paired."""
    tests = [
        (w, a, b, paired_difference(column(found, w, a, "64"), column(found, w, b, "64")))
        for w, a, b in CLAIMS
    ]
    adjusted = holm([t[3].p_value for t in tests])
    return [
        {"world": w, "a": a, "b": b, "difference": e.as_dict(), "holm": p,
         "resolved": bool(p < 0.05)}
        for (w, a, b, e), p in zip(tests, adjusted, strict=True)
    ]  # fmt: skip


def measured(found: Mapping[str, Any]) -> dict[str, str]:
    """Say of each method how it won and how it was exploited in every world."""
    said = {}
    for method, arms in METHODS.items():
        parts = []
        for arm in arms:
            worlds = [
                f"in the {world} it wins {mean_of(column(found, world, arm, 'win')).mean:.3f} over "
                f"SFT and is exploited by {mean_of(column(found, world, arm, CLAIMED))}"
                for world in found
            ]
            parts.append(f"{arm}: {', '.join(worlds)}")
        said[method] = "; ".join(parts)
    return said


def matrix_of(found: Mapping[str, Any], world: str) -> WinMatrix:
    """The win matrix over all seeds."""
    seeds = list(found[world].values())
    pairs = seeds[0]["wins"]
    wins = {tuple(pair.split(" / ")): np.array([s["wins"][pair] for s in seeds]) for pair in pairs}
    return policy_win_matrix(wins)  # type: ignore[arg-type]


def page(record: Mapping[str, Any]) -> str:
    """The page of results."""
    found = record["found"]
    parts = [
        "# Preferences that circle",
        "<!-- Made by `python experiments/nash.py`. -->",
        f"{len(record['seeds'])} seeds of two worlds, {record['date']}, commit "
        f"`{record['commit']}`. What was expected before the run, and how it is measured, stands "
        "in [the log](../log/nash.md). Exploitability is a lower bound: what the best of 64 "
        "answers of SFT wins above one half, by the annotators' exact preference.",
    ]
    for world in found:
        parts += [f"## The {world}", _policies_table(found, world)]
        parts += [f"```text\n{matrix_of(found, world)}\n```"]
        parts += [f"![Win matrix of the {world}](nash-{world}.svg)"]
    parts += ["## What was expected", _verdict_table(found)]
    parts += ["## Beside SFT", _beside_sft(found)]
    parts += ["## The search", _search_table(record["search"])]
    if record.get("curves"):
        parts += ["## Training on: model and truth", *_curve_tables(record["curves"])]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _policies_table(found: Mapping[str, Any], world: str) -> str:
    rows = []
    for arm in ("SFT", *_arms(found)):
        win, most, few = (mean_of(column(found, world, arm, k)) for k in ("win", "64", "4"))
        rows.append((arm, win, most, few, f"{column(found, world, arm, 'clauses').mean():.2f}"))
    head = ("policy", "win over SFT", "exploitability, best of 64", "best of 4", "clauses")
    return _table(head, rows)


def _verdict_table(found: Mapping[str, Any]) -> str:
    rows = []
    for v in verdicts(found):
        d = v["difference"]
        low, high = (float("nan") if d[k] is None else d[k] for k in ("low", "high"))
        interval = f"{d['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
        said = "resolved" if v["resolved"] else "not resolved"
        rows.append((v["world"], v["a"], v["b"], interval, f"{v['holm']:.3g}", said))
    return _table(("world", "less exploitable", "than", "difference", "Holm p", ""), rows)


def _beside_sft(found: Mapping[str, Any]) -> str:
    """What training did to exploitability; nothing was expected of it before the run."""
    rows: list[Sequence[object]] = []
    for arm in _arms(found):
        cells: list[str] = []
        for world in found:
            e = paired_difference(
                column(found, world, arm, "64"), column(found, world, "SFT", "64")
            )
            cells.append(f"{e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}]")
        rows.append((arm, *cells))
    said = (
        "Exploitability of each policy less that of SFT. Nothing was expected of this before the "
        "run, and no p-value is corrected for it."
    )
    return f"{said}\n\n{_table(('policy', *found), rows)}"


def write_record(record: Mapping[str, Any], stored: Path) -> None:
    """Write the JSON, and beside it, as Parquet, the numbers of each prompt that no claim asks for.

    The JSON also says of each method what was measured, for the method's page.

    Args:
        record: what was measured.
        stored: the JSON's file.
    """
    told = dict(record) | {"measured": measured(record["found"])}
    kept = json.loads(json.dumps(told), parse_float=lambda x: round(float(x), 5))
    rows: list[dict[str, Any]] = []
    for world, seeds in kept["found"].items():
        for seed, found in seeds.items():
            at = {"world": world, "seed": seed}
            wins = found.pop("wins")
            rows += [at | {"of": "wins", "name": k, "values": x} for k, x in wins.items()]
            for arm, exam in found["exams"].items():
                for part in (exam, exam["exploit"]):
                    for key in [k for k, x in part.items() if k != CLAIMED and isinstance(x, list)]:
                        rows.append(at | {"of": arm, "name": key, "values": part.pop(key)})
    pq.write_table(pa.Table.from_pylist(rows, OUTCOMES), stored.with_suffix(".parquet"))
    stored.write_text(json.dumps(kept) + "\n", encoding="utf-8")


def read_record(stored: Path) -> dict[str, Any]:
    """Return what `write_record` wrote."""
    record = json.loads(stored.read_text(encoding="utf-8"))
    for row in pq.read_table(stored.with_suffix(".parquet")).to_pylist():
        found = record["found"][row["world"]][row["seed"]]
        if row["of"] == "wins":
            found.setdefault("wins", {})[row["name"]] = row["values"]
        else:
            exam = found["exams"][row["of"]]
            part = exam["exploit"] if row["name"].isdigit() else exam
            part[row["name"]] = row["values"]
    return record


def _search_table(tried: Mapping[str, Any]) -> str:
    won = tried["win over SFT"]
    rates = list(next(iter(won.values())))
    rows = [(arm, *(f"{won[arm][r]:.3f}" for r in rates)) for arm in won]
    said = "Mean exact win rate over SFT on the pilot seed of both worlds."
    return f"{said}\n\n{_table(('policy', *(f'rate {r}' for r in rates)), rows)}"


def _curve_tables(found: Mapping[str, Any]) -> Iterator[str]:
    rows: list[Sequence[object]] = []
    lost: dict[tuple[str, str], list[float]] = {}
    for world, seeds in found.items():
        for seed, arms in seeds.items():
            for arm, points in arms.items():
                best, last = max(p["exact"] for p in points), points[-1]
                fall = best - last["exact"]
                lost.setdefault((world, arm), []).append(fall)
                numbers = (best, last["exact"], fall, last["model"], last["kl"])
                rows.append((world, arm, seed, *(f"{x:.3f}" for x in numbers)))
    head = ("world", "policy", "seed", "best exact", "last exact", "lost", "model at the end", "KL")
    yield _table(head, rows)
    for world in found:
        a, b = lost[world, "RLOO"], lost[world, "Nash-MD .125"]
        difference = paired_difference(np.array(a)[:, None], np.array(b)[:, None])
        yield (
            f"The {world}: RLOO lost {difference.mean:+.3f} more of its best exact win rate than "
            f"Nash-MD did ({len(a)} seeds, one by one above)."
        )
