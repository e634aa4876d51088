"""How right the pairs of RSO's three sources are, and how far apart their answers.

    python experiments/rso_labels.py runs/bench-rso

Reads a finished comparison of `rso.toml`: of every pair that the sigmoid rows learned from, whether
the truth puts the chosen answer above the other (ties left out), and by how much they differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tandem.runs.records import read_records
from tandem.tasks.micro import Truth

SOURCES = {
    "direct": ("sigmoid-norm-direct", "preferences"),
    "sft-sample-rank": ("sigmoid-norm-sft-sample-rank", "pairs"),
    "rso-sample-rank": ("sigmoid-norm-rso-sample-rank", "pairs"),
}


def gaps(scope: Path, name: str) -> np.ndarray:
    """Return the truth of the chosen answer minus the other's, for every pair of a stage."""
    (pairs,) = [record for record in read_records(scope) if record.name == name]
    found: list[float] = []
    for group in Truth()(pairs.load()):
        assert group.scores is not None
        for vote in group.preferences:
            gap = group.scores[vote.i] - group.scores[vote.j]
            found.append(float(gap if vote.p >= 0.5 else -gap))
    return np.array(found)


def main() -> None:
    """Print a line a source."""
    seeds = sorted(Path(sys.argv[1]).glob("seed-*"))
    for source, (entry, name) in SOURCES.items():
        each = [gaps(seed / entry, name) for seed in seeds]
        apart = [gap[gap != 0] for gap in each]
        right, mean = (float(np.mean([f(a) for a in apart])) for f in (_right, np.mean))
        tied = float(np.mean([(gap == 0).mean() for gap in each]))
        print(f"{source:16} right {right:.3f}  truth apart {mean:.3f}  tied {tied:.3f}")


def _right(gap: np.ndarray) -> float:
    return float((gap > 0).mean())


if __name__ == "__main__":
    main()
