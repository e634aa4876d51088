"""What a report is made of: a bench's `results.json`, or the same table made from one run's folder.

Nothing is computed twice and nothing is filled in: what a run did not measure is absent here, and
`missing` says so in words. No torch.

    results = read_results(Path("runs/dpo-micro-0"))
    results["policies"][0]["win vs SFT"]          # {"mean": .575, "low": .549, "high": .601, ...}
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import jinja2

from tandem.data.groups import Groups
from tandem.data.record import Prompt
from tandem.errors import DataError
from tandem.rng import Seed
from tandem.runs.atomic_files import read_json
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.events import DONE_AGAIN, read_events
from tandem.runs.names import folder_name
from tandem.runs.policies import typed_command
from tandem.runs.records import Record, read_records

Results = dict[str, Any]
BENCH = "results.json"
DRAWN = ("answers-", "samples-")
"""How names of stages with answers begin: of a full evaluation, and of a quick look."""
SAMPLED = 60
"""Prompts whose answers are shown of a single run."""
STANDING = ("base", "reference")
"""Authors in the table that no method trained."""


UNREADABLE = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
    jinja2.TemplateError,
)  # fmt: skip
"""What a page raises that is made of something else than measurements."""


@contextmanager
def refusing_what_is_none(path: Path | str) -> Iterator[None]:
    """Turn what results of a stranger's shape raise into an error that names their place.

    Raises:
        DataError: as said.
    """
    try:
        yield
    except UNREADABLE as error:
        raise DataError(
            f"{path} holds no measurements that a page can show: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}",
            "a page is made of what a bench or a run has measured, each number in its place",
            "see `tandem runs check FOLDER`; bring the folder back from a copy, or do it again",
        ) from error


def read_results(path: Path) -> Results:
    """Read a bench, a single run, or a results file.

    Args:
        path: a folder with `results.json`, a folder of `tandem run`, or the file itself.

    Raises:
        DataError: there is nothing to report at this place.
    """
    file = path / BENCH if path.is_dir() else path
    if file.is_file():
        return _parsed(file)
    done = read_records(path) if path.is_dir() else []
    if not done:
        raise DataError(
            f"{path} holds neither {BENCH} nor finished stages",
            "a report shows what a bench or a run has measured",
            "name the folder that `tandem bench` or `tandem run` printed",
        )
    return results_from_run(path, done)


def _parsed(file: Path) -> Results:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} is not JSON: {error}",
            f"a report is made from the {BENCH} that `tandem bench` writes",
            "name the bench's folder; run the same bench again if the file is damaged",
        ) from error
    policies = found.get("policies") if isinstance(found, dict) else None
    if not isinstance(policies, list) or not all(
        isinstance(row, dict) and "policy" in row for row in cast("list[Any]", policies)
    ):
        raise DataError(
            f"{file} has no list `policies` of tables with a name under `policy`",
            "every section of a report hangs on the policies that were compared",
            f"name the {BENCH} of a bench, or a run's folder",
        )
    return cast("Results", found)


def results_from_run(folder: Path, done: list[Record]) -> Results:
    """Make a bench's results from the stages of one run: one method, one seed.

    Args:
        folder: the run's folder.
        done: its finished stages.
    """
    stages = {record.name: record for record in done}
    made = {str(c): r for r in done if isinstance(c := _checkpoint(r), Checkpoint)}
    snapshot, config = read_json(folder / "run.json") or {}, _config(folder)
    exam = _numbers(stages, "policy-evaluation") or _numbers(stages, "policy-exam")
    names = [*made, *(row["policy"] for row in exam.get("policies", []))]
    drawn = _answers(stages, {folder_name(n): n for n in names})
    seed = snapshot.get("seed", 0)
    found: Results = {
        "title": _title(config, folder),
        "task": config.get("task") or config.get("data"),
        "command": typed_command(folder),
        "commit": snapshot.get("git"),
        "environment": {k: v for k, v in snapshot.items() if k not in ("command", "seed")},
        "config": config,
        "seeds": [seed],
        "prompts": max((len(groups) for groups in drawn.values()), default=None),
        "judge": exam.get("judge"),
        "opponent": next(iter(exam.get("opponents", [])), None),
        "alpha": 0.05,
        "policies": [_policy(row, made) for row in exam.get("policies", [])],
        "curves": list(_curves(folder, {r.folder.name: p for p, r in made.items()}, seed)),
        "reward": {"numbers": _numbers(stages, "reward-exam")},
        "samples": _samples(drawn, stages.get("evaluation"), Seed(seed)),
        "cost": [_cost(record, seed) for record in done],
    }
    measured = {k: v for k, v in found.items() if v not in (None, [], {"numbers": {}})}
    return {"policies": [], **measured}


def missing_measurements(results: Mapping[str, Any]) -> list[str]:
    """List what was not measured that a reader would want, and the command that measures it."""
    trained = trained_policies(results)
    every = [row for row in results["policies"] if row.get("status", "done") == "done"]
    told: list[str] = []
    if not trained:
        told.append("No trained policy was compared: this run ended before its exam, or fits none.")
    if every and not any(row.get("truth") for row in every):
        told.append("No truth: this data has no programmatic judge, so rewards are what is known.")
    if every and not any(row.get("gold_rm") for row in every):
        told.append(
            "No gold_rm: no reward of other data, which nobody optimised, scores these policies."
        )
    if trained and not any(row.get("lc_win") for row in trained):
        told.append("No length-controlled win rate: a preference for length is not taken out.")
    if len(results.get("seeds", [0])) < 2:
        told.append("One training seed: `tandem bench --seeds 5` shows how much is luck.")
    if not results.get("matrix"):
        told.append("No pairwise matrix: methods meet each other in `tandem bench`.")
    if not results.get("curves"):
        told.append(
            "No curve during training: only methods that sample while they train are watched."
        )
    if not any("proxy" in a for s in results.get("samples", []) for a in s["answers"]):
        told.append("No scores beside the samples: they cannot be sorted by disagreement.")
    return told


def trained_policies(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the policies that a method trained and that finished, in the order given."""
    standing = {*STANDING, results.get("opponent")}
    rows: list[dict[str, Any]] = results["policies"]
    return [r for r in rows if r["policy"] not in standing and r.get("status", "done") == "done"]


