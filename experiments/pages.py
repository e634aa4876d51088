"""Turn what a bench measured into docs/results/NAME.json and docs/results/NAME.md.

    python experiments/pages.py runs/bench-rso                      # the results.json inside
    python experiments/pages.py runs/bench-rso --name rso --html    # and the report's page
    python experiments/pages.py --again                 # every page, from its JSON and outcomes

The JSON is the bench's own `results.json` with numbers rounded to five digits, six prompts with
answers, and a total in place of the cost of every stage, so that it is small enough to commit and
`tandem report docs/results/NAME.json` still reads it. The page has our numbers first and the
paper's in columns of their own; what is missing in the JSON is `-`. No torch.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import stdev
from typing import Any

SAMPLES, OUTCOMES = 6, "outcomes.parquet"
DIGITS = 5
FOLDER = Path(__file__).parents[1] / "docs" / "results"
PLANS = Path(__file__).parent
FIRST, NOW = "docs/adr/0006", "docs/adr/0018"
"""How intervals were made before results said so, and how they are made."""
LARGEST, LARGEST_OUTCOMES = 300_000, 2_000_000
"""Bytes that a committed JSON may have, and a table of outcomes."""
PAPER = {
    "win": "win rate, %",
    "proxy": "proxy win, %",
    "gold": "gold win, %",
    "autosxs": "AutoSxS win, %",
}


def main(words: Sequence[str] | None = None) -> int:
    """Write the pages that were asked for, and say where they are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="folders of benches, or results.json")
    parser.add_argument("--name", help="of the page; the title in lower case if not given")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--html", action="store_true", help="also the report, NAME.html")
    parser.add_argument("--again", action="store_true", help="pages from the JSON that is there")
    asked = parser.parse_args(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    for path in asked.paths:
        file = path / "results.json" if path.is_dir() else path
        found = json.loads(file.read_text(encoding="utf-8"))
        name = asked.name or "-".join(str(found["title"]).lower().split())
        if (kept := file.with_name(OUTCOMES)).exists():
            found = published(found, kept, asked.out / f"{name}.parquet")
        _write(reduced(found, _written(file)), asked.out / f"{name}.json")
        if asked.html:
            _report(file, asked.out / f"{name}.html")
    if asked.again:
        for file in sorted(asked.out.glob("*.json")):
            if is_bench(found := json.loads(file.read_text(encoding="utf-8"))):
                _write_again(found, file)
    return 0


def published(found: Mapping[str, Any], kept: Path, out: Path) -> dict[str, Any]:
    """Write a bench's outcomes small enough to be committed, and make its statistics of those.

    So the page says what anybody can make again from what is committed.
    """
    from tandem.bench.outcomes import read_outcomes, write_outcomes
    from tandem.bench.results import restate_results

    write_outcomes(read_outcomes(kept), out, single=True)
    if out.stat().st_size > LARGEST_OUTCOMES:
        sys.exit(f"{out} has {out.stat().st_size:,} bytes; {LARGEST_OUTCOMES:,} is the most")
    print(f"{out} ({out.stat().st_size:,} bytes)")
    return restate_results(found, read_outcomes(out))


def is_bench(found: Any) -> bool:
    """Say whether a JSON is a comparison by `tandem bench`, and not an experiment of its own."""
    return isinstance(found, dict) and {"policies", "opponent", "order"} <= set(found)


def reduced(found: Mapping[str, Any], date: str) -> dict[str, Any]:
    """Return a bench's results, small enough to be committed."""
    small = dict(found)
    small["date"] = found.get("date", date)
    small["command"] = portable(found["command"])
    small["samples"] = found.get("samples", [])[:SAMPLES]
    small["cost"] = list(_totals(found.get("cost", [])))
    environment = dict(found.get("environment", {}))
    environment.pop("command", None)
    small["environment"] = environment
    return _rounded(small)


def portable(command: str) -> str:
    """Return the command as it is typed at the root of a clone: no folder of one machine."""
    words = shlex.split(command)
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    plans = [w for w in words if w.endswith(".toml") and (PLANS / Path(w).name).exists()]
    return shlex.join([f"experiments/{Path(w).name}" if w in plans else w for w in words])


def _totals(cost: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One line a seed: every stage's seconds added, and the highest peak."""
    for seed in sorted({row["seed"] for row in cost}):
        rows = [row for row in cost if row["seed"] == seed]
        yield {
            "stage": "all",
            "seconds": sum(row["seconds"] for row in rows),
            "peak_bytes": max(row["peak_bytes"] for row in rows),
            "seed": seed,
        }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def _write(found: dict[str, Any], file: Path) -> None:
    text = json.dumps(found, ensure_ascii=False) + "\n"
    if len(text.encode()) > LARGEST:
        sys.exit(f"{file} would have {len(text.encode()):,} bytes; {LARGEST:,} is the most")
    file.write_text(text, encoding="utf-8")
    file.with_suffix(".md").write_text(page(found, file.stem), encoding="utf-8")
    print(f"{file} ({len(text.encode()):,} bytes), {file.with_suffix('.md')}")


def _write_again(found: dict[str, Any], file: Path) -> None:
    """Write a page from its JSON, whose statistics are made again where outcomes are kept."""
    outcomes = file.with_suffix(".parquet")
    if outcomes.exists():
        from tandem.bench import remake_statistics

        _write(reduced(remake_statistics(file, outcomes), found["date"]), file)
        return
    file.with_suffix(".md").write_text(page(found, file.stem), encoding="utf-8")
    print(file.with_suffix(".md"))


def _report(file: Path, out: Path) -> None:
    from tandem.report.page import render_report
    from tandem.report.results_file import read_results

    results = read_results(file)
    html, _ = render_report(results | {"command": portable(results["command"])})
    out.write_text(html, encoding="utf-8")
    print(f"{out} ({out.stat().st_size:,} bytes)")


def _written(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()


# --- the page -------------------------------------------------------------------------------------


def page(found: Mapping[str, Any], name: str) -> str:
    """Return a comparison as Markdown, from its JSON alone."""
    parts = [
        f"# {found['title']}: {found['question']}",
        f"Generated by `python experiments/pages.py` from [{name}.json]({name}.json).",
        *not_again(
            found,
            "Its *ensemble win* is by other reward models on the proxy's own labels, "
            "which stood as gold then.",
        ),
        setting(found),
        "## Policies",
        reading(found),
        markdown(*policies(found)),
        *_failed(found),
        *(["## Beside the paper", *_paper(found)] if printed(found) else []),
        *(["## What was expected", *_claims(found)] if found.get("order") else []),
        "## Seed by seed",
        *_seeds(found),
        *_reward(found),
        *_gold(found),
        "## How it was made",
        made(found),
    ]
    return "\n\n".join(parts) + "\n"


def not_again(found: Mapping[str, Any], more: str = "") -> list[str]:
    """Say with its date that a page's numbers were not measured again; nothing where they were."""
    if found.get("intervals") == NOW:
        return []
    told = (
        f"**Measured on {found.get('date', 'an unknown day')}, and not again since.** Its numbers "
        f"and verdicts are those of that day, with the intervals of {FIRST} in place of {NOW}'s."
    )
    return [f"{told} {more}".strip()]


def intervals_of(found: Mapping[str, Any]) -> str:
    """Return where it is written down how the intervals of a page were made."""
    return found.get("intervals", FIRST)


def measured_today() -> dict[str, str]:
    """Return when an experiment was measured, which is today, and which intervals it has."""
    return {"date": datetime.now(UTC).date().isoformat(), "intervals": NOW}


def setting(found: Mapping[str, Any]) -> str:
    """Say what was compared on what."""
    seeds, budget = found["seeds"], found["budget"]
    share = budget.get("weaker", 0)
    weaker = f" ({share:.0%} of the answers in them by weaker policies)" if share else ""
    plural = "s" if len(seeds) != 1 else ""
    return (
        f"{found['task']}; {len(seeds)} training seed{plural} ({listed(seeds)}), the same "
        f"{found['prompts']:,} evaluation prompts for all; {budget['demonstrations']:,} "
        f"demonstrations, {budget['pairs']:,} labelled pairs with {budget['flips']:.0%} flips"
        f"{weaker}, "
        f"{budget['prompts']:,} unlabelled prompts. Judge: {found['judge']}."
    )


def listed(numbers: Sequence[int]) -> str:
    """Spell seeds: `0` or `0 to 9` or `0, 2, 5`."""
    together = list(range(numbers[0], numbers[0] + len(numbers)))
    if len(numbers) > 2 and list(numbers) == together:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def reading(found: Mapping[str, Any]) -> str:
    """Say how the table is read."""
    over = "prompts and seeds" if len(found["seeds"]) > 1 else "prompts, for one training seed"
    if "intervals" in found and len(found["seeds"]) > 1:
        over += ", for seed effects that are about normal"
    made = intervals_of(found)
    if until := found.get("until_resolved"):
        made = (
            f"docs/adr/0019: seeds were added after the first {until['fewest']} until every claim "
            f"was resolved, {until['most']} at most, and intervals hold whenever one stops"
        )
    return (
        f"Means with 95 % intervals over {over} ({made}). "
        f"Wins are against {found['opponent']} on the same prompts, ties one half. *Resolved* is "
        f"after Holm over the table; *worse* is resolved the other way."
    )


def policies(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of policies; a column that nobody has is left out."""
    judge, opponent = found["judge"], found["opponent"]
    columns = {
        f"{judge} gain": f"{judge} gain",
        f"win vs {opponent}": f"{judge} win",
        "gold_rm_win": gold_name(found),
        "proxy_win": "proxy win",
        "annotator_win": "annotator win",
        "llm_win": "language model's win",
        "lc_win": "length-controlled win",
    }
    rows = [p for p in found["policies"] if p["status"] == "done"]
    there = [k for k in columns if any(p.get(k) for p in rows)]
    head = ["policy", *(columns[k] for k in there), "resolved", "KL, nats", "length", "seconds"]
    lines = []
    for p in rows:
        cells = [spelled(p.get(k), percent="win" in k) for k in there]
        cost = f"{p['seconds']['mean']:.0f}" if p.get("seconds") else "-"
        tail = [verdict(p, found), _mean(p.get("kl")), _mean(p.get("length")), cost]
        deviant = ", ".join(map(str, p.get("deviant_seeds") or []))
        name = f"{p['policy']} (out of line: seed {deviant})" if deviant else p["policy"]
        lines.append([name, *cells, *tail])
    return head, lines


def gold_name(found: Mapping[str, Any]) -> str:
    """Name the gold column: before it was fitted to other data it was an ensemble of proxies."""
    return "gold win" if "gold" in found else "ensemble win"


def verdict(policy: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Say whether a policy's wins against the opponent are resolved after Holm."""
    if policy.get("Holm p") is None:
        return "-"
    if not policy["Holm p"] < 0.05:
        return "not resolved"
    return "resolved" if policy[f"win vs {found['opponent']}"]["mean"] > 0.5 else "worse"


def _failed(found: Mapping[str, Any]) -> list[str]:
    rows = [p for p in found["policies"] if p["status"] == "failed"]
    return ["\n".join(f"- {p['policy']} failed: {p['reason']}" for p in rows)] if rows else []


def printed(found: Mapping[str, Any]) -> list[str]:
    """Return the columns that a paper printed for some row."""
    given = {k for p in found["policies"] for k in p.get("paper") or {}}
    return [*(k for k in PAPER if k in given), *sorted(given - set(PAPER))]


def _paper(found: Mapping[str, Any]) -> list[str]:
    """Our numbers, then the paper's: other data, models and opponents."""
    judge, opponent = found["judge"], found["opponent"]
    ours = {
        f"{judge} win": f"win vs {opponent}",
        "proxy win": "proxy_win",
        gold_name(found): "gold_rm_win",
        "language model's win": "llm_win",
    }
    rows = [p for p in found["policies"] if p.get("paper")]
    there = {h: k for h, k in ours.items() if any(p.get(k) for p in rows)}
    head = ["policy", *(f"ours: {h}" for h in there)]
    head += [f"paper: {PAPER.get(k, k)}" for k in printed(found)]
    lines = [
        [
            p["policy"],
            *(spelled(p.get(k), percent=True) for k in there.values()),
            *(f"{p['paper'][k]:g}" if k in p["paper"] else "-" for k in printed(found)),
        ]
        for p in rows
    ]
    told = (
        "The paper's numbers were printed for other models, data and opponents. They stand here "
        "to compare orders, not values."
    )
    return [told, markdown(head, lines)]


def _claims(found: Mapping[str, Any]) -> list[str]:
    """Every ordering that was written down before, with what came out."""
    judge = found["judge"]
    head = ["claim", f"{judge} difference", "win of the second", "Holm p", "verdict", "needs"]
    lines = []
    for row in found["order"]:
        needs = f"about {row['needs']:,} more" if row.get("needs") else "-"
        if row["verdict"] != "not resolved":
            needs = "-"
        lines.append(
            [
                f"`{row['claim']}`", spelled(row["gain"]), spelled(row.get("win"), percent=True),
                f"{row['holm_p']:.2g}", row["verdict"], needs,
            ]
        )  # fmt: skip
    told = (
        "Written in the plan before any seed was run; Holm over all of them. *Reversed* is "
        "resolved against the claim; *needs* is how many more comparisons would resolve a "
        "difference of this size."
    )
    if any(row["verdict"] == "not measured" for row in found["order"]):
        told += " *Not measured*: one of the two failed; Holm counts the claim with p = 1."
    return [told, markdown(head, lines)]


def _seeds(found: Mapping[str, Any]) -> list[str]:
    """Each training seed's gain, and how far seeds spread."""
    key = f"{found['judge']} gain"
    head = ["policy", *(f"seed {s}" for s in found["seeds"]), "spread"]
    lines = []
    for p in found["policies"]:
        gains = p.get("per_seed", {}).get(key)
        if gains is None or p["policy"] == found["opponent"]:
            continue
        spread = f"{stdev(gains):.3f}" if len(gains) > 1 else "-"
        lines.append([p["policy"], *(f"{g:+.3f}" for g in gains), spread])
    told = f"{key} over {found['opponent']} on the evaluation prompts; spread is the standard "
    return [told + "deviation over seeds.", markdown(head, lines)]


def _reward(found: Mapping[str, Any]) -> list[str]:
    """The reward model on held-out judgments, of the first seed."""
    exam = (found.get("reward") or {}).get("numbers")
    if not exam:
        return []
    lines = [
        [name, f"{x:.3f}" if isinstance(x, float) else spelled(x, sign=False)]
        for name, x in exam["measures"].items()
    ]
    told = (
        f"On {exam['judgments']:,} held-out judgments ({exam['ties']:,} ties) with the annotator's "
        f"own errors in them, of seed {found['seeds'][0]}."
    )
    return ["## The reward model", told, markdown(["measure", "value"], lines)]


def _gold(found: Mapping[str, Any]) -> list[str]:
    """What the gold reward is, and how often it is right, of the first seed."""
    if not (exam := found.get("gold")):
        return []
    told = [line for line in found.get("limits", []) if "gold_rm" in line and "fitted" in line]
    measured = spelled(exam["accuracy"], sign=False)
    about = (
        f"Accuracy on the same {exam['judgments']:,} held-out judgments of seed {exam['seed']}: "
        f"{measured}."
    )
    return ["## The gold reward", *told, about]


def made(found: Mapping[str, Any]) -> str:
    """Return the block that says how to make the numbers again."""
    environment = found.get("environment", {})
    versions = environment.get("versions", {})
    names = ("torch", "transformers")
    spent = sum(row["seconds"] for row in found.get("cost", []))
    lines = [
        f"- command: `{found['command']}`",
        f"- commit: {found['commit']}",
        f"- date: {found.get('date', '-')}",
        f"- machine: {environment.get('cpu', '-')}, {environment.get('cpus', '-')} cores; Python "
        f"{environment.get('python', '-')}, "
        + ", ".join(f"{n} {versions[n]}" for n in names if n in versions),
        f"- time: {spent / 60:,.0f} minutes of stages, each done once",
    ]
    return "\n".join(lines)


def spelled(value: Any, *, percent: bool = False, sign: bool = True) -> str:
    """Spell an estimate with its interval."""
    if not isinstance(value, Mapping) or value.get("mean") is None:
        return "-"
    return with_interval(value, ".1%" if percent else "+.2f" if sign else ".3f")


def with_interval(value: Mapping[str, Any], form: str) -> str:
    """Spell `0.50 [0.40, 0.60]`, or `0.50 (no interval)` where there is none."""
    ends = [value.get(k) for k in ("low", "high")]
    if any(x is None or x != x for x in ends):
        return f"{value['mean']:{form}} (no interval)"
    return f"{value['mean']:{form}} [{ends[0]:{form}}, {ends[1]:{form}}]"


def _mean(value: Any) -> str:
    return f"{value['mean']:.2f}" if isinstance(value, Mapping) else "-"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; a bar inside a cell is escaped."""
    rows = [head, ["---"] * len(head), *lines]
    escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)


if __name__ == "__main__":
    sys.exit(main())
