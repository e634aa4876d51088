"""`tandem methods` and `tandem tasks check`: what there is, and whether it is what it says."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from tandem.cli.settings import make_parser, parse
from tandem.errors import ConfigError, nearest
from tandem.methods import HEADINGS, METHODS, markdown, table

WIDTHS = (22, 18, 14, 14, 18, 8, 8)


def methods(words: Sequence[str]) -> int:
    """Print the table of methods."""
    parser = make_parser("methods", "List the methods, in the five verbs.")
    parser.add_argument("--markdown", action="store_true", help="the table of the README")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parse(parser, words)
    rows = [
        ("name", *HEADINGS),
        *((name, *row) for name, row in zip(METHODS, table(), strict=True)),
    ]
    if options.json:
        print(json.dumps([dict(zip(rows[0], row, strict=True)) for row in rows[1:]], indent=1))
    elif options.markdown:
        print(markdown(), end="")
    else:
        print(columns(rows, (max(len(name) for name in METHODS), *WIDTHS)))
    return 0


def columns(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """Lay cells out in columns, wrapping what is too wide."""
    lines: list[str] = []
    for row in rows:
        cells = [textwrap.wrap(c.replace("`", ""), w) for c, w in zip(row, widths, strict=True)]
        for k in range(max(len(cell) for cell in cells)):
            parts = (cell[k] if k < len(cell) else "" for cell in cells)
            lines.append(
                "  ".join(f"{p:<{w}}" for p, w in zip(parts, widths, strict=True)).rstrip()
            )
    return "\n".join(lines)


def check_task(words: Sequence[str]) -> int:
    """Run a task's own gates: `tandem tasks check micro`, `... constraints --model FOLDER`."""
    from tandem.tasks import TASKS

    parser = make_parser("tasks check", "Check that a task shows the phenomena it was made for.")
    parser.add_argument("task", help=f"one of: {', '.join(TASKS)}")
    parser.add_argument("--out", type=str | None, default=None, help="the run's folder")
    parser.add_argument("--model", type=str | None, default=None, help="constraints: your model")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    options = parse(parser, words)
    name = options.task
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}.{nearest(name, TASKS)}",
            "a task is a module in tandem/tasks",
            f"name one of: {', '.join(TASKS)}",
        )
    if name == "constraints":
        return _check_constraints(options)
    from tandem.tasks.worlds import check_model

    check_model(name, options.model)
    from tandem import proving
    from tandem.cli.run import defaults
    from tandem.methods import load

    configs = defaults(load("reward"), "micro")
    gates = proving.micro(Path(options.out or "runs/gates-micro"), configs, options.seed)
    print("\n".join(proving.lines(gates)))
    return int(not all(gate.holds for gate in gates))


def _check_constraints(options: Namespace) -> int:
    """Check the prompts, and a model's answers where one is given."""
    from tandem import proving

    gates = proving.constraints_prompts(options.seed)
    if options.model is None:
        print("\n".join(proving.lines(gates)))
        print("give --model FOLDER to measure how much of it a model keeps")
        return int(not all(gate.holds for gate in gates))
    from tandem.artifacts import Checkpoint
    from tandem.cli.run import check_answers, defaults
    from tandem.methods import load

    model = Path(options.model)
    Checkpoint(model).files()
    configs = defaults(load("dpo"), "constraints")
    check_answers(options.model, [("dpo", configs)])
    place = Path(options.out or f"runs/gates-constraints-{model.name}")
    more, table = proving.constraints_answers(place, model, configs, options.seed)
    print("\n".join([*table, "", *proving.lines([*gates, *more])]))
    return int(not all(gate.holds for gate in [*gates, *more]))
