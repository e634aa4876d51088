"""RMSNorm and rotary embeddings, forward and backward: transformers' beside Tandem's.

    python benchmarks/norms.py [--threads 2] [--out FILE]

Tokens x width as in a training step of W-pair and W-big; medians of 60, the sides in turn. Rotary
embeddings read queries and keys in bf16, as attention's projections leave them under autocast.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from vs_trl import environment, result_file

SHAPES = ((2663, 288), (8192, 512), (512, 2048))
WIDTH = 32
"""Of a head, where rotary embeddings are measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    rows = []
    for what, sides in (("RMSNorm", norm), ("rotary", rotary)):
        for tokens, width in SHAPES:
            seconds = measure(sides(tokens, width))
            ratio = seconds["transformers"] / seconds["tandem"]
            rows.append(
                {"what": what, "tokens": tokens, "width": width, "seconds": seconds, "ratio": ratio}
            )
            print(f"{what} {tokens} x {width}: {ratio:.1f}x")
    out = args.out or result_file("norms", quick=False)
    out.write_text(json.dumps(environment(args.threads) | {"rows": rows}, indent=1) + "\n")
    print(out)


def measure(sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return medians, the sides in turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(65):
        for name, step in sides.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t[5:]) for name, t in times.items()}


def norm(tokens: int, width: int) -> dict[str, Callable[[], object]]:
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from tandem.kernels.rms_norm import patch_rms_norm

    own, quick = LlamaRMSNorm(width), LlamaRMSNorm(width)
    patch_rms_norm(quick)
    x, g = torch.randn(1, tokens, width, requires_grad=True), torch.randn(1, tokens, width)

    def step(module: torch.nn.Module) -> object:
        return torch.autograd.grad(module(x), [x, module.weight], g)  # type: ignore[list-item]

    return {"transformers": lambda: step(own), "tandem": lambda: step(quick)}


def rotary(tokens: int, width: int) -> dict[str, Callable[[], object]]:
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    from tandem.kernels.rotary import RotateHeads

    angle = torch.randn(1, tokens, WIDTH // 2).repeat(1, 1, 2)
    rows = [torch.randn(1, tokens, width // WIDTH, WIDTH) for _ in range(4)]
    q, k = (x.bfloat16().transpose(1, 2).requires_grad_() for x in rows[:2])
    g = [x.transpose(1, 2) for x in rows[2:]]

    def step(turn: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> object:
        return torch.autograd.grad(turn(q, k, angle.cos(), angle.sin()), [q, k], g)

    return {
        "transformers": lambda: step(apply_rotary_pos_emb),
        "tandem": lambda: step(RotateHeads.apply),
    }


if __name__ == "__main__":
    main()
