"""ReST's figure: reward and truth by Grow and Improve steps, ours beside the paper's.

    python experiments/rest_figure.py translation      # from docs/results/translation.json

Writes docs/results/NAME-steps.svg and NAME-steps.md, with a test of every step by the learned
reward and by the truth, from NAME.parquet. Rows of the bench are called `ReST G1 I2`;
SFT is the paper's behaviour cloning. The paper's numbers are those that its text prints of the
German-English set (arXiv:2308.08998, section 4): the mean reward, without intervals.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.bench.outcomes import OUTCOMES, Outcomes, read_outcomes
from tandem.bench.results import Claimed, judge_claims

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAPER = {"BC": 70.9, "G1 I0": 71.9, "PPO": 71.6, "G1 I4": 77.8, "G2 I3": 83.1}
JUDGED = {"proxy": "learned reward", "truth": "truth"}
COLOURS = {1: "#2166ac", 2: "#b35806"}
MARKS = {1: "o", 2: "s"}


def main(words: Sequence[str] | None = None) -> int:
    """Write the figure and its page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of docs/results/NAME.json")
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(words)
    found = json.loads((asked.results / f"{asked.name}.json").read_text(encoding="utf-8"))
    draw(found, asked.results / f"{asked.name}-steps.svg")
    page = asked.results / f"{asked.name}-steps.md"
    kept = asked.results / f"{asked.name}.parquet"
    outcomes = read_outcomes(kept) if kept.exists() else None
    page.write_text(steps_page(found, asked.name, outcomes), encoding="utf-8")
    print(page)
    return 0


def steps_of(found: Mapping[str, Any], judge: str) -> dict[int, dict[int, Mapping[str, Any]]]:
    """Return Grow -> Improve -> the estimate by a judge, of the rows that were done."""
    steps: dict[int, dict[int, Mapping[str, Any]]] = {}
    for row in found["policies"]:
        match = re.fullmatch(r"ReST G(\d) I(\d)", row["policy"])
        if match and row["status"] == "done":
            steps.setdefault(int(match[1]), {})[int(match[2])] = row[judge]
    return steps


def steps_to_test(policies: Sequence[str]) -> list[Claimed]:
    """Return the steps between neighbours: an Improve more, a Grow more, and SFT to G1 I0."""
    pairs = [("SFT", "ReST G1 I0")]
    pairs += [(f"ReST G{g} I{i}", f"ReST G{g} I{i + 1}") for g in (1, 2) for i in range(4)]
    pairs += [(f"ReST G1 I{i}", f"ReST G2 I{i}") for i in range(5)]
    return [(a, b, f"{a} < {b}") for a, b in pairs if {a, b} <= set(policies)]


def judge_steps(outcomes: Outcomes, judge: str) -> list[dict[str, Any]]:
    """Test every step by one judge, with Holm over the steps."""
    own = {name: {judge: columns[judge]} for name, columns in outcomes.columns.items()}
    by = Outcomes(outcomes.seeds, outcomes.prompts, own)
    return judge_claims(by, steps_to_test(list(own)))


def level(found: Mapping[str, Any], policy: str, judge: str) -> Mapping[str, Any] | None:
    """Return a policy's estimate by a judge, or None where it was not done."""
    rows = (r for r in found["policies"] if r["policy"] == policy and r["status"] == "done")
    return next((row[judge] for row in rows), None)


