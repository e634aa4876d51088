"""The registry of claims: what the seeds' papers say, and what came of it here.

    python experiments/claims.py            # docs/claims/index.md, from docs/claims/claims.toml
    python experiments/claims.py --check    # exit code 1 if the page is not that of the outcomes

docs/claims/claims.toml says each claim in our words, with the paper's numbers and with the rows of
stored outcomes that decide it. Nothing in it is a result. Every result, interval and verdict on the
page is made here from docs/results, so a result that is not there yet is "not run yet", with the
command that brings it. Nothing is sampled and nothing is fitted.
"""

from __future__ import annotations

import argparse
import math
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence import Evidence, Store, weigh_test
from pages import markdown
from tandem.runs.atomic_files import write_text
from tandem.statistics import Estimate, holm
from tandem.statistics.crossed import ALPHA

DOCS = Path(__file__).parents[1] / "docs"
REGISTRY = DOCS / "claims" / "claims.toml"
PAGE = DOCS / "claims" / "index.md"
HOLDS, WHEN, FAILS, OPEN, LEFT = "holds", "holds when", "fails", "not resolved", "not run yet"
VERDICTS = (HOLDS, WHEN, FAILS, OPEN, LEFT)
FROM = {
    "outcomes": "outcomes, seeds x prompts",
    "means": "means of the seeds, over seeds alone",
    "numbers": "numbers, seeds x prompts",
    "seeds": "one number a seed, over seeds alone",
    "estimate": "the experiment's own estimate",
    "missing": "-",
}


@dataclass(frozen=True)
class Judged:
    """A test with what came out of it.

    Attributes:
        test: as the registry has it.
        evidence: what the stored outcomes say.
        p: after Holm over the family of tests; nan where there is none.
        verdict: `holds`, `fails`, `not resolved` or `not run yet`.
    """

    test: Mapping[str, Any]
    evidence: Evidence
    p: float
    verdict: str


def main(words: Sequence[str] | None = None) -> int:
    """Write the page, or say whether it would change."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--results", type=Path, default=DOCS / "results")
    parser.add_argument("--registry", type=Path, default=REGISTRY)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args(words)
    registry = read_registry(asked.registry)
    text = claims_page(registry, judge_registry(registry, Store(asked.results)))
    if asked.check:
        if asked.page.exists() and asked.page.read_text(encoding="utf-8") == text:
            return 0
        print(f"{asked.page} is out of date: `make pages` makes it again", file=sys.stderr)
        return 1
    write_text(asked.page, text)
    print(asked.page)
    return 0


def read_registry(path: Path) -> dict[str, Any]:
    """Read claims, papers and files; a claim names a paper and a file that are there."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    ids = Counter(c["id"] for c in found["claim"])
    if twice := [name for name, count in ids.items() if count > 1]:
        sys.exit(f"{path}: two claims are called {twice[0]!r}; rename one")
    for claim in found["claim"]:
        if claim["paper"] not in found["papers"]:
            sys.exit(
                f"{path}: {claim['id']} names the paper {claim['paper']!r}, which is not there"
            )
        for test in claim["test"]:
            if test["file"] not in found["files"]:
                sys.exit(f"{path}: {claim['id']} names the file {test['file']!r}; add its command")
    return found


def judge_registry(registry: Mapping[str, Any], store: Store) -> dict[str, list[Judged]]:
    """Return every claim's tests with their verdicts, with Holm over each family of tests.

    A family is what one experiment decides by one judge.
    """
    tests = [(c["id"], t, weigh_test(t, store)) for c in registry["claim"] for t in c["test"]]
    families: dict[tuple[str, str], list[int]] = {}
    for k, (_, test, evidence) in enumerate(tests):
        if evidence.estimate is not None and not evidence.adjusted:
            judge = test.get("by") or test.get("rank") or ""
            families.setdefault((test["file"], judge), []).append(k)
    p_values = [math.nan if e.estimate is None else e.estimate.p_value for *_, e in tests]
    for family in families.values():
        for k, p in zip(family, holm([p_values[k] for k in family]).tolist(), strict=True):
            p_values[k] = p
    found: dict[str, list[Judged]] = {}
    for (name, test, evidence), p in zip(tests, p_values, strict=True):
        judged = Judged(test, evidence, p, resolve_test(evidence.estimate, p))
        found.setdefault(name, []).append(judged)
    return found


