"""How time and memory grow with the rows of a data file: `data check`, and a run's first stage.

    python benchmarks/load.py [--rows 20000,100000,200000,1000000] [--part check|stage]

Files of preference pairs of about 300 bytes a row are written, each is checked by `tandem data
check`, and each is read, divided and encoded as the first stage of `tandem run` does it. Every
measurement is a process of its own, with an empty cache. Time is that of the processors, of all
processes together, because it does not hang on what else the machine does; memory is the largest
resident set of the process (`ru_maxrss`), mapped files included. Beside them stands `anonymous`,
the most memory that was not mapped from a file, as seen twice a second. Writes
benchmarks/results/load-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WORDS = ("the a red blue post says about fox dog house tree stone river man woman child old new "
         "small large sees gives takes finds and but with near under over").split()  # fmt: skip


def write_rows(path: Path, rows: int) -> None:
    """Write different prompts with two answers each."""
    dice = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for k in range(rows):
            said = [" ".join(dice.choices(WORDS, k=n)) for n in (16, 14, 12)]
            row = {"prompt": f"{k} {said[0]}", "chosen": said[1], "rejected": said[2]}
            file.write(json.dumps(row) + "\n")


def do_first_stage(data: Path, out: Path) -> None:
    """Be a child: open the task and do its first stage, as `tandem run` does."""
    from tandem.runs.display import Hidden
    from tandem.runs.run import Run
    from tandem.stages.encoding import encode
    from tandem.tasks.micro import ASSETS
    from tandem.tasks.own_data import task_from_files

    task = task_from_files(ASSETS / "base", data)
    with Run(out, 0, display=Hidden()) as run:
        encoded = run("demonstrations", encode, task.demonstrations, task.base)
    print(len(encoded))


def measure(command: list[str], cache: Path) -> dict[str, Any]:
    """Run a command; return the seconds of processors, the wall's, and the memory in MiB."""
    shutil.rmtree(cache, ignore_errors=True)
    env = {**os.environ, "TANDEM_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    begun = time.monotonic()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    most = [0.0]
    over = threading.Event()
    watcher = threading.Thread(target=watch_anonymous, args=(process.pid, most, over))
    watcher.start()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    over.set()
    watcher.join()
    if status:
        raise RuntimeError(f"{command} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "seconds": round(wall, 2),
        "peak_mib": round(used.ru_maxrss / 1024, 1),
        "anonymous_mib": round(most[0], 1),
    }


def watch_anonymous(pid: int, most: list[float], over: threading.Event) -> None:
    """Keep the largest anonymous memory of a process, until it is over."""
    while not over.wait(0.5):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        found = [int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")]
        most[0] = max(most[0], *found, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", default="20000,100000,200000,1000000")
    parser.add_argument("--part", choices=["check", "stage"], default=None)
    parser.add_argument("--stage", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.stage:
        do_first_stage(*args.stage)
        return
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count(), "rows": []}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        for rows in map(int, args.rows.split(",")):
            data = home / f"rows-{rows}.jsonl"
            write_rows(data, rows)
            parts = {
                "check": [sys.executable, "-m", "tandem", "data", "check", str(data)],
                "stage": [sys.executable, __file__, "--stage", str(data), str(home / f"{rows}")],
            }
            for part in (args.part,) if args.part else parts:
                one = {"rows": rows, "part": part, **measure(parts[part], home / "cache")}
                found["rows"].append(one)
                print(json.dumps(one), flush=True)
            data.unlink()
    out = args.out or RESULTS / f"load-{found['date']}.json"
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
