"""From the exams of all seeds to one table of numbers: `results.json`, which reports read.

Policies are compared on the same prompts, seeds and judges; every interval is over prompts and
seeds together (docs/adr/0006), and Holm corrects each family of comparisons. No torch.

Shapes: S seeds, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tandem.bench.plan import OPPONENT, Plan, slug
from tandem.durable import read_json
from tandem.environment import commit, environment
from tandem.evaluation import policy_evaluation
from tandem.evaluation.tables import plain
from tandem.events import read
from tandem.runs import Record, records
from tandem.statistics import (
    Estimate,
    comparisons_needed,
    holm,
    length_controlled,
    outcomes_of,
    paired,
    win_rate,
)

JUDGES = ("truth", "gold_rm", "proxy")
SHOWN = 40
"""Prompts whose answers are kept for reading: the first of the exam, which is in random order."""
Stack = dict[str, np.ndarray]


def collect(plan: Plan, out: Path, command: str) -> dict[str, Any]:
    """Gather everything that the finished seeds of a plan say.

    Returns:
        the content of `results.json`; `tandem report` makes a page of it.
    """
    done = [s for s in plan.seeds if (plan.folder(out, s) / slug(OPPONENT)).exists()]
    folders = [plan.folder(out, seed) for seed in done]
    names = ["base", OPPONENT, *(e.name for e in plan.entries)]
    failed = {n: why for n in names if (why := _failure(n, folders)) is not None}
    columns = {n: _stacked(n, folders) for n in names if n not in failed}
    judge = next(j for j in JUDGES if j in columns[OPPONENT])
    return {
        "title": plan.title,
        "question": plan.question,
        "task": plan.task or f"{plan.model} on {plan.data}",
        "command": command,
        "commit": commit(),
        "environment": environment(),
        "seeds": done,
        "prompts": int(columns[OPPONENT]["length"].shape[1]),
        "budget": {f: getattr(plan.sizes, f) for f in plan.sizes.__slots__},
        "judge": judge,
        "opponent": OPPONENT,
        "policies": list(_policies(plan, columns, failed, folders, judge)),
        "order": _order(plan, columns, judge),
        "matrix": _matrix(columns, judge),
        "curves": list(_curves(plan, folders)),
        "reward": _reward(folders),
        "samples": _samples(names, failed, folders[0], columns),
        "cost": list(_cost(done, folders)),
    }


def _policies(
    plan: Plan,
    columns: Mapping[str, Stack],
    failed: Mapping[str, str],
    folders: Sequence[Path],
    judge: str,
) -> Iterator[dict[str, Any]]:
    rows = policy_evaluation(_with_wins(columns, judge), opponents=(OPPONENT,), judge=judge)
    told = {row["policy"]: row for row in rows.table().as_dicts()}
    entries = {e.name: e for e in plan.entries}
    for name in ["base", OPPONENT, *entries]:
        about: dict[str, Any] = {"policy": name, "status": "done"}
        if entry := entries.get(name):
            about |= {"method": entry.method, "settings": dict(entry.changed)}
            about |= {"paper": dict(entry.paper) or None}
        if name in failed:
            yield about | {"status": "failed", "reason": failed[name]}
            continue
        spent = [_spent(folder / slug(name)) for folder in folders]
        about |= told[name]
        about["seconds"] = {"mean": float(np.mean([s for s, _ in spent]))}
        about["seconds"]["each"] = [s for s, _ in spent]
        about["peak_bytes"] = max(peak for _, peak in spent)
        about["per_seed"] = _per_seed(columns[name], columns[OPPONENT], judge)
        if name != OPPONENT:
            about["lc_win"] = plain(_length_controlled(columns[name], columns[OPPONENT], judge))
        yield about


def _with_wins(columns: Mapping[str, Stack], judge: str) -> dict[str, Stack]:
    """Add outcomes against the opponent by every other judge."""
    main, more = columns[OPPONENT], dict[str, Stack]()
    for name, own in columns.items():
        won = {
            f"{j}_win": outcomes_of(own[j], main[j])
            for j in JUDGES
            if j in own and j != judge and name != OPPONENT
        }
        more[name] = {k: v for k, v in own.items() if name != OPPONENT or "win" not in k} | won
    return more


def _per_seed(own: Stack, main: Stack, judge: str) -> dict[str, list[float]]:
    gain = (own[judge] - main[judge]).mean(axis=1)
    won = outcomes_of(own[judge], main[judge]).mean(axis=1)
    means = {name: own[name].mean(axis=1) for name in ("kl", "length", *JUDGES) if name in own}
    rows = {f"{judge} gain": gain, f"win vs {OPPONENT}": won, **means}
    return {name: [float(x) for x in row] for name, row in rows.items()}


def _length_controlled(own: Stack, main: Stack, judge: str) -> Estimate:
    won, gap = outcomes_of(own[judge], main[judge]), own["length"] - main["length"]
    prompt = np.broadcast_to(np.arange(won.shape[1]), won.shape)
    return length_controlled(won.ravel(), gap.ravel(), list(prompt.ravel()))


def _order(plan: Plan, columns: Mapping[str, Stack], judge: str) -> list[dict[str, Any]]:
    told = [c for c in plan.claims if c.a in columns and c.b in columns]
    gains = [paired(columns[c.b][judge], columns[c.a][judge]) for c in told]
    adjusted = holm([g.p_value for g in gains]).tolist() if gains else []
    rows: list[dict[str, Any]] = []
    for claim, gain, p in zip(told, gains, adjusted, strict=True):
        resolved = p < 0.05
        row: dict[str, Any] = {"a": claim.a, "b": claim.b, "claim": str(claim), "holm_p": p}
        row["verdict"] = (
            "not resolved" if not resolved else "resolved" if gain.mean > 0 else "reversed"
        )
        row["needs"] = None if gain.mean == gain.null else comparisons_needed(gain)
        won = win_rate(outcomes_of(columns[claim.b][judge], columns[claim.a][judge]))
        rows.append(row | {"gain": plain(gain), "win": plain(won)})
    return rows


def _matrix(columns: Mapping[str, Stack], judge: str) -> dict[str, Any]:
    """Win rate of every row's policy against every column's, with Holm over all pairs."""
    names = list(columns)
    pairs = list(combinations(range(len(names)), 2))
    stacks = [columns[n][judge] for n in names]
    wins = {(i, j): win_rate(outcomes_of(stacks[i], stacks[j])) for i, j in pairs}
    adjusted = dict(zip(pairs, holm([wins[p].p_value for p in pairs]).tolist(), strict=True))
    n = len(names)
    win: list[list[Any]] = [[None] * n for _ in range(n)]
    p: list[list[Any]] = [[None] * n for _ in range(n)]
    for i, j in pairs:
        win[i][j] = plain(wins[i, j])
        win[j][i] = plain(win_rate(outcomes_of(stacks[j], stacks[i])))
        p[i][j] = p[j][i] = adjusted[i, j]
    return {"names": names, "win": win, "holm_p": p}


def _curves(plan: Plan, folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """What was watched while policies climbed; a stage taken from another scope has its curve."""
    for seed, folder in zip(plan.seeds, folders, strict=False):
        watched: dict[str, list[dict[str, Any]]] = {}
        for event in read(folder / "events.jsonl"):
            if event["kind"] == "watch":
                watched.setdefault(str(event["stage"]), []).append(event)
        for entry in plan.entries:
            for record in records(folder / entry.scope):
                stage = record.same_as or f"{entry.scope}/{record.folder.name}"
                if stage in watched:
                    points = _points(watched[stage])
                    yield {
                        "policy": entry.name, "stage": record.name, "seed": seed, "points": points
                    }  # fmt: skip


def _points(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One point a round, the last that was written: a killed stage may have said it twice."""
    by_round = {e["round"]: e for e in events}
    hidden = ("time", "kind", "stage")
    return [{k: v for k, v in e.items() if k not in hidden} for e in by_round.values()]


