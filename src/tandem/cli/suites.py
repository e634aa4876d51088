"""`tandem eval suite NAME`: a published evaluation of a judge or of a policy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from tandem.cli.judge_choice import add_judge_flags, open_judge_choice
from tandem.cli.reading import add_reading_flags, reading_options
from tandem.cli.settings import add_settings, make_parser, parse_words, with_parsed_values
from tandem.errors import ConfigError, DataError
from tandem.evaluation.suites import SUITES, Suite, SuiteResult, find_suite

if TYPE_CHECKING:
    from tandem.data.groups import Groups
    from tandem.judges import Judge
    from tandem.runs.checkpoint import Checkpoint


def evaluate_suite_command(words: Sequence[str]) -> int:
    """Run a published evaluation and print its table."""
    from tandem.engines import Sampling
    from tandem.machine import Machine

    parser = make_parser("eval suite", "Run a published evaluation of a judge or of a policy.")
    known = "; ".join(f"{s.name}: {s.title}, of a {s.examines}" for s in SUITES.values())
    parser.add_argument("suite", type=str, help=known)
    parser.add_argument("--data", type=str, default="", help="its data: a file, folder or hub id")
    parser.add_argument("--model", type=str, default="", help="the policy: a run or a model")
    parser.add_argument(
        "--reference", type=str, default="", help="the policy to beat; alpaca-eval: the data's own"
    )
    parser.add_argument("--out", type=str, default="", help="also write the numbers as JSON here")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    add_judge_flags(parser)
    add_reading_flags(parser)
    add_settings(parser, {"sampling": Sampling(), "machine": Machine()})
    options = parse_words(parser, words)
    suite = find_suite(options.suite)
    judge = open_judge_choice(options)
    _check_given(options, suite)
    _check_judge(options, suite, judge)
    read = reading_options(options).read(options.data or suite.data)
    examine = examine_judge if suite.examines == "judge" else examine_policy
    found = examine(suite, options, judge, read.groups)
    notes = [f"{suite.title}, judged by {judge.name}", *read.notes.lines()]
    numbers = {"suite": suite.name, "judge": judge.name, "notes": notes, **found.numbers}
    if options.out:
        from tandem.runs.atomic_files import write_json

        write_json(Path(options.out), numbers)
    print(json.dumps(numbers, indent=1) if options.json else "\n".join([*notes, "", found.text]))
    return 0


def examine_judge(suite: Suite, options: Namespace, judge: Judge, groups: Groups) -> SuiteResult:
    """Let a judge decide what the suite knows the answer to."""
    from tandem.rng import Seed
    from tandem.stages.evaluate_reward import without_preferences
    from tandem.stages.judging import judge as let_judge

    _, machine = _settings(options)
    judged = list(let_judge(without_preferences(groups), judge, machine=machine))
    if suite.name == "llmbar":
        return suite.load_rule()(list(groups), judged)
    scored = [
        replace(said, preferences=asked.preferences)
        for asked, said in zip(groups, judged, strict=True)
    ]
    return suite.load_rule()(scored, Seed(options.seed))


def examine_policy(suite: Suite, options: Namespace, judge: Judge, groups: Groups) -> SuiteResult:
    """Let a policy answer the suite's prompts, and a judge compare it."""
    from tandem.cli.talk import find_policies
    from tandem.stages.evaluate_policy import win_credit

    _, machine = _settings(options)
    (policy,) = find_policies([options.model]).values()
    mine = _answers(policy, groups, options)
    if options.reference:
        (other,) = find_policies([options.reference]).values()
        theirs = _answers(other, groups, options)
    else:
        theirs = groups
    if empty := [g.id for g in theirs if not len(g)]:
        raise DataError(
            f"prompt `{empty[0]}` has no reference output, and {len(empty) - 1} more have none",
            "a win is over somebody",
            "give --reference MODEL, or data with outputs",
        )
    credit = win_credit(mine, theirs, judge, machine)
    kept = [replace(m, prompt=g.prompt) for m, g in zip(mine, groups, strict=True)]
    return suite.load_rule()(credit, kept, list(theirs))


def _answers(policy: Checkpoint, groups: Groups, options: Namespace) -> Groups:
    from tandem.data.groups import Groups as Collection
    from tandem.rng import Seed
    from tandem.runs.events import Silent
    from tandem.stages.encoding import encode
    from tandem.stages.sampling import sample

    sampling, machine = _settings(options)
    asked = Collection.of(
        encode(groups.prompts(), policy, room=sampling.max_tokens, events=Silent())
    )
    if len(asked) != len(groups):
        raise DataError(
            f"{len(groups) - len(asked)} of {len(groups)} prompts leave {policy} no room for "
            f"{sampling.max_tokens} tokens",
            "a suite is answered whole, or its numbers mean something else",
            "lower --sampling.max_tokens",
        )
    drawn = sample(
        policy, asked, n=1, sampling=sampling, machine=machine, events=Silent(),
        seed=Seed(options.seed).at("suite", str(policy)),
    )  # fmt: skip
    return Collection.of(drawn)


def _settings(options: Namespace) -> tuple[Any, Any]:
    from tandem.engines import Sampling
    from tandem.machine import Machine

    sampling = with_parsed_values(Sampling(), options.sampling, "sampling")
    return sampling, with_parsed_values(Machine(), options.machine, "machine")


def _check_given(options: Namespace, suite: Suite) -> None:
    if not options.data and not suite.data:
        raise ConfigError(
            f"{suite.name} without --data",
            "its questions are no part of Tandem",
            "give --data FILE as its authors publish it; the page docs/suites.md says where",
        )
    if suite.examines == "policy" and not options.model:
        raise ConfigError(
            f"{suite.name} without --model",
            "it examines a policy, which answers its questions",
            "give --model RUN or --model FOLDER",
        )
    if suite.examines == "judge" and options.model:
        raise ConfigError(
            f"{suite.name} with --model {options.model}",
            "it examines a judge, and no policy answers",
            f"give what is examined as --judge {options.model}",
        )
    if suite.name == "vicuna" and not options.reference:
        raise ConfigError(
            "vicuna without --reference",
            "its questions come without answers, so a win is over another policy",
            "give --reference FOLDER of the policy to beat",
        )


def _check_judge(options: Namespace, suite: Suite, judge: Judge) -> None:
    from tandem.judges import only_compares

    if suite.name == "rewardbench2" and only_compares(judge):
        raise ConfigError(
            f"{suite.name} with a judge that compares: --judge {options.judge}"
            + (f" --judge_kind {options.judge_kind}" if "://" in options.judge else ""),
            "every answer is scored by itself",
            "give a reward model's folder, or a server's --judge_kind: rating for a language "
            "model; rewards, classify, pooling or score for a reward model",
        )
