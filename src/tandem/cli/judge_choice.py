"""Which judge a command asks: a folder that holds one, or a server and what it speaks.

--judge runs/mine/03-reward/artifact                          a reward or a preference model
--judge http://localhost:8000/v1 --judge_model qwen           a language model that reasons first
--judge http://localhost:8000/v1 --judge_model qwen --judge_kind letters | rating
--judge http://localhost:8000/classify --judge_kind classify  a reward model behind vLLM
--judge http://localhost:9000/mine --judge_kind rewards       the plain JSON contract
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from jsonargparse import ArgumentParser, Namespace

from tandem.engines.language_models.addresses import KEY, KEY_HOST, usual_key
from tandem.errors import ConfigError

if TYPE_CHECKING:
    from tandem.judges import Judge
    from tandem.runs.checkpoint import Checkpoint

JudgeKind = Literal[
    "verdict", "letters", "rating", "rewards", "preferences", "classify", "pooling", "score"
]
LANGUAGE = ("verdict", "letters", "rating")


def add_judge_flags(parser: ArgumentParser) -> None:
    """Add the flags that name a judge."""
    parser.add_argument(
        "--judge",
        type=str,
        default="",
        help="folder of a reward or preference model, or address of a server",
    )
    parser.add_argument(
        "--judge_model", type=str, default="", help="the model's name on the server"
    )
    parser.add_argument(
        "--judge_kind",
        type=JudgeKind,  # type: ignore[arg-type]
        default="verdict",
        help="what a server is asked. Language models: verdict (reasons first), letters "
        "(probabilities), rating. Reward models: rewards, preferences, classify, pooling, score",
    )
    parser.add_argument(
        "--judge_tokenizer", type=str, default="", help="classify, pooling: folder of the model"
    )
    parser.add_argument(
        "--judge_key",
        type=str,
        default="",
        help=f"environment variable with the server's key; {KEY} for {KEY_HOST}, else none",
    )
    parser.add_argument(
        "--judge_room", type=int, default=2048, help="verdict: tokens of reasons and verdict"
    )


def open_judge_choice(options: Namespace) -> Judge:
    """Return the judge that was named.

    Raises:
        ConfigError: none was named, or a server without a model.
        ModelError: the folder holds no such model.
    """
    if not options.judge:
        raise ConfigError(
            "--judge is missing",
            "somebody has to say which answer is better",
            "give --judge FOLDER of a reward or preference model, or --judge http://HOST:PORT/v1 "
            f"--judge_model NAME --judge_kind {'|'.join(get_args(JudgeKind))}",
        )
    if "://" in options.judge:
        return _remote(options)
    from tandem.cli.evaluate import open_folder

    found = find_reward_folder(options.judge)
    return open_folder(str(found.path), found.name)


def find_reward_folder(given: str) -> Checkpoint:
    """Return the folder of a reward or a preference model, checked before its weights are read.

    Raises:
        ModelError: it holds neither.
    """
    from tandem.models.checks import check_reward
    from tandem.models.model_finder import find_model

    found = find_model(given)
    check_reward(found.path)
    return found


def open_reward_server(url: str, route: Any, model: str, key: str, tokenizer: str) -> Judge:
    """Return the reward model behind a server; nothing is asked yet.

    Args:
        url: the address, with the route in it.
        route: `rewards`, `classify`, `pooling` or `score`.
        model: its name on the server; may be empty.
        key: environment variable with the server's key, or empty.
        tokenizer: folder of the served model, so that token ids are sent, or empty.

    Raises:
        ConfigError: the address is none or holds a secret, or the variable is not set.
    """
    from tandem.engines.json_server import JsonServer
    from tandem.judges.remote_reward import RemoteReward

    own = Path(tokenizer) if tokenizer else None
    return RemoteReward(JsonServer(url, key=key or None), route, model or "reward", own)


def _remote(options: Namespace) -> Judge:
    kind, url, model = options.judge_kind, options.judge, options.judge_model
    if kind in LANGUAGE:
        return _language(options, url, model)
    key = options.judge_key
    if kind != "preferences":
        return open_reward_server(url, kind, model, key, options.judge_tokenizer)
    from tandem.engines.json_server import JsonServer
    from tandem.judges.remote_reward import RemotePreference

    return RemotePreference(JsonServer(url, key=key or None), model or "preference")


def _language(options: Namespace, url: str, model: str) -> Judge:
    from tandem.engines import Sampling
    from tandem.engines.language_models.openai import Server
    from tandem.judges.llm import Labeller, Rater
    from tandem.judges.reasoning import ReasoningJudge

    if not model:
        raise ConfigError(
            f"--judge {url} without --judge_model",
            "a server may have several models",
            "give --judge_model, its name on the server",
        )
    hosted = usual_key(url)
    lm = Server(model, url, options.judge_key or hosted)
    if options.judge_kind == "verdict":
        room = Sampling(temperature=0.0, max_tokens=options.judge_room)
        return ReasoningJudge(lm, sampling=room)
    return Labeller(lm) if options.judge_kind == "letters" else Rater(lm)
