"""Methods in one process and in several: do they fit the same, and what does each process hold?

    python benchmarks/parallelism.py [--methods dpo grpo ...] [--out FILE]

A table of (method) x (one process, DDP 2, FSDP2 2, FSDP2 with adapters 2, ZeRO-3 2): the largest
difference of losses, gradient norms and weights from one process's, peak memory a process, and an
interrupted fit that goes on in another number of processes. Tiny models over gloo, in fp32; the
memory is that of 19 M parameters. Results are written after every cell, and cells that are done
are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "e2e" / "ranks.py"
Job = tuple[int, Path, str, dict[str, Any]]
"""Processes, place, method, settings."""
METHODS = ("sft", "reward", "dpo", "kto", "ppo", "grpo")
LORA = {"lora": {"rank": 4}}
SHARDED = {"sharding": "fsdp2"}
WAYS: dict[str, tuple[int, dict[str, Any], str]] = {
    "one": (1, {}, ""),
    "one, LoRA": (1, LORA, ""),
    "DDP 2": (2, {}, "one"),
    "FSDP2 2": (2, SHARDED, "one"),
    "FSDP2+LoRA 2": (2, SHARDED | LORA, "one, LoRA"),
}
"""Way -> processes, settings, and the way that it is held against."""


def main() -> None:
    """Run the cells that are missing, and print the table."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]
    from vs_trl import result_file

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=result_file("parallelism", quick=False))
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}

    def keep(cell: str, numbers: dict[str, Any]) -> None:
        found[cell] = numbers
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{cell}: {numbers}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        base, big = make_models(Path(place))
        if "ZeRO-3 2" not in found:
            keep("ZeRO-3 2", refused(base, Path(place)))
        for method in options.methods:
            compare(method, base, Path(place), found, keep)
        for way in ("one", "DDP 2", "FSDP2 2", "FSDP2+LoRA 2"):
            if f"memory, {way}" not in found:
                keep(f"memory, {way}", memory(way, big, Path(place)))


def make_models(place: Path) -> tuple[Path, Path]:
    """Write the tiny model, and one whose weights are what a process holds."""
    from tiny import folder

    wide = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
    return folder(place / "base"), folder(place / "big", **wide)


def fit(base: Path, *jobs: Job) -> list[Any]:
    """Fit in processes of their own, one job after the other; return what each process saw."""
    listed = [
        {"processes": n, "place": str(place), "base": str(base), "method": m, "settings": settings}
        for n, place, m, settings in jobs
    ]
    words = [sys.executable, "-W", "ignore", str(SCRIPT), json.dumps(listed)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{jobs} failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def compare(method: str, base: Path, place: Path, found: dict[str, Any], keep: Any) -> None:
    """Fit a method every way, and interrupt it once."""
    missing = [way for way in WAYS if f"{method}, {way}" not in found]
    if not missing and f"{method}, resumed" in found:
        return
    jobs = [(n, place / method / way, method, more) for way, (n, more, _) in WAYS.items()]
    seen = dict(zip(WAYS, fit(base, *jobs), strict=True))
    for way, (_, _, against) in WAYS.items():
        if against:
            places = (place / method / against, place / method / way)
            keep(f"{method}, {way}", differences(seen[against], seen[way], *places))
        else:
            keep(f"{method}, {way}", {"steps": len(seen[way][0]["losses"])})
    keep(f"{method}, resumed", resumed(method, base, place))


def differences(one: Any, other: Any, here: Path, there: Path) -> dict[str, float]:
    """The largest differences from one process's numbers and weights.

    Losses differ by so much in themselves, and as a share of the largest loss term of the fit: a
    policy gradient's loss is 0 but for rounding, since advantages add up to 0.
    """
    pairs = [(a, b) for s in other for x, y in zip(one[0]["losses"], s["losses"], strict=True)
             for a, b in zip(x, y, strict=True)]  # fmt: skip
    norms = [
        pair for s in other for pair in zip(one[0]["grad_norms"], s["grad_norms"], strict=True)
    ]
    largest = max(abs(a) for a, _ in pairs)
    apart = max(abs(a - b) for a, b in pairs)
    return {
        "loss": apart,
        "loss_share": apart / max(largest, 1e-12),
        "largest_loss": largest,
        "grad_norm": max(abs(a - b) / max(abs(a), 1e-6) for a, b in norms),
        "weights": weight_difference(here, there),
    }


def weight_difference(one: Path, other: Path) -> float:
    """The largest distance of a weight, as a share of its norm."""
    from safetensors.torch import load_file

    a, b = (load_file(place / "out" / "model.safetensors") for place in (one, other))
    return max(float((b[k] - x).norm() / x.norm().clamp(min=1e-12)) for k, x in a.items())


def resumed(method: str, base: Path, place: Path) -> dict[str, float]:
    """Interrupt after the third step and go on in as many, fewer and more processes."""
    turns = ((2, 2), (2, 1), (1, 2))
    jobs: list[Job] = []
    for before, after in turns:
        home = place / method / f"{before} to {after}"
        first, then = (
            {"save_seconds": 0.0} | (SHARDED if count > 1 else {}) for count in (before, after)
        )
        jobs += [
            (after, home / "calm", method, then),
            (before, home / "torn", method, first | {"dies_at": 4}),
            (after, home / "torn", method, then),
        ]
    fit(base, *jobs)
    homes = {f"{a} to {b}": place / method / f"{a} to {b}" for a, b in turns}
    return {name: weight_difference(h / "calm", h / "torn") for name, h in homes.items()}


def memory(way: str, big: Path, place: Path) -> dict[str, Any]:
    """The megabytes that each process took to fit DPO to 19 M parameters, beyond its imports."""
    count, settings, _ = WAYS[way]
    more = settings | {"epochs": 1, "tokens": 200}
    [seen] = fit(big, (count, place / "memory" / way, "dpo", more))
    return {"megabytes": [s["megabytes"] for s in seen]}


def refused(base: Path, place: Path) -> dict[str, str]:
    """What a launcher that asks for DeepSpeed is told."""
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    try:
        fit(base, (2, place / "zero", "sft", {}))
    except SystemExit as error:
        lines = [line for line in str(error).splitlines() if "DeepSpeed" in line]
        return {"refused": lines[-1].strip() if lines else str(error)[-300:]}
    finally:
        del os.environ["ACCELERATE_USE_DEEPSPEED"]
    return {"refused": "no"}


if __name__ == "__main__":
    main()