def resolve_test(estimate: Estimate | None, p: float) -> str:
    """Say what became of one test: its p-value after Holm decides, the sign says which way."""
    if estimate is None:
        return LEFT
    if not p < ALPHA:
        return OPEN
    return HOLDS if estimate.mean > estimate.null else FAILS


def claim_verdict(tests: Sequence[Judged]) -> str:
    """Join the verdicts of a claim's tests; those that were not run yet have no say.

    All hold: `holds`. Some hold: `holds when`. None holds and one is resolved the other way:
    `fails`. None is resolved: `not resolved`.
    """
    told = [t.verdict for t in tests if t.verdict != LEFT]
    if not told:
        return LEFT
    if HOLDS in told:
        return HOLDS if set(told) == {HOLDS} else WHEN
    return FAILS if FAILS in told else OPEN


# --- the paper's own error ------------------------------------------------------------------------


def paper_error(worse: float, better: float, n: int) -> float:
    """Return the standard error, in points, of the difference of two percentages of n prompts.

    Both systems met the same prompts, but papers do not print the pairs, so this is the error of
    two independent shares.
    """
    return 100 * math.sqrt(sum(w / 100 * (1 - w / 100) for w in (worse, better)) / n)


def spell_printed(row: Sequence[Any]) -> list[str]:
    """Return a line of the table of a paper's numbers."""
    name, worse, better, unit, n = row
    cells = [name, f"{worse:g}", f"{better:g} {unit}", f"{better - worse:+.4g}"]
    if not n or not unit.startswith("%"):
        return [*cells, "not printed", "-", "-"]
    error = paper_error(worse, better, abs(n))
    most, least = ("at most ", "at least ") if n < 0 else ("", "")
    ratio = ("at most " if n < 0 else "") + f"{(better - worse) / error:.1f}"
    return [*cells, f"{most}{abs(n):,}", f"{least}{error:.2f}", ratio]


# --- the page -------------------------------------------------------------------------------------


def claims_page(registry: Mapping[str, Any], judged: Mapping[str, list[Judged]]) -> str:
    """Return the page: how many hold, all in one table, then each with its numbers."""
    parts = ["# Claims", *_head(judged), "## All of them", _table(registry, judged)]
    for paper, about in registry["papers"].items():
        parts.append(f"## {about['title']}")
        parts.append(f"[{about['link'].removeprefix('https://')}]({about['link']})")
        for claim in registry["claim"]:
            if claim["paper"] == paper:
                parts += _claim(registry, claim, judged[claim["id"]])
    return "\n\n".join(parts) + "\n"


def _head(judged: Mapping[str, list[Judged]]) -> Iterator[str]:
    counts = Counter(claim_verdict(tests) for tests in judged.values())
    tests = [t for own in judged.values() for t in own]
    kinds = Counter(t.evidence.kind for t in tests)
    old = sum(t.evidence.old for t in tests if t.evidence.estimate)
    yield (
        "Generated by `python experiments/claims.py` from `docs/claims/claims.toml` and the "
        "outcomes in [docs/results](../results/index.md)."
    )
    yield (
        "The papers that this project started from say that one thing is better than another, or "
        "that it grows with something. Each such sentence is here in our words, with the paper's "
        "numbers and what came of it in a small world in which the truth is known. It says how "
        "methods work there, and not how large models rank: "
        "[how far that world is from people](world.md)."
    )
    yield f"**{len(judged)} claims:** " + ", ".join(f"{counts[v]} {v}" for v in VERDICTS) + "."
    yield (
        "- *Holds*: all of its tests that were run are resolved in its favour, p < .05 after Holm. "
        "Where some were not run yet, the number of those that were stands beside the verdict.\n"
        "- *Holds when*: some are and others are not. Those that hold are named, and those that "
        "are resolved the other way.\n"
        "- *Fails*: none is, and at least one is resolved the other way; it is named where others "
        "are open.\n"
        "- *Not resolved*: no test is. It says nothing against the claim.\n"
        "- *Not run yet*: its outcomes are not stored; the command stands with the claim."
    )
    yield (
        "Holm runs over all tests that the same experiment decides by the same judge. A "
        "comparison's own page corrects over the few claims of its plan, so it may resolve what "
        "is open here. An estimate that an experiment corrected itself keeps the p-value of its "
        "own page."
    )
    yield (
        f"The {len(tests)} tests: {kinds['outcomes']} from outcomes prompt by prompt, with the "
        f"intervals of docs/adr/0018; {kinds['numbers']} from other numbers by seed and prompt, "
        f"with the same; {kinds['estimate']} as an experiment stored them; "
        f"{kinds['means']} from means of each seed and {kinds['seeds']} from one number a seed, "
        f"with a t interval over seeds alone; {kinds['missing']} not run yet. "
        f"{old} are marked `†`: measured before outcomes were kept, with settings of that day. "
        "An interval over seeds alone says nothing about other prompts: where all seeds met the "
        "same ones, it is too narrow."
    )
    yield (
        "A paper's own error is recomputed from what it prints: the standard error of the "
        "difference of two shares. Papers do not say how the two systems differ prompt by prompt, "
        "and none has several training runs, so the true error may be smaller or larger."
    )


