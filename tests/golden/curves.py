"""Golden curves: every method on the micro world, very small, in fp32 and on one thread.

A refactoring must not move a number. So what each method logs at every optimiser step, and the
bytes of all weights that it saves, are kept in `curves.json` as digests, beside the losses
themselves, rounded, for a person to look at.

    python tests/golden/curves.py              # compare with the file; exit 1 where one differs
    python tests/golden/curves.py --write      # after a change that is meant to move numbers
    python tests/golden/curves.py --only dpo ppo

Sums in fp32 depend on the processor's instructions and on the library, so the digests are kept
for each `environment()`; where it is unknown, write them at a commit that is known to be right.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tandem.cli.run import default_configs
from tandem.cli.settings import with_table_values
from tandem.machine import Machine
from tandem.methods import load_method
from tandem.pipeline.inputs import Inputs
from tandem.rng import Seed
from tandem.runs.display import Hidden
from tandem.runs.events import read_events
from tandem.runs.run import Run
from tandem.tasks import Sizes
from tandem.tasks import load as worlds

FILE = Path(__file__).with_name("curves.json")
SIZES = Sizes(demonstrations=64, pairs=32, held_out=16, prompts=32, evaluation=8)
MACHINE = Machine(device="cpu", precision="fp32", log_every=1)
CLOCK = ("time", "kind", "stage", "tokens_per_s")
"""What a logged step says of the place and the hour, and not of the training."""

COMMON: dict[str, dict[str, Any]] = {
    "sft": {"epochs": 1, "batch": 16},
    "reward": {"batch": 8},
    "preference": {"batch": 8},
    "cyclic_preference": {"batch": 8},
    "dpo": {"epochs": 1, "batch": 8},
    "ppo": {"prompts": 8, "rounds": 2, "minibatch": 4},
    "sampling": {"max_tokens": 24},
}


@dataclass(frozen=True)
class Case:
    """A method with settings that make it short; `COMMON` holds those of the others."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    task: str = "micro"


CASES: dict[str, Case] = {
    "sft": Case("sft"),
    "reward": Case("reward"),
    "preference": Case("preference"),
    "dpo": Case("dpo"),
    "kto": Case("kto", {"batch": 16, "optim": {"lr": 2e-3}}),
    "ppo": Case("ppo"),
    "grpo": Case("grpo", {"prompts": 4, "n": 4, "rounds": 2, "minibatch": 2}),
    "online_dpo": Case("online_dpo", {"prompts": 4, "n": 4, "rounds": 2, "minibatch": 2}),
    "xpo": Case("xpo", {"prompts": 4, "rounds": 2, "minibatch": 2, "alpha": 0.01}),
    "iterative_dpo": Case(
        "iterative_dpo",
        {"iterations": 2, "prompts": 8, "n": 4, "dpo": {"epochs": 1, "batch": 4}},
    ),
    "cyclic_preference": Case("cyclic_preference"),
    **{
        name: Case(name, {"prompts": 4, "n": 4, "rounds": 3, "minibatch": 4, "optim": {"lr": 1e-2}})
        for name in ("nash_md", "nash_ema", "self_play", "best_response", "past_play")
    },
    **{
        name: Case(name, {"prompts": 4, "n": 4, "rounds": 2, "minibatch": 2, "optim": {"lr": 1e-2}})
        for name in ("ipo_md", "sppo")
    },
    "best_of_n": Case("best_of_n", {"n": 2, "pool": 4}),
    "rso": Case("rso", {"pool": 8, "keep": 2}),
    "raft": Case("raft", {"stages": 2, "prompts": 8, "k": 2, "sft": {"epochs": 1, "batch": 4}}),
    "rest": Case(
        "rest", {"improve": 2, "n": 2, "thresholds": (0.2, 0.5), "sft": {"epochs": 1, "batch": 16}}
    ),
    "lmsi": Case("lmsi", {"m": 4, "sft": {"steps": 4, "batch": 8}}, "micro-arithmetic"),
    "star": Case("star", {"loops": 2, "steps": 3, "warmup": 2}, "micro-arithmetic"),
    "direct": Case("direct", {"sft": {"steps": 4, "batch": 8}}, "micro-arithmetic"),
    "rlaif": Case("rlaif", {"pairs": 8}, "micro-dialogue"),
    "cai": Case("cai", {"K": 1}, "micro-dialogue"),
    "rlp": Case("rlp", {"n": 3, "gamma": 0.4}),
    "iterated_rlhf": Case(
        "iterated_rlhf", {"rounds": 2, "labels": 12, "growth": 1.0, "comparisons": 6}
    ),
    "rlp-uml": Case("rlp", {"n": 3, "gamma": None, "lam": 0.5}),
}


