"""Everything that wants a GPU, in one command of at most eight minutes.

    python benchmarks/gpu.py [--out FILE] [--minutes 8] [--only PART ...]
    python benchmarks/gpu.py --dry         tiny shapes on the CPU: does every part run?

Parts run one after the other, the worth most first, each in a process of its own with a limit of
its own. After each the results are written; the same command goes on with the parts that are not
done, so a machine that is taken away costs one part. A part that fails says why, and the next one
runs. Parts are in `gpu_parts.py`.

    doctor      what is there: `tandem doctor`, and the ceiling of a matrix product
    tests       the tests marked `gpu`
    resume      a fit that is stopped in the middle ends with the same bits
    attention   log-probabilities and time of the layouts: rows, blocks, FlexAttention, flash
    smol        SFT, DPO, reward and GRPO steps of SmolLM2's size, beside TRL where it is
    billion     the same of 1.2 B parameters: memory beside its estimate
    sampling    tokens a second beside HF `generate`, and vLLM where `TANDEM_VLLM` names it
    compile     decoding and steps with `machine.compiled` beside without
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIMITS = {
    "doctor": 60,
    "tests": 90,
    "resume": 60,
    "attention": 60,
    "smol": 120,
    "sampling": 90,
    "billion": 120,
    "compile": 90,
}
"""Part -> seconds at most."""
DRY_LIMIT = 240
LEAST = 10
"""Seconds below which a part is not begun."""


def main() -> int:
    """Run the parts that are not done; 1 if one of them failed."""
    options = _options()
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    if options.dry:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    until = time.monotonic() + 60 * options.minutes
    found = _opened(options.out, options.dry)
    for part in options.only or LIMITS:
        if found["parts"].get(part, {}).get("state") == "done":
            continue
        left = until - time.monotonic()
        if left < LEAST:
            found["parts"][part] = {"state": "no time left"}
        else:
            limit = min(left, DRY_LIMIT if options.dry else LIMITS[part])
            found["parts"][part] = _run(part, options.dry, limit)
        _write(options.out, found)
        print(_line(part, found["parts"][part]), flush=True)
    states = [part["state"] for part in found["parts"].values()]
    print(f"{states.count('done')} of {len(LIMITS)} parts done: {options.out}")
    return int("failed" in states)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no part after these")
    parser.add_argument("--only", nargs="+", choices=list(LIMITS), help="these parts alone")
    parser.add_argument("--out", type=Path, help="where the results are, and go")
    options = parser.parse_args()
    if options.out is None:
        kind = "gpu-dry" if options.dry else "gpu"
        options.out = RESULTS / f"{kind}-{datetime.date.today().isoformat()}.json"
    return options


def _opened(path: Path, dry: bool) -> dict[str, Any]:
    """Return the results so far, if they are of the same commit and kind; else begin anew."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()  # fmt: skip
    start = {"commit": commit, "dry": dry, "python": platform.python_version(), "parts": {}}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found.get("commit"), found.get("dry")) == (commit, dry):
            return found
    return start


def _run(part: str, dry: bool, limit: float) -> dict[str, Any]:
    """Run a part in a process of its own, forked before any GPU is opened."""
    import gpu_parts  # imported once: torch takes seconds, and no part may wait for them again

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        said, result = Path(place) / "said", Path(place) / "result.json"
        child = os.fork()
        if child == 0:
            os._exit(_be_child(lambda: gpu_parts.PARTS[part](gpu_parts.Scale(dry)), said, result))
        code = _wait(child, limit)
        seconds = round(time.monotonic() - began, 1)
        if code == 0:
            return {"state": "done", "seconds": seconds, **json.loads(result.read_text())}
        text = said.read_text(errors="replace").strip()[-1500:]
    why = f"longer than {limit:.0f} s" if code is None else text or f"ended with {code}"
    return {"state": "failed", "why": why, "seconds": seconds}


def _be_child(work: Callable[[], dict[str, Any]], said: Path, result: Path) -> int:
    """Do a part: what it prints goes into one file, what it found into another."""
    os.setsid()
    with said.open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    try:
        result.write_text(json.dumps(work()), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def _wait(child: int, limit: float) -> int | None:
    """Return the exit code of a child, or None after killing one that takes too long."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def _line(part: str, found: dict[str, Any]) -> str:
    why = f": {found['why'].splitlines()[-1]}" if found.get("why") else ""
    return f"{part:<10} {found['state']:<8} {found.get('seconds', 0):>6.1f} s{why}"


if __name__ == "__main__":
    sys.exit(main())