def _table(registry: Mapping[str, Any], judged: Mapping[str, list[Judged]]) -> str:
    head = ["claim", "paper: gap in its standard errors", "here: first test", "verdict"]
    lines = []
    for claim in registry["claim"]:
        tests = judged[claim["id"]]
        printed = [spell_printed(row) for row in claim["printed"]]
        known = [f"{row[-1]} ({row[0]})" for row in printed if row[-1] != "-"]
        link = f"[{claim['says']}](#{claim['id']})"
        lines.append([link, known[0] if known else "-", spell_first(tests), spell_verdict(tests)])
    return markdown(head, lines)


def spell_first(tests: Sequence[Judged]) -> str:
    """Spell the first test that was run, with its label."""
    first = next((t for t in tests if t.evidence.estimate), None)
    return f"{first.test['label']}: {spell_estimate(first)}" if first else "-"


def spell_verdict(tests: Sequence[Judged]) -> str:
    """Spell a claim's verdict, and how many of its tests were run where some were not."""
    run = sum(t.verdict != LEFT for t in tests)
    some = f" ({run} of {len(tests)} tests run)" if 0 < run < len(tests) else ""
    return spell_cases(tests) + some


def spell_cases(tests: Sequence[Judged]) -> str:
    """Spell a claim's verdict, with the tests that hold and fail where they differ."""
    verdict = claim_verdict(tests)
    run = [t for t in tests if t.verdict != LEFT]
    held, failed = (_labels(run, v) for v in (HOLDS, FAILS))
    if verdict == WHEN:
        return f"{WHEN}: {held}" + (f"; fails when: {failed}" if failed else "")
    if verdict == FAILS and any(t.verdict != FAILS for t in run):
        return f"fails when: {failed}"
    return verdict


def _labels(tests: Sequence[Judged], verdict: str) -> str:
    return ", ".join(t.test["label"].replace(", ", " ") for t in tests if t.verdict == verdict)


def _claim(
    registry: Mapping[str, Any], claim: Mapping[str, Any], tests: Sequence[Judged]
) -> Iterator[str]:
    yield f"### {claim['id']}"
    yield f"{claim['says']} ({claim['place']})"
    yield f"Shown by: {claim['shows']} **{_sentence(spell_verdict(tests))}.**"
    if claim["printed"]:
        head = ["paper", "worse", "better", "gap", "n", "standard error", "gap / error"]
        yield markdown(head, [spell_printed(row) for row in claim["printed"]])
    head = ["test", "more by", "Holm p", "verdict", "measured", "from"]
    yield markdown(head, [_line(t) for t in tests])
    yield "\n".join(
        f"- `{registry['files'][f]['command']}`"
        for f in dict.fromkeys(t.test["file"] for t in tests)
    )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _line(judged: Judged) -> list[str]:
    evidence, test = judged.evidence, judged.test
    if evidence.estimate is None:
        return [test["label"], "-", "-", judged.verdict, "-", f"{test['file']}: {evidence.missing}"]
    p = "-" if math.isnan(judged.p) else f"{judged.p:.2g}"
    seeds = f"{evidence.estimate.seeds} seeds" if evidence.estimate.seeds > 1 else ""
    how = ", ".join(x for x in (test["file"], FROM[evidence.kind], seeds) if x)
    return [test["label"], spell_estimate(judged), p, judged.verdict, evidence.day or "-", how]


def spell_estimate(judged: Judged) -> str:
    """Spell a test's number with its interval."""
    x = judged.evidence.estimate
    assert x is not None
    mark = " †" if judged.evidence.old else ""
    if math.isnan(x.low):
        return f"{x.mean:+.3g} (no interval){mark}"
    return f"{x.mean:+.3g} [{x.low:+.3g}, {x.high:+.3g}]{mark}"


if __name__ == "__main__":
    sys.exit(main())
