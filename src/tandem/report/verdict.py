"""The first thing a reader sees: who won, by how much, and whether that is resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem.errors import DataError
from tandem.report.numbers import (
    round_up,
    spell_count,
    spell_decimal,
    spell_interval,
    spell_p_value,
    spell_percent,
    spell_signed,
)
from tandem.report.results_file import trained_policies
from tandem.statistics import Estimate, comparisons_needed
from tandem.statistics.confidence_sequence import METHOD as ANYTIME

RESOLVED, OPEN, WORSE, NOTE = "resolved", "not resolved", "worse", "note"
ONE_SEED = "This is about these weights; several seeds show what another training would give."
STILL = 0.01
"""KL in nats below which a policy answers as it did before."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A claim with its standing: `resolved`, `not resolved`, `worse` or `note`."""

    standing: str
    claim: str
    evidence: str = ""


def open_estimate(value: object) -> Estimate | None:
    """Open an interval as JSON holds it; None where there is none."""
    if not isinstance(value, Mapping) or value.get("mean") is None:  # pyright: ignore[reportUnknownMemberType]
        return None
    table: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
    nan = float("nan")
    number = {k: nan if table.get(k) is None else float(table[k]) for k in ("low", "high", "se")}
    p = table.get("p_value")
    return Estimate(
        mean=float(table["mean"]),
        **number,
        n=int(table.get("n") or 0),
        p_value=nan if p is None else float(p),
        method=str(table.get("method", "")),
        seeds=int(table.get("seeds") or 1),
        null=float(table.get("null") or 0.0),
    )


def difference_standing(found: Estimate, adjusted_p: float | None, alpha: float) -> str:
    """Say whether a difference is resolved, over all comparisons that were made."""
    resolved = found.resolved if adjusted_p is None else found.resolved and adjusted_p < alpha
    if not resolved:
        return OPEN
    return RESOLVED if found.mean > found.null else WORSE


def verdict_sentences(results: Mapping[str, Any]) -> list[Sentence]:
    """Return the headline, then what stands beside it, most important first.

    The champion is the best by the judge among those that are resolved to beat the opponent; only
    where nobody is resolved, the best of all.
    """
    rows = ranked_policies(results)
    if not rows:
        return [Sentence(NOTE, "Nothing was compared yet.", "See below what is missing.")]
    champion = next((row for row in rows if _beats(row, results) == RESOLVED), rows[0])
    said = [_against_opponent(champion, results)]
    if champion is not rows[0]:
        said.append(_higher_but_open(rows[0], results))
    others = [row for row in rows if row is not champion]
    if others:
        said.append(_against_runner_up(champion, others[0], results))
    if len(results.get("seeds") or ()) == 1 and _beats(champion, results) is not None:
        said.append(Sentence(NOTE, "One training seed.", ONE_SEED))
    said += [Sentence(NOTE, *told) for row in results["policies"] if (told := out_of_line(row))]
    failed = [row for row in results["policies"] if row.get("status") == "failed"]
    said += [Sentence(NOTE, f"{r['policy']} failed.", str(r.get("reason", ""))) for r in failed]
    return said