def _reward(folders: Sequence[Path]) -> dict[str, Any] | None:
    """The reward model's exam: of the first seed in full, of all seeds on average."""
    exams = [r.load() for f in folders if (r := _stage(f / slug(OPPONENT), "reward-exam"))]
    if not exams:
        return None
    return {"text": exams[0]["text"], "numbers": exams[0]["numbers"], "seeds": len(exams)}


def _samples(
    names: Sequence[str], failed: Mapping[str, str], folder: Path, columns: Mapping[str, Stack]
) -> list[dict[str, Any]]:
    """Answers side by side, of the first seed."""
    answers = {n: _answers(folder / slug(n)) for n in names if n not in failed}
    rows: list[dict[str, Any]] = []
    for k, group in enumerate(answers[OPPONENT][:SHOWN]):
        row: dict[str, Any] = {"prompt": group.prompt.text, "answers": []}
        for name, groups in answers.items():
            said = {"policy": name, "text": groups[k].completions[0].text}
            numbers = (*JUDGES, "length")
            said |= {j: float(columns[name][j][0, k]) for j in numbers if j in columns[name]}
            row["answers"].append(said)
        rows.append(row)
    return rows


def _answers(scope: Path) -> Any:
    found = _stage(scope, "answers")
    assert found is not None
    return found.load()


def _cost(seeds: Sequence[int], folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Every stage that was really done, once."""
    for seed, folder in zip(seeds, folders, strict=True):
        for scope in sorted(p for p in folder.iterdir() if p.is_dir()):
            for r in records(scope):
                if r.same_as is None:
                    stage = f"{scope.name}/{r.name}"
                    yield {
                        "stage": stage, "seconds": r.seconds, "peak_bytes": r.peak_bytes,
                        "seed": seed,
                    }  # fmt: skip


def _spent(scope: Path) -> tuple[float, int]:
    """Seconds and peak memory of a method alone, what it shares with others counted in full."""
    told = read_json(scope / "needed.json") or {"stages": []}
    own = [r for r in records(scope) if r.name in told["stages"]]
    return sum(r.seconds for r in own), max((r.peak_bytes for r in own), default=0)


def _stacked(name: str, folders: Sequence[Path]) -> Stack:
    exams = [r.load() for f in folders if (r := _stage(f / slug(name), "exam")) is not None]
    return {k: np.array([e[k] for e in exams]) for k in exams[0] if all(k in e for e in exams)}


def _failure(name: str, folders: Sequence[Path]) -> str | None:
    for folder in folders:
        told = read_json(folder / slug(name) / "failed.json")
        if told is not None:
            return f"{folder.name}: {told['reason']}"
        if _stage(folder / slug(name), "exam") is None:
            return f"{folder.name}: not finished"
    return None


def _stage(scope: Path, name: str) -> Record | None:
    return next((r for r in records(scope) if r.name == name), None)
