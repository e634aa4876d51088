"""How much a run does: what methods start from, and how the result is evaluated.

--start sft|model              whether SFT on the chosen answers comes first
--evaluate none|quick|full     whether judges are fitted only to evaluate
--eval_data FILE               a test set of one's own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.settings import read_file
from tandem.errors import ConfigError

if TYPE_CHECKING:
    from tandem.methods import Method

EXTENT_FLAGS = ("start", "evaluate", "eval_data")
EVALUATE_HELP = (
    "quick: held-out losses and samples, the default with --data; full: reward models are fitted "
    "that compare the policies, the default with --task; none: train alone"
)
START_WHY = "the reference, and the policy that is compared with, is what a method starts from"


@dataclass(frozen=True)
class Extent:
    """How much a run does.

    Attributes:
        start: `sft` trains on the chosen answers before the method; `model` takes it as it is.
        evaluate: `none`; `quick`, which fits no judge; `full`, with win rates by reward models.
        eval_data: a test set, or None.
        note: why this start, as a line; empty where nothing was chosen.
    """

    start: Literal["sft", "model"]
    evaluate: Literal["none", "quick", "full"]
    eval_data: str | None
    note: str = ""

    def table(self) -> Mapping[str, Any]:
        """Return the settings by the names of their flags."""
        given = {name: getattr(self, name) for name in EXTENT_FLAGS}
        return {name: value for name, value in given.items() if value is not None}


def add_extent_flags(parser: ArgumentParser, evaluate: str = EVALUATE_HELP) -> None:
    """Add the flags that say what methods start from, and how much is evaluated.

    Args:
        parser: of `tandem run` or of `tandem bench`.
        evaluate: the help of --evaluate.
    """
    parser.add_argument(
        "--start",
        type=Literal["sft", "model"] | None,  # type: ignore[arg-type]
        default=None,
        help="sft: train on the chosen answers first; model: start from the model as it is. By "
        "default model where it is your own, has a chat template, and SFT has no settings",
    )
    parser.add_argument(
        "--evaluate",
        type=Literal["none", "quick", "full"] | None,  # type: ignore[arg-type]
        default=None,
        help=evaluate,
    )


def add_test_set_flag(parser: ArgumentParser) -> None:
    """Add the flag that names a test set."""
    parser.add_argument(
        "--eval_data",
        type=str | None,  # type: ignore[arg-type]
        default=None,
        help="with --data: a test set of your own; nothing of --data is then held out",
    )


def resolve_extent(
    options: Namespace,
    words: Sequence[str],
    files: Sequence[Path],
    method: Method,
    model: str | None,
) -> Extent:
    """Return how much a run does, from what was given.

    Args:
        options: the parsed options.
        words: the words of the command line.
        files: those given to --config.
        method: what will be run.
        model: your model's folder, or None.

    Raises:
        ConfigError: --eval_data without --data.
    """
    own = options.data is not None
    if options.eval_data is not None and not own:
        raise ConfigError(
            f"--eval_data {options.eval_data} without --data",
            "a task brings its own evaluation prompts",
            "give --model and --data as well, or leave --eval_data out",
        )
    before = _extent_before(options, method.name)
    evaluate = options.evaluate or before.get("evaluate") or ("quick" if own else "full")
    start = options.start or before.get("start")
    needs_start = "pi_sft" in method.inputs
    if start is not None or not own or not needs_start:
        return Extent(start or "sft", evaluate, options.eval_data)
    asked = any(word.startswith("--sft.") for word in words)
    asked = asked or any("sft" in read_file(file) for file in files)
    start, why = choose_start(model, sft=asked)
    return Extent(start, evaluate, options.eval_data, f"starts from {why}: {START_WHY}")


def _extent_before(options: Namespace, method: str) -> dict[str, Any]:
    """Return how much the run in this folder does already: the same command goes on with it.

    Folders of earlier versions, which say nothing of it, had SFT and a full evaluation.
    """
    name = options.task or Path(options.data).name.partition(".")[0]
    file = Path(options.out or f"runs/{method}-{name}-{options.seed}") / "run.toml"
    if not file.is_file():
        return {}
    table = read_file(file)
    known = {"start": ("sft", "model"), "evaluate": ("none", "quick", "full")}
    first = {"start": "sft", "evaluate": "full"}
    return {k: table[k] if table.get(k) in known[k] else first[k] for k in known}


def choose_start(model: str | None, *, sft: bool) -> tuple[Literal["sft", "model"], str]:
    """Return what methods start from where nobody has said it, and why.

    Args:
        model: your model's folder, or None.
        sft: SFT is spoken of: it has settings, or a claim is about it.
    """
    if sft:
        return "sft", "the model after SFT, because SFT has settings here (--start model: without)"
    if model is not None and _has_template(Path(model)):
        return (
            "model",
            "the model as it is, because it has a chat template (--start sft: after SFT)",
        )
    return (
        "sft",
        "the model after SFT on the better answers, because it has no chat template "
        "(--start model: without)",
    )


def _has_template(model: Path) -> bool:
    from tandem.models.tokenizers import load_tokenizer

    return bool(load_tokenizer(model).chat_template)
