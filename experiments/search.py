"""One search for all: every method of the full table gets the same trials, by this script.

    python experiments/search.py                # every row that is left; a killed one goes on
    python experiments/search.py --rows DPO KTO # these alone; two processes want two --out
    python experiments/search.py --page-only    # the page again, from docs/results/search.json

Every method is tried at four values of one setting: the learning rate of what it trains, the same
four for all, and n for best-of-n, which trains nothing. All trials meet seed 100, and the two best
of each method seed 101 too: one seed does not show that a rate is unstable. Sizes are those of the
full table with half of its unlabelled prompts. Prompts of evaluation are drawn from seed 100. No
reported table uses any of these seeds or prompts.

Chosen is the largest mean gain in truth over the seeds, among trials that did not diverge. A trial
diverged where a seed failed or ended further than `DIVERGED` nats from SFT. Truth is what the
search looks at and gold_rm is not, so gold_rm has seen no setting.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

FIRST, AGAIN = 100, (101,)
KEPT = 2
"""Trials of each method that meet the other seeds too."""
DIVERGED = 10.0
"""Nats of KL to SFT beyond which a policy has come apart; the largest of the table is below 2."""
EVALUATION, UNLABELLED = 300, 500
"""Prompts of evaluation, and those that online methods sample from."""
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
NS = (4, 8, 16, 32)
RLOO = {
    "grpo.advantage": "rest", "grpo.kl": "reward", "grpo.ratio": "none", "grpo.per": "constant",
    "grpo.prompts": 16, "grpo.minibatch": 16, "grpo.rounds": 40,  # a step a round, as many as GRPO
}  # fmt: skip
UML = {"rlp.gamma": "null", "rlp.lam": 0.5}
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "DPO": ("dpo", "dpo.optim.lr", {}),
    "KTO": ("kto", "kto.optim.lr", {}),
    "PPO": ("ppo", "ppo.optim.lr", {}),
    "GRPO": ("grpo", "grpo.optim.lr", {}),
    "RLOO": ("grpo", "grpo.optim.lr", RLOO),
    "best-of-n": ("best_of_n", "best_of_n.n", {}),
    "RLP-SPG": ("rlp", "ppo.optim.lr", {}),
    "RLP-UML": ("rlp", "ppo.optim.lr", UML),
    "RSO": ("rso", "rso.dpo.optim.lr", {}),
    "RAFT": ("raft", "raft.sft.optim.lr", {}),
    "ReST": ("rest", "rest.sft.optim.lr", {}),
}
"""Row of the full table -> method, the setting that is searched, what else the row sets."""
RESULTS = Path(__file__).parents[1] / "docs" / "results"
Trial = dict[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Do what is left of the search and write its page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--page", type=Path, default=RESULTS / "search.md")
    parser.add_argument("--rows", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--page-only", action="store_true", help="the page again, from its JSON")
    asked = parser.parse_args(words)
    file = asked.page.with_suffix(".json")
    for row in () if asked.page_only else asked.rows:
        trials = search(row, asked.out)
        found = about() | {"rows": kept_rows(file) | {row: trials}}
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    asked.page.write_text(search_page(found, file.name), encoding="utf-8")
    print(asked.page)
    return 0


def kept_rows(file: Path) -> dict[str, list[Trial]]:
    """Return the rows that are done, also by another process since this one began."""
    return json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else {}


def about() -> dict[str, Any]:
    """Return what is true of every row's search."""
    from tandem.runs.environment import code_commit

    return {
        "command": "python experiments/search.py",
        "commit": code_commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "evaluation": EVALUATION,
    }


def search(row: str, out: Path) -> list[Trial]:
    """Try a row's values on the first seed and its best on the others, and return all trials."""
    trials: list[Trial] = [{"row": row, "value": value, "seeds": {}} for value in values_of(row)]
    measure(trials, (FIRST,), out)
    best = best_trials(trials)[:KEPT]
    for seed in AGAIN:
        measure(best, (seed,), out)
    return trials


def values_of(row: str) -> Sequence[float]:
    """Return the values that a row is tried at."""
    return NS if METHODS[row][0] == "best_of_n" else RATES


def measure(trials: Sequence[Trial], seeds: Sequence[int], out: Path) -> None:
    """Run trials on seeds, and write into each what came out."""
    from tandem.bench import collect_results, run_seeds
    from tandem.cli.bench import make_bench_parser
    from tandem.cli.plans import make_plan
    from tandem.cli.settings import parse_words
    from tandem.machine import Machine

    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{trials[0]['row'].lower()}-{seeds[0]}.yaml"
    file.write_text(json.dumps(plan_table(trials), indent=1), encoding="utf-8")  # JSON is YAML
    words = [str(file), f"--seeds={len(seeds)}", f"--first_seed={seeds[0]}"]
    plan = make_plan(parse_words(make_bench_parser(), words))
    run_seeds(plan, out, Machine())
    rows = {r["policy"]: r for r in collect_results(plan, out, "search")["policies"]}
    for trial in trials:
        row = rows[name_of(trial)]
        for k, seed in enumerate(seeds):
            trial["seeds"][str(seed)] = _outcome(row, k)


def _outcome(row: Mapping[str, Any], k: int) -> dict[str, Any]:
    if row["status"] == "failed":
        return {"failed": row["reason"]}
    each = row["per_seed"]
    return {
        "gain": round(each["truth gain"][k], 4),
        "win": round(each["win vs SFT"][k], 4),
        "kl": round(each["kl"][k], 3),
        "seconds": round(row["seconds"]["each"][k]),
    }


