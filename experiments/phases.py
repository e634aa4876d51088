"""Phase figures: where one method beats another, as two conditions of the comparison change.

    python experiments/phases.py rso-labels --plan          # what will be done, and nothing else
    python experiments/phases.py rso-labels                 # do it; a killed one goes on
    python experiments/phases.py rso-labels --seeds 2 3     # these seeds alone, in a second process
    python experiments/phases.py rso-labels --sparse        # corners and two seeds: a first picture
    python experiments/phases.py rso-labels --page          # the page, from what is kept
    python experiments/phases.py --again                    # every page, from committed outcomes

A figure is a file of experiments/phases: two axes, the arms that are compared in every cell, and
what was expected before the first run. An axis is a size of the task (labels, noise) or a setting
of the methods. All cells of a seed are one run folder, so what two cells have in common is done
once. In every cell the arms meet the same prompts and seeds; differences are paired over both, and
Holm corrects over all cells of a figure. The page is made from outcomes by prompt, which are kept
beside it.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from phase_page import contrast_cells, draw_phase, phase_page
from tandem.bench import OPPONENT, Entry, Finished, Plan
from tandem.bench.finished import has_ended
from tandem.bench.outcomes import Outcomes, read_outcomes, write_outcomes
from tandem.bench.progress import work_seconds
from tandem.bench.seeds import judge_start, open_plan_task, run_entry
from tandem.cli.bench import make_bench_parser
from tandem.cli.plans import make_plan
from tandem.cli.settings import parse_words
from tandem.machine import Machine
from tandem.runs.atomic_files import write_json, write_text
from tandem.runs.environment import code_commit
from tandem.runs.names import folder_name
from tandem.runs.run import Run

FOLDER = Path(__file__).parent / "phases"
RESULTS = Path(__file__).parents[1] / "docs" / "results"
COLUMNS = ("truth", "gold_rm", "proxy", "kl", "length")
"""Of the outcomes, those that a page needs."""
SPARSE_SEEDS = 2


@dataclass(frozen=True)
class Axis:
    """A condition that changes: its setting, how it is called, and its values in order."""

    setting: str
    label: str
    values: tuple[Any, ...]

    @property
    def is_size(self) -> bool:
        """Whether it changes the task, and not a method."""
        return self.setting.startswith("sizes.")

    def spell(self, value: Any) -> str:
        """Name a value: `labels 300`."""
        return f"{self.label} {value}"


@dataclass(frozen=True)
class Phase:
    """A figure: two axes, the arms, and which differences are drawn."""

    name: str
    table: dict[str, Any]

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The axes, x and y."""
        x, y = (self.table[k] for k in "xy")
        return (
            Axis(x["setting"], x["label"], tuple(x["values"])),
            Axis(y["setting"], y["label"], tuple(y["values"])),
        )

    def cells(self, *, corners: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the value of each axis in every cell: setting -> value."""
        x, y = self.axes
        ends = [(a.values[0], a.values[-1]) if corners else a.values for a in (x, y)]
        for one, two in product(*ends):
            yield {x.setting: one, y.setting: two}

    def place(self, cell: dict[str, Any]) -> str:
        """Name the folder of the cells with this task."""
        sizes = [a.spell(cell[a.setting]) for a in self.axes if a.is_size]
        return folder_name(" ".join(sizes)) or "all"

    def row(self, arm: dict[str, Any], cell: dict[str, Any]) -> str:
        """Name an arm in a cell, among those with this task."""
        own = [] if arm.get("fixed") else [a for a in self.axes if not a.is_size]
        return " ".join([arm["name"], *(a.spell(cell[a.setting]) for a in own)])


@dataclass(frozen=True)
class PlacedPlan(Plan):
    """The cells with one task: a plan whose seeds lie in the run folders of the whole figure."""

    place: str = ""

    def folder(self, out: Path, seed: int) -> Path:
        """Return the part of a seed's run folder that is this plan's."""
        return out / f"seed-{seed}" / self.place


def read_phase(name: str) -> Phase:
    """Read a figure's file."""
    return Phase(name, tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")))


def make_plans(phase: Phase, out: Path, *, corners: bool = False) -> list[PlacedPlan]:
    """Return a plan for each task of a figure; each is also written down as a file."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    sizes: dict[str, dict[str, Any]] = {}
    for cell in phase.cells(corners=corners):
        place = phase.place(cell)
        own = {a.setting.removeprefix("sizes."): cell[a.setting] for a in phase.axes if a.is_size}
        sizes[place] = phase.table.get("sizes", {}) | own
        for arm in phase.table["arm"]:
            changes = {} if arm.get("fixed") else {
                a.setting: cell[a.setting] for a in phase.axes if not a.is_size
            }  # fmt: skip
            name = phase.row(arm, cell)
            rows.setdefault(place, {})[name] = {
                "name": name, "method": arm["method"],
                "settings": with_changes(arm.get("settings", {}), changes),
            }  # fmt: skip
    plans = []
    for place, entries in rows.items():
        table = {
            "title": f"{phase.name} {place}", "question": phase.table["question"],
            "task": phase.table.get("task", "micro"), "seeds": phase.table["seeds"],
            "sizes": sizes[place], "settings": phase.table.get("settings", {}),
            "entry": list(entries.values()),
        }  # fmt: skip
        file = out / "plans" / f"{place}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(table, indent=1) + "\n")
        plan = make_plan(parse_words(make_bench_parser(), [str(file)]))
        own = {f.name: getattr(plan, f.name) for f in fields(Plan)}
        plans.append(PlacedPlan(**own, place=place))
    return plans


def with_changes(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return an arm's settings with those of its cell: dotted name -> value."""
    made = json.loads(json.dumps(settings))
    for setting, value in changes.items():
        *path, last = setting.split(".")
        table = made
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return made


def run_seeds(plans: Sequence[PlacedPlan], seeds: Sequence[int], out: Path) -> None:
    """Do every cell of these seeds; what was done is kept."""
    total = sum(len(plan.entries) for plan in plans)
    for seed in seeds:
        with Run(out / f"seed-{seed}", seed, machine=Machine()) as run:
            done = 0
            for plan in plans:
                task = open_plan_task(plan, seed)
                part = run.scope(plan.place, run.seed)
                main = judge_start(part, plan, task, exam_ensemble=False)
                for entry in plan.entries:
                    run_entry(part, plan, task, entry, main)
                    done += 1
                    run.say(f"seed {seed}: {done} of {total} fits: {plan.place}, {entry.name}")


def scopes(plan: PlacedPlan) -> list[str]:
    """Return the folders of a plan's policies."""
    return [folder_name(name) for name in plan.policies]


def finished_seeds(plans: Sequence[PlacedPlan], out: Path) -> list[int]:
    """Return the seeds of which every cell is done, or failed."""

    def ended(plan: PlacedPlan, seed: int) -> bool:
        return all(has_ended(plan.folder(out, seed) / row) for row in scopes(plan))

    return [s for s in plans[0].seeds if all(ended(plan, s) for plan in plans)]


def gather(
    plans: Sequence[PlacedPlan], seeds: list[int], out: Path
) -> tuple[Outcomes, dict[str, str]]:
    """Join the outcomes of all cells: `PLACE / ROW` -> numbers by seed and prompt.

    Returns:
        the outcomes, and `PLACE / ROW` -> seed and reason of what failed once and has none.
    """
    columns, prompts, failed = {}, list[str](), dict[str, str]()
    for plan in plans:
        finished = Finished(replace(plan, seeds=tuple(seeds)), out, {})
        found = finished.outcomes
        prompts = found.prompts
        failed |= {f"{plan.place} / {name}": why for name, why in finished.failed.items()}
        for name, own in found.columns.items():
            kept = {k: v for k, v in own.items() if k in COLUMNS}
            columns[f"{plan.place} / {name}"] = kept
            if name == OPPONENT:  # the same everywhere, but for what each reward says of it
                columns.setdefault(name, {k: v for k, v in kept.items() if k != "proxy"})
    return Outcomes(seeds, prompts, columns), failed


def describe(phase: Phase, plans: Sequence[PlacedPlan], seeds: Sequence[int], out: Path) -> str:
    """Say what a figure takes: cells, fits, and hours by what was done so far."""
    entries: list[tuple[PlacedPlan, Entry]] = [(p, e) for p in plans for e in p.entries]
    done = [(p, e, s) for p, e in entries for s in p.seeds if has_ended(p.folder(out, s) / e.scope)]
    cells = len(list(phase.cells()))
    total = len(entries) * len(seeds)
    lines = [
        f"{phase.name}: {phase.table['question']}",
        f"{cells} cells, {len(entries)} fits a seed, {len(seeds)} seeds: "
        f"{total} fits, {len(done)} done",
    ]
    if done:
        places = [p.folder(out, s) / name for p in plans for s in p.seeds for name in scopes(p)]
        spent = sum(work_seconds(place) for place in places)
        hours = spent / len(done) * max(0, total - len(done)) / 3600
        lines.append(
            f"{spent / len(done):.0f} s a fit with what comes before it, as far as it was done: "
            f"about {hours:.1f} hours of one core are left"
        )
    return "\n".join(lines)


def write_page(phase: Phase, outcomes: Outcomes, about: dict[str, Any]) -> Path:
    """Write the figure, its numbers and its page; what failed stands in `about`."""
    found = about | {
        "name": phase.name, "table": phase.table,
        "contrasts": contrast_cells(phase, outcomes, about["failed"]),
        "seeds": list(map(int, outcomes.seeds)), "prompts": len(outcomes.prompts),
    }  # fmt: skip
    place = RESULTS / f"phase-{phase.name}.json"
    write_json(place, found)
    draw_phase(phase, found, place.with_suffix(".svg"))
    write_text(place.with_suffix(".md"), phase_page(phase, found))
    return place.with_suffix(".md")


def main() -> None:
    """Do a figure, or its page."""
    names = sorted(p.stem for p in FOLDER.glob("*.toml"))
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("name", nargs="?", choices=names)
    parser.add_argument("--plan", action="store_true", help="say what will be done, and stop")
    parser.add_argument("--seeds", type=int, nargs="+", help="these alone; then no page")
    parser.add_argument("--sparse", action="store_true", help="corners, and two seeds")
    parser.add_argument("--page", action="store_true", help="the page, from the run folder")
    parser.add_argument("--again", action="store_true", help="all pages, from committed outcomes")
    parser.add_argument("--out", type=Path, default=Path("runs/phases"))
    asked = parser.parse_args()
    if asked.again:
        for file in sorted(RESULTS.glob("phase-*.parquet")):
            phase = read_phase(file.stem.removeprefix("phase-"))
            kept = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            about = {k: kept[k] for k in ("commit", "command", "failed")}
            print(write_page(phase, read_outcomes(file), about))
        return
    if asked.name is None:
        parser.error(f"name a figure: {', '.join(names)}")
    phase, out = read_phase(asked.name), asked.out / asked.name
    plans = make_plans(phase, out, corners=asked.sparse)
    all_seeds = plans[0].seeds[:SPARSE_SEEDS] if asked.sparse else plans[0].seeds
    seeds = asked.seeds or all_seeds
    print(describe(phase, plans, seeds, out), flush=True)
    if asked.plan:
        return
    if not asked.page:
        run_seeds(plans, seeds, out)
    if asked.seeds and not asked.page:
        return
    done = finished_seeds(plans, out)
    if not done:
        parser.error(f"no seed of {asked.name} is finished in {out}; give the same without --page")
    outcomes, failed = gather(plans, done, out)
    write_outcomes(outcomes, RESULTS / f"phase-{phase.name}.parquet", single=True)
    command = f"python experiments/phases.py {phase.name}" + " --sparse" * asked.sparse
    about = {"commit": code_commit(), "command": command, "failed": failed}
    print(write_page(phase, outcomes, about))


if __name__ == "__main__":
    main()
