"""`tandem run METHOD`: read the settings, open the task, run the recipe, print the table.

Settings are checked and data is read before the run's folder is made, so that a mistake leaves
nothing behind. The same command, given again, goes on where it stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.extent import Extent, add_extent_flags, add_test_set_flag, resolve_extent
from tandem.cli.other_names import NEAREST_METHODS
from tandem.cli.reading import (
    FLAGS,
    add_encoding_flags,
    add_reading_flags,
    encoding_rules,
    reading_options,
    rules_table,
)
from tandem.cli.reward_choice import (
    add_reward_flags,
    check_reward_choice,
    open_reward_choice,
    reward_table,
)
from tandem.cli.settings import (
    add_settings,
    make_parser,
    nested_tables,
    parse_words,
    read_file,
    to_toml,
    with_parsed_values,
    with_table_values,
)
from tandem.data.chat.clock import frozen_date, parse_date
from tandem.data.chat.encoding_rules import EncodingRules
from tandem.errors import ConfigError
from tandem.methods import METHODS, ROLLOUTS_AHEAD, Method, find_method, load_method
from tandem.methods.configs import all_shared_parts, with_shared_parts
from tandem.runs.store import open_store
from tandem.runs.trackers import check_known, open_trackers

if TYPE_CHECKING:
    from tandem.judges import Judge
    from tandem.machine import Machine
    from tandem.runs.checkpoint import Checkpoint
    from tandem.tasks import Task

ALWAYS = ("sft", "reward")
"""What comes before most methods: their settings can always be given."""

START_FLAGS = ("task", "model", "data")

RUN_USAGE = """usage: tandem run METHOD --task NAME [--model PATH] [options]
       tandem run METHOD --model PATH --data FILE [options]

`tandem run METHOD --help` lists the method's settings.

