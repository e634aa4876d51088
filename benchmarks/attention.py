"""Plain products beside the fused attention kernel, forward and backward, on this CPU.

    python benchmarks/attention.py [--threads 1]

Shapes are [blocks, heads, tokens, head width], causal, as `tandem.attention` stacks them. Prints
medians and writes benchmarks/results/attention-DATE.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

SHAPES = ((10, 8, 300, 8), (64, 4, 64, 32), (8, 6, 256, 48), (8, 6, 340, 48), (2, 8, 1024, 64))


def median(work: Callable[[], None], runs: int = 7) -> float:
    work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> dict[str, object]:
    blocks, heads, tokens, width = shape
    draw = lambda: torch.randn(blocks, tokens, heads, width, dtype=dtype).transpose(1, 2)  # noqa: E731
    q, k, v = (draw().requires_grad_() for _ in range(3))
    grad = draw()
    unseen = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    lowest = torch.finfo(dtype).min
    mask = torch.zeros(tokens, tokens, dtype=dtype).masked_fill(unseen, lowest)
    mask = mask.expand(blocks, 1, -1, -1).contiguous()

    def fused() -> None:
        F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(grad)

    def plain() -> None:
        scores = (q * width**-0.5) @ k.transpose(2, 3) + mask
        (scores.softmax(-1) @ v).backward(grad)

    fast, slow = median(plain), median(fused)
    print(f"{dtype!s:15} {shape!s:20} fused {slow * 1e3:7.1f} ms, plain {fast * 1e3:7.1f} ms: "
          f"{slow / fast:.1f}x")  # fmt: skip
    return {"dtype": str(dtype), "shape": shape, "fused_s": slow, "plain_s": fast}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(d, s) for d in (torch.bfloat16, torch.float32) for s in SHAPES]
    date = datetime.date.today().isoformat()
    out = Path(__file__).parent / "results" / f"attention-{date}.json"
    out.parent.mkdir(exist_ok=True)
    found = {"date": date, "threads": options.threads, "torch": torch.__version__, "rows": rows}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
