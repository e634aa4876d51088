"""Tandem beside TRL 1.16 on the same machine, weights, batches and steps.

    python benchmarks/vs_trl.py [--quick] [--what dpo sft reward kto grpo sampling]
                                [--workload W-pair W-hh W-big] [--threads 2] [--repeat 3] [--out F]
    python benchmarks/vs_trl.py --page > docs/performance.md

Workloads are in `workloads.py`. AdamW, gradient checkpointing off on both sides. Offline methods
read the same rows in the same order, so mean losses and gradient norms must agree (a preference
loss starts at ln 2 whatever it reads, its gradient does not); a fast wrong answer fails.

GRPO draws its own samples (4 prompts x 8 completions of 48 tokens, reward: the
share of even words, beta .05, k3, both sides from the same weights), so its first step is compared
in law: mean reward, spread within groups and gradient norm, and a KL of 0. Sampling beside HF
`generate` is `sampling.py`, whose W-group goes into the same report.

Each measurement is a process of its own; sides alternate, medians count, and TRL is taken at the
best of fp32, bf16 and the documented options that work on this device (precomputed reference
log-probs for DPO, against our cached column; continuous batching for GRPO with --options). For DPO
"live" adds the reference's forward pass to every step, as TRL does by default; "cached" is every
later epoch, run or loss on the same data. Results go to benchmarks/results/vs_trl-DATE.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, Workload, make_model

RESULTS = Path(__file__).parent / "results"
METHODS = ("dpo", "sft", "reward", "kto", "grpo")
TOLERANCE = 0.02
"""Relative difference of mean losses between the sides: bf16 rounding, not another function."""
GRADIENT_TOLERANCE = 0.05
"""The same of gradient norms, which tell losses apart that all start at ln 2."""
GRPO_COMPLETIONS = 32


def child(side: str, what: str, work: str, precision: str, place: Path, threads: int) -> Any:
    """Measure one side in a process of its own."""
    words = [sys.executable, __file__, "--child", side, what, work, precision, str(place)]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env = {**os.environ, **quiet, "TRL_EXPERIMENTAL_SILENCE": "1", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [*words, str(threads)], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{side} {what} {work} {precision} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(words: list[str]) -> None:
    """Be the child: measure, and print one line of JSON."""
    import importlib
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    side, what, name, precision, place, threads = words
    torch.set_num_threads(int(threads))
    work = WORKLOADS[name] if what != "grpo" else replace(WORKLOADS[name], passes=1)
    found = importlib.import_module(f"{side}_side").run(what, work, Path(place), precision)
    print(json.dumps(found))


def sides(what: str, options: bool) -> list[tuple[str, str]]:
    """The measurements of a method: (side, precision and option)."""
    out = [("tandem", "bf16"), ("trl", "bf16"), ("trl", "fp32")]
    if what == "dpo":
        out.append(("trl", "bf16+precomputed"))
    if what == "grpo" and options:
        out.append(("trl", "bf16+paged"))
    return out


def compare(what: str, name: str, place: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Alternate the sides and return medians, ratios and the check of what they computed."""
    work = WORKLOADS[name]
    runs: dict[str, list[Any]] = {}
    for _ in range(args.repeat):
        for side, precision in sides(what, args.options):
            label = "tandem" if side == "tandem" else f"trl-{precision}"
            found = child(side, what, name, precision, place, args.threads)
            runs.setdefault(label, []).append(found)
    step = {label: statistics.median(r["step"] for r in rs) for label, rs in runs.items()}
    live = [n for n in step if n.startswith("trl") and not n.endswith("precomputed")]
    best = min(live, key=lambda label: step[label])
    passes = 1 if what == "grpo" else work.passes
    row = {"what": what, "workload": work.name, "passes": passes, "trl_taken_at": best}
    row |= speeds(what, work, step, best, runs) | others(runs, best) | agreement(what, runs, best)
    print(line(row), flush=True)
    return row


def speeds(
    what: str, work: Workload, step: dict[str, float], best: str, runs: dict[str, list[Any]]
) -> dict[str, Any]:
    """Seconds a step, ratios, and records and useful tokens a second."""
    reference = statistics.median(r["reference"] for r in runs["tandem"])
    mine = step["tandem"] + reference
    precomputed = step.get("trl-bf16+precomputed")
    records = GRPO_COMPLETIONS if what == "grpo" else work.size
    return {
        "seconds_per_step": step,
        "reference_seconds_per_step": reference,
        "speed_live": step[best] / mine,
        "speed_cached": step[best] / step["tandem"],
        "speed_both_cached": precomputed and precomputed / step["tandem"],
        "records_per_second": {"tandem": records / mine, "trl": records / step[best]},
        "useful_tokens_per_second": {
            "tandem": runs["tandem"][0]["useful_per_step"] / mine,
            "trl": runs["tandem"][0]["useful_per_step"] / step[best],
        },
    }


def others(runs: dict[str, list[Any]], best: str) -> dict[str, Any]:
    """Peak memory, phases, and tokens processed for each useful one."""
    useful = runs["tandem"][0]["useful_per_step"]
    memory = {name: statistics.median(r["peak_gb"] for r in rs) for name, rs in runs.items()}
    two = {"tandem": runs["tandem"][0], "trl": runs[best][0]}
    return {
        "peak_gb": memory,
        "memory_share": memory["tandem"] / memory[best],
        "phases": {name: r["phases"] for name, r in two.items()},
        "processed_per_useful": {name: r["tokens_per_step"] / useful for name, r in two.items()},
    }