methods:
"""


def run_command_line(words: Sequence[str]) -> int:
    """Run one method from its start to its table."""
    if not words or words[0] in ("-h", "--help"):
        print(RUN_USAGE + "\n".join(f"  {name:<10}  {row.title}" for name, row in METHODS.items()))
        return 0
    if words[0] in NEAREST_METHODS:
        raise ConfigError(
            f"there is no method {words[0]!r}",
            "`tandem run --help` lists the methods; some are settings of another",
            f"write tandem run {NEAREST_METHODS[words[0]]}",
        )
    method, options, configs, files = read_method_words(words)
    for name in options.tracker:
        check_known(name)
    check_given(options)
    check_reward_choice(options, method, configs[method.name])
    model = find_given_model(options.model)
    folder = None if model is None else str(model.path)
    check_machine(folder, configs["machine"])
    check_rollouts_ahead(method.name, configs["machine"])
    extent = resolve_extent(options, words[1:], files, method, folder)
    task = open_task(options, _sizes_needed(method, configs["sizes"], extent), model)
    if extent.note:
        task = replace(task, notes=(*task.notes, extent.note))
    if folder is not None:
        check_answer_lengths(folder, [(method.name, configs)])
    from tandem.pipeline import labels

    given = open_reward_choice(options, task)
    labels.check_labels(method, task, configs[method.name], given_reward=given is not None)
    labels.check_demonstrations(method, task, extent.start)
    labels.check_prompts(method, task)
    warning = labels.explain_few_held_out(method, task)
    place = run_folder(method.name, options, task)
    often = configs["machine"].save_seconds
    store = open_store(place, options.store, every=often, fetch=not options.dry_run)
    rules = encoding_rules(options, place, task.base.path)
    if rules.max_length is not None:
        check_length(rules.max_length, task.base.path)
    resolved = resolved_settings(method.name, options, configs, rules, extent)
    from tandem.pipeline.stage_costs import cost_lines, plan_stages

    is_given = given is not None
    planned = plan_stages(
        method, task, configs, extent.start, extent.evaluate, given_reward=is_given
    )
    rates = adapter_rate_lines(method, configs, given_reward=is_given)
    costs = (*cost_lines(planned, task.base.path, configs["machine"]), *rates)
    if options.dry_run:
        print(plan_text(options, resolved, task, (*costs, *filter(None, [warning]))))
        return 0
    print("\n".join(costs), flush=True)
    with store:
        return _run_and_print(
            method, options, configs, task, resolved, rules, extent, warning, given
        )


def read_method_words(
    words: Sequence[str],
) -> tuple[Method, Namespace, dict[str, Any], list[Path]]:
    """Read a method's name and its flags.

    Returns:
        the method, what was given, the settings by name, and the files of settings.

    Raises:
        ConfigError: there is no such method, or flags or settings that are none, or that do not
            go together.
    """
    find_method(words[0])
    method = load_method(words[0])
    files = [Path(given) for given in _given(words[1:], "--config")]
    configs = default_configs(method, _named_task(words[1:], files))
    options = parse_words(make_run_parser(method.name, configs), words[1:], *files)
    configs = {
        name: with_parsed_values(config, options[name], name) for name, config in configs.items()
    }
    with_shared_parts(configs[method.name], configs)  # refuses parts that do not go together
    return method, options, configs, files


def iterate_command(words: Sequence[str]) -> int:
    """Run rounds of RLHF: `tandem run iterated_rlhf`, which is how its settings are listed."""
    return run_command_line(["iterated_rlhf", *words])


def _sizes_needed(method: Method, sizes: Any, extent: Extent) -> Any:
    """Return the sizes; nothing is held back for a gold reward where no policy will be judged."""
    judged = method.row.fits == "policy" and extent.evaluate == "full"
    return sizes if judged else replace(sizes, gold_share=0.0)


def _run_and_print(
    method: Method,
    options: Namespace,
    configs: Mapping[str, Any],
    task: Task,
    resolved: Mapping[str, Any],
    rules: EncodingRules,
    extent: Extent,
    warning: str,
    given_reward: Judge | None,
) -> int:
    from tandem.pipeline.run_method import run_method
    from tandem.runs.run import Run

    path = run_folder(method.name, options, task)
    follow = partial(open_trackers, options.tracker, path, resolved)
    machine = configs["machine"]
    day = parse_date(rules.date) if rules.date else None
    with (
        frozen_date(day),
        Run(
            path,
            options.seed,
            redo=options.redo,
            machine=machine,
            encoding=rules,
            follow=follow,
        ) as work,
    ):
        work.save_config(to_toml(resolved))
        for line in task.notes:
            work.events.log("note", text=line)
        if warning:
            work.events.log("few-prompts", text=warning)
        print(
            run_method(
                work,
                method,
                configs,
                task,
                start=extent.start,
                evaluation=extent.evaluate,
                given_reward=given_reward,
            )
        )
    print(f"\nthe run is in {path}")
    return 0


def default_configs(method: Method, task: str | None = None) -> dict[str, Any]:
    """Return every config that the command line can change, at its defaults for a task."""
    from tandem.engines import Sampling
    from tandem.machine import Machine
    from tandem.tasks import Sizes
    from tandem.tasks.load import task_settings

    needed = dict.fromkeys([*ALWAYS, *all_shared_parts(method.config())])
    before = [load_method(name) for name in needed if name != method.name]
    configs = {m.name: m.config() for m in (*before, method)}
    configs |= {"sampling": Sampling(), "sizes": Sizes(), "machine": Machine()}
    own = task_settings(task)
    return {name: with_table_values(config, own.get(name, {})) for name, config in configs.items()}


def make_run_parser(name: str, configs: Mapping[str, Any]) -> ArgumentParser:
    """Return the parser of `tandem run NAME`."""
    parser = make_parser(f"run {name}", f"{METHODS[name].title}: {METHODS[name].objective}.")
    for option, text in {
        "--task": "a task by name, for example micro",
        "--model": "a causal language model: folder, hub id (owner/name@revision), LoRA adapter or "
        ".gguf file; with --data or --task constraints",
        "--data": "preferences or demonstrations: JSONL, JSON, CSV, Parquet, a folder, a hub id",
        "--out": "the run's folder; runs/METHOD-NAME-SEED if not given",
        "--store": "keep a copy of the run's folder there, and go on from it where the folder is "
        "not here: s3://bucket/name, gs://..., file:///...",
        "--config": "TOML or YAML with any of these settings; flags win, and a later file wins",
        "--method": "for run.toml alone: must be the method that is run",
    }.items():
        parser.add_argument(option, type=str | None, default=None, help=text)  # type: ignore[arg-type]
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="check and explain only"
    )
    parser.add_argument("--redo", action="append", default=[], help="stage to do again: 03-reward")
    parser.add_argument(
        "--tracker",
        action="append",
        default=[],
        help="feed the events also to: tensorboard, trackio, wandb",
    )
    parser.add_argument(
        "--resume", action="store_true", help="the default: finished stages are kept"
    )
    add_extent_flags(parser)
    add_test_set_flag(parser)
    add_reading_flags(parser)
    add_encoding_flags(parser)
    add_settings(parser, configs)
    add_reward_flags(parser)
    return parser


def adapter_rate_lines(
    method: Method, configs: Mapping[str, Any], *, given_reward: bool = False
) -> Iterator[str]:
    """Yield a line for each learning rate that is meant for whole weights where adapters train."""
    if configs["machine"].lora is None:
        return
    fits_reward = "r_phi" in method.read_inputs(configs[method.name]) and not given_reward
    before = ["reward"] if fits_reward else []
    named = [method.name, *all_shared_parts(configs[method.name]), *before]
    usual = {flag: lr for name in named for flag, lr in _rates(name, load_method(name).config())}
    chosen = {flag: lr for name in named for flag, lr in _rates(name, configs[name])}
    for flag, lr in chosen.items():
        if usual[flag] == lr:
            yield (
                f"{flag} = {lr:g} is a rate for all weights of a large model; adapters usually "
                f"take ten times as much or more: --{flag} {10 * lr:g}"
            )


def _rates(name: str, config: Any) -> Iterator[tuple[str, float]]:
    """Yield every learning rate of a config, parts of it too, by the flag that changes it."""
    for part in fields(config):
        value = getattr(config, part.name)
        if part.name == "optim":
            yield f"{name}.optim.lr", value.lr
        elif is_dataclass(value) and not part.metadata.get("shared"):
            yield from _rates(f"{name}.{part.name}", value)


def check_machine(model: str | None, machine: Machine) -> None:
    """Refuse, before a model is hashed and loaded, what cannot be done here.

    Args:
        model: your model's folder, or None for a task's own.
        machine: its settings.

    Raises:
        ConfigError: the device or the engine is not here, the memory is too small, adapters fit
            nowhere, or 4-bit weights have no adapters or no bitsandbytes.
        EngineError: the engine has no environment or no cluster.
        ModelError: the folder holds what cannot be trained.
    """
    if machine.engine != "torch":
        from tandem.engines.open_engine import check_engine

        check_engine(machine.engine)
    own = model is not None and Path(model).is_dir()
    plain = machine.lora is None and machine.quantise == "none"
    if machine.device in ("auto", "cpu") and plain and not own:
        return
    from tandem.models.checks import check_policy
    from tandem.models.devices import check_device_name
    from tandem.models.quantised import check_quantise
    from tandem.tasks.micro import ASSETS
    from tandem.training.memory import check_trainable

    check_device_name(machine)
    check_quantise(machine)
    if own and model is not None:
        check_policy(Path(model))
    if own or machine.lora is not None:
        check_trainable(Path(model) if own and model is not None else ASSETS / "base", machine)


def check_rollouts_ahead(method: str, machine: Machine) -> None:
    """Refuse rollouts ahead of a method that is no policy gradient.

    Raises:
        ConfigError: it is none.
    """
    if machine.rollouts_ahead and method not in ROLLOUTS_AHEAD:
        from tandem.training.on_policy import refuse_rollouts_ahead

        raise refuse_rollouts_ahead(method)


def check_given(options: Namespace) -> None:
    """Refuse a start that is neither a task nor a model with data.

    Raises:
        ConfigError: neither or both were given, or a task and a model do not go together.
    """
    from tandem.tasks.load import check_task_model

    start: dict[str, str] = {n: options[n] for n in START_FLAGS if options[n] is not None}
    if "task" in start and "data" not in start:
        check_task_model(start["task"], options.model)
    elif set(start) != {"model", "data"}:
        given = [f"--{name} {value}" for name, value in start.items()]
        raise ConfigError(
            f"given: {' '.join(given) or 'neither --task nor --model and --data'}",
            "a run starts from a task, or from a model and data",
            "give `--task micro`, or `--model PATH --data FILE`",
        )


def find_given_model(given: str | None) -> Checkpoint | None:
    """Return the folder of the model that was given: see `models.model_finder.find_model`.

    Raises:
        ModelError: there is none.
    """
    if given is None:
        return None
    from tandem.models.model_finder import find_model

    return find_model(given)


def open_task(options: Namespace, sizes: Any, model: Checkpoint | None) -> Task:
    """Open the task, or the model and the data.

    Args:
        options: what was given.
        sizes: how much of a task is used.
        model: your model's folder, or None.

    Raises:
        ModelError: the folder holds no model.
        DataError: the data cannot be read.
    """
    from tandem.models.checks import check_policy
    from tandem.rng import Seed
    from tandem.tasks import load as worlds

    if options.data is None:
        path = None if model is None else model.path
        task = worlds.load_task(options.task, sizes, Seed(options.seed), model=path)
        task.base.files()
        return task
    assert model is not None, "`check_given` has seen it"
    from tandem.tasks.own_data import task_from_files

    task = task_from_files(
        model,
        options.data,
        sizes,
        reading_options(options),
        eval_data=options.eval_data,
    )
    check_policy(task.base.path)
    task.base.files()
    return task


def check_answer_lengths(model: str, methods: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse, before anything is trained, a longest answer that does not fit the model's context.

    Args:
        model: your model's folder.
        methods: (method, its configs); those that fit no policy sample no answers.

    Raises:
        ConfigError: no prompt could have that much room.
    """
    from tandem.models.folders import context_length
    from tandem.stages.encoding import check_room

    limit = context_length(Path(model))
    for name, configs in methods:
        if find_method(name).fits == "policy":
            check_room(configs["sampling"].max_tokens, limit)


