"""python -m fuzz: do cases of all kinds of input for some time, and say what came of them."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from fuzz.corpus import Corpus
from fuzz.state import State, Tally, figures_table
from fuzz.verdicts import Kind, Verdict, tell
from fuzz.worker import KILLED, open_kinds, work

SAVED_EVERY, TOLD_EVERY, RENEWED_AFTER = 5.0, 60.0, 20_000
FIRST = 240.0
"""Seconds more that a new process has: it loads torch and prepares."""
STARVED = 20
"""So many times its deadline a case may wait for a processor, or for a server that says nothing."""


class Workers:
    """One process at a time that does cases; a new one where it hangs or is gone."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.seed, self.done, self.cpu = home, seed, 0, 0.0
        self.known: set[str] = set()
        self.process: Any = None

    def do(self, kind: Kind, number: int) -> tuple[Verdict, float]:
        """Have a case done; a process that does not answer in time is ended."""
        if self.process is None or self.done >= RENEWED_AFTER:
            self.renew()
        self.done += 1
        begun, used = time.monotonic(), self.cpu_seconds()
        patience = kind.deadline + (0 if kind.name in self.known else FIRST)
        self.known.add(kind.name)
        self.orders.send((kind.name, number))
        while not self.orders.poll(1.0):
            if (
                self.cpu_seconds() - used > patience
                or time.monotonic() - begun > STARVED * patience
            ):
                verdict = Verdict("hung")
                verdict.blame(
                    "hang", f"no end after {self.cpu_seconds() - used:.0f} s of a processor"
                )
                break
        else:
            try:
                verdict, spent = self.orders.recv()
                self.cpu += self.cpu_seconds() - used
                return verdict, spent
            except EOFError:
                process: Any = self.process
                process.join()
                verdict = Verdict("crashed")
                verdict.blame("crash", f"exit code {process.exitcode}")
        self.cpu += max(0.0, self.cpu_seconds() - used)
        self.close()
        return verdict, time.monotonic() - begun

    def cpu_seconds(self) -> float:
        """Return what the process and its ended children have used of a processor."""
        try:
            told = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, AttributeError):
            return 0.0
        return sum(int(x) for x in told[11:15]) / os.sysconf("SC_CLK_TCK")

    def renew(self) -> None:
        """Start a new process."""
        self.close()
        context = multiprocessing.get_context("spawn")
        self.orders, far = context.Pipe()
        self.process = context.Process(target=work, args=(far, self.home, self.seed))
        self.process.start()
        far.close()
        self.done, self.known = 0, set()

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.orders.close()
            self.process = None


def next_kind(kinds: dict[str, Kind], state: State) -> Kind:
    """Return the kind that is furthest from its goal."""
    return min(kinds.values(), key=lambda k: state.tallies[k.name].following / k.goal)


def run_campaign(home: Path, state: State, kinds: dict[str, Kind], seconds: float) -> None:
    """Do cases until the time is over; a state is kept all along."""
    workers, begun = Workers(home, state.seed), time.monotonic()
    before, used, saved, told = state.seconds, state.cpu_seconds, begun, begun
    try:
        while (now := time.monotonic()) - begun < seconds:
            kind = next_kind(kinds, state)
            tally = state.tallies[kind.name]
            number, tally.following = tally.following, tally.following + 1
            verdict, spent = workers.do(kind, number)
            tally.add(verdict, spent)
            state.seconds = before + time.monotonic() - begun
            state.cpu_seconds = used + workers.cpu
            if verdict.faults:
                keep_failure(home, state.seed, kind.name, number, verdict)
            if now - saved > SAVED_EVERY:
                state.save(home / "state.json")
                saved = now
            if now - told > TOLD_EVERY:
                tell(summary(state))
                told = now
    finally:
        workers.close()
        state.save(home / "state.json")


def keep_failure(home: Path, seed: int, kind: str, number: int, verdict: Verdict) -> None:
    """Keep a case that failed: its files, and what was seen."""
    place = home / "failures" / f"{kind}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(home / "case", place, symlinks=True, ignore_dangling_symlinks=True)
    told = {
        "case": f"python -m fuzz --seed {seed} --only {kind} --case {number}",
        "ending": verdict.ending,
        "faults": verdict.faults,
        "told": verdict.told,
    }
    (place / "fault.json").write_text(json.dumps(told, indent=1, default=str), encoding="utf-8")
    tell(f"FAULT {kind} {number}: {', '.join(verdict.faults)} (kept in {place})")


def summary(state: State) -> str:
    """Return one line about everything so far."""
    rows = [
        f"{name} {t.cases}" + (f" ({sum(t.faults.values())} faults)" if t.faults else "")
        for name, t in state.tallies.items()
    ]
    return f"{state.seconds:.0f} s ({state.cpu_seconds:.0f} of a processor): " + ", ".join(rows)


def main() -> int:
    """Run a campaign; exit code 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long to go on")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="what is kept")
    parser.add_argument("--only", default="", help=f"kinds, with commas; all but {KILLED}")
    parser.add_argument("--case", type=int, default=None, help="do this case of --only alone")
    parser.add_argument("--table", type=Path, help="print a file of figures as a table")
    args = parser.parse_args()
    if args.table is not None:
        print(figures_table(json.loads(args.table.read_text(encoding="utf-8"))))
        return 0
    home = args.folder.resolve()
    home.mkdir(parents=True, exist_ok=True)
    every = open_kinds(Corpus())
    inputs = [name for name in every if name not in KILLED]
    chosen = [name for name in args.only.split(",") if name] or inputs
    if unknown := set(chosen) - set(every):
        parser.error(f"no kind {', '.join(unknown)}; there are {', '.join(every)}")
    kinds = {name: every[name] for name in chosen}
    if args.case is not None:
        verdict, _ = Workers(home / "one", args.seed).do(kinds[chosen[0]], args.case)
        print(json.dumps({"ending": verdict.ending, "faults": verdict.faults}, indent=1))
        return int(bool(verdict.faults))
    state = State.load(home / "state.json", args.seed)
    for name in chosen:
        state.tallies.setdefault(name, Tally())
    run_campaign(home, state, kinds, args.seconds)
    figures = state.figures({name: kind.goal for name, kind in every.items()})
    (home / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    tell(summary(state))
    return int(any(t.faults for t in state.tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
