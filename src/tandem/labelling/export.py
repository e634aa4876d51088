"""Votes become data: groups for Tandem, pairs for TRL, one row a judgement, a card that says how.

    groups.parquet       every judged prompt with its answers and labels, for `tandem run --data`
    preferences.jsonl    TRL's preference format; soft labels as a column `p_chosen`
    preferences.parquet  the same
    votes.parquet        one row a judgement, with everything that was recorded
    demonstrations.jsonl prompts with the better answers that people wrote, if they did
    README.md            a dataset card: protocol, rubric, agreement, known biases, what is left out

The folder opens in `datasets`: `load_dataset(FOLDER, "preferences")`. Items on which people
disagree are kept, with how far they agree; a label is dropped nowhere without being counted.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from tandem.errors import DataError
from tandem.labelling import vote_store as voting
from tandem.labelling.annotator_model import SoftLabels, fit_annotators
from tandem.labelling.card import write_card
from tandem.labelling.data_access import Answered, Judged, write_judged, write_pairs
from tandem.labelling.judgements import Unit, Vote, load_gold, load_votes
from tandem.labelling.schema import item

Labels = Literal["auto", "soft", "majority", "share"]
FILES = (
    "groups.parquet", "preferences.jsonl", "preferences.parquet", "votes.parquet",
    "demonstrations.jsonl", "README.md",
)  # fmt: skip
COUNTED = ("vote",)
KEPT = ("vote", "skip", "late", "adjudication")

_REPLACING = threading.Lock()


@dataclass(frozen=True)
class Collected:
    """Everything that an export is made of.

    Attributes:
        judged: the prompts with labels.
        split: prompt id -> train or held_out.
        rows: the votes table.
        written: better answers that people wrote: prompt, answer, by.
        model: the annotator model.
        labels: which labels were taken.
        ties: units whose label is exactly one half.
    """

    judged: list[Judged]
    split: dict[str, str]
    rows: list[dict[str, Any]]
    written: list[dict[str, Any]]
    model: SoftLabels
    labels: str
    ties: int


def collect_votes(
    connection: sa.Connection, labels: Labels = "auto", *, repeats: int = 0
) -> Collected:
    """Return judged prompts and the votes table.

    Raises:
        DataError: nobody has voted yet.
    """
    kept = load_votes(connection, KEPT)
    counted = [v for v in kept if v.event["kind"] in COUNTED]
    gold = {(i, 0, 1): _as_share(s) for i, s in load_gold(connection).items() if s}
    if not counted:
        raise DataError(
            "nobody has voted yet",
            "an export holds what people said",
            "label first: `tandem label serve`, or `tandem label demo` to try it",
        )
    comparisons = [c for v in counted for c in v.comparisons()]
    model = fit_annotators(comparisons, gold, repeats=repeats)
    taken = ("soft" if model.is_identified else "share") if labels == "auto" else labels
    shares: dict[Unit, list[float]] = defaultdict(list)
    for c in comparisons:
        shares[c.unit].append(_as_share(c.strength))
    said = {u: _label(u, s, model, gold, taken) for u, s in shares.items()}
    judged, split = _judged(connection, said, shares, taken)
    return Collected(
        judged=judged,
        split=split,
        rows=[_row(v, gold) for v in kept],
        written=[_written(v) for v in kept if v.event["better_answer"]],
        model=model,
        labels=taken,
        ties=sum(p == 0.5 for p in said.values()),
    )


def _as_share(strength: int) -> float:
    return 0.5 if strength == 0 else float(strength > 0)


def _label(
    unit: Unit,
    shares: Sequence[float],
    model: SoftLabels,
    gold: Mapping[Unit, float],
    labels: str,
) -> float:
    if unit in gold:
        return gold[unit]
    mean = float(np.mean(shares))
    if labels == "soft":
        return model.labels.get(unit, 0.5)
    if labels == "majority":
        return _as_share(int(np.sign(mean - 0.5)))
    return mean


def _judged(
    connection: sa.Connection,
    said: Mapping[Unit, float],
    shares: Mapping[Unit, Sequence[float]],
    labels: str,
) -> tuple[list[Judged], dict[str, str]]:
    wanted = {u[0] for u in said}
    rows = [r for r in connection.execute(sa.select(item)).mappings() if r["id"] in wanted]
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        groups[row["group_id"]].append(row)
    by_item: dict[int, list[Unit]] = defaultdict(list)
    for unit in said:
        by_item[unit[0]].append(unit)
    out, split = [], {}
    for name, items in groups.items():
        n = {u: len(shares[u]) for row in items for u in by_item[row["id"]]}
        pairs = tuple(
            (row["members"][u[1]], row["members"][u[2]], said[u], None)
            for row in items
            for u in sorted(by_item[row["id"]])
        )
        agreed = [abs(float(np.mean(shares[u])) - 0.5) * 2 for u in n]
        meta = {
            **items[0]["meta"],
            "split": items[0]["split"],
            "votes": max(n.values()),
            "agreement": round(float(np.mean(agreed)), 4),
        }
        out.append(Judged(_answered(name, items, meta), pairs, by=f"people ({labels})"))
        split[name] = items[0]["split"]
    return out, split


def _answered(name: str, items: Sequence[Any], meta: dict[str, Any]) -> Answered:
    """Put a prompt together again from its items: each holds some of its answers."""
    first = items[0]["question"]
    found: dict[int, tuple[str, Any, str]] = {}
    for row in items:
        asked = row["question"]
        columns = zip(row["members"], asked["answers"], asked["turns"], row["authors"], strict=True)
        found |= {k: (text, turns, who) for k, text, turns, who in columns}
    blank = ("", None, "")
    every = [found.get(k, blank) for k in range(max(found) + 1)]
    messages = first["messages"]
    return Answered(
        name,
        first["text"],
        None if messages is None else tuple(messages),
        tuple(e[0] for e in every),
        tuple(None if e[1] is None else tuple(e[1]) for e in every),
        tuple(e[2] for e in every),
        meta,
        {},
    )


def _row(vote: Vote, gold: Mapping[Unit, float]) -> dict[str, Any]:
    event = vote.event
    ranks = event["ranks"]
    return {
        "event": event["id"],
        "prompt_id": vote.item["group_id"],
        "item": vote.item["name"],
        "members": vote.item["members"],
        "by": vote.pseudonym,
        "kind": event["kind"],
        "protocol": event["protocol"],
        "order": event["order"],
        "choice": event["choice"],
        "strength": vote.strength,
        "both_bad": event["both_bad"],
        "ranks": None if ranks is None else voting.ranks_by_answer(ranks, event["order"]),
        "criteria": [
            {"name": name, "sign": sign}
            for name, sign in voting.criteria_by_answer(event["criteria"], event["order"]).items()
        ],
        "reason": event["reason"],
        "rationale": event["rationale"],
        "better_answer": event["better_answer"],
        "seconds": event["seconds"],
        "rubric_version": event["rubric"],
        "device": event["device"],
        "source": event["source"],
        "uniform": event["source"] == "uniform",
        "gold": (vote.item["id"], 0, 1) in gold,
        "split": vote.item["split"],
        "made_at": event["made_at"],
    }


def _written(vote: Vote) -> dict[str, Any]:
    asked = vote.item["question"]
    prompt = asked["messages"] or asked["text"]
    said = vote.event["better_answer"]
    answer = [{"role": "assistant", "content": said}] if asked["messages"] else said
    return {"prompt": prompt, "completion": answer, "by": vote.pseudonym}


VOTES = pa.schema(
    {
        "event": pa.int64(),
        "prompt_id": pa.string(),
        "item": pa.string(),
        "members": pa.list_(pa.int32()),
        "by": pa.string(),
        "kind": pa.string(),
        "protocol": pa.string(),
        "order": pa.list_(pa.int32()),
        "choice": pa.int32(),
        "strength": pa.int32(),
        "both_bad": pa.bool_(),
        "ranks": pa.list_(pa.int32()),
        "criteria": pa.list_(pa.struct({"name": pa.string(), "sign": pa.int32()})),
        "reason": pa.string(),
        "rationale": pa.string(),
        "better_answer": pa.string(),
        "seconds": pa.float64(),
        "rubric_version": pa.int32(),
        "device": pa.string(),
        "source": pa.string(),
        "uniform": pa.bool_(),
        "gold": pa.bool_(),
        "split": pa.string(),
        "made_at": pa.float64(),
    }
)


@dataclass(frozen=True)
class Exported:
    """What an export wrote: where, how many prompts, pairs and votes, and what it left out."""

    folder: Path
    prompts: int
    pairs: int
    votes: int
    left_out: dict[str, int]


def export_votes(
    connection: sa.Connection, folder: Path, labels: Labels = "auto", *, title: str = ""
) -> Exported:
    """Write the export; an earlier one in the folder is replaced whole.

    Raises:
        DataError: nobody has voted yet, or the folder holds something else.
    """
    folder = folder.expanduser().resolve()
    _check_place(folder)
    found = collect_votes(connection, labels, repeats=100)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    part.chmod(0o755)
    try:
        prompts = write_judged(found.judged, part / "groups.parquet")
        left_out = _write_pairs(found, part)
        pq.write_table(pa.Table.from_pylist(found.rows, VOTES), part / "votes.parquet")
        if found.written:
            _write_lines(part / "demonstrations.jsonl", found.written)
        pairs = sum(len(j.pairs) for j in found.judged)
        write_card(connection, part / "README.md", found, left_out, title)
        with _REPLACING:
            shutil.rmtree(folder, ignore_errors=True)
            part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(folder, prompts, pairs, len(found.rows), dict(left_out))


def _check_place(folder: Path) -> None:
    """Raise unless the folder is absent, empty, or an earlier export and nothing else."""
    if not folder.exists():
        return
    other = (
        sorted(p.name for p in folder.iterdir() if p.name not in FILES) if folder.is_dir() else []
    )
    if other or not folder.is_dir():
        holds = f"holds {', '.join(other[:3])}" if other else "is a file"
        raise DataError(
            f"{folder} {holds}",
            "an export replaces its folder, and this one holds something else",
            f"give a folder that is new, or an earlier export: --out {folder / 'export'}"
            if folder.is_dir()
            else f"give a folder: --out {folder}-export",
        )


def _write_pairs(found: Collected, folder: Path) -> Mapping[str, int]:
    """Write decided pairs; prompts that only have ties give none, and are counted."""
    kept = ("split", "votes", "agreement")
    rows = [
        dataclasses.replace(
            j,
            answered=dataclasses.replace(j.answered, meta={k: j.answered.meta[k] for k in kept}),
        )
        for j in found.judged
    ]
    try:
        left_out = write_pairs(rows, folder / "preferences.jsonl")
        _copy_as_parquet(folder / "preferences.jsonl", folder / "preferences.parquet")
    except DataError:
        return {"every pair is a tie": len(rows)}
    return left_out


def _copy_as_parquet(lines: Path, path: Path) -> None:
    """Copy pairs; a row without `p_chosen` is sure, and a table needs the column in every row."""
    with lines.open(encoding="utf-8", newline="\n") as stream:
        rows = [json.loads(line) for line in stream]
    soft = any("p_chosen" in row for row in rows)
    filled = [{**row, "p_chosen": row.get("p_chosen", 1.0)} if soft else row for row in rows]
    pq.write_table(pa.Table.from_pylist(filled), path)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
