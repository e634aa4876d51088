"""Attention by `tandem.products` beside the fused kernel, forward and backward, on this CPU.

    python benchmarks/attention.py [--threads 1]

A row is of groups, each a prompt and two answers to it, attended as `tandem.layout` plans it; the
sides take turns. Prints medians and writes benchmarks/results/attention-DATE.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from pathlib import Path

import torch

from tandem import attention
from tandem.layout import plan
from tandem.memory import kept

SHAPES = (
    (40, 60, 20, 8, 16),
    (8, 250, 40, 6, 48),
    (8, 110, 45, 6, 48),
    (4, 400, 120, 6, 48),
    (4, 600, 100, 8, 64),
    (2, 900, 100, 8, 64),
)
"""Groups, tokens of a prompt and of an answer, heads, head width."""
SIDES = {"products": 10**9, "fused": 0}
"""Up to how many keys products are used."""


@kept()
def measure(shape: tuple[int, int, int, int, int], runs: int = 9) -> dict[str, object]:
    groups, prompt, answer, heads, width = shape
    lengths = [prompt, answer, answer] * groups
    parents = [p for g in range(groups) for p in (-1, 3 * g, 3 * g)]
    at = torch.cat([torch.arange(prompt), *[torch.arange(prompt, prompt + answer)] * 2])
    laid = plan(lengths, parents, at.repeat(groups))
    draw = lambda: torch.randn(1, sum(lengths), heads, width, dtype=torch.bfloat16)  # noqa: E731
    q, k, v = (draw().transpose(1, 2).requires_grad_() for _ in range(3))
    grad, times = draw(), {side: list[float]() for side in SIDES}
    for _ in range(runs + 1):
        for side, longest in SIDES.items():
            attention.LONGEST = longest
            began = time.perf_counter()
            out, _ = attention.attention(torch.nn.Identity(), q, k, v, None, segments=laid)
            torch.autograd.grad(out, [q, k, v], grad)
            times[side].append(time.perf_counter() - began)
    medians = {side: statistics.median(t[1:]) for side, t in times.items()}
    ratio = medians["fused"] / medians["products"]
    print(f"{shape!s:24} fused {medians['fused'] * 1e3:6.1f} ms, "
          f"products {medians['products'] * 1e3:6.1f} ms: {ratio:.2f}x")  # fmt: skip
    return {"shape": shape, "keys": prompt + 2 * answer, **medians, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(shape) for shape in SHAPES]
    date = datetime.date.today().isoformat()
    out = Path(__file__).parent / "results" / f"attention-{date}.json"
    out.parent.mkdir(exist_ok=True)
    found = {"date": date, "threads": options.threads, "torch": torch.__version__, "rows": rows}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