def environment() -> str:
    """Name what bits hang on: the processor's instructions, and the library's version."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {_vendor()} {capability} torch {torch.__version__}"


def _vendor() -> str:
    """Return the processor's maker, and whether it multiplies matrices of bf16 (AMX)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown"
    vendor = text.partition("vendor_id")[2].partition("\n")[0].strip(" \t:")
    flags = text.partition("flags")[2].partition("\n")[0].split()
    known = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([vendor or "unknown", *known])


def settings(case: Case, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a case's configs; `changes` are tables that come last."""
    configs = default_configs(load_method(case.method), case.task)
    tables = [COMMON, {case.method: case.settings}, changes or {}]
    for table in tables:
        for name in table.keys() & configs.keys():
            configs[name] = with_table_values(configs[name], table[name])
    return configs


def train(folder: Path, name: str, case: Case, changes: Mapping[str, Any] | None = None) -> Path:
    """Run a case's recipe, with all that comes before it; return its folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Run(folder / case.task, 0, machine=MACHINE, display=Hidden()) as run:
            scope = run.scope(name, run.seed)
            world = worlds.load_task(case.task, SIZES, Seed(0))
            Inputs(scope, world, settings(case, changes)).run_recipe(load_method(case.method))
        return scope.path
    finally:
        torch.set_num_threads(threads)


def digest(scope: Path) -> dict[str, Any]:
    """Digest what was logged at each step below a scope, its records and all weights."""
    root = scope.parent
    steps: dict[str, list[dict[str, Any]]] = {}
    for event in read_events(root / "events.jsonl"):
        if event["kind"] == "train":
            numbers = {k: v for k, v in event.items() if k not in CLOCK}
            steps.setdefault(event["stage"], []).append(numbers)
    logged, groups = {}, {}
    for file in sorted(scope.rglob("stage.json")):
        name = file.parent.relative_to(scope).as_posix()
        logged[name] = steps.get(_first(file, root), [])
        result = json.loads(file.read_text())["result"]
        groups[name] = result["hash"] if result["kind"] == "groups" else ""
    weights = {
        file.relative_to(scope).as_posix(): hashlib.blake2b(file.read_bytes()).hexdigest()
        for file in sorted(scope.rglob("*.safetensors"))
    }
    return {
        "steps": sum(map(len, logged.values())),
        "logged": _hash(logged),
        "stages": len(groups),
        "records": _hash(groups),
        "files": len(weights),
        "weights": _hash(weights),
        "losses": {name: _losses(rows) for name, rows in logged.items() if rows},
    }


def _first(file: Path, root: Path) -> str:
    """Return the stage that did the work, where others took its artifact over."""
    same_as = json.loads(file.read_text()).get("same_as")
    if same_as:
        return _first(root / same_as / "stage.json", root)
    return file.parent.relative_to(root).as_posix()


def _losses(rows: list[dict[str, Any]]) -> list[float]:
    summed = (sum(v for k, v in row.items() if k.endswith("_loss")) for row in rows)
    return [float(f"{loss:.5g}") for loss in summed]


def _hash(value: object) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def digests(names: Iterable[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Run cases in one folder, where what they share is done once, and digest each."""
    return {name: digest(train(folder, name, CASES[name])) for name in names}


def stored() -> dict[str, dict[str, dict[str, Any]]]:
    """Return what the file holds: environment -> case -> digest."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def main() -> int:
    """Compare with the file, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="keep what was found as right")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = digests(args.only, Path(folder))
    known = stored()
    own = known.setdefault(environment(), {})
    if args.write:
        own |= found
        FILE.write_text(json.dumps(known, indent=1) + "\n")
    wrong = [name for name in args.only if own.get(name) != found[name]]
    for name, is_now in found.items():
        state = "differs" if name in wrong else "as kept"
        print(f"{name:<12} {is_now['steps']:>3} steps {is_now['logged']}", end="  ")
        print(f"{is_now['stages']:>2} stages {is_now['records']}", end="  ")
        print(f"{is_now['files']:>2} files {is_now['weights']}  {state}")
    print(f"{environment()}: {len(wrong)} of {len(found)} differ")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
