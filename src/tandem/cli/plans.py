"""A plan from a file, a preset and flags. Every mistake in it is found before anything runs.

A plan's file is TOML or YAML: title, question, task, seeds, exam, referee, start, evaluate,
claims, [sizes], [settings.METHOD], [costs], and one [[entry]] a row with name, method, recipe,
settings and the paper's numbers. Flags win over the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.bench import Claim, Entry, Plan, parse_claims
from tandem.bench.seeds import open_method
from tandem.cli.reading import reading_options
from tandem.cli.run import default_configs
from tandem.cli.settings import (
    add_settings,
    make_parser,
    parse_words,
    read_file,
    spell_table,
    with_parsed_values,
    with_table_values,
)
from tandem.errors import ConfigError, nearest_name
from tandem.errors.ranges import Range
from tandem.methods import METHODS, find_method, load_method
from tandem.methods.configs import with_shared_parts
from tandem.runs.atomic_files import read_json
from tandem.runs.display import spell_duration
from tandem.runs.names import folder_name
from tandem.statistics.confidence_sequence import FEWEST_SEEDS
from tandem.tasks import TASKS, WITHOUT_MODEL, Sizes
from tandem.tasks.load import check_task_model, task_settings

FOLDER = Path(__file__).parent.parent / "bench" / "presets"
PRESET_FILES = ("smoke", "brief", "laptop", "full")
"""Presets from the shortest to the longest."""
CHOSEN = "preset.json"
"""File of a comparison's folder that says which preset a budget was given."""

KEYS: dict[str, type] = {
    "title": str, "question": str, "task": str, "seeds": int, "exam": int, "referee": bool,
    "claims": list, "sizes": dict, "settings": dict, "costs": dict, "entry": list, "start": str,
    "evaluate": str,
}  # fmt: skip
CHOICES = {"start": ("sft", "model"), "evaluate": ("none", "quick", "full")}
"""Keys of a plan that are flags too, and what they may say."""
ENTRY: dict[str, type] = {
    "name": str, "method": str, "recipe": str, "settings": dict, "paper": dict,
}  # fmt: skip
SPELLED = {str: "a text", int: "a whole number", bool: "true or false", list: "a list",
           dict: "a table"}  # fmt: skip
TITLES = {
    "best_of_n": "best-of-n", "rlp": "RLP", "lmsi": "LMSI", "star": "STaR", "raft": "RAFT",
    "rest": "ReST",
}  # fmt: skip
OWN = "best_of_n,dpo,ppo"
"""What is compared on a model and data of one's own, where nothing else is said."""


def make_plan(options: Any) -> Plan:
    """Build the plan from a file or a preset, and the flags that change it.

    Args:
        options: what `tandem bench` was given.

    Raises:
        ConfigError: a mistake in the plan or the flags.
    """
    table = _table(options)
    start = _start(options, table)
    names = options.methods.split(",") if options.methods else None
    rows = table.get("entry", []) if names is None else [{"method": n.strip()} for n in names]
    common, where = table.get("settings", {}), str(options.file or options.preset)
    known = dict.fromkeys([*METHODS, "sampling"], dict)
    _check(common, known, f"[settings] of {where}")
    claims: list[Claim] = []
    for text in table.get("claims", []) if names is None else []:
        claims += parse_claims(text)
    count, most = _seed_counts(options, table)
    sizes = with_table_values(Sizes(), task_settings(start.get("task")).get("sizes", {}))
    entries = tuple(_entry(row, common, start.get("task")) for row in rows)
    spoken = "sft" in common or any("sft" in entry.changed for entry in entries)
    own = "sft" if spoken else "auto"
    return Plan(
        title=table.get("title", "methods compared"),
        question=table.get("question", "Which method is better than SFT on the same prompts?"),
        entries=entries,
        seeds=tuple(range(options.first_seed, options.first_seed + most)),
        fewest_seeds=None if options.until_resolved is None else count,
        sizes=_typed({"sizes": sizes}, {"sizes": table.get("sizes", {})}, "sizes")["sizes"],
        claims=tuple(claims),
        exam=table.get("exam", 0),
        referee=table.get("referee", False),
        seconds=parse_duration(options.budget) if options.budget else None,
        reading=reading_options(options),
        costs=_costs(table.get("costs", {}), where),
        start=_chosen(options, table, "start") or (own if "data" in start else "sft"),
        evaluate=_chosen(options, table, "evaluate") or "full",
        **start,
    )