def out_of_line(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Say which training seeds of a policy fall out of line with its others; None if none does."""
    seeds = row.get("deviant_seeds") or []
    if not seeds:
        return None
    names = ", ".join(map(str, seeds))
    several = "seeds" if len(seeds) > 1 else "seed"
    claim = f"{row['policy']}: {several} {names} out of line."
    return claim, "Intervals are for seed effects that are about normal; look at this training."


def _beats(row: Mapping[str, Any], results: Mapping[str, Any]) -> str | None:
    """Say whether a policy beats the opponent; None where no win rate was measured."""
    found = open_estimate(row.get(f"win vs {results.get('opponent')}"))
    alpha = float(results.get("alpha", 0.05))
    return None if found is None else difference_standing(found, row.get("Holm p"), alpha)


def ranked_policies(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the trained policies, best first by the judge's gain, else by win rate."""

    def place(row: Mapping[str, Any]) -> float:
        keys = (f"{results.get('judge')} gain", f"win vs {results.get('opponent')}")
        found = next((e for key in keys if (e := open_estimate(row.get(key)))), None)
        return -math.inf if found is None else found.mean

    return sorted(trained_policies(results), key=place, reverse=True)


def _against_opponent(best: Mapping[str, Any], results: Mapping[str, Any]) -> Sentence:
    opponent, how = results.get("opponent"), _beats(best, results)
    found = open_estimate(best.get(f"win vs {opponent}"))
    if found is None or how is None:
        return Sentence(NOTE, "No win rate was measured.", "See below what is missing.")
    evidence = f"{_wins(best, found, results)} {_needs(found, how)}".strip()
    kl, name = open_estimate(best.get("kl")), best["policy"]
    if how == OPEN and kl is not None and abs(kl.mean) < STILL:
        evidence += f" Training hardly moved it: KL {spell_decimal(kl.mean)} to {opponent}."
    claims = {
        RESOLVED: f"{name} beats {opponent}.",
        WORSE: f"No method beats {opponent}; the best, {name}, is worse.",
        OPEN: f"No method is shown to beat {opponent}; {name} comes nearest.",
    }
    return Sentence(how, claims[how], evidence)


def _higher_but_open(row: Mapping[str, Any], results: Mapping[str, Any]) -> Sentence:
    """Say of the highest mean that it is not the winner: it may be luck, or a few large gains."""
    name, opponent, how = row["policy"], results.get("opponent"), _beats(row, results) or OPEN
    found = open_estimate(row.get(f"win vs {opponent}"))
    evidence = "" if found is None else f"{_wins(row, found, results)} {_needs(found, how)}"
    but = "wins less often than" if how == WORSE else "is not shown to beat"
    return Sentence(how, f"{name} has the highest mean, but {but} {opponent}.", evidence.strip())


def _wins(row: Mapping[str, Any], found: Estimate, results: Mapping[str, Any]) -> str:
    opponent, judge = results.get("opponent"), results.get("judge")
    prompts = spell_count(found.n, "prompt")
    size = (
        prompts
        if found.seeds == 1
        else f"{prompts} and {spell_count(found.seeds, 'training seed')}"
    )
    parts = [
        f"It wins {spell_percent(found.mean)} {spell_interval(found, spell_percent)} "
        f"against {opponent}"
    ]
    parts.append(f"by {judge}, over {size}" if judge else f"over {size}")
    text = " ".join(parts)
    gain = open_estimate(row.get(f"{judge} gain"))
    if gain is not None:
        text += f"; {judge} moves by {spell_signed(gain.mean)} {spell_interval(gain, spell_signed)}"
    p = row.get("Holm p")
    return f"{text}; Holm-adjusted {spell_p_value(p)}." if p is not None else f"{text}."


def _needs(found: Estimate, how: str) -> str:
    if how != OPEN:
        return ""
    if math.isnan(found.low):
        return f"Not resolved: {found.method}."
    if found.resolved:
        alone = "it wins more often" if found.mean > found.null else "it loses more often"
        rest = "over all comparisons made here it does not hold"
        return f"The interval alone would say that {alone}; {rest}."
    if found.mean == found.null:
        return "The two are exactly even here."
    more = comparisons_still_needed(found)
    many = "" if more is None else f": about {round_up(more)} more comparisons needed"
    return f"Not resolved{many}."


def comparisons_still_needed(found: Estimate) -> int | None:
    """Return about how many more comparisons would resolve it.

    None where none ever would, and of an interval that holds whenever one stops: the power of
    further seeds is another there.
    """
    if found.method.startswith(ANYTIME):
        return None
    try:
        return comparisons_needed(found)
    except DataError:
        return None


def _against_runner_up(
    best: Mapping[str, Any], second: Mapping[str, Any], results: Mapping[str, Any]
) -> Sentence:
    a, b = best["policy"], second["policy"]
    matrix = results.get("matrix") or {}
    names: list[str] = matrix.get("names", [])
    if a not in names or b not in names:
        return Sentence(NOTE, f"{b} comes second.", "The two did not meet: no pairwise matrix.")
    i, j = names.index(a), names.index(b)
    found = open_estimate(matrix["win"][i][j])
    if found is None:
        return Sentence(NOTE, f"{b} comes second.", "The two did not meet.")
    p = matrix["holm_p"][i][j] if matrix.get("holm_p") else None
    how = difference_standing(found, p, float(results.get("alpha", 0.05)))
    rate = (
        f"{a} wins {spell_percent(found.mean)} {spell_interval(found, spell_percent)} against {b}"
    )
    text = f"{rate}; Holm-adjusted {spell_p_value(p)}." if p is not None else f"{rate}."
    claims = {
        RESOLVED: f"It also beats the runner-up, {b}.",
        OPEN: f"Whether it beats the runner-up, {b}, is not resolved.",
        WORSE: f"Head to head it loses to {b}, which gains less on average.",
    }
    return Sentence(how, claims[how], f"{text} {_needs(found, how)}".strip())


def listed_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every row as the table shows them: trained, then standing ones, then failed."""
    best = ranked_policies(results)
    rest = [row for row in results["policies"] if row not in best]
    return [*best, *sorted(rest, key=lambda row: row.get("status") == "failed")]
