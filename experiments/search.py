"""One search for all: every method of the full table gets the same trials, by this script.

    python experiments/search.py                # every row that is left; a killed one goes on
    python experiments/search.py --rows DPO KTO # these alone; two processes want two --out
    python experiments/search.py --page-only    # the page again, from docs/results/search.json
    python experiments/search.py --table constraints --model FOLDER

Every method is tried at the same values of one setting: the learning rate of what it trains, and n
for best-of-n, which trains nothing. All trials meet the first seed. On the micro world the two best
of each method meet another too: one seed does not show that a rate is unstable. Sizes are those of
the table that the settings are for, with fewer prompts. Prompts of evaluation are drawn from the
first seed. No reported table uses any of these seeds or prompts.

Chosen is the largest mean gain in truth over the seeds, among trials that did not diverge. A trial
diverged where a seed failed or ended further than `DIVERGED` nats from SFT. Truth is what the
search looks at and gold_rm is not, so gold_rm has seen no setting.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

FIRST = 100
KEPT = 2
"""Trials of each method that meet the other seeds too."""
DIVERGED = 10.0
"""Nats of KL to SFT beyond which a policy has come apart; the largest of the table is below 2."""
RLOO = {
    "grpo.advantage": "rest", "grpo.kl": "reward", "grpo.ratio": "none", "grpo.per": "constant",
    "grpo.prompts": 16, "grpo.minibatch": 16, "grpo.rounds": 40,  # a step a round, as many as GRPO
}  # fmt: skip
UML = {"rlp.gamma": "null", "rlp.lam": 0.5}
MICRO: dict[str, tuple[str, str, dict[str, Any]]] = {
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
CONSTRAINTS = {row: MICRO[row] for row in ("DPO", "KTO", "PPO", "GRPO", "RSO", "ReST")} | {
    "RLP-SPG": MICRO["RLP-SPG"]
}
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
Trial = dict[str, Any]


@dataclass(frozen=True)
class Search:
    """One search for all methods of a table.

    Attributes:
        plan: the table's plan.
        page: of the table, beside this search's own.
        methods: row -> method, the setting that is searched, what else the row sets.
        rates: tried of every learning rate.
        again: seeds that the best trials meet after the first.
        evaluation: prompts of evaluation.
        unlabelled: prompts that online methods sample from.
        ns: tried of best-of-n.
    """

    plan: Path
    page: str
    methods: Mapping[str, tuple[str, str, dict[str, Any]]]
    rates: tuple[float, ...]
    again: tuple[int, ...]
    evaluation: int
    unlabelled: int
    ns: tuple[int, ...] = (4, 8, 16, 32)


SEARCHES = {
    "full": Search(
        ROOT / "src/tandem/bench/presets/full.toml", "full.md", MICRO,
        (3e-5, 1e-4, 3e-4, 1e-3), (101,), 300, 500,
    ),
    "constraints": Search(
        ROOT / "experiments/constraints.toml", "constraints.md", CONSTRAINTS,
        (5e-6, 2e-5), (), 152, 100,
    ),
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    """Do what is left of a search and write its page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", choices=SEARCHES, default="full")
    parser.add_argument("--model", help="folder of a chat model, for constraints")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--page-only", action="store_true", help="the page again, from its JSON")
    asked = parser.parse_args(words)
    name = "search" if asked.table == "full" else f"{asked.table}-search"
    page, out = asked.page or RESULTS / f"{name}.md", asked.out or Path("runs") / name
    file, table = page.with_suffix(".json"), SEARCHES[asked.table]
    for row in () if asked.page_only else asked.rows or table.methods:
        trials = search(table, row, out, asked.model)
        found = about(asked.table) | {"rows": kept_rows(file) | {row: trials}}
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    page.write_text(search_page(table, found, file.name), encoding="utf-8")
    print(page)
    return 0


def kept_rows(file: Path) -> dict[str, list[Trial]]:
    """Return the rows that are done, also by another process since this one began."""
    return json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else {}


def about(name: str) -> dict[str, Any]:
    """Return what is true of every row's search."""
    from tandem.runs.environment import code_commit

    more = "" if name == "full" else f" --table {name} --model FOLDER"
    return {
        "command": f"python experiments/search.py{more}",
        "commit": code_commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "evaluation": SEARCHES[name].evaluation,
    }


