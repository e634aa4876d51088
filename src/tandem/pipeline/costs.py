"""What the stages of a run cost."""

from __future__ import annotations

from collections.abc import Collection

from tandem.runs.run import Run


def stage_seconds(run: Run, stages: Collection[str]) -> float:
    """Return the wall time of some stages, as they took it when they were done."""
    return sum(r.seconds for r in run.records() if r.name in stages)


def cost_table(run: Run) -> str:
    """Say what every stage cost."""
    rows = run.records()
    lines = [
        f"  {r.folder.name:<24} {r.seconds:8.1f} s  {r.peak_bytes / 2**30:6.2f} GiB" for r in rows
    ]
    return "\n".join(["stages", *lines, f"  {'all':<24} {sum(r.seconds for r in rows):8.1f} s"])