def _checkpoint(record: Record) -> object:
    is_model = record.result.get("kind") == "checkpoint"
    return record.load(verify=False) if is_model else None


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "run.toml"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read: {error}",
            "the report shows the settings that a run was made with",
            "bring the file back from a copy, or delete it: the report is then made without it",
        ) from error


def _title(config: Mapping[str, Any], folder: Path) -> str:
    method = config.get("method", "a run")
    place = config.get("task") or config.get("data") or folder.name
    return f"{method} on {place}"


def _numbers(stages: Mapping[str, Record], name: str) -> dict[str, Any]:
    return stages[name].load()["numbers"] if name in stages else {}


def _policy(row: Mapping[str, Any], made: Mapping[str, Record]) -> dict[str, Any]:
    measured = {key: value for key, value in row.items() if value is not None}
    if (record := made.get(row["policy"])) is None:
        return {**measured, "status": "done"}
    cost = {"seconds": {"mean": record.seconds}, "peak_bytes": record.peak_bytes}
    return {**measured, "status": "done", **cost}


def _cost(record: Record, seed: int) -> dict[str, Any]:
    cost = {"seconds": record.seconds, "peak_bytes": record.peak_bytes}
    return {"stage": record.folder.name, **cost, "seed": seed}


def _curves(folder: Path, policies: Mapping[str, str], seed: int) -> list[dict[str, Any]]:
    """Return validation curves of policies; a round that was evaluated twice counts once."""
    found: dict[str, dict[float, dict[str, float]]] = {}
    file = folder / "events.jsonl"
    for event in read_events(file) if file.is_file() else ():
        if event["kind"] == "watch":
            point = {
                k: float(v)
                for k, v in event.items()
                if isinstance(v, int | float) and k not in ("time", "seed")
            }
            found.setdefault(str(event.get("stage", "")), {})[point["round"]] = point
        elif event["kind"] in DONE_AGAIN:
            found.pop(str(event.get("stage", "")), None)
    return [
        {
            "policy": policies.get(stage, stage),
            "seed": seed,
            "points": [points[k] for k in sorted(points)],
        }
        for stage, points in found.items()
    ]


def _answers(stages: Mapping[str, Record], names: Mapping[str, str]) -> dict[str, Groups]:
    """Return what each policy answered, of the full evaluation where there is one.

    Stages of training may be called alike; an evaluation's give one answer to what the base did.
    """
    kind = next((k for k in DRAWN if f"{k}base" in stages), None)
    if kind is None:
        return {}
    asked = _asked(stages[f"{kind}base"])
    found = {n: r for n, r in stages.items() if n.startswith(kind) and _asked(r) == asked}
    short = {n: n.removeprefix(kind) for n in found}
    return {names.get(short[n], short[n]): record.load() for n, record in found.items()}


def _asked(record: Record) -> tuple[Any, Any]:
    return record.arguments.get("prompts"), record.arguments.get("n")


def _samples(
    drawn: Mapping[str, Groups], evaluation: Record | None, seed: Seed
) -> list[dict[str, Any]]:
    """Pick prompts at random, by the run's seed; every policy's first answer to each."""
    if not drawn:
        return []
    references: dict[str, str] = {}
    if evaluation is not None:
        references = {g.id: g.completions[0].text for g in evaluation.load() if len(g)}
    asked = next(iter(drawn.values()))
    order = seed.at("report", "samples").rng().permutation(len(asked))[:SAMPLED]
    shown = [asked[int(k)] for k in order]
    answered = {name: {g.id: g for g in groups} for name, groups in drawn.items()}
    return [
        {
            "prompt": _spoken(group.prompt),
            "reference": references.get(group.id),
            "answers": [
                {
                    "policy": name,
                    "text": (answer := groups[group.id].completions[0]).text,
                    "length": len(answer.tokens),
                }
                for name, groups in answered.items()
                if group.id in groups
            ],
        }
        for group in shown
    ]


def _spoken(prompt: Prompt) -> str:
    """The conversation as people wrote it, where it is known; else as the model reads it."""
    if not prompt.messages:
        return prompt.text
    said = [str(m.get("content", "")) for m in prompt.messages]
    roles = [str(m.get("role", "")) for m in prompt.messages]
    if roles == ["user"]:
        return said[0]
    return "\n\n".join(f"{role}: {text}" for role, text in zip(roles, said, strict=True))
