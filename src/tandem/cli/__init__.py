"""The command line: the table of commands, and the exit code that each ending gives the shell.

    exit 0    done
    exit 1    a check found something (`data check`, `tasks check`, `runs check`, `doctor`)
    exit 2    a mistake that the user can mend: what, why, do this
    exit 3    a judge will answer later: the same command goes on then
    exit 70   a fault of Tandem itself, with a traceback
    exit 130  interrupted: a command that keeps a run goes on from there, another begins again

Nothing here imports torch before a command needs it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from tandem import __version__
from tandem.errors import ConfigError, Pending, RunError, TandemError, nearest_name
from tandem.machine import bound_thread_spinning
from tandem.runs.interrupts import remember_interrupts

COMMANDS: dict[str, tuple[str, str]] = {
    "run": (
        "tandem.cli.run:run_command_line",
        "run a method on a task, or on your model and your data",
    ),
    "plan": (
        "tandem.cli.run_plan:plan_command",
        "print what a run will take: memory by part, tokens, time, disk",
    ),
    "iterate": (
        "tandem.cli.run:iterate_command",
        "label, refit, align, again: rounds of RLHF with people or a judge",
    ),
    "bench": (
        "tandem.cli.bench:bench_command",
        "compare methods on the same prompts, seeds and budget",
    ),
    "methods": ("tandem.cli.methods:methods_command", "list the methods, in the five verbs"),
    "data check": (
        "tandem.cli.data:check_command",
        "examine preference data before training on it",
    ),
    "data select": (
        "tandem.cli.data_select:select_command",
        "choose the pairs of a pool that are worth asking about",
    ),
    "budget": (
        "tandem.cli.budget:budget_command",
        "plan what a budget for labels should be spent on",
    ),
    "eval reward": (
        "tandem.cli.evaluate:evaluate_reward_command",
        "compare a reward model with human judgements",
    ),
    "eval policy": (
        "tandem.cli.evaluate:evaluate_policy_command",
        "compare a policy with a reference policy",
    ),
    "eval exploit": (
        "tandem.cli.exploit:exploit_command",
        "look for opponents that beat a policy: how exploitable is it",
    ),
    "eval suite": (
        "tandem.cli.suites:evaluate_suite_command",
        "run a published evaluation: RewardBench 2, LLMBar, Vicuna, AlpacaEval 2",
    ),
    "chat": ("tandem.cli.talk:chat_command", "talk with a policy, or with several at once"),
    "sample": (
        "tandem.cli.talk:draw_samples_command",
        "draw answers of policies to the same prompts, side by side",
    ),
    "export": (
        "tandem.cli.export:export_model_command",
        "write a run's model as a folder to give away, with its card",
    ),
    "game": (
        "tandem.cli.game:game_command",
        "say whether preferences are a ranking, and who is exploited",
    ),
    "tasks check": ("tandem.cli.tasks:check_task_command", "check that a task has its phenomena"),
    "report": (
        "tandem.cli.report:report_command",
        "write a run's or a bench's page, one HTML file",
    ),
    "runs check": (
        "tandem.cli.runs:check_run_command",
        "verify that every stage of a run is what it was when it was made",
    ),
    "doctor": (
        "tandem.cli.doctor:doctor_command",
        "check this machine, line by line, with the fix",
    ),
    "label serve": ("tandem.cli.label:serve_command", "serve a page on which people judge answers"),
    "label demo": ("tandem.cli.label:demo_command", "try that page on seeded data"),
    "label export": ("tandem.cli.label_data:export_command", "write what people said as a dataset"),
    "label report": (
        "tandem.cli.label_data:label_report_command",
        "write the page about agreement and habits",
    ),
    "label users": ("tandem.cli.label_data:users_command", "list, invite and delete people"),
    "label backup": ("tandem.cli.label_data:backup_command", "copy all votes while people vote"),
    "label restore": (
        "tandem.cli.label_data:restore_command",
        "restore a copy, checked by its digest",
    ),
    "label sample": (
        "tandem.cli.label_refit:sample_command",
        "draw answers of a policy to be judged",
    ),
    "label refit": ("tandem.cli.label_refit:refit_command", "fit the reward on the votes so far"),
}
RESUMED = (
    "run", "iterate", "bench", "eval exploit", "label serve", "label sample", "label refit",
)  # fmt: skip
"""Commands that keep what they have done, and go on from there when they are given again."""
USAGE = "usage: tandem COMMAND [options]"
FAULT = 70
"""The exit code of a fault of Tandem itself: EX_SOFTWARE of sysexits.h."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    bound_thread_spinning()
    remember_interrupts()
    try:
        code = run_command(words)
        sys.stdout.flush()
        return code
    except TandemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Pending as pending:
        print(f"waiting: {pending}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"interrupted: {_say_what_is_kept(words)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _give_up_stdout()
        return 0
    except OSError as error:
        _give_up_stdout()
        print(f"error: {_file_error(error)}", file=sys.stderr)
        return 2
    except MemoryError:
        print(f"error: {_memory_error()}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        print(f"tandem {__version__} has a fault: please report the lines above", file=sys.stderr)
        return FAULT


def _say_what_is_kept(words: Sequence[str]) -> str:
    if any(" ".join(words[:length]) in RESUMED for length in (1, 2)):
        return "the same command goes on from here"
    return "the same command begins again; what a server answered is kept"


def _give_up_stdout() -> None:
    """Let the interpreter end without a word about an output that takes nothing any more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _file_error(error: OSError) -> RunError:
    place = "" if error.filename is None else f" {error.filename}"
    return RunError(
        f"cannot read or write{place}: {error.strerror or error}",
        "a command reads its files and writes its results, and one of them could not be",
        "make room, or give yourself the right, or choose another place; then the same command",
    )


def _memory_error() -> RunError:
    return RunError(
        "there was no memory left",
        "other programs have the rest of it, or the process was given a limit",
        "close other programs, lower --machine.tokens, or start from a smaller model",
    )


def run_command(words: list[str]) -> int:
    """Find the command and call it with the words that follow its name.

    Raises:
        ConfigError: there is no such command.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        print(list_commands())
        return 0
    if words[0] == "--version":
        print(f"tandem {__version__}")
        return 0
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            module, _, function = COMMANDS[name][0].partition(":")
            command = getattr(importlib.import_module(module), function)
            gc.freeze()  # what was imported stays: no collection has to look through it again
            return command(words[length:])
    family = [name for name in COMMANDS if name.split()[0] == words[0]]
    if family and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(list_commands(family))
        return 0
    from tandem.cli.other_names import explain_command

    ours = "" if family else explain_command(words)
    near = nearest_name(" ".join(words[:2]) if family else words[0], COMMANDS)
    raise ConfigError(
        f"there is no command `{' '.join(words[:2] if family else words[:1])}`."
        + ("" if ours else near),
        "a command is one of those that `tandem --help` lists",
        f"type {ours}; `tandem run --help` lists the methods"
        if ours
        else f"type one of: {', '.join(COMMANDS)}",
    )


def list_commands(names: Sequence[str] = tuple(COMMANDS)) -> str:
    """Return the list of commands."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {COMMANDS[name][1]}" for name in names]
    more = (
        "",
        "`tandem COMMAND --help` explains a command; `tandem --version` prints the version.",
    )
    return "\n".join([USAGE, "", *lines, *more])
