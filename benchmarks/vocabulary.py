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
import sys
from pathlib import Path
from typing import Any

from turns import as_child, by_turns, medians
from vs_trl import environment, result_file
from workloads import WORKLOADS

CASES = ("W-pair", "W-hh", "W-big-quick")
WAYS = {way: [sys.executable] for way in ("rows", "table")}


def child(name: str, folder: Path, way: str) -> None:
    """Train one epoch, and print what the meter saw."""
    import tandem_side as side
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if way == "table":
        side.Offline.reads = lambda self: None
    work = WORKLOADS[name]
    found = side.run("reward", work, folder, "bf16")
    read = len(side.groups(work, folder).vocabulary())
    print(json.dumps({k: found[k] for k in ("step", "peak_gb", "losses")} | {"read": read}))


def measure(name: str, threads: int) -> dict[str, Any]:
    seen = by_turns(__file__, WAYS, [name], threads)
    step = medians(seen, "step")
    found = {
        "workload": name,
        "vocabulary": WORKLOADS[name].shape.vocabulary,
        "read": seen["rows"][0]["read"],
        "step": step,
        "peak_gb": medians(seen, "peak_gb"),
        "ratio": step["table"] / step["rows"],
        "losses": {way: found[0]["losses"][-1] for way, found in seen.items()},
    }
    print(found, flush=True)
    return found


def main() -> None:
    if as_child(child):
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
