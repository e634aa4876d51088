"""Where the time of a whole comparison goes: model and sampling, or Python around them.

    python benchmarks/share.py [--preset laptop] [--threads 2] [--out FILE]

Runs `tandem bench` in this process, seeds one after the other, with a clock around the outermost
call of any model (forward), the backward pass, sampling (prefill, decoding, and the draws between)
and the optimiser. Nothing is counted twice: a forward pass inside sampling is sampling. The rest
is imports, tokenising, packing, selection, files, statistics and the report.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vs_trl import environment, result_file


class Clocks:
    """Seconds by what was going on, the outermost of nested calls alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside = False

    def around(self, owner: Any, method: str, name: str) -> None:
        """Put a clock around a method of a class."""
        setattr(owner, method, self.timed(getattr(owner, method), name))

    def timed(self, work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def inner(*args: Any, **kw: Any) -> Any:
            if self.inside:
                return work(*args, **kw)
            self.inside, began = True, time.perf_counter()
            try:
                return work(*args, **kw)
            finally:
                self.inside = False
                self.seconds[name] += time.perf_counter() - began

        return inner


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.perf_counter()

    import torch

    from tandem import cli
    from tandem.engines.torch import TorchEngine

    torch.set_num_threads(args.threads)
    clocks = Clocks()
    clocks.around(torch.nn.Module, "__call__", "forward")
    clocks.around(torch.Tensor, "backward", "backward")
    clocks.around(torch.optim.AdamW, "step", "optimiser")
    clocks.around(TorchEngine, "_unit", "sampling")
    with tempfile.TemporaryDirectory() as out:
        status = cli.main(["bench", "--preset", args.preset, "--out", out, "--workers", "1"])
    if status:
        sys.exit(status)
    total = time.perf_counter() - began
    shares = {name: s / total for name, s in clocks.seconds.items()}
    model = sum(shares.values()) - shares.get("optimiser", 0.0)
    found = environment(args.threads) | {"preset": args.preset, "seconds": total}
    found |= {"shares": shares, "model": model, "rest": 1 - sum(shares.values())}
    print(f"{args.preset}: {total:.0f} s, of which {model:.0%} forward, backward and sampling")
    print("  ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    result = args.out or result_file("share", args.preset != "laptop")
    result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