def agreement(what: str, runs: dict[str, list[Any]], best: str) -> dict[str, Any]:
    """Compare what was computed: losses step by step, or the first online step in law."""
    mine, theirs = runs["tandem"][0], runs[best][0]
    if what == "grpo":
        return in_law(mine, theirs)
    loss, norm = (_gap(mine[name], theirs[name]) for name in ("losses", "grad_norm"))
    agree = loss["relative_gap"] < TOLERANCE and norm["relative_gap"] < GRADIENT_TOLERANCE
    return {"mean_loss": loss, "mean_grad_norm": norm, "losses_agree": agree}


def _gap(mine: list[float], theirs: list[float]) -> dict[str, float]:
    a, b = statistics.mean(mine), statistics.mean(theirs)
    return {"tandem": a, "trl": b, "relative_gap": abs(a - b) / max(abs(b), 1e-9)}


def in_law(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Rewards of a random model: 48 coins an answer, so .5 +- .072, and .0128 for a mean of 32.

    The difference of two means over r rounds of 32 has standard error .0128 sqrt(2 / r); four of
    them are allowed, and 40 % for the spread (7 degrees of freedom a group). At the first step
    the policy is the reference, so the KL is 0 and the gradient is that of the advantages alone;
    both sides' norms are draws of one law, and within a factor of two. The losses themselves are
    0 on both sides: advantages of a group add up to 0.
    """
    rounds = min(len(mine["rewards"]), len(theirs["rewards"]))
    error = 0.0128 * (2 / rounds) ** 0.5
    mean = {k: statistics.mean(r["rewards"][:rounds]) for k, r in _two(mine, theirs)}
    spread = {k: statistics.mean(r["spread"][:rounds]) for k, r in _two(mine, theirs)}
    norm = {k: r["grad_norm"][0] for k, r in _two(mine, theirs)}
    first_kl = {k: r["kl"][0] for k, r in _two(mine, theirs)}
    checks = {
        "reward": abs(mean["tandem"] - mean["trl"]) < 4 * error,
        "spread": 0.6 < spread["tandem"] / spread["trl"] < 1.67,
        "gradient": 0.5 < norm["tandem"] / norm["trl"] < 2,
        "kl": max(abs(k) for k in first_kl.values()) < 0.05,
    }
    law = {"reward": mean, "spread": spread, "grad_norm": norm, "first_kl": first_kl}
    return {"law": law, "checks": checks, "losses_agree": all(checks.values())}


def _two(mine: Any, theirs: Any) -> tuple[tuple[str, Any], ...]:
    return ("tandem", mine), ("trl", theirs)


def line(row: dict[str, Any]) -> str:
    """One row as a line of text."""
    step, best = row["seconds_per_step"], row["trl_taken_at"]
    said = (
        f"{row['workload']:7} {row['what']:7} tandem {step['tandem']:.2f} s/step "
        f"(+ reference {row['reference_seconds_per_step']:.2f}), {best} {step[best]:.2f}: "
        f"{row['speed_live']:.1f}x live, {row['speed_cached']:.1f}x cached; memory "
        f"{row['memory_share']:.2f} of TRL's; "
    )
    if "law" in row:
        return f"{said}first step in law: {row['checks']}"
    loss, norm = row["mean_loss"], row["mean_grad_norm"]
    return (
        f"{said}loss {loss['tandem']:.4f} against {loss['trl']:.4f}, "
        f"gradient {norm['tandem']:.4f} against {norm['trl']:.4f}"
    )


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Run `sampling.py` on W-group and return what it wrote."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "sampling.json"
        words = ["--what", "W-group", "--out", str(out), "--threads", str(args.threads)]
        script = str(Path(__file__).with_name("sampling.py"))
        subprocess.run(
            [sys.executable, script, *words, *(["--quick"] if args.quick else [])], check=True
        )
        return json.loads(out.read_text(encoding="utf-8"))["W-group"]


def environment(threads: int) -> dict[str, Any]:
    """Where and with what it was measured."""
    import torch
    import transformers
    import trl

    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "machine": {"processor": platform.processor(), "threads": threads},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__}
        | {"trl": trl.__version__, "python": platform.python_version()},
        "load": os.getloadavg(),
    }


def result_file(kind: str, quick: bool) -> Path:
    """Where a result goes; quick ones are not shown on the page."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{'quick-' * quick}{kind}-{datetime.date.today().isoformat()}.json"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="DPO and GRPO on W-pair, once")
    parser.add_argument("--what", nargs="+", choices=[*METHODS, "sampling"])
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--options", action="store_true", help="GRPO: continuous batching too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.repeat = 1
    args.what = args.what or (["dpo", "grpo"] if args.quick else [*METHODS, "sampling"])
    args.workload = args.workload or (["W-pair"] if args.quick else ["W-pair", "W-hh", "W-big"])
    return args


def wanted(what: str, work: str) -> bool:
    """W-hh is about lengths and W-big about size: not every method on each."""
    few = {
        "W-hh": ("dpo", "reward"),
        "W-big": ("dpo",),
        "W-big-quick": ("dpo",),
    }
    return what in few.get(work, METHODS)


def main() -> None:
    """Run the comparison."""
    if "--page" in sys.argv:
        from page import performance

        print(performance(RESULTS), end="")
        return
    if "--child" in sys.argv:
        measure(sys.argv[sys.argv.index("--child") + 1 :])
        return
    args = arguments()
    rows = []
    for name in args.workload:
        with tempfile.TemporaryDirectory() as place:
            make_model(Path(place), WORKLOADS[name].shape)
            rows += [compare(w, name, Path(place), args) for w in args.what if wanted(w, name)]
    found = {**environment(args.threads), "rows": rows}
    if "sampling" in args.what:
        found["sampling"] = sampling(args)
    out = args.out or result_file("vs_trl", args.quick)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(out)
    if not all(row["losses_agree"] for row in rows):
        sys.exit("the two sides differ in what they compute: see `losses_agree` and `checks`")


if __name__ == "__main__":
    main()
