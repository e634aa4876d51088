"""`tandem bench`: methods x seeds under one budget, and which of them won.

    tandem bench --methods dpo,ppo --seeds 3          on the micro world
    tandem bench --preset laptop                      a comparison that comes with Tandem
    tandem bench --budget 30min                       the preset that fits into a time
    tandem bench experiments/rso.toml                 one that is written down in a file

It ends with `results.json` and `report.html` in its folder. The same command, given again, goes on
where it stopped.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tandem.bench import Plan, collect_results, run_seeds
from tandem.bench.anytime_results import unresolved_claims
from tandem.bench.plan import OPPONENT
from tandem.bench.progress import spell_rest
from tandem.bench.results import results_so_far
from tandem.bench.seeds import LOOK, open_plan_task
from tandem.bench.table import results_table
from tandem.cli.extent import START_WHY, add_extent_flags, choose_start
from tandem.cli.plans import CHOSEN, PRESET_FILES, choose_preset, make_plan
from tandem.cli.reading import add_reading_flags
from tandem.cli.run import check_answer_lengths, check_machine
from tandem.cli.settings import add_settings, make_parser, parse_words, with_parsed_values
from tandem.errors import ConfigError, nearest_name
from tandem.machine import Machine
from tandem.report import write_report
from tandem.report.verdict import verdict_sentences
from tandem.runs.atomic_files import write_json
from tandem.runs.environment import hide_password
from tandem.runs.names import folder_name
from tandem.runs.store import open_store
from tandem.runs.trackers import check_known
from tandem.statistics import explain_few_prompts, minimum_detectable
from tandem.tasks.load import task_tallies


def bench_command(words: Sequence[str]) -> int:
    """Run a comparison, write its numbers and its report, print who won."""
    options = parse_words(make_bench_parser(), words)
    if options.store and not options.out:
        raise ConfigError(
            f"--store {options.store} without --out",
            "the copy is of the comparison's folder, which is fetched before the plan is read",
            "give --out runs/NAME too",
        )
    machine = with_parsed_values(Machine(), options["machine"], "machine")
    often, place = machine.save_seconds, Path(options.out or "")
    store = open_store(place, options.store, every=often, fetch=not options.dry_run)
    chosen = choose_preset(options)
    plan = with_model_folder(make_plan(options))
    for name in options.tracker:
        check_known(name)
    check_machine(plan.model, machine)
    out = Path(options.out or f"runs/bench-{folder_name(plan.title)}")
    plan, why = with_start(plan, out)
    check_redo(plan, out, options.redo)
    told = [chosen, comparison_notes(plan), why, *open_files(plan)]
    print("\n".join(filter(None, told)), flush=True)
    if options.dry_run:
        return 0
    with store:
        return _compare(plan, out, machine, options, words, chosen)


def _compare(
    plan: Plan, out: Path, machine: Machine, options: Any, words: Sequence[str], chosen: str
) -> int:
    """Do what is left of the seeds, and print and write what they say."""
    if chosen:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / CHOSEN, {"preset": options.preset})
    run_seeds(plan, out, machine, workers=options.workers, engine=options.engine,
              trackers=tuple(options.tracker), redo=tuple(options.redo),
              is_resolved=lambda: not unresolved_claims(plan, out),
              tell=partial(tell_seeds, plan, out, options.workers))  # fmt: skip
    if plan.evaluate != "full":
        looks = (plan.folder(out, seed) / LOOK for seed in plan.seeds)
        print("\n".join(["", *(look.read_text("utf-8") for look in looks if look.is_file())]))
        print(f"not compared: --evaluate full compares them and writes a report into {out}")
        return 0
    given = hide_password(f"tandem bench {shlex.join(words)}".strip())
    told = collect_results(plan, out, given, task_tallies(plan.task))
    write_json(out / "results.json", told)
    print(results_table(told))
    print(f"\n{verdict_lines(told)}\n\nthe report is in {write_report(out)}")
    return 0


def tell_seeds(plan: Plan, out: Path, workers: int, spent: Sequence[float]) -> None:
    """Print what the finished seeds say, and how long the others take where all will be done."""
    done, total = len(spent), len(plan.seeds)
    if done == total:
        return
    if plan.evaluate == "full":
        print(results_table(results_so_far(plan, out)))
    if plan.seconds is not None or plan.fewest_seeds is not None:
        print(f"\n{done} of at most {total} seeds are done", flush=True)
        return
    rest = sum(spent) / done * (total - done) / workers
    print(f"\n{done} of {total} seeds are done, {spell_rest(rest)}", flush=True)


def with_model_folder(plan: Plan) -> Plan:
    """Return the plan with a folder in place of a hub id, an adapter or a GGUF file.

    Raises:
        ModelError: there is no such model.
    """
    if plan.model is None or (Path(plan.model) / "config.json").exists():
        return plan
    from tandem.models.model_finder import find_model

    return replace(plan, model=str(find_model(plan.model).path))


def with_start(plan: Plan, out: Path) -> tuple[Plan, str]:
    """Return the plan with what its methods start from, and why, where nobody has said it.

    As in `tandem run`: your model as it is where it has a chat template. With settings of SFT, with
    a claim about it, and where SFT was done in this folder before, it comes first.
    """
    if plan.start != "auto":
        return plan, ""
    claimed = any(OPPONENT in (c.a, c.b) for c in plan.claims)
    done = any(out.glob(f"seed-*/{folder_name(OPPONENT)}/*-sft"))
    start, why = choose_start(plan.model, sft=claimed or done)
    return replace(plan, start=start), f"starts from {why}: {START_WHY}"


def check_redo(plan: Plan, out: Path, redo: Sequence[str]) -> None:
    """Refuse a stage that no seed has.

    Raises:
        ConfigError: naming those that there are.
    """
    folders = [plan.folder(out, seed) for seed in plan.seeds]
    known = {p.parent.relative_to(f).as_posix().removesuffix(".part")
             for f in folders for p in f.rglob("stage.json")}  # fmt: skip
    for name in redo:
        if name not in known:
            raise ConfigError(
                f"there is no stage {name!r} in {out}.{nearest_name(name, known)}",
                "only a stage that exists can be done again",
                f"name one of: {', '.join(sorted(known)) or 'none, nothing was begun'}",
            )


def make_bench_parser() -> Any:
    """Return the parser of `tandem bench`."""
    parser = make_parser("bench", "Compare methods on the same prompts, seeds and budget.")
    parser.add_argument("file", nargs="?", default=None, help="a plan: experiments/*.toml")
    for option, text in {
        "--preset": f"a plan that comes with Tandem: {', '.join(PRESET_FILES)}",
        "--methods": "methods by name, with commas; in place of a plan's entries. For --model and "
        "--data alone: best_of_n,dpo,ppo",
        "--task": "a task by name; micro if neither it nor --model is given",
        "--model": "folder of a causal language model, with --data or --task constraints",
        "--data": "preferences: JSONL, JSON, CSV, Parquet, a folder, a hub id",
        "--budget": "30min, 2h: start no seed that would end later; every worker's first is always "
        "done. Without a plan: the longest preset that ends in time on this machine",
        "--out": "the comparison's folder; runs/bench-TITLE if not given",
        "--store": "keep a copy of that folder there, and go on from it where the folder is not "
        "here: s3://bucket/name, gs://..., file:///...",
    }.items():
        parser.add_argument(option, type=str | None, default=None, help=text)
    add_extent_flags(parser, "full, the default: reward models are fitted that compare the "
                     "policies; quick: held-out losses and samples; none: train alone")  # fmt: skip
    add_reading_flags(parser)
    parser.add_argument("--seeds", type=int | None, default=None, help="number of training seeds")
    parser.add_argument("--first_seed", type=int, default=0, help="the first of them")
    told = "add seeds after those of --seeds (3 or more) until every claim is resolved, N in all"
    parser.add_argument("--until_resolved", type=int | None, default=None, metavar="N", help=told)
    parser.add_argument("--workers", type=int, default=1, help="seeds done side by side")
    parser.add_argument("--engine", type=str, default="processes", help="processes, or ray")
    told = "feed every seed's events also to: tensorboard, trackio, wandb"
    parser.add_argument("--tracker", action="append", default=[], help=told)
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="check the plan only")
    again = "stage to do again in every seed that has it: sft/02-sft"
    parser.add_argument("--redo", action="append", default=[], help=again)
    add_settings(parser, {"machine": Machine()})
    return parser


def open_files(plan: Plan) -> tuple[str, ...]:
    """Open your model and data, so that what they lack is said now; return what was read."""
    if plan.model is None:
        return ()
    task = open_plan_task(plan, plan.seeds[0])
    task.base.files()
    check_answer_lengths(plan.model, [(e.method, e.configs) for e in plan.entries])
    warning = explain_few_prompts(len(task.evaluation)) if plan.data else ""
    return (*task.notes, warning) if warning else task.notes


def comparison_notes(plan: Plan) -> str:
    """Say what is compared and what it will be able to resolve."""
    sizes, seeds = plan.sizes, plan.fewest_seeds or len(plan.seeds)
    amounts = (
        f"{sizes.evaluation} evaluation prompts, {sizes.pairs} labelled pairs, "
        f"{sizes.prompts} unlabelled prompts"
        if plan.task
        else f"{sizes.held_out_share:.0%} of the prompts held out for evaluation"
    )
    lines = [
        f"{plan.title}: {plan.question}",
        f"{plan.start_label}; {spell_seeds(plan)}; {amounts}",
        f"methods: {', '.join(e.name for e in plan.entries)}",
    ]
    if plan.evaluate != "full":
        return "\n".join(
            [*lines, f"evaluate {plan.evaluate}: nobody judges, so no claim is tested"]
        )
    if plan.task and (warning := explain_few_prompts(sizes.evaluation)):
        lines.append(warning)
    elif plan.task:
        smallest = minimum_detectable(sizes.evaluation, seeds)
        one = "for these weights; one seed says nothing about others"
        lines.append(
            f"a win rate {100 * smallest:.1f} points from 50% would be resolved four times in five "
            f"({one if seeds == 1 else 'if seeds hardly differ'})"
        )
    return "\n".join([*lines, *(f"expected: {c}" for c in plan.claims)])


def spell_seeds(plan: Plan) -> str:
    """Say which seeds are done, and which only where they are needed."""
    if plan.fewest_seeds is None:
        return f"seeds {', '.join(map(str, plan.seeds))}"
    first = ", ".join(map(str, plan.seeds[: plan.fewest_seeds]))
    if len(plan.seeds) == plan.fewest_seeds:
        return f"seeds {first}"
    return f"seeds {first}, and more up to {plan.seeds[-1]} until every claim is resolved"


def verdict_lines(told: Mapping[str, Any]) -> str:
    """Return the report's verdict as sentences."""
    return "\n".join(f"{s.claim} {s.evidence}".strip() for s in verdict_sentences(told))
