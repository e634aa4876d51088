"""The language models that a run made: which stages hold one, and which is its result."""

from __future__ import annotations

import shlex
from pathlib import Path

from tandem.errors import RunError
from tandem.runs.atomic_files import read_json
from tandem.runs.checkpoint import RESULT, Checkpoint
from tandem.runs.records import Record, read_record, read_records
from tandem.runs.weight_files import read_model_json


def is_run(folder: Path) -> bool:
    """True for the folder of a run."""
    return (folder / "run.json").is_file()


def is_stage(folder: Path) -> bool:
    """True for the folder of a finished stage."""
    return (folder / "stage.json").is_file() and (folder / "DONE").exists()


def run_policies(folder: Path) -> list[tuple[Record, Checkpoint]]:
    """Return the stages of a run that hold a language model, in order; verified."""
    found: list[tuple[Record, Checkpoint]] = []
    for record in read_records(folder):
        if (policy := stage_policy(record)) is not None:
            found.append((record, policy))
    return found


def result_policy(folder: Path) -> tuple[Record, Checkpoint]:
    """Return a run's result: the policy that its method returned, else the last one made.

    A method may end in a policy that is not its last: ReST stops early and returns the best.

    Raises:
        RunError: it made none.
    """
    place = (folder / str((read_json(folder / RESULT) or {}).get("stage", ""))).resolve()
    if place != folder.resolve() and place.is_relative_to(folder.resolve()) and is_stage(place):
        record = read_record(place)
        if (policy := stage_policy(record)) is not None:
            return record, policy
    if not (found := run_policies(folder)):
        raise RunError(
            f"{folder} holds no finished language model",
            "a run makes one with a method that fits a policy, once that stage is done",
            "give the same `tandem run` command again to finish it; or another run's folder",
        )
    return found[-1]


def stage_policy(record: Record) -> Checkpoint | None:
    """Return the language model that a stage holds, or None: a reward model is none."""
    artifact = record.folder / "artifact"
    named = read_model_json(artifact / "config.json").get("architectures") or ()
    if not any("CausalLM" in str(name) or "LMHead" in str(name) for name in named):
        return None
    made = record.load()
    return made if isinstance(made, Checkpoint) else None


def policy_of(folder: Path) -> Checkpoint | None:
    """Return the language model of a run's or a stage's folder, or None for other folders.

    Raises:
        RunError: it is a run or a stage, and holds none.
    """
    if is_run(folder):
        return result_policy(folder)[1]
    if not is_stage(folder):
        return None
    if (policy := stage_policy(read_record(folder))) is None:
        raise RunError(
            f"{folder} holds no language model",
            "a stage may hold data, a reward model or an exam",
            f"give the run: {folder.parent}; or a stage that fits a policy",
        )
    return policy


def typed_command(folder: Path) -> str | None:
    """Return the command that made a run, as it was typed, or None where it was no command."""
    words = (read_json(folder / "run.json") or {}).get("command")
    if not isinstance(words, list) or not words:
        return None
    return shlex.join(["tandem", *map(str, words[1:])])