def check_length(length: int, model: Path) -> None:
    """Refuse a length that the model cannot read.

    Raises:
        ConfigError: it is longer than the context.
    """
    from tandem.models.folders import context_length

    if length > (context := context_length(model)):
        raise ConfigError(
            f"data.max_length = {length}",
            f"{model} reads {context} tokens; beyond them its numbers mean nothing",
            f"give --data.max_length {context} or less, or leave it out",
        )


def resolved_settings(
    name: str,
    options: Namespace,
    configs: Mapping[str, Any],
    rules: EncodingRules,
    extent: Extent,
) -> dict[str, Any]:
    """Return everything that was decided, as tables; `run.toml` can be given to --config.

    Raises:
        ConfigError: the file was made for another method.
    """
    if options.method not in (None, name):
        raise ConfigError(
            f"--config {options.config} is for the method {options.method}, not {name}",
            "settings of one method mean nothing to another",
            f"`tandem run {options.method} --config {options.config}`",
        )
    start = {n: options[n] for n in START_FLAGS if options[n] is not None}
    tables = {prefix: nested_tables(config) for prefix, config in configs.items()}
    tables["reward"] = {**reward_table(options), **tables["reward"]}
    reading = {flag: options[flag] for flag in FLAGS} if "data" in start else {}
    given = {**start, **reading, **extent.table(), **rules_table(rules)}
    return {"method": name, **given, "seed": options.seed, **tables}


