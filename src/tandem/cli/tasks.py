"""`tandem tasks check`: a task measured against what it promises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from tandem.cli.settings import make_parser, parse_words
from tandem.errors import ConfigError, nearest_name

CHECKED = ("micro", "micro-translation", "constraints")
"""Tasks with gates; those of `micro` are about dialogue and arithmetic, too."""


def check_task_command(words: Sequence[str]) -> int:
    """Run a task's own gates: `tandem tasks check micro`, `... constraints --model FOLDER`."""
    from tandem.tasks import TASKS

    parser = make_parser("tasks check", "Check that a task shows the phenomena it was made for.")
    parser.add_argument("task", help=f"one of: {', '.join(CHECKED)}")
    parser.add_argument("--out", type=str | None, default=None, help="the run's folder")
    parser.add_argument(
        "--model", type=str | None, default=None, help="constraints: your model, a folder or hub id"
    )
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    options = parse_words(parser, words)
    name = options.task
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}.{nearest_name(name, TASKS)}",
            "a task is a module in tandem/tasks",
            f"name one of: {', '.join(TASKS)}",
        )
    if name not in CHECKED:
        raise ConfigError(
            f"tandem tasks check {name}",
            f"{name} has no gates of its own; those of its model stand among the gates of micro",
            "`tandem tasks check micro`",
        )
    if name == "constraints":
        return _check_constraints(options)
    from tandem.tasks.load import check_task_model

    check_task_model(name, options.model)
    from tandem.cli.run import default_configs
    from tandem.methods import load_method
    from tandem.pipeline import check_task

    configs = default_configs(load_method("reward"), name)
    check = check_task.check_micro if name == "micro" else check_task.check_translation
    gates = check(Path(options.out or f"runs/gates-{name}"), configs, options.seed)
    print("\n".join(check_task.gate_lines(gates)))
    return int(not all(gate.holds for gate in gates))


def _check_constraints(options: Namespace) -> int:
    """Check the prompts, and a model's answers where one is given."""
    from tandem.pipeline import check_task

    gates, table = check_task.check_constraint_prompts(options.seed)
    print("\n".join([*table, ""]))
    if options.model is None:
        print("\n".join(check_task.gate_lines(gates)))
        print("give --model FOLDER to measure how much of it a model keeps")
        return int(not all(gate.holds for gate in gates))
    from tandem.cli.run import check_answer_lengths, default_configs
    from tandem.methods import load_method
    from tandem.models.model_finder import find_model

    model = find_model(options.model)
    model.files()
    configs = default_configs(load_method("dpo"), "constraints")
    check_answer_lengths(str(model.path), [("dpo", configs)])
    place = Path(options.out or f"runs/gates-constraints-{model}")
    more, table = check_task.check_constraint_answers(place, model.path, configs, options.seed)
    gates += more
    print("\n".join([*table, "", *check_task.gate_lines(gates)]))
    return int(not all(gate.holds for gate in gates))
