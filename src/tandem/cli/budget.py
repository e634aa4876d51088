"""`tandem budget`: what a budget for labels should be spent on, tried in simulated worlds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from tandem.cli.game import check_written_file
from tandem.cli.settings import make_parser, parse_words
from tandem.errors import ConfigError, nearest_name
from tandem.errors.ranges import NotNegative, Positive, check_value

if TYPE_CHECKING:
    from tandem.planning.budget import BudgetAdvice, WorldSource

WORLDS = ("mixed", "linear", "tail", "narrow")
PILOT_PROMPTS = 32


def budget_command(words: Sequence[str]) -> int:
    """Print a plan, its predicted regret, the runner-ups, and what the next labels are worth."""
    options = parse_words(_parser(), words)
    _check_options(options)

    from tandem.planning.budget import plan_budget
    from tandem.planning.label_plan import LabelCosts
    from tandem.planning.simulation import FreeLabels
    from tandem.runs.atomic_files import write_json

    costs = LabelCosts(options.cost_pair, options.cost_demo, options.cost_eval)
    free = FreeLabels(options.free_accuracy) if options.free_accuracy else None
    worlds, note = _worlds(options)
    advice = plan_budget(
        options.total, costs, worlds, seeds=options.seeds, evaluation=options.evaluation, free=free,
        report=_report if sys.stderr.isatty() else None,
    )  # fmt: skip
    print("\n\n".join([*([note] if note else []), str(advice)]))
    if options.json:
        write_json(Path(options.json), {**advice.as_dict(), "world": note or options.world})
        print(f"\nnumbers: {options.json}")
    if options.picture:
        draw_costs(advice, Path(options.picture))
        print(f"picture: {options.picture}")
    return 0


def _report(done: int, of: int) -> None:
    print(f"trying plans: {done} of {of}", file=sys.stderr, flush=True)


def _parser() -> Any:
    parser = make_parser(
        "budget",
        "Say what a budget for labels should be spent on: demonstrations, rounds, whose answers "
        "are compared, how pairs are chosen. Plans are tried in simulated worlds, or in one made "
        "of the first labels of your own (--pilot, --model).",
    )
    parser.add_argument("--total", type=float, default=0.0, help="what may be spent")
    parser.add_argument("--cost_pair", type=float, default=1.0, help="of one comparison")
    parser.add_argument("--cost_demo", type=float, default=3.0, help="of one demonstration")
    parser.add_argument(
        "--cost_eval", type=float | None, default=None, help="of an evaluation comparison"
    )  # type: ignore[arg-type]
    parser.add_argument("--evaluation", type=float, default=0.1, help="share kept for evaluation")
    parser.add_argument("--world", type=str, default="mixed", help=", ".join(WORLDS))
    parser.add_argument(
        "--flips",
        type=float | None,  # type: ignore[arg-type]
        default=None,
        help="share of labels that are wrong; 5, 15, 25 and 35 %% in turn if not given",
    )
    parser.add_argument("--features", type=int, default=16, help="how much there is to learn")
    parser.add_argument(
        "--free_accuracy", type=float, default=0.0, help="of labels that cost nothing; 0: none"
    )
    parser.add_argument("--pilot", type=str, default="", help="the first labels of your own")
    parser.add_argument("--model", type=str, default="", help="with --pilot: the policy's folder")
    parser.add_argument("--answers", type=int, default=16, help="with --pilot: drawn a prompt")
    parser.add_argument("--max_tokens", type=int, default=128, help="with --pilot: of an answer")
    parser.add_argument("--out", type=str, default="runs/budget", help="with --pilot: its folder")
    parser.add_argument("--seeds", type=int, default=40, help="worlds in which plans are tried")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    parser.add_argument("--json", type=str, default="", help="write all numbers to this file")
    parser.add_argument("--picture", type=str, default="", help="draw cost against regret: .svg")
    return parser


def _check_options(options: Namespace) -> None:
    if options.world not in WORLDS:
        raise ConfigError(
            f"--world {options.world}.{nearest_name(options.world, WORLDS)}",
            f"worlds are {', '.join(WORLDS)}",
            "name one of them",
        )
    if bool(options.pilot) != bool(options.model):
        raise ConfigError(
            "--pilot without --model" if options.pilot else "--model without --pilot",
            "a pilot's answers are read by the model that is to be improved",
            "give both, or neither",
        )
    for name in ("total", "cost_pair", "cost_demo", "cost_eval"):
        check_value(f"--{name}", NotNegative if name == "total" else Positive, options[name])
    if options.pilot and (options.world != "mixed" or options.flips is not None):
        flag = (
            f"--flips {options.flips}" if options.world == "mixed" else f"--world {options.world}"
        )
        raise ConfigError(
            f"{flag} with --pilot",
            "a pilot's worlds and their noise are fitted to its labels",
            "leave it out, or leave --pilot out",
        )
    for name, low, high in (("flips", 0, 0.49), ("evaluation", 0, 0.9), ("free_accuracy", 0, 1)):
        if options[name] is not None and not low <= options[name] <= high:
            raise ConfigError(
                f"--{name} {options[name]}",
                f"it lies between {low} and {high}",
                "give such a number",
            )
    for name, low, high in (("features", 2, 256), ("answers", 2, 256), ("seeds", 8, 10_000)):
        if not low <= options[name] <= high:
            raise ConfigError(
                f"--{name} {options[name]}", f"it is {low} to {high}", "give such a number"
            )
    for name, suffix in (("json", ".json"), ("picture", ".svg")):
        if options[name]:
            check_written_file(name, Path(options[name]), suffix)


def _worlds(options: Namespace) -> tuple[WorldSource, str]:
    from tandem.planning.budget import mixed_worlds

    if options.pilot:
        return _pilot_worlds(options)
    kinds: Any = ("linear", "tail", "narrow") if options.world == "mixed" else (options.world,)
    return mixed_worlds(kinds, options.flips, options.features, options.seed), ""


def _pilot_worlds(options: Namespace) -> tuple[WorldSource, str]:
    from tandem.data import formats
    from tandem.data.groups import Groups
    from tandem.engines import Sampling
    from tandem.models.checks import check_policy
    from tandem.planning.pilot import read_pilot, require_comparisons
    from tandem.runs.checkpoint import Checkpoint
    from tandem.runs.run import Run
    from tandem.stages.encoding import encode
    from tandem.stages.sampling import sample

    check_policy(Path(options.model))
    model = Checkpoint(Path(options.model), Path(options.model).name)
    given = formats.read_data(options.pilot).groups
    judged = Groups.of(g for g in given if g.preferences)
    require_comparisons(judged)
    sampling = Sampling(max_tokens=options.max_tokens)
    with Run(options.out, options.seed) as run:
        D = run("pilot", encode, judged, model)
        asked = run(
            "prompts", encode, judged.prompts()[:PILOT_PROMPTS], model, room=options.max_tokens
        )
        drawn = run("answers", sample, model, asked, n=options.answers, sampling=sampling)
        pilot = read_pilot(D, drawn, model, run.machine, options.features)
    return pilot.worlds(seed=options.seed), str(pilot)


def draw_costs(advice: BudgetAdvice, path: Path) -> None:
    """Draw regret against cost as an SVG: the plan and what one would do without one.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    from tandem.evaluation.reward_hacking import draw_panels

    styles = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))
    with draw_panels(path, 6.4, 4.0) as (axes,):
        for (name, points), (line, mark) in zip(advice.curve.items(), styles, strict=True):
            x = [advice.total * share for share in points]
            y = [e.mean for e in points.values()]
            low, high = [e.low for e in points.values()], [e.high for e in points.values()]
            axes.plot(x, y, linestyle=line, marker=mark, label=name)
            axes.fill_between(x, low, high, alpha=0.12)
        axes.set(xscale="log", xlabel="cost", ylabel="regret, 95 % over worlds", ylim=(0, None))
        axes.axvline(advice.total, linewidth=0.8, color="#5d5951")
        axes.legend(frameon=False)