def run_folder(name: str, options: Namespace, task: Task) -> Path:
    """Return the run's folder."""
    return Path(options.out or f"runs/{name}-{task.name}-{options.seed}")


def plan_text(
    options: Namespace, resolved: Mapping[str, Any], task: Task, costs: Sequence[str] = ()
) -> str:
    """Say what would be done, from what, where, and at what cost, and what it cannot decide."""
    path = run_folder(resolved["method"], options, task)
    sizes = {
        "demonstrations": task.demonstrations,
        "preferences": task.preferences if task.asked is None else task.asked,
        "held out": task.held_out if task.asked is None else task.asked_held_out,
        "prompts": task.prompts,
        "evaluation": task.evaluation,
    }
    counts = [f"# {what}: {0 if groups is None else len(groups)}" for what, groups in sizes.items()]
    there = "exists: finished stages are kept" if path.exists() else "would be made"
    notes = (*task.notes, *costs)
    head = [f"# {path} {there}", *(f"# {line}" for line in notes), *counts]
    return "\n".join([*head, "", to_toml(resolved)])


def _named_task(words: Sequence[str], files: Iterable[Path]) -> str | None:
    """Return the task that the flags, else the last file that names one, ask for."""
    if given := _given(words, "--task"):
        return given[-1]
    named = [read_file(file).get("task") for file in files]
    return next((task for task in reversed(named) if isinstance(task, str)), None)


def _given(words: Sequence[str], option: str) -> list[str]:
    """Return an option's values, in order, before the parser exists."""
    found: list[str] = []
    for word, after in itertools.pairwise([*words, ""]):
        if word == option:
            found.append(after)
        elif word.startswith(f"{option}="):
            found.append(word.partition("=")[2])
    return found