def search(table: Search, row: str, out: Path, model: str | None) -> list[Trial]:
    """Try a row's values on the first seed and its best on the others, and return all trials."""
    trials: list[Trial] = [
        {"row": row, "value": value, "seeds": {}} for value in values_of(table, row)
    ]
    measure(table, trials, (FIRST,), out, model)
    best = best_trials(trials)[:KEPT]
    for seed in table.again:
        measure(table, best, (seed,), out, model)
    return trials


def values_of(table: Search, row: str) -> Sequence[float]:
    """Return the values that a row is tried at."""
    return table.ns if table.methods[row][0] == "best_of_n" else table.rates


def measure(
    table: Search, trials: Sequence[Trial], seeds: Sequence[int], out: Path, model: str | None
) -> None:
    """Run trials on seeds, and write into each what came out."""
    from tandem.bench import collect_results, run_seeds
    from tandem.cli.bench import make_bench_parser
    from tandem.cli.plans import make_plan
    from tandem.cli.settings import parse_words
    from tandem.machine import Machine

    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{trials[0]['row'].lower()}-{seeds[0]}.yaml"
    told = json.dumps(plan_table(table, trials), indent=1)  # JSON is YAML
    file.write_text(told, encoding="utf-8")
    words = [str(file), f"--seeds={len(seeds)}", f"--first_seed={seeds[0]}"]
    words += [] if model is None else [f"--model={model}"]
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


def plan_table(table: Search, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the plan of some trials: the sizes of the table's plan, on prompts of its own."""
    plan = tomllib.loads(table.plan.read_text(encoding="utf-8"))
    few = {"evaluation": table.evaluation, "prompts": table.unlabelled}
    return {
        "title": "search",
        "question": "Which value of one setting suits each method?",
        "task": plan["task"],
        "exam": FIRST,
        "sizes": plan["sizes"] | few,
        "settings": plan["settings"],
        "entry": [_entry(table, trial) for trial in trials],
    }


def _entry(table: Search, trial: Trial) -> dict[str, Any]:
    method, setting, more = table.methods[trial["row"]]
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


def search_page(table: Search, found: Mapping[str, Any], name: str) -> str:
    """Return the search as Markdown, from its JSON alone."""
    seeds = [FIRST, *table.again]
    again = f"; its {KEPT} best were tried again on seed {table.again[0]}" if table.again else ""
    parts = [
        "# One search for all",
        f"Generated by `{found['command']}` from [{name}]({name}), commit `{found['commit']}`.",
        f"Every method of [the table]({table.page}) was tried at {len(table.rates)} values of one "
        f"setting on seed {FIRST}{again}. Online methods sampled from {table.unlabelled} prompts, "
        "half of the table's. Numbers are gains in truth over SFT on "
        f"{found['evaluation']} evaluation prompts, one a seed, without intervals: they choose "
        "settings and resolve nothing. No table uses these seeds or prompts. **Bold** is chosen: "
        f"the largest mean over the seeds, among trials that stayed within {DIVERGED:g} nats of "
        "SFT on every seed.",
        *_left(table, found),
        *(_section(table, row, trials, seeds) for row, trials in found["rows"].items()),
        "## What was chosen",
        "\n".join(f"- {_choice(table, row, trials)}" for row, trials in found["rows"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _left(table: Search, found: Mapping[str, Any]) -> list[str]:
    """Name the rows that this search has not reached."""
    left = [row for row in table.methods if row not in found["rows"]]
    if not left:
        return []
    return [f"**Not searched yet: {', '.join(left)}.** The same command goes on with them."]


def _section(table: Search, row: str, trials: Sequence[Trial], seeds: Sequence[int]) -> str:
    lines = [
        f"## {row}\n",
        f"Setting: `{table.methods[row][1]}`.\n",
        "| " + " | ".join(["value", *(f"seed {s}" for s in seeds), "mean", "largest KL"]) + " |",
        "| " + " | ".join(["---"] * (len(seeds) + 3)) + " |",
    ]
    for trial in trials:
        bold = "**" if trial["value"] == chosen_value(trials) else ""
        cells = [_gain(trial["seeds"].get(str(s))) for s in seeds]
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


def _choice(table: Search, row: str, trials: Sequence[Trial]) -> str:
    value = chosen_value(trials)
    if value is None:
        return f"{row}: none, all of its trials on every seed diverged."
    values = values_of(table, row)
    edge = value in (min(values), max(values))
    told = "; the edge of its grid, so a wider one might find better" if edge else ""
    return f"{row}: `{table.methods[row][1]} = {value:g}`{told}."


if __name__ == "__main__":
    raise SystemExit(main())
