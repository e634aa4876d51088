"""Which reward a method learns from: fitted to comparisons, the task's truth, or one of your own.

--reward fitted                                     fitted to the comparisons; the default
--reward truth                                      the task's programmatic truth, an answer key
--reward runs/mine/03-reward/artifact               a reward model's folder
--reward http://localhost:9000/mine                 a server that scores, in plain JSON
--reward http://localhost:8000/classify --reward.route classify       one behind vLLM

In a file they are settings of the table `reward`: `source`, `route`, `model`, `tokenizer`, `key`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.judge_choice import find_reward_folder, open_reward_server
from tandem.errors import ConfigError, ModelError
from tandem.methods import REWARDED

if TYPE_CHECKING:
    from tandem.judges import Judge
    from tandem.methods import Method
    from tandem.tasks import Task

FITTED, TRUTH = "fitted", "truth"
OF_SERVERS = {"route": "rewards", "model": "", "tokenizer": "", "key": ""}
"""Settings of servers alone, and their defaults."""


def add_reward_flags(parser: ArgumentParser) -> None:
    """Add the flags that name a reward; `--reward X` is short for `--reward.source X`."""
    group = parser.add_argument_group("a reward of your own")
    group.add_argument(
        "--reward.source",
        type=str,
        default=FITTED,
        help="or --reward: fitted (to the comparisons), truth (the task's own, an answer key), a "
        "reward model's folder, or the address of a server that scores",
    )
    group.add_argument(
        "--reward.route",
        type=Literal["rewards", "classify", "pooling", "score"],  # type: ignore[arg-type]
        default=OF_SERVERS["route"],
        help="what a server speaks: plain JSON, or a route of vLLM",
    )
    for name, text in {
        "model": "its name on the server",
        "tokenizer": "classify, pooling: folder of the served model, to send token ids",
        "key": "NAME of the environment variable with the server's key",
    }.items():
        group.add_argument(f"--reward.{name}", type=str, default="", help=text)


def check_reward_choice(options: Namespace, method: Method, cfg: Any) -> None:
    """Refuse a reward that a method does not learn from, before any data is read.

    Args:
        options: what was given, the table `reward` among it.
        method: what will be run.
        cfg: the method's settings.

    Raises:
        ConfigError: as said, or settings of a server without one.
    """
    given = options["reward"]
    _check_unused(given)
    if given.source != FITTED:
        _check_method(given.source, method, cfg)


def open_reward_choice(options: Namespace, task: Task) -> Judge | None:
    """Return the reward that was given, checked; None where one is fitted to comparisons.

    Args:
        options: what was given, the table `reward` among it.
        task: its data and judges.

    Raises:
        ConfigError: there is no truth, or an address is none or holds a secret.
        ModelError: the folder holds no reward model.
    """
    given = options["reward"]
    if given.source == FITTED:
        return None
    if given.source == TRUTH:
        return _truth_of(task)
    return _open_server(given) if _is_server(given) else _open_folder(given.source)


def reward_table(options: Namespace) -> dict[str, str]:
    """Return what was given, by its names in the table `reward`; empty for a reward to be fitted.

    Of a key it is the name of its environment variable.
    """
    given = options["reward"]
    if given.source == FITTED:
        return {}
    told = {name: given[name] for name, usual in OF_SERVERS.items() if given[name] != usual}
    return {"source": given.source, **told}


def _is_server(given: Namespace) -> bool:
    return given.source.startswith(("http://", "https://"))


def _open_server(given: Namespace) -> Judge:
    from tandem.engines.language_models.addresses import check_address

    check_address(given.source, "--reward")
    return open_reward_server(given.source, given.route, given.model, given.key, given.tokenizer)


def _open_folder(folder: str) -> Judge:
    from tandem.judges.reward_model import RewardModel
    from tandem.models.loading import stored_kind

    found = find_reward_folder(folder)
    if stored_kind(found.path) != "answer":
        raise ModelError(
            f"{folder} holds a preference model",
            "it says which of two answers is better, and scores neither alone",
            "give a reward model: `tandem run reward` fits one",
        )
    return RewardModel(found)


def _check_unused(given: Namespace) -> None:
    """Refuse settings of a server where none is asked."""
    told = [f"--reward.{name}" for name, usual in OF_SERVERS.items() if given[name] != usual]
    if told and not _is_server(given):
        raise ConfigError(
            f"{', '.join(told)} with --reward {given.source}",
            "they say how a reward server is asked, and none is",
            f"give --reward http://HOST:PORT/PATH, or leave {' and '.join(told)} out",
        )


def _check_method(source: str, method: Method, cfg: Any) -> None:
    """Refuse a reward where a method, as it is set, learns from none."""
    name = method.name
    if name not in REWARDED:
        raise ConfigError(
            f"--reward {source} with {name}",
            f"{name} does not learn from a reward that is there before it",
            f"leave --reward out, or run one of: {', '.join(REWARDED)}",
        )
    if name == "rso" and "r_phi" not in method.read_inputs(cfg):
        raise ConfigError(
            f"--reward {source} with rso.ranker = {cfg.ranker} and rso.source = {cfg.source}",
            "a preference model ranks the answers then, or nobody does, and it is fitted to "
            "comparisons",
            "give --rso.ranker reward, with --rso.source rso or sft; or leave --reward out",
        )


def _truth_of(task: Task) -> Judge:
    from tandem.judges.answer_key import has_truth

    if task.truth is not None and has_truth(task.truth, task.prompts):
        return task.truth
    raise ConfigError(
        f"--reward truth, and nobody knows the truth about answers to {task.name}",
        "a program has to tell right answers: the tasks have one, and questions with an answer key",
        'give --data with rows like {"question": "...", "answer": "... #### 42"}; or --reward with '
        "the folder of a reward model or the address of a reward server",
    )
