"""How near to the machine's limit training comes: measured ceilings, and the least work there is.

    python benchmarks/limits.py [--quick] [--threads 2] [--precision bf16] [--out FILE]

Ceilings: the fastest of some matrix products in fp32 and in bf16, the sizes of the 100 M model
among them, and bytes copied a second. The least work of a training step makes each unique token
once (a prompt once for all its answers); of the last layer it makes keys and values of every
token, and the rest where a state is read; of the language head, trained positions alone:

    forward   2 x (layers' parameters) x tokens  +  4 x width x layers x (keys seen, summed)
              - (last layer's share of both where nothing is read)
              +  2 x vocabulary x width x trained tokens          backward: twice that

The share of the ceiling is that work over the time of a step without its optimiser, divided by
the ceiling in the precision that was trained in. The optimiser stands beside it: its share of the
step, and the time that reading p, g, m, v and writing p, m, v in fp32 would take at the measured
bandwidth. W-big, 100 M parameters, has about 13,000 unique tokens a step (DPO) and 11,600 (SFT).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vs_trl import child, environment, result_file
from workloads import WORKLOADS, Shape, Workload, make_model

Product = tuple[int, int, int]
PRODUCTS: tuple[Product, ...] = (
    (2048, 2048, 2048), (4096, 4096, 4096), (8192, 512, 1376), (8192, 1376, 512),
    (4096, 512, 128_000), (8192, 288, 768),
)  # fmt: skip
QUICK: tuple[Product, ...] = ((512, 512, 512), (1024, 288, 768))
ADAM_BYTES = 28


def median(work: Callable[[], Any], runs: int) -> float:
    """Return the median time of some runs, after one to warm up."""
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def ceilings(products: tuple[Product, ...], runs: int) -> dict[str, Any]:
    """Measure FLOP/s of matrix products in both precisions."""
    import torch

    found: dict[str, Any] = {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        rates = {}
        for m, k, n in products:
            a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
            seconds = median(lambda a=a, b=b: a @ b, runs)
            rates[f"{m}x{k}x{n}"] = 2 * m * k * n / seconds
        found[name] = {"flops": max(rates.values()), "products": rates}
    return found


def bandwidth(megabytes: int, runs: int) -> float:
    """Measure bytes read and written a second by a copy that no cache holds."""
    import torch

    source = torch.ones(megabytes << 18)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median(lambda: target.copy_(source), runs)


def forward_flops(shape: Shape, prompt: int, answers: list[int], what: str) -> float:
    """The least floating-point operations of reading one group once, its answers trained on."""
    tokens, above = prompt + sum(answers), shape.layers - 1
    keys = prompt * (prompt + 1) / 2 + sum(a * prompt + a * (a + 1) / 2 for a in answers)
    if what == "reward":  # read at the ends of answers
        read, seen, words = len(answers), sum(prompt + a for a in answers), 0
    else:  # read at the prompt's end and at every token of an answer but the last
        read, words = 1 + sum(answers) - len(answers), sum(answers)
        seen = keys - prompt * (prompt - 1) / 2 - sum(prompt + a for a in answers)
    layer, kv = shape.body / shape.layers, 2 * shape.width**2
    products = (above * layer + kv) * tokens + (layer - kv) * read
    products += shape.vocabulary * shape.width * words
    return 2 * products + 4 * shape.width * (above * keys + seen)


def least(what: str, work: Workload) -> dict[str, float]:
    """FLOPs and unique tokens of one step of a workload, on average."""
    flops = tokens = 0.0
    for row in work.rows():
        prompt = len(row["prompt"].split())
        answers = [len(row[s].split()) + 1 for s in ("chosen", "rejected")]
        answers = answers[:1] if what == "sft" else answers
        flops += 3 * forward_flops(work.shape, prompt, answers, what)
        tokens += prompt + sum(answers)
    return {"flops": flops / work.steps, "unique_tokens": tokens / work.steps}


def reached(
    what: str, name: str, args: argparse.Namespace, ceiling: dict[str, Any], rate: float
) -> dict[str, Any]:
    """Train some steps, and compare with the least work."""
    work = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = make_model(Path(place), work.shape)
        found = child("tandem", what, name, args.precision, folder, args.threads)
    need, step, share = least(what, work), found["step"], found["phases"].get("optimiser", 0.0)
    flops = need["flops"] / (step * (1 - share))
    return {
        "what": what,
        "workload": work.name,
        "parameters": work.shape.parameters,
        **need,
        "seconds_per_step": step,
        "phases": found["phases"],
        "optimiser_share": share,
        "optimiser_over_bandwidth": step * share / (ADAM_BYTES * work.shape.parameters / rate),
        "flops_per_second": flops,
        "share_of_ceiling": flops / ceiling[args.precision]["flops"],
    }


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['workload']} {row['what']}: {row['unique_tokens']:.0f} unique tokens and "
        f"{row['flops'] / 1e9:.0f} GFLOP a step in {row['seconds_per_step']:.2f} s, of which the "
        f"optimiser {row['optimiser_share']:.0%}; {row['share_of_ceiling']:.0%} of the ceiling"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small products, a small step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    found = environment(args.threads)
    found["ceilings"] = ceilings(QUICK if args.quick else PRODUCTS, 3 if args.quick else 7)
    found["bytes_per_second"] = rate = bandwidth(64 if args.quick else 512, 5)
    for name, of in found["ceilings"].items():
        print(f"{name}: {of['flops'] / 1e9:.1f} GFLOP/s")
    print(f"memory: {rate / 1e9:.1f} GB/s", flush=True)
    names = ["W-big-quick"] if args.quick else ["W-big", "W-pair"]
    found["rows"] = []
    for name in names:
        for what in ("dpo",) if args.quick else ("dpo", "sft", "reward"):
            found["rows"].append(reached(what, name, args, found["ceilings"], rate))
            print(line(found["rows"][-1]), flush=True)
    out = args.out or result_file("limits", args.quick)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
