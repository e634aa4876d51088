"""Steps of rows that are filled up to a multiple of tokens, beside rows that end where they end.

    python benchmarks/filling.py [--threads 2] [--out FILE]

Each way is a process of its own, in turn: a workload with its optimiser, references not counted,
and the median of the steps that are timed. No two steps have the same lengths. A ratio is of two
processes that ran one after the other; what is said is their median and their quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from turns import as_child, by_turns, medians
from vs_trl import environment, result_file
from workloads import WORKLOADS

CASES = (("W-micro", "reward"), ("W-micro", "dpo"), ("W-hh", "reward"), ("W-hh", "dpo"))
TURNS = 11
WAYS = {way: [sys.executable] for way in ("filled", "bare")}


def child(name: str, folder: Path, way: str, what: str) -> None:
    """Train, and print what the meter saw."""
    import tandem_side as side
    import torch

    from tandem.batching import attention_plan

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if way == "bare":
        attention_plan.MULTIPLE = 1
    found = side.run(what, WORKLOADS[name], folder, "bf16")
    print(json.dumps({key: found[key] for key in ("step", "losses", "tokens_per_step")}))


def measure(name: str, what: str, threads: int) -> dict[str, Any]:
    seen = by_turns(__file__, WAYS, [name, what], threads, TURNS)
    tokens = medians(seen, "tokens_per_step")
    pairs = [b["step"] / f["step"] for b, f in zip(seen["bare"], seen["filled"], strict=True)]
    low, ratio, high = statistics.quantiles(pairs, n=4)
    found = {
        "workload": name,
        "what": what,
        "step": medians(seen, "step"),
        "ratio": ratio,
        "quartiles": [low, high],
        "more_tokens": tokens["filled"] / tokens["bare"] - 1,
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
    rows = [measure(*case, args.threads) for case in CASES]
    out = args.out or result_file("filling", quick=False)
    out.write_text(json.dumps(environment(args.threads) | {"rows": rows}, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
