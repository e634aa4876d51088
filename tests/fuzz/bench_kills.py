"""A bench whose workers are killed, or which is given twice at once: the same results."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fuzz.corpus import Corpus
from fuzz.run_folders import digest_results
from fuzz.verdicts import Answer, Verdict, judge_answer, name_changes

PLAN: dict[str, Any] = {
    "title": "killed",
    "task": "micro",
    "seeds": 2,
    "sizes": {"demonstrations": 16, "pairs": 8, "held_out": 6, "prompts": 8, "evaluation": 6},
    "settings": {
        "sampling": {"max_tokens": 8}, "sft": {"epochs": 1, "batch": 8}, "reward": {"batch": 4},
        "dpo": {"epochs": 1, "batch": 4}, "best_of_n": {"n": 2, "pool": 4},
    },
    "entry": [{"method": "dpo"}, {"method": "best_of_n"}],
}  # fmt: skip
STEADY = ("--machine.device=cpu", "--machine.precision=fp32", "--machine.save_seconds=0.05")
PATIENCE = 3000.0


class BenchKills:
    """A bench of two seeds: its workers killed, itself killed, or another one beside it."""

    name, goal, deadline = "benches", 20, 3600.0

    def __init__(self, corpus: Corpus) -> None:
        del corpus

    def prepare(self, home: Path) -> None:
        """Do the bench once in peace."""
        self.plan, calm = home / "bench.yaml", home / "calm-bench"
        self.plan.write_text(json.dumps(PLAN), encoding="utf-8")
        told = home / "calm-bench.json"
        if not told.exists():
            shutil.rmtree(calm, ignore_errors=True)
            begun = time.monotonic()
            answer = end(self._start(calm, "1"))
            if answer.code != 0:
                raise RuntimeError(answer.err)
            told.write_text(json.dumps(time.monotonic() - begun))
        self.seconds, self.results = json.loads(told.read_text()), digest_bench(calm)

    def check(self, dice: random.Random, folder: Path) -> Verdict:
        """Disturb a bench, do it to its end, and compare it with the calm one."""
        how = dice.choice(("a worker", "all", "two folders", "one folder"))
        verdict = Verdict("same", told={"how": how})
        one, other = folder / "one", folder / "other"
        first = self._start(one, dice.choice("12") if how != "a worker" else "2")
        if how in ("a worker", "all"):
            self._kill(first, dice, one, verdict, everybody=how == "all")
        else:
            beside = self._start(other if how == "two folders" else one, "1")
            for process in (first, beside):
                judge_answer(end(process), verdict, (0,) if how == "two folders" else (0, 2))
        judge_answer(end(self._start(one, dice.choice("12"))), verdict, (0,))
        places = [one, other] if how == "two folders" else [one]
        for place in places:
            if changes := name_changes(self.results, digest_bench(place)):
                verdict.blame("differs", f"{how}: {', '.join(changes)}")
        return verdict

    def _start(self, out: Path, workers: str) -> subprocess.Popen[str]:
        words = ["bench", str(self.plan), f"--out={out}", f"--workers={workers}", *STEADY]
        return subprocess.Popen(
            [sys.executable, "-m", "tandem", *words], text=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def _kill(
        self,
        process: subprocess.Popen[str],
        dice: random.Random,
        out: Path,
        verdict: Verdict,
        *,
        everybody: bool,
    ) -> None:
        until = time.monotonic() + PATIENCE
        while not list(out.glob("seed-*/events.jsonl")) and process.poll() is None:
            if time.monotonic() > until:
                verdict.blame("hang", "no seed began")
                break
            time.sleep(0.05)
        time.sleep(dice.uniform(0, self.seconds / 2))
        workers = children(process.pid)
        if everybody:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                verdict.counts["kills"] = 1
            process.communicate()
            return
        if workers and process.poll() is None:
            os.kill(dice.choice(workers), signal.SIGKILL)
            verdict.counts["kills"] = 1
        judge_answer(end(process), verdict, (0, 2))


def end(process: subprocess.Popen[str]) -> Answer:
    """Wait for the end of a command."""
    _, err = process.communicate(timeout=PATIENCE)
    lines = [x for x in err.splitlines(keepends=True) if not x.startswith("seed ")]
    return Answer(process.returncode, "", "".join(lines))


def children(pid: int) -> list[int]:
    """Return the workers of a bench: its child processes that are no helpers of Python's own."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        named = {int(p): Path(f"/proc/{p}/cmdline").read_bytes() for p in found}
    except OSError:
        return []
    return [p for p, command in named.items() if b"spawn_main" in command]


def digest_bench(out: Path) -> dict[str, bytes]:
    """Return every artifact of every seed, and every policy's numbers on every prompt."""
    outcomes = out / "outcomes.parquet"
    return digest_results(out) | {"outcomes": outcomes.read_bytes() if outcomes.exists() else b""}
