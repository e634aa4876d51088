"""`tandem bench`: methods x seeds under one budget, and which of them won.

    tandem bench --methods dpo,ppo --seeds 3          on the micro world
    tandem bench --preset laptop                      a comparison that comes with Tandem
    tandem bench experiments/rso.toml                 one that is written down in a file

The file is a plan: title, question, task, seeds, claims, [sizes], [settings.METHOD], and one
[[entry]] a row with name, method, settings and the paper's number. A mistake in it is found
before anything runs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.bench import Claim, Entry, Plan, claim, collect, run_seeds
from tandem.bench.seeds import found
from tandem.cli.run import defaults
from tandem.cli.settings import add, flattened, make_parser, parse, read_file, rebuild, spelled
from tandem.durable import write_json
from tandem.errors import ConfigError, nearest
from tandem.machine import Machine
from tandem.methods import find, load
from tandem.statistics import minimum_detectable
from tandem.tasks import Sizes

PRESETS = Path(__file__).parent.parent / "bench" / "presets"
KEYS = (
    "title",
    "question",
    "task",
    "seeds",
    "exam",
    "referee",
    "claims",
    "sizes",
    "settings",
    "entry",
)
ENTRY = ("name", "method", "recipe", "settings", "paper")
TITLES = {
    "best_of_n": "best-of-n", "rlp": "RLP", "lmsi": "LMSI", "star": "STaR", "raft": "RAFT",
    "rest": "ReST",
}  # fmt: skip


def bench(words: Sequence[str]) -> int:
    """Run a comparison, write its numbers, print its table."""
    options = parse(make_bench_parser(), words)
    plan = make_plan(options)
    out = Path(options.out or f"runs/bench-{slugged(plan.title)}")
    print(promise(plan))
    if options.dry_run:
        return 0
    machine = rebuild(Machine(), options["machine"])
    run_seeds(plan, out, machine, workers=options.workers, engine=options.engine)
    told = collect(plan, out, f"tandem bench {shlex.join(words)}".strip())
    write_json(out / "results.json", told)
    print(table(told))
    print(f"\nthe numbers are in {out / 'results.json'}")
    return 0


def make_bench_parser() -> Any:
    """Return the parser of `tandem bench`."""
    presets = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
    parser = make_parser("bench", "Compare methods on the same prompts, seeds and budget.")
    parser.add_argument("file", nargs="?", default=None, help="a plan: experiments/*.toml")
    for option, text in {
        "--preset": f"a plan that comes with Tandem: {presets}",
        "--methods": "methods by name, with commas; in place of a plan's entries",
        "--task": "a task by name; micro if neither it nor --model is given",
        "--model": "folder or hub id of a causal language model",
        "--data": "preferences: JSONL, JSON, CSV, Parquet, a folder, a hub id",
        "--budget": "30min, 2h: start no seed that would end later; the first is always done",
        "--out": "the comparison's folder; runs/bench-TITLE if not given",
    }.items():
        parser.add_argument(option, type=str | None, default=None, help=text)
    parser.add_argument("--seeds", type=int | None, default=None, help="number of training seeds")
    parser.add_argument("--first_seed", type=int, default=0, help="the first of them")
    parser.add_argument("--workers", type=int, default=1, help="seeds done side by side")
    parser.add_argument("--engine", type=str, default="processes", help="processes, or ray")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="check the plan only")
    add(parser, {"machine": Machine()})
    return parser


def make_plan(options: Any) -> Plan:
    """Build the plan from a file or a preset, and the flags that change it."""
    table = _table(options)
    start = _start(options, table)
    names = options.methods.split(",") if options.methods else None
    entries = table.get("entry", []) if names is None else [{"method": n.strip()} for n in names]
    common = table.get("settings", {})
    sizes = _typed({"sizes": Sizes()}, {"sizes": table.get("sizes", {})}, "sizes")["sizes"]
    made = tuple(_entry(e, common, start.get("task")) for e in entries)
    claims: list[Claim] = []
    for text in table.get("claims", []) if names is None else []:
        claims += claim(text)
    count = options.seeds or table.get("seeds", 1)
    return Plan(
        title=table.get("title", "methods compared"),
        question=table.get("question", "Which method is better than SFT on the same prompts?"),
        entries=made,
        seeds=tuple(range(options.first_seed, options.first_seed + count)),
        sizes=sizes,
        claims=tuple(claims),
        exam=table.get("exam", 0),
        referee=table.get("referee", False),
        seconds=seconds(options.budget) if options.budget else None,
        **start,
    )


def _table(options: Any) -> dict[str, Any]:
    given = [w for w in (options.file, options.preset, options.methods) if w is not None]
    if options.file and options.preset:
        raise ConfigError(
            f"both a plan {options.file} and --preset {options.preset}",
            "each says what is compared",
            "give one of them",
        )
    if not given:
        options.preset = "smoke"
    path = Path(options.file) if options.file else None
    if options.preset:
        path = PRESETS / f"{options.preset}.toml"
        known = sorted(p.stem for p in PRESETS.glob("*.toml"))
        if options.preset not in known:
            raise ConfigError(
                f"there is no preset {options.preset!r}.{nearest(options.preset, known)}",
                "a preset is a plan that comes with Tandem",
                f"name one of: {', '.join(known)}",
            )
    if path is None:
        return {}
    table = read_file(path)
    _known(table, KEYS, str(path))
    return table


def _start(options: Any, table: Mapping[str, Any]) -> dict[str, str]:
    """Return the task, or the model and the data."""
    own = {n: options[n] for n in ("model", "data") if options[n] is not None}
    if len(own) == 1 or (own and options.task):
        raise ConfigError(
            f"given: {' '.join(f'--{n} {v}' for n, v in own.items())}",
            "a comparison starts from a task, or from a model and data",
            "give `--task micro`, or `--model PATH --data FILE`",
        )
    return own or {"task": options.task or table.get("task", "micro")}


def _entry(given: Mapping[str, Any], common: Mapping[str, Any], task: str | None) -> Entry:
    """Check one row of the plan and resolve its settings."""
    where = f"entry {given.get('name', given.get('method', '?'))!r}"
    _known(given, ENTRY, where)
    if "method" not in given:
        raise ConfigError(
            f"{where} names no method", "a row is a method with settings", 'write method = "dpo"'
        )
    find(given["method"])
    configs = defaults(load(given["method"]), task)
    shared = {k: v for k, v in common.items() if k in configs}
    changed = given.get("settings", {})
    configs = _typed(_typed(configs, shared, "settings"), changed, where)
    name = given.get("name") or TITLES.get(given["method"], given["method"].upper())
    entry = Entry(
        name, given["method"], configs, given.get("paper", {}), changed, given.get("recipe")
    )
    found(entry)
    return entry


def _typed(configs: Mapping[str, Any], table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return configs with a table's values, checked like flags."""
    parser = make_parser(where, "")
    add(parser, configs)
    known = {o for a in parser._actions if a.nargs != 0 for o in a.option_strings}
    words = [f"--{name}={spelled(value)}" for name, value in flattened(table, known)]
    options = parse(parser, words)
    return {name: rebuild(config, options[name]) for name, config in configs.items()}


