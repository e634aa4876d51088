"""A step read by two processes of one thread each, beside one process.

    python benchmarks/processes.py [--out FILE]

Three ways take turns: one process; two, to which a step's groups are dealt out evenly; and two
whose micro-batches are filled one after the other, so that a step of fewer tokens than
`machine.tokens` is one micro-batch and the second process has nothing of its own. One epoch of
DPO each, references not counted; the median of the steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from turns import as_child, by_turns, medians
from vs_trl import environment, result_file
from workloads import WORKLOADS

CASES = ("W-pair", "W-hh")
WAYS = {"one": 1, "dealt": 2, "filled": 2}


def child(name: str, folder: Path, way: str) -> None:
    """Train one epoch; rank 0 prints what its meter saw."""
    import tandem_side as side

    from tandem.batching.microbatches import cut_step
    from tandem.training import sources

    if way == "filled":
        sources.cut_step = lambda groups, cut, **kw: cut_step(  # type: ignore[assignment]
            groups, dataclasses.replace(cut, parts=1), **kw
        )
    own = folder / os.environ.get("RANK", "0")
    own.mkdir(exist_ok=True)
    for file in folder.iterdir():
        if file.is_file() and not (own / file.name).exists():
            (own / file.name).symlink_to(file)
    found = side.run("dpo", WORKLOADS[name], own, "bf16")
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({k: found[k] for k in ("step", "losses", "grad_norm")}))


def launch(count: int) -> list[str]:
    if count == 1:
        return [sys.executable]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
            "--master-addr", "127.0.0.1", "--master-port", port]  # fmt: skip


def measure(name: str) -> dict[str, Any]:
    ways = {way: launch(count) for way, count in WAYS.items()}
    seen = by_turns(__file__, ways, [name], threads=1)
    step = medians(seen, "step")
    found = {
        "workload": name,
        "step": step,
        "ratio": {way: step["one"] / s for way, s in step.items()},
        "losses": {way: found[0]["losses"][-1] for way, found in seen.items()},
        "grad_norm": {way: found[0]["grad_norm"][-1] for way, found in seen.items()},
    }
    print(found, flush=True)
    return found


def main() -> None:
    if as_child(child):
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = [measure(name) for name in CASES]
    out = args.out or result_file("processes", quick=False)
    out.write_text(json.dumps(environment(1) | {"rows": rows}, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
