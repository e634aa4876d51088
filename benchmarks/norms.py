"""RMSNorm forward and backward: transformers' beside Tandem's, on this machine.

    python benchmarks/norms.py [--threads 2] [--out FILE]

Tokens x width as in a training step of W-pair and W-big; medians of 60, the sides in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from vs_trl import environment, result_file

SHAPES = ((2663, 288), (8192, 512), (512, 2048))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from tandem.norms import quicken

    torch.set_num_threads(args.threads)
    rows = []
    for tokens, width in SHAPES:
        own, quick = LlamaRMSNorm(width), LlamaRMSNorm(width)
        quicken(quick)
        x, g = torch.randn(1, tokens, width, requires_grad=True), torch.randn(1, tokens, width)
        times: dict[str, list[float]] = {"transformers": [], "tandem": []}
        for turn in range(65):
            for name, norm in (("transformers", own), ("tandem", quick)):
                began = time.perf_counter()
                norm(x).backward(g)
                if turn >= 5:
                    times[name].append(time.perf_counter() - began)
                x.grad = norm.weight.grad = None
        seconds = {name: statistics.median(t) for name, t in times.items()}
        ratio = seconds["transformers"] / seconds["tandem"]
        rows.append({"tokens": tokens, "width": width, "seconds": seconds, "ratio": ratio})
        print(f"{tokens} x {width}: {ratio:.1f}x")
    out = args.out or result_file("norms", quick=False)
    out.write_text(json.dumps(environment(args.threads) | {"rows": rows}, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