def _known(table: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    for key in table:
        if key not in names:
            raise ConfigError(
                f"unknown `{key}` in {where}.{nearest(key, names)}",
                "what nobody reads would be lost without a word",
                f"there are: {', '.join(names)}",
            )


def seconds(text: str) -> float:
    """Read `90s`, `30min`, `2h`.

    Raises:
        ConfigError: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", text)
    if found is None:
        raise ConfigError(
            f"--budget {text}", "a budget is a time with its unit", "write 90s, 30min or 2h"
        )
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]


def promise(plan: Plan) -> str:
    """Say what is compared and what it will be able to resolve."""
    sizes, seeds = plan.sizes, len(plan.seeds)
    smallest = minimum_detectable(sizes.evaluation, seeds)
    place = plan.task or f"{plan.model} on {plan.data}"
    lines = [
        f"{plan.title}: {plan.question}",
        f"{place}; seeds {', '.join(map(str, plan.seeds))}; {sizes.evaluation} evaluation prompts, "
        f"{sizes.pairs} labelled pairs, {sizes.prompts} unlabelled prompts",
        f"methods: {', '.join(e.name for e in plan.entries)}",
        f"a win rate {smallest:.1%} away from one half would be resolved four times in five"
        + ("" if seeds > 1 else " (for these weights; one seed says nothing about others)"),
        *(f"expected: {c}" for c in plan.claims),
    ]
    return "\n".join(lines)


def table(told: Mapping[str, Any]) -> str:
    """Return the results for the terminal: one row a policy, then the expected orderings."""
    judge = told["judge"]
    heads = ("method", f"{judge} win", f"{judge} gain", "gold_rm win", "proxy win", "KL", "length")
    rows = [(*heads, "seconds")]
    for p in told["policies"]:
        if p["status"] == "failed":
            rows.append((p["policy"], f"failed: {p['reason']}", *[""] * 6))
            continue
        keys = (f"win vs {told['opponent']}", f"{judge} gain", "gold_rm_win", "proxy_win")
        cells = [_cell(p.get(k), percent="win" in k) for k in keys]
        cells += [_cell(p.get(k), short=True) for k in ("kl", "length")]
        rows.append((p["policy"], *cells, f"{p['seconds']['mean']:.0f}"))
    widths = [max(len(r[k]) for r in rows if "failed" not in r[1]) for k in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    for row in told["order"]:
        gain = _cell(row["gain"])
        lines.append(
            f"{row['verdict']}: {row['claim']}, {judge} {gain}, Holm p {row['holm_p']:.2g}"
        )
    return "\n".join(["", *lines])


def _cell(value: Any, *, percent: bool = False, short: bool = False) -> str:
    if not isinstance(value, Mapping):
        return "-"
    if short:
        return f"{value['mean']:.2f}"
    form = "{:.1%} [{:.1%}, {:.1%}]" if percent else "{:+.3f} [{:+.3f}, {:+.3f}]"
    return form.format(value["mean"], value["low"], value["high"])


def slugged(title: str) -> str:
    """Spell a title as a folder."""
    from tandem.bench.plan import slug

    return slug(title)
