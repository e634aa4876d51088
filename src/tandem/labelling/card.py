"""The dataset card of an export: how the labels came about, and what they cannot say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tandem.labelling import vote_store as voting
from tandem.labelling.annotator_agreement import (
    AgreementStatistics,
    Habits,
    Interval,
    describe_habits,
    measure_agreement,
)
from tandem.labelling.judgements import load_gold, load_votes

if TYPE_CHECKING:
    from tandem.labelling.export import Collected


def write_card(
    connection: sa.Connection,
    path: Path,
    found: Collected,
    left_out: Mapping[str, int],
    title: str,
) -> None:
    """Write README.md of an export."""
    votes = load_votes(connection)
    habits = describe_habits(votes, load_gold(connection))
    version, rubric = voting.current_rubric(connection)
    has_pairs = not left_out.get("every pair is a tie")
    lines = [
        *_head(has_pairs),
        f"# {title or 'Preferences of people'}",
        "",
        "Collected with Tandem's labelling page. Answers were shown side by side in a seeded "
        "random order without names; the order is kept with each vote. Votes are append-only: "
        "edits and undos are events, and what is here is what counted at the time of the export.",
        "",
        *_content_lines(found, left_out, len(habits)),
        *_agreement_lines(measure_agreement(votes)),
        *_people_lines(found, habits),
        f"## Rubric, version {version}",
        "",
        rubric or "None was given.",
        "",
        "## Privacy",
        "",
        "Names are not in this export. Each person has a random pseudonym; somebody who deletes "
        "the account gets a new one.",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _content_lines(found: Collected, left_out: Mapping[str, int], people: int) -> list[str]:
    kinds = Counter(row["kind"] for row in found.rows)
    sources = Counter(row["source"] for row in found.rows if row["kind"] == "vote")
    protocols = Counter(row["protocol"] for row in found.rows if row["kind"] == "vote")
    splits = Counter(found.split.values())
    return [
        "## What is in it",
        "",
        f"- {len(found.judged)} prompts ({_counts(splits)}), "
        f"{sum(len(j.pairs) for j in found.judged)} labelled pairs, {found.ties} of them ties.",
        f"- {len(found.rows)} judgements by {people} people: {_counts(kinds)}.",
        f"- Protocol: {_counts(protocols)}. Chosen by: {_counts(sources)}. Only `uniform` items "
        "are an unbiased sample.",
        *_criteria_lines(found.rows),
        f"- Labels: {found.labels}" + _label_words(found.labels),
        *(f"- Left out of the pairs: {n} prompts, {why}." for why, n in left_out.items()),
        "",
    ]


def _agreement_lines(agreement: AgreementStatistics) -> list[str]:
    return [
        "## Agreement",
        "",
        f"On {agreement.items} items with two or more votes; 95 % intervals resample "
        f"{agreement.resampled}.",
        "",
        "| | value |",
        "| --- | --- |",
        f"| same choice of A, tie, B | {_spelled(agreement.percent)} |",
        f"| {agreement.kappa_name} | {_spelled(agreement.kappa)} |",
        f"| Krippendorff's alpha, ordinal | {_spelled(agreement.alpha)} |",
        "",
    ]


def _people_lines(found: Collected, habits: Sequence[Habits]) -> list[str]:
    return [
        "## People, and what to beware of",
        "",
        "| by | votes | picks the left | picks the longer | right on gold | accuracy, modelled |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {h.pseudonym} | {h.votes} | {_spelled(h.left)} | {_spelled(h.longer)} | "
            f"{_spelled(h.gold)} | {_accuracy(found, h.pseudonym)} |"
            for h in habits
        ),
        "",
        "Picks of the left away from one half are position bias; picks of the longer answer may be "
        "length bias, or longer answers may be better here.",
        "",
    ]


def _head(has_pairs: bool) -> list[str]:
    files = {"votes": "votes.parquet", "groups": "groups.parquet"}
    if has_pairs:
        files = {"preferences": "preferences.parquet", **files}
    configs = [
        line
        for name, file in files.items()
        for line in (f"- config_name: {name}", f"  data_files: {file}")
    ]
    return ["---", "tags: [preference, human-feedback, trl]", "configs:", *configs, "---", ""]


def _criteria_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each criterion how often it was judged, and how often it agrees with the whole."""
    said: dict[str, list[bool]] = {}
    for row in rows:
        for said_of in row["criteria"]:
            whole = row["strength"] or 0
            same = said_of["sign"] == (whole > 0) - (whole < 0)
            said.setdefault(said_of["name"], []).append(same)
    return [
        f"- Criterion {name}: judged in {len(same)} votes, like the whole answer in "
        f"{sum(same)} of them."
        for name, same in said.items()
    ]


def _label_words(labels: str) -> str:
    words = {
        "soft": ", the probability that an answer is better by a model of the annotators (Dawid "
        "and Skene 1979), as `p_chosen`.",
        "majority": ", what most people chose.",
        "share": ", the share of people who chose it.",
    }
    return words[labels]


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counter.items()) or "none"


def _spelled(x: Interval) -> str:
    if x.value is None:
        return "-"
    if x.low is None or x.high is None:
        return f"{x.value:.2f}"
    return f"{x.value:.2f} [{x.low:.2f}, {x.high:.2f}], n = {x.n}"


def _accuracy(found: Collected, name: str) -> str:
    person = found.model.people.get(name)
    if person is None or not found.model.is_identified:
        return "-"
    return f"{person.mean:.2f} [{person.low:.2f}, {person.high:.2f}]"
