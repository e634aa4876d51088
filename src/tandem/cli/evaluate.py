"""`tandem eval reward` and `tandem eval policy`: how good it is; nothing is fitted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.reading import add_reading_flags, reading_options
from tandem.cli.settings import add_settings, make_parser, parse_words, with_parsed_values
from tandem.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tandem.data.groups import Groups
    from tandem.judges import Judge
    from tandem.runs.checkpoint import Checkpoint


def evaluate_reward_command(words: Sequence[str]) -> int:
    """Compare a reward with human judgements: accuracy, calibration, slices."""
    from tandem.machine import Machine

    options = _parsed(_reward_parser(), words, {"machine": Machine()})
    machine = with_parsed_values(Machine(), options.machine, "machine")

    from tandem.evaluation.best_of_accuracy import best_of_table, is_best_of
    from tandem.judges.preference_model import PreferenceModel
    from tandem.models.checks import check_policy, check_reward
    from tandem.rng import Seed
    from tandem.stages.evaluate_reward import evaluate_preferences, evaluate_reward
    from tandem.stages.judging import judge

    data = _needed(options, "data", "judgements, for example hh_harmless.jsonl.gz")
    _find_models(options, "model", "reference")
    (check_policy if options.reference else check_reward)(Path(options.model))
    found = reading_options(options).read(data)
    groups = _fitting(found.groups, options.model)
    judged = groups.take(i for i, group in enumerate(groups) if group.preferences)
    if not len(judged):
        raise DataError(
            f"{options.data} holds no comparison that {options.model} can read whole",
            "a reward is evaluated on judgements between answers to one prompt",
            "give data with chosen and rejected answers; see `tandem data check`",
        )
    notes = [f"{options.data}: {found.format}, because {found.why}", *found.notes.lines()]
    judge_of_pairs = None if options.reference else open_folder(options.model)
    if isinstance(judge_of_pairs, PreferenceModel):
        if options.time:
            raise ConfigError(
                f"--data.time {options.time} with a preference model",
                "accuracy by month is counted of rewards, which score single answers",
                "leave --data.time out, or give a reward model",
            )
        own = {judge_of_pairs.name: judge_of_pairs}
        exam = evaluate_preferences(own, judged, seed=Seed(options.seed), machine=machine)
        return _tell(options, [*notes, f"{len(found.groups) - len(judged)} groups left out"], exam)
    exam = evaluate_reward(_judge(options), judged, seed=Seed(options.seed), machine=machine)
    several = judged.take(i for i, group in enumerate(judged) if is_best_of(group))
    if len(several):
        table = best_of_table(judge(several, _judge(options), machine=machine))
        text = f"{table}\n\nby pairs\n{exam['text']}"
        numbers = {**exam["numbers"], "best_of": table.as_dicts() if table else []}
        exam = {"text": text, "numbers": numbers}
    if options.time:
        from tandem.evaluation.dated_accuracy import accuracy_by_month

        dated = accuracy_by_month(judge(judged, _judge(options), machine=machine), options.time)
        numbers = {**exam["numbers"], "by_month": dated.as_dicts()}
        exam = {"text": f"{exam['text']}\n\n{dated}", "numbers": numbers}
    return _tell(options, [*notes, f"{len(found.groups) - len(judged)} groups left out"], exam)


def _reward_parser() -> ArgumentParser:
    parser = make_parser("eval reward", "Compare a reward model with human judgements.")
    parser.add_argument(
        "model", type=str, help="folder of a reward or preference model, or of a DPO policy"
    )
    parser.add_argument(
        "--data", type=str, default="", help="judgements that it was not trained on"
    )
    parser.add_argument(
        "--reference", type=str, default="", help="the policy's reference: implicit"
    )
    parser.add_argument("--beta", type=float, default=0.1, help="beta of the implicit reward")
    parser.add_argument(
        "--data.time", dest="time", type=str, default="", help="column of dates: accuracy by month"
    )
    add_reading_flags(parser)
    return parser


def evaluate_policy_command(words: Sequence[str]) -> int:
    """Compare a policy with a reference policy on prompts: win rates, KL, length."""
    from tandem.engines import Sampling
    from tandem.machine import Machine
    from tandem.tasks import Sizes

    parser = make_parser("eval policy", "Compare a policy with a reference policy.")
    parser.add_argument("model", type=str, help="folder of the policy")
    parser.add_argument("--reference", type=str, default="", help="folder of the policy to beat")
    parser.add_argument("--task", type=str, default="", help="a task by name: truth judges")
    parser.add_argument("--data", type=str, default="", help="prompts; needs --proxy")
    parser.add_argument(
        "--proxy", type=str, default="", help="folder of a reward model that judges"
    )
    add_reading_flags(parser)
    configs = {"sampling": Sampling(), "sizes": Sizes(), "machine": Machine()}
    options = _parsed(parser, words, configs)
    configs = {
        name: with_parsed_values(config, options[name], name) for name, config in configs.items()
    }

    from tandem.runs.checkpoint import Checkpoint
    from tandem.stages.evaluate_policy import evaluate_policies, kl_temperature

    _find_models(options, "model", "reference", "proxy")
    prompts, judges, repeated = _prompts(options, configs["sizes"])
    notes = [f"{len(prompts)} prompts, one answer each"]
    notes += [f"{repeated} repeated prompts left out"] * bool(repeated)
    sft = Checkpoint(Path(_needed(options, "reference", "the folder of the SFT policy")), "SFT")
    own = Path(options.model).resolve().name
    mine = Checkpoint(Path(options.model), f"{own} (policy)" if own == str(sft) else own)
    policies = {str(pi): pi for pi in (sft, mine)}
    answers = {n: _answers(pi, prompts, options.seed, configs) for n, pi in policies.items()}
    exam = evaluate_policies(
        answers,
        policies,
        judges=judges,
        opponents=("SFT",),
        temperature=kl_temperature(configs["sampling"]),
        machine=configs["machine"],
    )
    return _tell(options, notes, exam)


def _parsed(parser: ArgumentParser, words: Sequence[str], configs: Mapping[str, Any]) -> Namespace:
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_settings(parser, configs)
    return parse_words(parser, words)


def _find_models(options: Namespace, *flags: str) -> None:
    """Put the folder in place of each model that was given otherwise: a hub id, an adapter."""
    from tandem.models.model_finder import find_model

    for flag in flags:
        if options[flag]:
            options[flag] = str(find_model(options[flag]).path)


def _needed(options: Namespace, name: str, what: str) -> str:
    if not options[name]:
        raise ConfigError(
            f"--{name} is missing", "nothing to compare with", f"give --{name}: {what}"
        )
    return options[name]


def _fitting(groups: Groups, model: str) -> Groups:
    from tandem.data.groups import Groups
    from tandem.runs.checkpoint import Checkpoint
    from tandem.runs.events import Silent
    from tandem.stages.encoding import encode

    return Groups.of(encode(groups, Checkpoint(Path(model)), events=Silent()))


def _judge(options: Namespace) -> Judge:
    from tandem.judges.reward_model import ImplicitReward, RewardModel
    from tandem.runs.checkpoint import Checkpoint

    model = Checkpoint(Path(options.model), Path(options.model).name)
    if not options.reference:
        return RewardModel(model)
    return ImplicitReward(model, Checkpoint(Path(options.reference)), options.beta)


def open_folder(path: str, name: str = "") -> Judge:
    """Return the judge that a folder holds: a preference model of either kind, or a reward.

    Args:
        path: the folder.
        name: the judge's; the folder's if not given.
    """
    from tandem.judges.preference_model import PreferenceModel
    from tandem.judges.reward_model import RewardModel
    from tandem.models.loading import stored_kind
    from tandem.runs.checkpoint import Checkpoint

    model = Checkpoint(Path(path), name or Path(path).resolve().name)
    return RewardModel(model) if stored_kind(model.path) == "answer" else PreferenceModel(model)


def _prompts(options: Namespace, sizes: Any) -> tuple[Groups, dict[str, Judge], int]:
    """Return the prompts, who judges, and how many of the data's prompts came again."""
    from tandem.judges.reward_model import RewardModel
    from tandem.rng import Seed
    from tandem.runs.checkpoint import Checkpoint
    from tandem.tasks import WITHOUT_MODEL, load

    judges: dict[str, Judge] = {}
    repeated = 0
    if options.task:
        own = Path(options.model) if options.task in WITHOUT_MODEL else None
        task = load.load_task(options.task, sizes, Seed(options.seed), model=own)
        prompts = task.evaluation
        if task.truth is not None:
            judges["truth"] = task.truth
    else:
        data = _needed(options, "data", "prompts, or --task micro")
        given = reading_options(options).read(data).groups.prompts()
        prompts = without_repeats(given)
        repeated = len(given) - len(prompts)
        _needed(options, "proxy", "a reward model to judge with")
    if options.proxy:
        judges["proxy"] = RewardModel(Checkpoint(Path(options.proxy)), "proxy")
    return prompts, judges, repeated


def without_repeats(prompts: Groups) -> Groups:
    """Return each prompt once: an interval over prompts counts them as independent."""
    from tandem.data.chat.transcripts import prompt_key

    first: dict[str, int] = {}
    for i, group in enumerate(prompts):
        first.setdefault(prompt_key(group.prompt), i)
    return prompts.take(first.values())


def _answers(policy: Checkpoint, prompts: Groups, seed: int, configs: Mapping[str, Any]) -> Groups:
    from tandem.data.groups import Groups
    from tandem.rng import Seed
    from tandem.runs.events import Silent
    from tandem.stages.sampling import sample

    sampling, machine = configs["sampling"], configs["machine"]
    at = Seed(seed).at("answers", str(policy))
    return Groups.of(
        sample(policy, prompts, n=1, sampling=sampling, seed=at, machine=machine, events=Silent())
    )


def _tell(options: Namespace, notes: Sequence[str], exam: Mapping[str, Any]) -> int:
    if options.json:
        print(json.dumps({"notes": notes, **exam["numbers"]}, indent=1))
    else:
        print("\n".join(notes), exam["text"], sep="\n\n")
    return 0
