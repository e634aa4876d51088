"""`tandem eval suite NAME`: a published evaluation of a judge or of a policy.

Answers have room for LONGEST_ANSWER tokens; those that are cut are counted. What a local reward
cannot read whole is left out of a judge's suite and unreadable in a policy's, and counted too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from tandem.cli.game import check_written_file
from tandem.cli.judge_choice import add_judge_flags, open_judge_choice
from tandem.cli.reading import add_reading_flags, reading_options
from tandem.cli.settings import add_settings, make_parser, parse_words, with_parsed_values
from tandem.errors import ConfigError, DataError
from tandem.evaluation.suites import SUITES, Suite, SuiteResult, find_suite

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tandem.data.groups import Groups
    from tandem.data.record import Group
    from tandem.judges import Judge
    from tandem.runs.checkpoint import Checkpoint

LONGEST_ANSWER = 2048


def evaluate_suite_command(words: Sequence[str]) -> int:
    """Run a published evaluation and print its table."""
    from tandem.machine import Machine

    parser = make_parser("eval suite", "Run a published evaluation of a judge or of a policy.")
    known = "; ".join(f"{s.name}: {s.title}, of a {s.examines}" for s in SUITES.values())
    parser.add_argument("suite", type=str, help=known)
    parser.add_argument(
        "--data",
        type=str,
        default="",
        help="its data: a file, folder or hub id; llmbar: a folder of dataset.json files",
    )
    parser.add_argument("--model", type=str, default="", help="the policy: a run or a model")
    parser.add_argument(
        "--reference", type=str, default="", help="the policy to beat; alpaca-eval: the data's own"
    )
    parser.add_argument("--out", type=str, default="", help="also write the numbers here: .json")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    add_judge_flags(parser)
    add_reading_flags(parser)
    add_settings(parser, {"sampling": _longer_sampling(), "machine": Machine()})
    options = parse_words(parser, words)
    suite = find_suite(options.suite)
    judge = open_judge_choice(options)
    _check_given(options, suite)
    _check_judge(options, suite, judge)
    groups, lines = read_suite(suite, options)
    examine = examine_judge if suite.examines == "judge" else examine_policy
    found = examine(suite, options, judge, groups)
    notes = [f"{suite.title}, judged by {judge.name}", *lines]
    numbers = {"suite": suite.name, "judge": judge.name, "notes": notes, **found.numbers}
    text = json.dumps(numbers, indent=1) if options.json else "\n".join([*notes, "", found.text])
    print(text, flush=True)
    if options.out:
        from tandem.runs.atomic_files import write_json

        write_json(Path(options.out), numbers)
    return 0


def read_suite(suite: Suite, options: Namespace) -> tuple[Groups, list[str]]:
    """Return a suite's questions, and what was decided while reading them.

    LLMBar lies in a folder a part, each with a `dataset.json`: a folder's name becomes the part.

    Raises:
        DataError: there is nothing, or it cannot be read.
    """
    from tandem.data.groups import Groups as Collection

    source, how = options.data or suite.data, reading_options(options)
    files = sorted(Path(source).expanduser().rglob("dataset.json")) if options.data else []
    if suite.name != "llmbar" or not files:
        read = how.read(source)
        return read.groups, read.notes.lines()
    found: list[Group] = []
    lines: list[str] = []
    for file in files:
        part, read = file.parent.name, how.read(file)
        lines += [f"{part}: {line}" for line in read.notes.lines()]
        for group in read.groups:
            meta = {**group.prompt.meta, "subset": part}
            prompt = replace(group.prompt, id=f"{part}/{group.id}", meta=meta)
            found.append(replace(group, prompt=prompt))
    return Collection.of(found), lines


def examine_judge(suite: Suite, options: Namespace, judge: Judge, groups: Groups) -> SuiteResult:
    """Let a judge decide what the suite knows the answer to."""
    from tandem.rng import Seed
    from tandem.stages.evaluate_reward import without_preferences
    from tandem.stages.judging import judge as let_judge

    _, machine = _settings(options)
    whole = find_readable_rows(groups, judge)
    asked, lost = groups.keep_where(whole), int((~whole).sum())
    if not len(asked):
        raise DataError(
            f"none of the {lost} rows of {suite.name} fits into the context of {judge.name}",
            "a judge reads an answer whole, or says nothing of it",
            "give a judge with a longer context",
        )
    judged = list(let_judge(without_preferences(asked), judge, machine=machine))
    if suite.name == "llmbar":
        found = suite.load_rule()(list(asked), judged)
    else:
        scored = [
            replace(said, preferences=known.preferences)
            for known, said in zip(asked, judged, strict=True)
        ]
        found = suite.load_rule()(scored, Seed(options.seed))
    if not lost:
        return found
    line = f"{lost} of {len(groups)} rows are longer than the judge's context, and left out"
    return SuiteResult(f"{found.text}\n{line}", {**found.numbers, "too_long": lost})


def find_readable_rows(groups: Groups, judge: Judge) -> npt.NDArray[np.bool_]:
    """Return [N] True where the judge reads every answer whole, as all but local rewards do."""
    import numpy as np

    from tandem.judges.reward_model import RewardModel
    from tandem.models.folders import context_length
    from tandem.models.tokenise import tokenise
    from tandem.models.tokenizers import load_tokenizer

    if not isinstance(judge, RewardModel):
        return np.ones(len(groups), np.bool_)
    path = judge.checkpoint.path
    longest = [
        len(g.prompt.tokens) + max((len(c.tokens) for c in g.completions), default=0)
        for g in tokenise(groups, load_tokenizer(path))
    ]
    return np.array(longest) <= context_length(path)


def examine_policy(suite: Suite, options: Namespace, judge: Judge, groups: Groups) -> SuiteResult:
    """Let a policy answer the suite's prompts, and a judge compare it."""
    import numpy as np

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
    whole = find_readable_rows(mine, judge) & find_readable_rows(theirs, judge)
    credit = np.full(len(whole), np.nan)
    if whole.any():
        seen = mine.keep_where(whole), theirs.keep_where(whole)
        credit[whole] = win_credit(*seen, judge, machine)
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


def _longer_sampling() -> Any:
    from tandem.engines import Sampling

    return Sampling(max_tokens=LONGEST_ANSWER)


def _settings(options: Namespace) -> tuple[Any, Any]:
    from tandem.machine import Machine

    sampling = with_parsed_values(_longer_sampling(), options.sampling, "sampling")
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
    if suite.examines == "judge" and (options.reference or _is_sampling_given(options)):
        flag = f"--reference {options.reference}" if options.reference else "--sampling settings"
        raise ConfigError(
            f"{suite.name} with {flag}",
            "it examines a judge, and no policy answers",
            "leave it out",
        )
    if suite.name == "vicuna" and not options.reference:
        raise ConfigError(
            "vicuna without --reference",
            "its questions come without answers, so a win is over another policy",
            "give --reference FOLDER of the policy to beat",
        )
    if options.out:
        check_written_file("out", Path(options.out), ".json")


def _is_sampling_given(options: Namespace) -> bool:
    sampling, _ = _settings(options)
    return sampling != _longer_sampling()


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
