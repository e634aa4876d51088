"""`tandem chat` and `tandem sample`: look at what came out, several policies side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from jsonargparse import ArgumentParser, Namespace

from tandem.cli.reading import add_reading_flags, reading_options
from tandem.cli.settings import add_settings, make_parser, parse_words, with_parsed_values
from tandem.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tandem.data.groups import Groups
    from tandem.runs.checkpoint import Checkpoint

CHAT_HELP = "type a message; /again forgets the conversation, /quit or the end of input leaves"


def chat_command(words: Sequence[str]) -> int:
    """Talk with one policy, or with several at once."""
    parser = _parser("chat", "Talk with a policy; several answer side by side.")
    parser.add_argument("--system", type=str, default="", help="a system turn at the beginning")
    options = parse_words(parser, words)
    policies, sampling, machine = _opened(options)
    from tandem.engines.language_models.local import LocalModel
    from tandem.evaluation.samples import printable_text
    from tandem.rng import Seed

    speakers = {name: LocalModel(policy).open(machine) for name, policy in policies.items()}
    shown = sys.stderr if not sys.stdin.isatty() else sys.stdout
    print(f"{', '.join(speakers)}: {CHAT_HELP}", file=shown, flush=True)
    begin = [{"role": "system", "content": options.system}] if options.system else []
    said = {name: list(begin) for name in speakers}
    for turn, text in enumerate(read_messages(sys.stdin, prompt=sys.stdin.isatty())):
        if text == "/again":
            said = {name: list(begin) for name in speakers}
            continue
        for name, speaker in speakers.items():
            said[name].append({"role": "user", "content": text})
            asked = _prompt(f"turn-{turn}", said[name])
            (answer,) = speaker.complete([asked], sampling, Seed(options.seed))
            said[name].append({"role": "assistant", "content": answer.text})
            cut = "" if answer.stopped else " [cut at --sampling.max_tokens]"
            head = f"{name}: " if len(speakers) > 1 else ""
            print(f"{head}{printable_text(answer.text)}{cut}", flush=True)
    return 0


def read_messages(lines: TextIO, *, prompt: bool) -> Iterable[str]:
    """Yield what somebody types, a message a line, until /quit or the end.

    Args:
        lines: where it is typed.
        prompt: show a sign that it is their turn.
    """
    while True:
        if prompt:
            print("> ", end="", flush=True)
        line = lines.readline()
        if not line or line.strip() == "/quit":
            return
        if line.strip():
            yield line.strip()


def draw_samples_command(words: Sequence[str]) -> int:
    """Draw answers of one or several policies to the same prompts."""
    parser = _parser("sample", "Draw answers of policies to the same prompts, side by side.")
    parser.add_argument("--data", type=str, default="", help="prompts, in any known format")
    parser.add_argument("--prompt", action="append", default=[], help="a prompt, may be repeated")
    parser.add_argument("--n", type=int, default=1, help="answers of each policy to each prompt")
    parser.add_argument("--out", type=str, default="", help="also write JSON Lines here")
    add_reading_flags(parser)
    options = parse_words(parser, words)
    if options.n < 1:
        raise ConfigError(f"--n {options.n}", "it counts answers", "give 1 or more")
    prompts = _prompts(options)
    policies, sampling, machine = _opened(options)
    from tandem.data.groups import Groups
    from tandem.evaluation.samples import lay_out_samples
    from tandem.rng import Seed
    from tandem.runs.events import Silent
    from tandem.stages.encoding import encode
    from tandem.stages.sampling import sample

    answers: dict[str, Groups] = {}
    for name, policy in policies.items():
        room = encode(prompts, policy, room=sampling.max_tokens, events=Silent())
        drawn = sample(
            policy, Groups.of(room), n=options.n, sampling=sampling,
            seed=Seed(options.seed).at("draws"), machine=machine, events=Silent(),
        )  # fmt: skip
        answers[name] = Groups.of(drawn)
        if len(answers[name]) != len(prompts):
            raise DataError(
                f"{len(prompts) - len(answers[name])} of {len(prompts)} prompts leave `{name}` no "
                f"room for {sampling.max_tokens} tokens",
                "policies are shown beside each other on the same prompts",
                "lower --sampling.max_tokens, or shorten the prompts",
            )
    print(lay_out_samples(answers))
    if options.out:
        _write(Path(options.out), answers)
        print(f"\n{options.out}")
    return 0


def find_policies(given: Sequence[str]) -> dict[str, Checkpoint]:
    """Return policies by a name each: of a run its result, of a stage what it holds, or a model.

    Raises:
        ConfigError: none was given.
        ModelError: there is no such model.
        RunError: the run made no policy.
    """
    from tandem.models.checks import check_policy
    from tandem.models.model_finder import find_model
    from tandem.runs.policies import policy_of

    if not given:
        raise ConfigError(
            "no policy was given",
            "answers are drawn from a model",
            "give a run's folder (runs/dpo-mine-0), a stage's folder, or a model",
        )
    found: dict[str, Checkpoint] = {}
    for name in given:
        folder = Path(name).expanduser()
        own = policy_of(folder) if folder.is_dir() else None
        policy = own or find_model(name)
        check_policy(policy.path)
        label = folder.name if own is not None else str(policy)
        found[label if label not in found else name] = policy
    return found


def _parser(command: str, description: str) -> ArgumentParser:
    from tandem.engines import Sampling
    from tandem.machine import Machine

    parser = make_parser(command, description)
    parser.add_argument("policies", nargs="*", help="runs, stages or models")
    parser.add_argument("--seed", type=int, default=0, help="root of every draw")
    add_settings(parser, {"sampling": Sampling(), "machine": Machine()})
    return parser


def _opened(options: Namespace) -> tuple[dict[str, Checkpoint], Any, Any]:
    from tandem.engines import Sampling
    from tandem.machine import Machine

    sampling = with_parsed_values(Sampling(), options.sampling, "sampling")
    machine = with_parsed_values(Machine(), options.machine, "machine")
    return find_policies(options.policies), sampling, machine


def _prompts(options: Namespace) -> Groups:
    from tandem.data.groups import Groups
    from tandem.data.record import Group

    if bool(options.data) == bool(options.prompt):
        raise ConfigError(
            "given: both --data and --prompt" if options.data else "neither --data nor --prompt",
            "prompts come from a file, or from the command line",
            'give --prompt "What is a barge?", or --data FILE --limit 8',
        )
    if options.data:
        return reading_options(options).read(options.data).groups.prompts()
    asked = [[{"role": "user", "content": text}] for text in options.prompt]
    return Groups.of(Group(_prompt(f"prompt-{k}", said)) for k, said in enumerate(asked))


def _prompt(name: str, said: Sequence[dict[str, Any]]) -> Any:
    from tandem.data.chat.transcripts import render_transcript
    from tandem.data.record import Prompt

    return Prompt(name, render_transcript(said, open_end=True), messages=tuple(said))


def _write(path: Path, answers: dict[str, Groups]) -> None:
    from tandem.data.chat.transcripts import prompt_key
    from tandem.runs.atomic_files import write_text

    rows = [
        {"prompt": prompt_key(g.prompt), "policy": name, "completion": c.text, "ended": c.stopped}
        for name, groups in answers.items()
        for g in groups
        for c in g.completions
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