def draw(found: Mapping[str, Any], file: Path) -> None:
    """Draw our reward, our truth and the paper's reward, a panel each."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "tandem", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 2.9), layout="constrained", dpi=100)
        panels = figure.subplots(1, 3)
        for axes, (judge, title) in zip(panels[:2], JUDGED.items(), strict=True):
            _draw_judge(axes, found, judge)
            axes.set(title=f"{title}, here", xlabel="Improve steps")
        panels[0].legend(frameon=False, fontsize=8)
        _draw_paper(panels[2])
        for axes in panels:
            axes.set_xticks(range(5))
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _draw_judge(axes: Any, found: Mapping[str, Any], judge: str) -> None:
    for grow, steps in sorted(steps_of(found, judge).items()):
        xs = sorted(steps)
        mean = [steps[x]["mean"] for x in xs]
        error = [
            [m - steps[x]["low"] for x, m in zip(xs, mean, strict=True)],
            [steps[x]["high"] - m for x, m in zip(xs, mean, strict=True)],
        ]
        axes.errorbar(
            xs, mean, yerr=error, color=COLOURS[grow], marker=MARKS[grow], capsize=3,
            label=f"Grow {grow}",
        )  # fmt: skip
    for policy, style in (("SFT", ":"), ("PPO", "--")):
        own = level(found, policy, judge)
        if own is not None:
            axes.axhline(own["mean"], color="#555555", linestyle=style, label=policy)


def _draw_paper(axes: Any) -> None:
    axes.plot([0, 4], [PAPER["G1 I0"], PAPER["G1 I4"]], color=COLOURS[1], marker=MARKS[1])
    axes.plot([3], [PAPER["G2 I3"]], color=COLOURS[2], marker=MARKS[2], linestyle="")
    axes.axhline(PAPER["BC"], color="#555555", linestyle=":")
    axes.axhline(PAPER["PPO"], color="#555555", linestyle="--")
    axes.set(title="the paper's reward, %", xlabel="Improve steps")


def steps_page(found: Mapping[str, Any], name: str, outcomes: Outcomes | None) -> str:
    """Return the page: the picture, its numbers in a table, and a test of every step."""
    seeds = len(found["seeds"])
    parts = [
        f"# {name}: reward and truth by Grow and Improve",
        f"<!-- Made by `python experiments/rest_figure.py {name}`. -->",
        f"From [{name}]({name}.md): {seeds} training seeds, {found['prompts']} prompts. Left the "
        "learned reward that ReST climbs, in the middle the truth, both with 95 % intervals over "
        "seeds and prompts; right what the paper prints of its largest gain. Dotted: behaviour "
        "cloning. Dashed: PPO.",
        f"![{spoken(found)}]({name}-steps.svg)",
        _table(found),
        _tests(outcomes) if outcomes else f"No {OUTCOMES} of it was kept: steps are not tested.",
        "The paper's reward is another metric on another language, in per cent and without "
        "intervals: the order can be compared and the numbers cannot. It also prints "
        f"{PAPER['G1 I4']} at Grow 1, Improve 4.",
    ]
    return "\n\n".join(parts) + "\n"


def spoken(found: Mapping[str, Any]) -> str:
    """Return the picture in words."""
    said = []
    for judge, title in JUDGED.items():
        for grow, steps in sorted(steps_of(found, judge).items()):
            line = ", ".join(f"{steps[x]['mean']:.2f} at I{x}" for x in sorted(steps))
            said.append(f"{title} at Grow {grow}: {line}")
    return "; ".join(said)


def _table(found: Mapping[str, Any]) -> str:
    rows = [("policy", *JUDGED.values(), "paper, reward %"), ("---",) * 4]
    paper = {"SFT": PAPER["BC"], "PPO": PAPER["PPO"]}
    paper |= {f"ReST {k}": x for k, x in PAPER.items() if k.startswith("G")}
    for row in found["policies"]:
        if row["status"] != "done" or row["policy"] == "base":
            continue
        cells = (_cell(row[judge]) for judge in JUDGED)
        rows.append((row["policy"], *cells, f"{paper.get(row['policy'], '-')}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _tests(outcomes: Outcomes) -> str:
    rows = [("step", *(f"{title}, Holm p, verdict" for title in JUDGED.values())), ("---",) * 3]
    tested = [judge_steps(outcomes, judge) for judge in JUDGED]
    for each in zip(*tested, strict=True):
        cells = (f"{_cell(s['gain'])}, {s['holm_p']:.2g}, {s['verdict']}" for s in each)
        rows.append((f"`{each[0]['claim']}`", *cells))
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        "Differences between neighbours, on the same prompts and seeds; Holm over the steps, for "
        f"each judge by itself.\n\n{lines}"
    )


def _cell(e: Mapping[str, Any]) -> str:
    if e.get("low") is None:
        return f"{e['mean']:.3f}"
    return f"{e['mean']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"


if __name__ == "__main__":
    raise SystemExit(main())
