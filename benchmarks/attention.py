"""`tandem.kernels.cpu_attention` beside the fused kernel, forward and backward, on this CPU.

    python benchmarks/attention.py [--threads 1]

A row is of groups, each a prompt and two answers to it, attended as
`tandem.batching.attention_plan` plans it; the
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
from torch import Tensor

from tandem.batching.attention_plan import AttentionPlan, plan_attention
from tandem.kernels.attention import attend_in_blocks
from tandem.kernels.cpu_attention import BlockedAttention
from tandem.kernels.malloc import keep_freed_memory

Shape = tuple[int, int, int, int, int]
SHAPES: tuple[Shape, ...] = (
    (40, 60, 20, 8, 16),
    (8, 250, 40, 6, 48),
    (8, 110, 45, 6, 48),
    (4, 400, 120, 6, 48),
    (4, 600, 100, 8, 64),
    (2, 900, 100, 8, 64),
)
"""Groups, tokens of a prompt and of an answer, heads, head width."""


def products(q: Tensor, k: Tensor, v: Tensor, laid: AttentionPlan) -> Tensor:
    return BlockedAttention.apply(q, k, v, laid, q.shape[2] ** -0.5, None, q.dtype)  # type: ignore[no-any-return]


def fused(q: Tensor, k: Tensor, v: Tensor, laid: AttentionPlan) -> Tensor:
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return attend_in_blocks(q, k, v, laid, 0.0, q.shape[2] ** -0.5, None, None)


@keep_freed_memory()
def measure(shape: Shape, dtype: torch.dtype, runs: int = 9) -> dict[str, object]:
    groups, prompt, answer, heads, width = shape
    lengths = [prompt, answer, answer] * groups
    parents = [p for g in range(groups) for p in (-1, 3 * g, 3 * g)]
    at = torch.cat([torch.arange(prompt), *[torch.arange(prompt, prompt + answer)] * 2])
    laid = plan_attention(lengths, parents, at.repeat(groups))
    draw = lambda: torch.randn(sum(lengths), heads, width).to(dtype)  # noqa: E731
    q, k, v = (draw().transpose(0, 1).requires_grad_() for _ in range(3))
    grad = draw().flatten(1)
    times: dict[str, list[float]] = {"products": [], "fused": []}
    for _ in range(runs + 1):
        for side in (products, fused):
            began = time.perf_counter()
            torch.autograd.grad(side(q, k, v, laid), [q, k, v], grad)
            times[side.__name__].append(time.perf_counter() - began)
    medians = {side: statistics.median(t[1:]) for side, t in times.items()}
    ratio = medians["fused"] / medians["products"]
    name = str(dtype).removeprefix("torch.")
    print(f"{name:8} {shape!s:24} fused {medians['fused'] * 1e3:6.1f} ms, "
          f"products {medians['products'] * 1e3:6.1f} ms: {ratio:.2f}x")  # fmt: skip
    return {"dtype": name, "shape": shape, "keys": prompt + 2 * answer, **medians, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(shape, x) for x in (torch.bfloat16, torch.float32) for shape in SHAPES]
    date = datetime.date.today().isoformat()
    out = Path(__file__).parent / "results" / f"attention-{date}.json"
    out.parent.mkdir(exist_ok=True)
    found = {"date": date, "threads": options.threads, "torch": torch.__version__, "rows": rows}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
