"""A training step with the last layer on the tokens that are read, beside all of its tokens.

    python benchmarks/last_layer.py [--threads 2] [--out FILE]

One model in one process, the two ways in turn over every batch of a workload; forward and backward
alone, without the optimiser. Medians of the time of all batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from vs_trl import environment, result_file
from workloads import WORKLOADS, make_model

CASES = (("reward", "W-pair"), ("reward", "W-hh"), ("sft", "W-pair"), ("dpo", "W-pair"),
         ("dpo", "W-hh"))  # fmt: skip
TURNS = 12


def measure(what: str, name: str) -> dict[str, Any]:
    import tandem_side as side

    from tandem.kernels.malloc import keep_freed_memory
    from tandem.machine import Machine
    from tandem.training.loop import sum_terms, term_weights

    work = WORKLOADS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = make_model(Path(place), work.shape)
        machine = Machine(device="cpu", precision="bf16", tokens=work.tokens)
        trunk, data, _ = side.prepared(what, work, folder, machine)
    source = side.steps_of(side.Offline, what, work, trunk, data)
    steps, loss = list(source.steps(trunk)), side.loss_of(what)

    def epoch() -> float:
        began = time.perf_counter()
        for micro in steps:
            weights = term_weights(loss, micro, "cpu")
            for batch in micro:
                sum_terms(loss(trunk(batch.tokens), batch), weights).backward()
            trunk.zero_grad()
        return time.perf_counter() - began

    times: dict[bool, list[float]] = {True: [], False: []}
    with keep_freed_memory():
        for _ in range(TURNS + 2):
            for trunk.narrow in times:
                times[trunk.narrow].append(epoch())
    read, whole = (statistics.median(t[2:]) / len(steps) for t in times.values())
    print(f"{what} {name}: {whole * 1e3:.0f} ms, {read * 1e3:.0f} ms: {whole / read:.3f}x")
    return {"what": what, "workload": name, "whole": whole, "read": read, "ratio": whole / read}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    found = environment(args.threads) | {"rows": [measure(*case) for case in CASES]}
    out = args.out or result_file("last-layer", quick=False)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
