"""What was found, as a paper would say it: prose whose every number comes from the claims.

    python experiments/findings.py             # docs/findings.md, from experiments/findings.md
    python experiments/findings.py --check     # exit code 1 if the page is not that of the outcomes

The prose stands in experiments/findings.md. In it, between double braces:

    {{ID}}                the first test of a claim of docs/claims/claims.toml that was run
    {{ID: LABEL}}         one of its tests, by its label
    {{table ID ID ...}}   a table of claims with their verdicts
    {{if ID is VERDICT}}  nothing: the paragraph was written for this verdict, which names the tests
                          that hold or fail where they differ: `holds when: truth`

A sentence cannot outlive its verdict: when an outcome is measured again and the verdict changes,
the page is not made until somebody has written the paragraph anew.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import claims
from evidence import Store
from pages import markdown
from tandem.runs.atomic_files import write_text

PROSE = Path(__file__).with_name("findings.md")
PAGE = claims.DOCS / "findings.md"
BRACES = re.compile(r"\{\{(.+?)\}\}", re.DOTALL)
Judged = Mapping[str, list[claims.Judged]]


def main(words: Sequence[str] | None = None) -> int:
    """Write the page, or say whether it would change."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args(words)
    registry = claims.read_registry(claims.REGISTRY)
    judged = claims.judge_registry(registry, Store(claims.DOCS / "results"))
    try:
        text = findings_page(PROSE.read_text(encoding="utf-8"), registry, judged)
    except ValueError as error:
        print(f"{PROSE}: {error}", file=sys.stderr)
        return 2
    if asked.check:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{PAGE} is out of date: `make pages` makes it again", file=sys.stderr)
        return 1
    write_text(PAGE, text)
    print(PAGE)
    return 0


def findings_page(prose: str, registry: Mapping[str, Any], judged: Judged) -> str:
    """Return the prose with what stands between braces filled in.

    Raises:
        ValueError: a claim or a test that is not there or was not run, or a paragraph that was
            written for another verdict.
    """
    says = {claim["id"]: claim["says"] for claim in registry["claim"]}
    filled = BRACES.sub(lambda found: _fill(found[1].split(), found[1], says, judged), prose)
    return re.sub(r"\n{3,}", "\n\n", filled)


def _fill(words: list[str], text: str, says: Mapping[str, str], judged: Judged) -> str:
    if words[0] == "table":
        return _table(words[1:], says, judged)
    if words[0] == "if":
        _check_verdict(words[1], " ".join(words[3:]), judged)
        return ""
    name, _, label = (part.strip() for part in text.partition(":"))
    tests = [t for t in _tests(name, judged) if label in ("", t.test["label"])]
    run = [t for t in tests if t.evidence.estimate is not None]
    if not run:
        raise ValueError(f"{{{{{text}}}}}: no test of that name was run")
    return claims.spell_estimate(run[0])


def _tests(name: str, judged: Judged) -> list[claims.Judged]:
    if name not in judged:
        raise ValueError(f"there is no claim {name!r} in {claims.REGISTRY.name}")
    return judged[name]


def _check_verdict(name: str, written: str, judged: Judged) -> None:
    found = claims.spell_cases(_tests(name, judged))
    if found != written:
        raise ValueError(
            f"a paragraph was written for {name!r} with the verdict {written!r}, which is now "
            f"{found!r}: write it anew"
        )


def _table(names: Sequence[str], says: Mapping[str, str], judged: Judged) -> str:
    rows = []
    for name in names:
        tests = _tests(name, judged)
        link = f"[{says[name]}](claims/index.md#{name})"
        rows.append([link, claims.spell_first(tests), claims.spell_verdict(tests)])
    return markdown(["claim", "here", "verdict"], rows)


if __name__ == "__main__":
    sys.exit(main())