def _costs(table: Mapping[str, Any], where: str) -> dict[str, float]:
    """Return the seconds of each row; `probe` is how fast the machine was that measured them."""
    for name, seconds in table.items():
        if isinstance(seconds, bool) or seconds not in Range(0):
            raise ConfigError(
                f"costs.{name} = {seconds!r} in {where}",
                "a row's cost is the seconds that it took",
                "write a number, 0 or more, or leave the costs out",
            )
    return {name: float(seconds) for name, seconds in table.items() if name != "probe"}


def _chosen(options: Any, table: Mapping[str, Any], name: str) -> Any:
    """Return what the flag says, else the plan's file, else None."""
    said = getattr(options, name) or table.get(name)
    if said is not None and said not in CHOICES[name]:
        raise ConfigError(
            f"{name} = {said!r}.{nearest_name(str(said), CHOICES[name])}",
            f"{name} is one of {', '.join(CHOICES[name])}",
            f"correct it in {options.file or options.preset}, or give --{name}",
        )
    return said


def _seed_counts(options: Any, table: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many seeds are always done, and how many there may be."""
    count = table.get("seeds", 1) if options.seeds is None else options.seeds
    if options.until_resolved is None:
        return count, count
    count = max(count, FEWEST_SEEDS)
    if options.until_resolved < count:
        raise ConfigError(
            f"--until_resolved {options.until_resolved}, and {count} seeds are done in any case",
            f"seeds are added after the first ones, of which an interval that holds whenever one "
            f"stops needs {FEWEST_SEEDS}",
            f"give --until_resolved {count} or more, or fewer --seeds"
            if count > FEWEST_SEEDS
            else f"give --until_resolved {FEWEST_SEEDS} or more",
        )
    return count, options.until_resolved


def parse_duration(text: str) -> float:
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


def preset_for_budget(budget: str, speed: float) -> tuple[str, float]:
    """Choose the longest preset that ends within a budget; the shortest where none does.

    Args:
        budget: `30min`.
        speed: seconds that `time_training_probe` takes on this machine.

    Returns:
        the preset's name, and about how many seconds it takes here.
    """
    room = parse_duration(budget)
    expected = {name: preset_seconds(name, speed) for name in PRESET_FILES}
    fits = [name for name in PRESET_FILES if expected[name] <= room] or [PRESET_FILES[0]]
    return fits[-1], expected[fits[-1]]


def preset_seconds(name: str, speed: float) -> float:
    """Return about how many seconds a preset takes, from what it took where it was measured."""
    table = read_file(FOLDER / f"{name}.toml")
    costs = dict(table["costs"])
    return speed / costs.pop("probe") * sum(costs.values()) * table["seeds"]


def choose_preset(options: Any) -> str:
    """Fill in the preset, or the methods, where no plan is named; return why for a budget.

    A budget is given the preset that its folder was begun with, else the longest that ends in time.

    Args:
        options: what `tandem bench` was given; `preset`, `methods` and `out` are set where they
            are missing.

    Raises:
        ConfigError: the budget is no time.
    """
    if options.file or options.preset or options.methods:
        return ""
    if options.budget is None:
        if options.model is None:
            options.preset = PRESET_FILES[0]
        else:
            options.methods = OWN
        return ""
    room = parse_duration(options.budget)
    options.out = options.out or f"runs/bench-{folder_name(options.budget)}"
    if (kept := read_json(Path(options.out) / CHOSEN)) is not None:
        options.preset = str(kept.get("preset"))
        return f"preset {options.preset}, as {options.out} was begun"
    from tandem.bench.speed import time_training_probe

    options.preset, seconds = preset_for_budget(options.budget, time_training_probe())
    longer = f", longer than {options.budget}; there is no shorter one" if seconds > room else ""
    return f"preset {options.preset}: about {spell_duration(seconds)} on this machine{longer}"


def _table(options: Any) -> dict[str, Any]:
    """Read the plan's file, or the preset; with --methods alone there is none."""
    if options.file and options.preset:
        raise ConfigError(
            f"both a plan {options.file} and --preset {options.preset}",
            "each says what is compared",
            "give one of them",
        )
    if options.preset and options.preset not in PRESET_FILES:
        raise ConfigError(
            f"there is no preset {options.preset!r}.{nearest_name(options.preset, PRESET_FILES)}",
            "a preset is a plan that comes with Tandem",
            f"name one of: {', '.join(PRESET_FILES)}",
        )
    place = options.file or (options.preset and FOLDER / f"{options.preset}.toml")
    if place is None:
        return {}
    table = read_file(Path(place))
    _check(table, KEYS, str(place))
    for text in table.get("claims", []):
        _check({"claim": text}, {"claim": str}, f"the claims of {place}")
    return table


def _start(options: Any, table: Mapping[str, Any]) -> dict[str, str]:
    """Return the task, with its model where it comes without one, or the model and the data."""
    own = {n: options[n] for n in ("model", "data") if options[n] is not None}
    task = options.task or table.get("task", "micro")
    named = options.task is not None or task in WITHOUT_MODEL or not own
    if task in TASKS and named and "data" not in own:
        check_task_model(task, own.get("model"))
        return {"task": task, **own}
    if len(own) == 1 or (own and options.task):
        raise ConfigError(
            f"given: {' '.join(f'--{n} {v}' for n, v in own.items())}",
            "a comparison starts from a task, or from a model and data",
            "give `--task micro`, or `--model PATH --data FILE`",
        )
    if not own and task not in TASKS:
        raise ConfigError(
            f"there is no task {task!r}.{nearest_name(task, TASKS)}",
            "a task is one of those in tandem/tasks",
            f"name one of: {', '.join(TASKS)}; or give --model and --data",
        )
    return own or {"task": task}


def _entry(given: Any, common: Mapping[str, Any], task: str | None) -> Entry:
    """Check one row of the plan and resolve its settings."""
    _check({"entry": given}, {"entry": dict}, "the plan")
    where = f"entry {given.get('name', given.get('method', '?'))!r}"
    _check(given, ENTRY, where)
    if "method" not in given:
        raise ConfigError(
            f"{where} names no method", "a row is a method with settings", 'write method = "dpo"'
        )
    _policy(given["method"], where)
    configs = default_configs(load_method(given["method"]), task)
    configs = {name: c for name, c in configs.items() if name not in ("sizes", "machine")}
    shared = {name: values for name, values in common.items() if name in configs}
    changed = given.get("settings", {})
    entry = Entry(
        name=str(given.get("name") or TITLES.get(given["method"], given["method"].upper())),
        method=given["method"],
        configs=_typed(_typed(configs, shared, "settings"), changed, where),
        paper=given.get("paper", {}),
        changed=changed,
        recipe=given.get("recipe"),
    )
    with_shared_parts(
        entry.configs[entry.method], entry.configs
    )  # refuses parts that do not go together
    open_method(entry)
    return entry


def _policy(method: str, where: str) -> None:
    """Refuse a method that does not end in a policy."""
    if (fits := find_method(method).fits) == "policy":
        return
    what = {
        "reward": "a reward model",
        "preference": "a preference model",
        "solver": "a solver",
        "rounds": "rewards and policies of several rounds, and measures them itself",
    }
    raise ConfigError(
        f"{where}: {method} fits {what[fits]}",
        "a bench compares policies by their answers to the same prompts; rewards and preference "
        "models are compared by accuracy on judgments, solvers by right answers",
        f"`tandem run {method}` examines it; or leave the row out",
    )


def _typed(configs: Mapping[str, Any], table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return configs with a table's values, checked like flags."""
    touched = configs  # every setting stands beside one that is misspelt
    if table.keys() <= configs.keys():
        touched = {name: configs[name] for name in table}
    if not touched:
        return dict(configs)
    parser = make_parser(where, "")
    add_settings(parser, touched)
    options = parse_words(parser, list(spell_table(parser, table, where)))
    return {
        name: with_parsed_values(config, options[name], name) if name in touched else config
        for name, config in configs.items()
    }


def _check(table: Mapping[str, Any], keys: Mapping[str, type], where: str) -> None:
    """Refuse names that nobody reads, and values of another type."""
    for key, value in table.items():
        if key not in keys:
            raise ConfigError(
                f"unknown `{key}` in {where}.{nearest_name(key, keys)}",
                "what nobody reads would be lost without a word",
                f"there are: {', '.join(keys)}",
            )
        if not isinstance(value, keys[key]) or (keys[key] is int and isinstance(value, bool)):
            raise ConfigError(
                f"`{key} = {value!r}` in {where}",
                f"{key} is {SPELLED[keys[key]]}",
                "correct the value; experiments/ and the presets have examples",
            )
