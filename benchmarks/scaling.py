"""How the cost of a training step grows: time and memory, one knob at a time.

    python benchmarks/scaling.py [--quick] [--threads 2] [--repeat 5] [--out FILE.json]

A step is forward and backward of the DPO loss on one batch (groups of n answers of 48 tokens, all
neighbours compared), without optimiser and reference, each point in a process of its own. The
knobs: unique tokens of the batch, answers a group n, prompt length, vocabulary, parameters (by
layers). Beside every curve stands its exponent, the slope of log time on log x over the upper half
of the points: 1 is linear. Memory is the process's peak less what it had before the step. Writes
benchmarks/results/scaling-DATE.json and the same as .svg.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vs_trl import environment, result_file
from workloads import Shape

ANSWER = 48


@dataclass(frozen=True)
class Point:
    """One measurement: how many groups of which form, and which model reads them."""

    groups: int = 8
    n: int = 2
    prompt: int = 200
    vocabulary: int = 32_000
    layers: int = 6

    @property
    def tokens(self) -> int:
        return self.groups * (self.prompt + self.n * ANSWER)

    @property
    def shape(self) -> Shape:
        return Shape(vocabulary=self.vocabulary, layers=self.layers)

    @property
    def parameters(self) -> int:
        return self.shape.parameters


START = Point()
QUICK = replace(START, groups=2, prompt=40, vocabulary=1000, layers=1)
CURVES: dict[str, tuple[str, str, list[Any]]] = {
    "tokens": ("unique tokens of the batch", "groups", [2, 4, 8, 16, 32, 48]),
    "n": ("answers a group, n", "n", [2, 4, 8, 16, 32]),
    "prompt": ("tokens of a prompt", "prompt", [50, 100, 200, 400, 800]),
    "vocabulary": ("vocabulary", "vocabulary", [4000, 16_000, 32_000, 64_000, 128_000]),
    "parameters": ("parameters, by layers", "layers", [2, 4, 8, 16, 32]),
}


def measure(point: Point, repeat: int) -> dict[str, float]:
    """Be the child: time forward and backward of one batch, and see what memory they take."""
    import resource

    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tandem.batching.packing import pack_groups
    from tandem.data.record import Completion, Group, Preference, Prompt
    from tandem.models.packed import PackedModel
    from tandem.models.probe import probe_layout
    from tandem.objectives.pairwise import PAIRWISE
    from tandem.training.loop import sum_terms, term_weights

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # noqa: E731
    torch.manual_seed(0)
    shape, rng = point.shape, np.random.default_rng(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    trunk = PackedModel(LlamaForCausalLM(config), dtype=torch.bfloat16)
    probe_layout(trunk)
    draw = lambda n: rng.integers(4, shape.vocabulary, n).astype(np.int32)  # noqa: E731
    votes = tuple(Preference(i, i + 1) for i in range(0, point.n - 1, 2))

    def group(k: int) -> Group:
        answers = (Completion("", draw(ANSWER), logp=np.full(ANSWER, -9.0)) for _ in range(point.n))
        return Group(Prompt(str(k), "", tokens=draw(point.prompt)), tuple(answers), None, votes)

    groups = [group(k) for k in range(point.groups)]
    columns = {"ref": [[c.logp for c in g.completions] for g in groups]}
    batch = pack_groups(groups, trunk.layout, columns)

    def loss(out: Any, batch: Any) -> Any:
        return {"dpo": PAIRWISE["sigmoid"](out.logp, batch.ref_logp, batch.pairs)}

    for p in trunk.parameters():
        p.grad = torch.zeros_like(p)
    before, times = peak(), []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        sum_terms(loss(trunk(batch.tokens), batch), term_weights(loss, [batch], "cpu")).backward()
        times.append(time.perf_counter() - began)
    return {"seconds": statistics.median(times[1:]), "gb": peak() - before}


def child(point: Point, repeat: int, threads: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--child", json.dumps(asdict(point)), str(repeat)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{point} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def exponent(points: list[dict[str, Any]], what: str) -> float | None:
    """Slope of log(what) on log(x) by least squares over the upper half of the points."""
    upper = [
        (math.log(p["x"]), math.log(p[what])) for p in points[len(points) // 2 :] if p[what] > 0
    ]
    if len(upper) < 2:
        return None
    mx, my = (statistics.mean(z) for z in zip(*upper, strict=True))
    over = sum((x - mx) ** 2 for x, _ in upper)
    return sum((x - mx) * (y - my) for x, y in upper) / over


def svg(found: dict[str, Any]) -> str:
    """Draw every curve: time above, memory below."""
    width, height, pad = 230, 170, 44
    out = []
    for column, (name, curve) in enumerate(found["curves"].items()):
        for row, (what, unit) in enumerate((("seconds", "s"), ("gb", "GB"))):
            x0, y0 = column * width + pad, row * height + 24
            out.append(panel(curve, what, unit, x0, y0, width - pad - 14, height - 62, name))
    size = (len(found["curves"]) * width, 2 * height)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
    style = 'font-family="sans-serif" font-size="10" fill="#333">'
    return "\n".join(
        [head + style, '<rect width="100%" height="100%" fill="#fff"/>', *out, "</svg>\n"]
    )


def panel(
    curve: dict[str, Any], what: str, unit: str, x0: int, y0: int, w: int, h: int, name: str
) -> str:
    """One curve on linear axes from 0."""
    points = curve["points"]
    top_x, top_y = max(p["x"] for p in points), max(p[what] for p in points) or 1.0
    at = [(x0 + w * p["x"] / top_x, y0 + h - h * p[what] / top_y) for p in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    slope = curve["exponent"][what]
    said = "" if slope is None else f", exponent {slope:.2f}"
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#2563eb"/>' for x, y in at)
    return (
        f'<path d="M{x0} {y0}V{y0 + h}H{x0 + w}" stroke="#999" fill="none"/>'
        f'<polyline points="{line}" stroke="#2563eb" fill="none"/>{dots}'
        f'<text x="{x0}" y="{y0 - 8}" font-weight="bold">{name}: {unit}{said}</text>'
        f'<text x="{x0 - 4}" y="{y0 + 8}" text-anchor="end">{top_y:.2g}</text>'
        f'<text x="{x0 + w}" y="{y0 + h + 12}" text-anchor="end">{top_x:,}</text>'
        f'<text x="{x0}" y="{y0 + h + 24}">{curve["label"]}</text>'
    )


def main() -> None:
    if "--child" in sys.argv:
        point, repeat = sys.argv[sys.argv.index("--child") + 1 :]
        print(json.dumps(measure(Point(**json.loads(point)), int(repeat))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny models, three points a curve")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {**environment(args.threads), "curves": {}}
    for name, (label, knob, values) in CURVES.items():
        start = QUICK if args.quick else START
        values = [v // 20 for v in values[2:]] if args.quick and knob == "vocabulary" else values
        points = []
        for value in values[:3] if args.quick else values:
            point = replace(start, **{knob: value})
            cost = child(point, 1 if args.quick else args.repeat, args.threads)
            points.append({"x": getattr(point, name), **cost})
            print(f"{name:10} {points[-1]['x']:>11,}  {cost['seconds']:.3f} s  {cost['gb']:.3f} GB",
                  flush=True)  # fmt: skip
        slopes = {what: exponent(points, what) for what in ("seconds", "gb")}
        found["curves"][name] = {"label": label, "points": points, "exponent": slopes}
    out = args.out or result_file("scaling", args.quick)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".svg").write_text(svg(found), encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
