"""`tandem tasks check`: a task measured against what it promises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from tandem.cli.settings import make_parser, parse_words
from tandem.errors import ConfigError, nearest_name


def check_task_command(words: Sequence[str]) -> int:
    """Run a task's own gates: `tandem tasks check micro`, `... constraints --model FOLDER`."""
    from tandem.tasks import TASKS

    parser = make_parser("tasks check", "Check that a task shows the phenomena it was made for.")
    parser.add_argument("task", help=f"one of: {', '.join(TASKS)}")
    parser.add_argument("--out", type=str | None, default=None, help="the run's folder")
    parser.add_argument("--model", type=str | None, default=None, help="constraints: your model")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    options = parse_words(parser, words)
    name = options.task
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}.{nearest_name(name, TASKS)}",
            "a task is a module in tandem/tasks",
            f"name one of: {', '.join(TASKS)}",
        )
    if name == "constraints":
        return _check_constraints(options)
    from tandem.tasks.load import check_task_model

    check_task_model(name, options.model)
    from tandem.cli.run import default_configs
    from tandem.methods import load_method
    from tandem.pipeline import check_task

    configs = default_configs(load_method("reward"), "micro")
    gates = check_task.check_micro(Path(options.out or "runs/gates-micro"), configs, options.seed)
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
    from tandem.runs.checkpoint import Checkpoint

    model = Path(options.model)
    Checkpoint(model).files()
    configs = default_configs(load_method("dpo"), "constraints")
    check_answer_lengths(options.model, [("dpo", configs)])
    place = Path(options.out or f"runs/gates-constraints-{model.name}")
    more, table = check_task.check_constraint_answers(place, model, configs, options.seed)
    gates += more
    print("\n".join([*table, "", *check_task.gate_lines(gates)]))
    return int(not all(gate.holds for gate in gates))
