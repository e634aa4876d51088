"""What a run costs alone and beside another one, by how long its threads spin while they wait.

    python benchmarks/shared_cores.py [--threads 2] [--turns 7] [--steps 3] [--out FILE.json]

Each way has two processes of `--threads` threads, which load torch and a model once and then wait.
In a turn every way in its place does a few steps of a transformer of W-pair's sizes (forward and
backward, fp32) in one process, then in both at once. So all ways meet the same load of the
machine, and medians over turns are compared. *Fair* is twice the time alone: on as many cores as
threads two runs cannot be quicker.
Writes benchmarks/results/shared-cores-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from workloads import WORKLOADS

WAYS: dict[str, dict[str, str]] = {
    "as OpenMP is": {},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
ROWS, LENGTH = 8, 128
"""Of a step: 1,024 tokens."""
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def child(workload: str) -> None:
    """Make a model, then do as many steps as each line of the input says, and print the time."""
    import torch
    from torch import nn

    shape = WORKLOADS[workload].shape
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        shape.width, shape.heads, shape.ffn, dropout=0.0, batch_first=True, norm_first=True
    )
    model = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
    rows = torch.randn(ROWS, LENGTH, shape.width)

    def step() -> None:
        model(rows).square().mean().backward()
        model.zero_grad()

    step()
    print("ready", flush=True)
    for line in sys.stdin:
        began, used = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        spent = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}
        print(json.dumps(spent), flush=True)


def start(way: str, workload: str, threads: int) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if k not in SETTINGS}
    env |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"} | WAYS[way]
    words = [sys.executable, __file__, "--child", workload]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=env, stdin=pipe, stdout=pipe, text=True, bufsize=1)


def ask(processes: list[subprocess.Popen[str]], steps: int) -> list[dict[str, float]]:
    """Have processes do steps at once; return what each says of itself."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{steps}\n")
        process.stdin.flush()
    return [json.loads(process.stdout.readline()) for process in processes if process.stdout]


def measure(
    ways: list[str], threads: int, turns: int, steps: int, workload: str
) -> Iterator[dict[str, Any]]:
    """Measure ways by turns; yield all that was found after each turn."""
    pairs = {way: [start(way, workload, threads) for _ in range(2)] for way in ways}
    try:
        for process in (p for pair in pairs.values() for p in pair):
            assert process.stdout is not None
            process.stdout.readline()
        seen: dict[str, dict[str, list[float]]] = {
            way: {"alone": [], "shared": [], "cpu alone": [], "cpu shared": []} for way in ways
        }
        loads: list[float] = []
        for _ in range(turns):
            loads.append(os.getloadavg()[0])
            for way, pair in pairs.items():
                for name, asked in (("alone", pair[:1]), ("shared", pair)):
                    found = ask(asked, steps)
                    seen[way][name].append(max(f["seconds"] for f in found) / steps)
                    seen[way][f"cpu {name}"].append(max(f["cpu"] for f in found) / steps)
            yield {"loads": loads, "ways": seen}
    finally:
        for process in (p for pair in pairs.values() for p in pair):
            process.kill()
            process.wait()


def summary(seen: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """One row a way: medians over turns; ratios are medians of the turns' own ratios."""
    first = seen[next(iter(seen))]["alone"]
    rows = []
    for way, found in seen.items():
        shared = [b / a for a, b in zip(found["alone"], found["shared"], strict=True)]
        cost = [a / b for a, b in zip(found["alone"], first, strict=True)]
        rows.append(
            {"way": way}
            | {name: statistics.median(values) for name, values in found.items()}
            | {"shared over alone": statistics.median(shared)}
            | {"alone over the first": statistics.median(cost)}
        )
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--workload", choices=list(WORKLOADS), default="W-pair")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = Path(__file__).with_name("results")
    out = args.out or results / f"shared-cores-{date.today().isoformat()}.json"
    about = {
        "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "machine": {"processor": platform.processor(), "cores": os.cpu_count()},
        "threads": args.threads,
    }
    rows: list[dict[str, Any]] = []
    for found in measure(args.ways, args.threads, args.turns, args.steps, args.workload):
        rows = summary(found["ways"])
        load = [min(found["loads"]), max(found["loads"])]
        kept = {**about, "load": load, "rows": rows, **found}
        out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(f"turn {len(found['loads'])} of {args.turns}", file=sys.stderr, flush=True)
    for row in rows:
        print(
            f"{row['way']:14} alone {row['alone']:.3f} s ({row['alone over the first']:.2f}x)  "
            f"shared {row['shared']:.3f} s ({row['shared over alone']:.2f}x)  "
            f"cpu {row['cpu alone']:.3f} and {row['cpu shared']:.3f} s"
        )
    print(out)


if __name__ == "__main__":
    main()
