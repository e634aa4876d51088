"""What a campaign has done so far, in one JSON file that a kill cannot halve."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fuzz.verdicts import Verdict


@dataclass
class Tally:
    """What one kind of case has come to.

    Attributes:
        following: number of the next case.
        cases: cases that ended.
        endings: `accepted`, `refused`, ... -> cases.
        faults: kind of fault -> cases.
        counts: further numbers.
        seconds: spent on them.
        reasons: different reasons of refusals.
    """

    following: int = 0
    cases: int = 0
    endings: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict, seconds: float) -> None:
        """Count one case."""
        self.cases += 1
        self.seconds += seconds
        self.endings = dict(Counter(self.endings) + Counter([verdict.ending]))
        self.faults = dict(Counter(self.faults) + Counter(list(verdict.faults)))
        self.counts = dict(Counter(self.counts) + Counter(verdict.counts))
        if verdict.reason and verdict.reason not in self.reasons:
            self.reasons.append(verdict.reason)


@dataclass
class State:
    """A campaign: its seed, its seconds on the wall and on a processor, and a tally a kind."""

    seed: int
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tallies: dict[str, Tally] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, seed: int) -> State:
        """Read the state of a campaign with this seed, or begin one."""
        if not path.exists():
            return cls(seed)
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if table["seed"] != seed:
            raise SystemExit(f"{path} is of seed {table['seed']}: give it, or another --folder")
        tallies = {name: Tally(**row) for name, row in table["tallies"].items()}
        return cls(seed, table["seconds"], table["cpu_seconds"], tallies)

    def save(self, path: Path) -> None:
        """Write it; the old file stays until the new one is whole."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        part.replace(path)

    def figures(self, goals: dict[str, int]) -> dict[str, Any]:
        """Return what is to be told of it."""
        rows = {}
        for name, tally in self.tallies.items():
            row = asdict(tally)
            reasons = row.pop("reasons")
            del row["following"]
            row |= {"goal": goals[name], "seconds": round(tally.seconds, 1)}
            rows[name] = {**row, "different_refusals": len(reasons)}
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "cpu_seconds": round(self.cpu_seconds, 1),
            "date": time.strftime("%Y-%m-%d"),
            "kinds": rows,
        }


def figures_table(figures: dict[str, Any]) -> str:
    """Return the figures as a table in Markdown: one row a kind."""
    lines = ["| kind | goal | cases | how they ended | faults |", "| --- | --- | --- | --- | --- |"]
    for name, row in figures["kinds"].items():
        ended = ", ".join(f"{n:,} {what}" for what, n in sorted(row["endings"].items()))
        faults = ", ".join(f"{n} {what}" for what, n in sorted(row["faults"].items())) or "none"
        kills = f"{row['counts']['kills']:,} kills: " if "kills" in row["counts"] else ""
        told = f"{kills}{ended}" or "-"
        lines.append(f"| {name} | {row['goal']:,} | {row['cases']:,} | {told} | {faults} |")
    wall, used = figures["seconds"], figures["cpu_seconds"]
    lines += ["", f"{wall:,.0f} s, {used:,.0f} s of a processor, seed {figures['seed']}."]
    return "\n".join(lines)
