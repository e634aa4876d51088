"""Our own speed before and after a change: two checkouts, the same steps, in turn.

    git worktree add /tmp/before v0.1
    python benchmarks/before_after.py /tmp/before . [--what dpo grpo] [--repeat 5] [--out F]

Each measurement is our side of `vs_trl.py` in a process of its own, with the code of one checkout;
the checkouts take turns and change places every round, so a machine that warms up or is shared
slows both. The ratio of each round is kept: their median says how much slower the second is, and
their spread what the noise is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vs_trl import environment
from workloads import WORKLOADS, make_model


def measure(tree: Path, what: str, work: str, place: Path, threads: int) -> dict[str, Any]:
    """Measure our side with the code of one checkout."""
    script = str(tree / "benchmarks" / "vs_trl.py")
    words = [sys.executable, script, "--child", "tandem", what, work, "bf16", str(place)]
    env = {**os.environ, "PYTHONPATH": str(tree / "src"), "HF_HUB_OFFLINE": "1"}
    env |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*words, str(threads)], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{what} of {tree} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Alternate the checkouts; print and keep the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--what", nargs="+", default=["dpo", "grpo"])
    parser.add_argument("--workload", default="W-pair", choices=list(WORKLOADS))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    trees = {"before": asked.before.resolve(), "after": asked.after.resolve()}
    found: dict[str, Any] = {"environment": environment(asked.threads), "workload": asked.workload}
    with tempfile.TemporaryDirectory() as place:
        make_model(Path(place), WORKLOADS[asked.workload].shape)
        for what in asked.what:
            rounds: list[dict[str, float]] = []
            for turn in range(asked.repeat):
                order = list(trees) if turn % 2 == 0 else list(trees)[::-1]
                runs = {
                    name: measure(trees[name], what, asked.workload, Path(place), asked.threads)
                    for name in order
                }
                rounds.append({name: runs[name]["step"] for name in trees})
                print(what, rounds[-1], flush=True)
            ratios = [r["after"] / r["before"] for r in rounds]
            found[what] = {
                "seconds_a_step": rounds,
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
            print(
                f"{what}: after takes {found[what]['ratio']:.3f} of before's time "
                f"({min(ratios):.3f} to {max(ratios):.3f} in {asked.repeat} rounds)",
                flush=True,
            )
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
