"""What each row of a preset takes on this machine: the [costs] of its file.

    OMP_NUM_THREADS=1 tandem bench --preset laptop --out runs/laptop     # with nothing else running
    python benchmarks/preset_costs.py laptop runs/laptop                 # prints the table

Seconds are those of the stages that a row did itself; what it shares with rows above it is theirs.
`probe` is how long the piece of training takes by which `tandem bench --budget` compares machines.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tandem.bench.progress import work_seconds
from tandem.bench.speed import time_training_probe
from tandem.cli.bench import make_bench_parser
from tandem.cli.plans import make_plan
from tandem.cli.settings import parse_words
from tandem.runs.names import folder_name


def main() -> None:
    """Print the costs of a preset that was run."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("preset")
    parser.add_argument("folder", type=Path, help="of a bench of it that has ended")
    asked = parser.parse_args()
    plan = make_plan(parse_words(make_bench_parser(), [f"--preset={asked.preset}"]))
    seed = plan.folder(asked.folder, plan.seeds[0])
    print(f"[costs]\nprobe = {time_training_probe():.3f}")
    for name in ("base", "SFT", *(e.name for e in plan.entries)):
        print(f"{json.dumps(name)} = {work_seconds(seed / folder_name(name)):.1f}")


if __name__ == "__main__":
    main()
