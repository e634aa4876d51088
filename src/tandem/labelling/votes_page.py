"""One page about the labelling itself: do people agree, who has which habit, where does it hurt.

The same page is shown to the lead while people label, and written by `tandem label report` as one
self-contained file with its numbers as JSON beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from markupsafe import Markup

from tandem.labelling import vote_store as voting
from tandem.labelling.annotator_agreement import (
    AgreementStatistics,
    Habits,
    describe_habits,
    measure_agreement,
)
from tandem.labelling.annotator_model import SoftLabels, fit_annotators
from tandem.labelling.judgements import Vote, load_gold, load_votes
from tandem.labelling.schema import refit
from tandem.runs.atomic_files import finite_json

HARDEST = 10
STYLE = Path(__file__).parent / "page" / "assets" / "label.css"


@dataclass(frozen=True)
class LabelReport:
    """What the page shows.

    Attributes:
        hardest: items on which people differ most: name, start of the prompt, votes, spread.
        skips: reason -> how often.
        refits: finished refits of the reward, oldest first.
    """

    title: str
    votes: int
    people: int
    items: int
    agreement: AgreementStatistics
    habits: list[Habits]
    model: SoftLabels
    hardest: list[dict[str, Any]]
    skips: dict[str, int]
    refits: list[dict[str, Any]]
    seconds: float | None
    uniform: int

    @property
    def verdict(self) -> str:
        """The first sentence of the page."""
        if not self.votes:
            return "Nobody has voted yet"
        percent = self.agreement.percent
        if percent.value is None:
            return "No item has two votes yet, so nobody knows whether people agree"
        if percent.low is None or percent.high is None:
            return f"People agree on {percent.value:.0%} of pairs; too few items for an interval"
        return (
            f"People choose the same of A, tie and B {percent.value:.0%} of the time "
            f"[{percent.low:.0%}, {percent.high:.0%}]"
        )


def measure_labelling(connection: sa.Connection, title: str = "") -> LabelReport:
    """Return every number of the page."""
    kept = load_votes(connection, ("vote", "skip"))
    votes = [v for v in kept if v.event["kind"] == "vote"]
    gold = load_gold(connection)
    known = {(i, 0, 1): float(s > 0) for i, s in gold.items() if s}
    times = [v.event["seconds"] for v in votes if v.event["seconds"] is not None]
    return LabelReport(
        title=title or "Labelling",
        votes=len(votes),
        people=len({v.pseudonym for v in votes}),
        items=len({v.item["id"] for v in votes}),
        agreement=measure_agreement(votes),
        habits=describe_habits(votes, gold),
        model=fit_annotators([c for v in votes for c in v.comparisons()], known),
        hardest=_hardest(votes),
        skips=_skips(kept),
        refits=finished_refits(connection),
        seconds=float(np.median(times)) if times else None,
        uniform=sum(v.event["source"] == "uniform" for v in votes),
    )


def finished_refits(connection: sa.Connection) -> list[dict[str, Any]]:
    """Return the results of refits of the reward, oldest first."""
    asked = sa.select(refit).where(refit.c.state == "done").order_by(refit.c.id)
    return [
        {"votes": row["votes"], **(row["result"] or {})}
        for row in connection.execute(asked).mappings()
    ]


def _hardest(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    by_item: dict[int, list[Vote]] = {}
    for vote in votes:
        if vote.strength is not None:
            by_item.setdefault(vote.item["id"], []).append(vote)
    rows = []
    for mine in by_item.values():
        strengths = [v.strength or 0 for v in mine]
        if len(mine) > 1 and max(strengths) > 0 > min(strengths):
            rows.append(
                {
                    "item": mine[0].item["id"],
                    "prompt": prompt_start(mine[0].item["question"]),
                    "votes": sorted(strengths, reverse=True),
                    "spread": float(np.std(strengths)),
                }
            )
    return sorted(rows, key=lambda row: -row["spread"])[:HARDEST]


def prompt_start(question: Mapping[str, Any], length: int = 140) -> str:
    """Return how a prompt begins: its last message, or its text."""
    if question["messages"]:
        return str(question["messages"][-1].get("content") or "")[:length]
    return str(question["text"])[:length]


def _skips(votes: Sequence[Vote]) -> dict[str, int]:
    counted = Counter(v.event["reason"] for v in votes if v.event["kind"] == "skip")
    return {voting.SKIP_REASONS.get(str(k), str(k)): n for k, n in counted.most_common()}


def write_label_report(connection: sa.Connection, out: Path, title: str = "") -> Path:
    """Write the page as one file, and its numbers beside it; return the page."""
    from tandem.labelling.pages import make_environment

    found = measure_labelling(connection, title)
    style = STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    html = (
        make_environment()
        .get_template("report.html")
        .render(
            report=found,
            style=Markup(style),
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'",
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    numbers = asdict(found)
    numbers["model"]["labels"] = {
        "/".join(map(str, unit)): p for unit, p in found.model.labels.items()
    }
    told = finite_json({"verdict": found.verdict, **numbers})
    twin = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)
    out.with_suffix(".json").write_text(twin + "\n", encoding="utf-8")
    return out
