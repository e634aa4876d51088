"""What a report shows beside the table: curves, best-of-n, the reward, length, samples, costs.

Shapes: S seeds, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tandem.bench.finished import Finished, has_stage, load_stage
from tandem.bench.outcomes import JUDGES, Outcomes
from tandem.evaluation.tables import plain_cell
from tandem.runs.events import DONE_AGAIN, read_events
from tandem.runs.records import read_records
from tandem.statistics import outcomes_of, rate_by_prompt

MOST_SAMPLES = 40
"""Prompts whose answers are kept for reading: the first of the exam, which is in random order."""
POINTS = 60
"""Answers of each policy in the drawing of reward against length."""
Rows = list[dict[str, Any]]


def training_curves(found: Finished) -> Iterator[dict[str, Any]]:
    """Yield the validation curves of the policies that were trained on a reward.

    A stage that was taken from another entry has that entry's curve.
    """
    for seed in found.seeds:
        folder = found.plan.folder(found.out, seed)
        watched: dict[str, Rows] = {}
        for event in read_events(folder / "events.jsonl"):
            if event["kind"] == "watch":
                watched.setdefault(str(event["stage"]), []).append(event)
            elif event["kind"] in DONE_AGAIN:
                watched.pop(str(event.get("stage")), None)
        for entry in found.plan.entries:
            for r in read_records(folder / entry.scope):
                if points := watched.get(r.same_as or f"{entry.scope}/{r.folder.name}"):
                    about = {"policy": entry.name, "stage": r.name, "seed": seed}
                    yield about | {"points": curves_by_round(points)}


def curves_by_round(events: Iterable[dict[str, Any]]) -> Rows:
    """Return one validation point a round: the last, since a resumed stage may log it twice.

    Round 0 of a stage that is done again would otherwise stand there twice.
    """
    last = {e["round"]: e for e in events}
    hidden = ("time", "kind", "stage")
    return [{k: v for k, v in e.items() if k not in hidden} for _, e in sorted(last.items())]


def best_of_n_details(found: Finished) -> Rows:
    """Return what each n of best-of-n brings, averaged over seeds: n, kl, and every judge."""
    entries = [e for e in found.plan.entries if e.method == "best_of_n" and e.recipe is None]
    done = [e.name for e in entries if e.name not in found.failed]
    scopes = [
        scope for name in done[:1] for scope in found.scopes(name) if has_stage(scope, "curve")
    ]
    tables: list[Rows] = [load_stage(scope, "curve").load()["numbers"] for scope in scopes]
    points: Rows = []
    for rows in zip(*tables, strict=True):
        judges = [k for k in rows[0] if k not in ("n", "KL at most")]
        means = {j: float(np.mean([row[j]["mean"] for row in rows])) for j in judges}
        points.append({"n": rows[0]["n"], "kl": rows[0]["KL at most"], **means})
    return points


def reward_details(found: Finished) -> dict[str, Any] | None:
    """Return the reward model's evaluation, of the first seed."""
    scopes = [
        scope for scope in found.scopes(found.plan.opponent) if has_stage(scope, "reward-exam")
    ]
    if not scopes:
        return None
    exam = load_stage(scopes[0], "reward-exam").load()
    return {"text": exam["text"], "numbers": exam["numbers"], "seed": found.seeds[0]}


def gold_details(found: Finished) -> dict[str, Any] | None:
    """Return the gold reward's accuracy on held-out comparisons, of the first seed."""
    scopes = [scope for scope in found.scopes(found.plan.opponent) if has_stage(scope, "gold-exam")]
    if not scopes:
        return None
    numbers = load_stage(scopes[0], "gold-exam").load()["numbers"]
    return {
        "judgments": numbers["judgments"],
        "seed": found.seeds[0],
        "judges": "gold_rm" in found.main,
        "accuracy": numbers["measures"]["accuracy"],
    }


def length_bias_details(found: Finished) -> dict[str, Any]:
    """Return answers with length and rewards, and wins by how much longer an answer is."""
    judges = [j for j in JUDGES if j in found.main]
    scatter = [
        {"policy": name} | {k: float(own[k][0, p]) for k in ("length", *judges)}
        for name, own in found.columns.items()
        for p in range(min(POINTS, own["length"].shape[1]))
    ]
    by = "proxy" if "proxy" in judges else found.judge
    return {"scatter": scatter, "by": by, "by_difference": sort_by_difference(found.outcomes, by)}


def sort_by_difference(found: Outcomes, judge: str) -> Rows:
    """Return win rates against the opponent by difference in length, over all policies and seeds.

    The middle of the longer and of the shorter answers, in tokens, parts them into two halves.
    """
    others = [own for name, own in found.columns.items() if name != found.opponent]
    if not others:
        return []
    gap = np.concatenate([own["length"] - found.main["length"] for own in others])  # [R, P]
    won = np.concatenate([outcomes_of(own[judge], found.main[judge]) for own in others])
    prompt = np.broadcast_to(np.arange(gap.shape[1]), gap.shape)
    seed = np.broadcast_to(np.tile(found.seeds, len(others))[:, None], gap.shape)
    if not gap.any():
        return []
    middle = float(np.median(np.abs(gap[gap != 0])))
    parts = {
        f"shorter by more than {middle:g}": gap < -middle,
        f"shorter by up to {middle:g}": (gap < 0) & (gap >= -middle),
        "as long": gap == 0,
        f"longer by up to {middle:g}": (gap > 0) & (gap <= middle),
        f"longer by more than {middle:g}": gap > middle,
    }
    return [
        {"bucket": name, "n": int(inside.sum()),
         "win": plain_cell(rate_by_prompt(won[inside], prompt[inside], seed[inside]))}
        for name, inside in parts.items() if len(np.unique(prompt[inside])) > 1
    ]  # fmt: skip


def sample_details(found: Finished) -> Rows:
    """Return answers side by side, of the first seed."""
    drawn = {name: found.answers(name)[:MOST_SAMPLES] for name in found.columns}
    rows: Rows = []
    for k, group in enumerate(drawn[found.plan.opponent]):
        answers: Rows = []
        for name, groups in drawn.items():
            own = found.columns[name]
            scores = {j: float(own[j][0, k]) for j in (*JUDGES, "length") if j in own}
            answers.append({"policy": name, "text": groups[k].completions[0].text, **scores})
        rows.append({"prompt": group.prompt.text, "answers": answers})
    return rows


def stage_costs(found: Finished) -> Iterator[dict[str, Any]]:
    """Yield every stage that was really done, once."""
    for seed in found.seeds:
        for scope in sorted(p for p in found.plan.folder(found.out, seed).iterdir() if p.is_dir()):
            for r in read_records(scope):
                if r.same_as is None:
                    spent = {"seconds": r.seconds, "peak_bytes": r.peak_bytes}
                    yield {"stage": f"{scope.name}/{r.name}", **spent, "seed": seed}
