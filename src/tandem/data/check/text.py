"""A data check as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tandem.data.check.check import DataCheck
from tandem.data.check.facts import BAR, DataFacts, Lengths


def check_json(check: DataCheck) -> str:
    """Return a check as JSON, without colours."""
    values = {k: v for k, v in asdict(check).items() if k != "coloured"}
    values["lengths"]["truncated"] = check.lengths.truncated
    return json.dumps({**values, "ok": check.ok}, indent=1, ensure_ascii=False)


def check_text(check: DataCheck, *, colour: bool) -> str:
    """Return a check as lines for a terminal."""
    parts = [
        f"{check.source}\nformat {check.format}: {check.why}",
        "\n".join(check.notes.lines()),
        _shape(check.facts),
        _histogram(check.lengths),
        *(
            f"example {k}\n{e}"
            for k, e in enumerate(check.coloured if colour else check.examples, 1)
        ),
        *([_overlaps(check.overlap)] if check.overlap else []),
        "methods that fit\n" + "\n".join(f"  {m}" for m in check.methods),
        "\n".join([f"ERROR {e}" for e in check.errors] + [f"warning: {w}" for w in check.warnings])
        or "no errors, no warnings",
    ]
    return "\n\n".join(parts)


def _shape(facts: DataFacts) -> str:
    lines = [
        f"{facts.groups} prompts, {facts.completions} completions (at most {facts.largest} a "
        f"prompt), {facts.preferences} preferences ({facts.ties} ties), {facts.scored} with scores",
        f"duplicates {facts.duplicates}, contradictory pairs {facts.contradictory}",
    ]
    if facts.decided:
        lines.append(
            f"chosen is longer in {facts.chosen_longer:.1%}; 'the longest answer wins' scores "
            f"{facts.longest_wins:.1%} of {facts.decided} pairs"
        )
    return "\n".join(lines)


def _histogram(lengths: Lengths) -> str:
    low, middle, high, top = lengths.quantiles
    lines = [
        f"prompt + completion in {lengths.unit}: min {low}, median {middle}, 95% {high}, max {top}"
    ]
    most = max(lengths.counts)
    for start, end, n in zip(lengths.edges[:-1], lengths.edges[1:], lengths.counts, strict=True):
        lines.append(f"{start:>8} -{end:>7} {n:>8} {'#' * round(BAR * n / most)}")
    if lengths.limit is not None:
        lines.append(
            f"longer than {lengths.limit}: {lengths.too_long} completions "
            f"({lengths.truncated:.1%}); {lengths.groups_dropped} groups would be dropped"
        )
    if lengths.ends:
        ends = ", ".join(f"{n} in {token!r}" for token, n in lengths.ends.items())
        stops = ", ".join(repr(token) for token in lengths.stops)
        lines.append(f"completions end: {ends} (trained on); sampling ends at {stops}")
    return "\n".join(lines)


def _overlaps(overlap: dict[str, int]) -> str:
    return "\n".join(f"prompts shared with {name}: {n}" for name, n in overlap.items())
