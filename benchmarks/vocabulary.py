"""A reward's step with the rows of the table that are read, beside one that trains the table.

    python benchmarks/vocabulary.py [--threads 2] [--out FILE]

Each way is a process of its own, in turn: one epoch of a workload with its optimiser, the median
of its steps, and the process's peak memory. The words of a workload are drawn evenly, so more of
the table is read than text of the same length would read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vs_trl import environment, result_file
from workloads import WORKLOADS, make_model

CASES = ("W-pair", "W-hh", "W-big-quick")
TURNS = 5


def child(name: str, folder: Path, told: bool) -> None:
    """Train one epoch, and print what the meter saw."""
    import tandem_side as side
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if not told:
        side.Offline.reads = lambda self: None
    work = WORKLOADS[name]
    found = side.run("reward", work, folder, "bf16")
    read = len(side.groups(work, folder).vocabulary())
    print(json.dumps({k: found[k] for k in ("step", "peak_gb", "losses")} | {"read": read}))


def measure(name: str, threads: int) -> dict[str, Any]:
    work, sides = WORKLOADS[name], ("rows", "table")
    seen: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as place:
        make_model(Path(place), work.shape)
        for _ in range(TURNS):
            for side in sides:
                told = [sys.executable, __file__, "--child", name, place, side]
                out = subprocess.run(told, env=env, capture_output=True, text=True, check=True)
                seen[side].append(json.loads(out.stdout.splitlines()[-1]))
    step, peak = (
        {side: statistics.median(one[key] for one in found) for side, found in seen.items()}
        for key in ("step", "peak_gb")
    )
    found = {
        "workload": name,
        "vocabulary": work.shape.vocabulary,
        "read": seen["rows"][0]["read"],
        "step": step,
        "peak_gb": peak,
        "ratio": step["table"] / step["rows"],
        "losses": {side: found[0]["losses"][-1] for side, found in seen.items()},
    }
    print(found)
    return found


def main() -> None:
    if "--child" in sys.argv:
        name, folder, side = sys.argv[2:]
        child(name, Path(folder), side == "rows")
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [measure(name, args.threads) for name in CASES]
    out = args.out or result_file("vocabulary", quick=False)
    out.write_text(json.dumps(environment(args.threads) | {"rows": rows}, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