def plan_table(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the plan of some trials: the full preset's sizes, on prompts of its own."""
    from tandem.cli.plans import FOLDER

    full = tomllib.loads((FOLDER / "full.toml").read_text(encoding="utf-8"))
    return {
        "title": "search",
        "question": "Which value of one setting suits each method on the micro world?",
        "task": full["task"],
        "exam": FIRST,
        "sizes": full["sizes"] | {"evaluation": EVALUATION, "prompts": UNLABELLED},
        "settings": full["settings"],
        "entry": [_entry(trial) for trial in trials],
    }


def _entry(trial: Trial) -> dict[str, Any]:
    method, setting, more = METHODS[trial["row"]]
    settings = dict(more) | {setting: trial["value"]}
    return {"name": name_of(trial), "method": method, "settings": settings}


def name_of(trial: Trial) -> str:
    """Name a trial's row: `DPO 3e-05`."""
    return f"{trial['row']} {trial['value']:g}"


# --- what is chosen -------------------------------------------------------------------------------


def best_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Return a row's trials, the best first; those that diverged come last."""
    return sorted(trials, key=lambda t: (has_diverged(t), -mean_gain(t)))


def has_diverged(trial: Trial) -> bool:
    """Say whether a trial failed, or went too far from SFT, on any seed."""
    return any("failed" in s or s["kl"] > DIVERGED for s in trial["seeds"].values())


def mean_gain(trial: Trial) -> float:
    """Return the mean gain in truth over SFT, over the seeds that did not fail."""
    gains = [s["gain"] for s in trial["seeds"].values() if "failed" not in s]
    return mean(gains) if gains else float("-inf")


def chosen_value(trials: Sequence[Trial]) -> float | None:
    """Return the best value among those that met every seed; None where all of them diverged."""
    most = max(len(t["seeds"]) for t in trials)
    best = next(t for t in best_trials(trials) if len(t["seeds"]) == most)
    return None if has_diverged(best) else best["value"]


# --- the page -------------------------------------------------------------------------------------


def search_page(found: Mapping[str, Any], name: str) -> str:
    """Return the search as Markdown, from its JSON alone."""
    parts = [
        "# One search for all",
        f"Generated by `{found['command']}` from [{name}]({name}), commit `{found['commit']}`.",
        "Every method of [the full table](full.md) was tried at four values of one setting on "
        f"seed {FIRST}; its two best were tried again on seed {' and '.join(map(str, AGAIN))}. "
        f"Online methods sampled from {UNLABELLED} prompts, half of the full table's. Numbers "
        f"are gains in truth over SFT on {found['evaluation']} evaluation prompts, one a seed, "
        "without intervals: they choose settings and resolve nothing. No table uses these seeds "
        "or prompts. **Bold** is chosen: the largest mean over the seeds, among trials that stayed "
        f"within {DIVERGED:g} nats of SFT on every seed.",
        *_left(found),
        *(_section(row, trials) for row, trials in found["rows"].items()),
        "## What was chosen",
        "\n".join(f"- {_choice(row, trials)}" for row, trials in found["rows"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _left(found: Mapping[str, Any]) -> list[str]:
    """Name the rows that this search has not reached."""
    left = [row for row in METHODS if row not in found["rows"]]
    if not left:
        return []
    return [
        f"**Not searched yet: {', '.join(left)}.** Their settings are those of the search of "
        "November 21 ([log](../log/methods.md#2026-11-21-one-search-for-every-method)). The same "
        "command goes on with them."
    ]


def _section(row: str, trials: Sequence[Trial]) -> str:
    seeds = [str(s) for s in (FIRST, *AGAIN)]
    lines = [
        f"## {row}\n",
        f"Setting: `{METHODS[row][1]}`.\n",
        "| " + " | ".join(["value", *(f"seed {s}" for s in seeds), "mean", "largest KL"]) + " |",
        "| " + " | ".join(["---"] * (len(seeds) + 3)) + " |",
    ]
    for trial in trials:
        bold = "**" if trial["value"] == chosen_value(trials) else ""
        cells = [_gain(trial["seeds"].get(s)) for s in seeds]
        told = "diverged" if has_diverged(trial) else f"{mean_gain(trial):+.3f}"
        value = f"{bold}{trial['value']:g}{bold}"
        lines.append("| " + " | ".join([value, *cells, told, _largest_kl(trial)]) + " |")
    return "\n".join(lines)


def _gain(outcome: Mapping[str, Any] | None) -> str:
    if outcome is None:
        return "-"
    return "failed" if "failed" in outcome else f"{outcome['gain']:+.3f}"


def _largest_kl(trial: Trial) -> str:
    kls = [s["kl"] for s in trial["seeds"].values() if "failed" not in s]
    return f"{max(kls):.2f}" if kls else "-"


def _choice(row: str, trials: Sequence[Trial]) -> str:
    value = chosen_value(trials)
    if value is None:
        return f"{row}: none, all of its trials on every seed diverged."
    edge = value in (min(values_of(row)), max(values_of(row)))
    told = "; the edge of its grid, so a wider one might find better" if edge else ""
    return f"{row}: `{METHODS[row][1]} = {value:g}`{told}."


if __name__ == "__main__":
    raise SystemExit(main())
