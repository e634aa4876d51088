"""Citations of the theory lead somewhere: a page of docs/theory, and a heading of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THEORY = ROOT / "docs" / "theory"
PAGES = sorted(THEORY.glob("*.md"))
FOLDERS = ("src", "tests", "experiments", "benchmarks", "docs")
SUFFIXES = (".py", ".md", ".toml")
CITED = re.compile(r"(?:^|[^\w/])(?:\.\./)*(?:docs/)?theory/(\w+\.md)(?:#([\w-]+))?", re.MULTILINE)
LINKED = re.compile(r"\]\((?!https?:)([\w./]*)(?:#([\w-]+))?\)")
LOST = re.compile(r"METHODS(\.md)?,?\s+(#\s+)?(sections?\b|§|\d)|\(METHODS: ")
"""A citation of the notes that this theory replaced, which nobody outside has."""
BUILT = {
    "sft.md", "reward_models.md", "ppo.md", "relatives.md", "dpo.md", "best_of_n.md",
    "rejection_sampling.md", "raft.md", "rest.md", "rlp.md", "ai_feedback.md",
    "over_optimisation.md",
}  # fmt: skip


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def headings(text: str) -> list[str]:
    """Return the headings of a page; what looks like one inside a fenced block is none."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return re.findall(r"^#{1,6} (.+)$", plain, flags=re.M)


def anchors(page: Path) -> set[str]:
    return {slug(h) for h in headings(page.read_text(encoding="utf-8"))}


def written() -> list[Path]:
    """Return every text that may cite the theory."""
    found = (p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*")))
    return [p for p in found if p.suffix in SUFFIXES and p != Path(__file__)]


def unresolved(text: str) -> list[str]:
    """Return the citations of a text that lead nowhere."""
    cited = {(page, anchor) for page, anchor in CITED.findall(text)}
    return sorted(
        f"{page}#{anchor}"
        for page, anchor in cited
        if not (THEORY / page).is_file() or (anchor and anchor not in anchors(THEORY / page))
    )


def test_every_citation_leads_to_a_heading():
    missing = {
        str(path.relative_to(ROOT)): lost
        for path in written()
        if (lost := unresolved(path.read_text(encoding="utf-8")))
    }
    assert not missing


def test_the_source_cites_the_theory_of_what_it_builds():
    """So that the test above has something to look at."""
    text = "".join(p.read_text(encoding="utf-8") for p in written() if ROOT / "src" in p.parents)
    assert {page for page, _ in CITED.findall(text)} >= BUILT


def test_nothing_cites_what_a_reader_does_not_have():
    lost = {
        str(path.relative_to(ROOT)): match.group()
        for path in written()
        if (match := LOST.search(path.read_text(encoding="utf-8")))
    }
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_between_pages_lead_to_headings(page: Path):
    missing = []
    for target, anchor in LINKED.findall(page.read_text(encoding="utf-8")):
        there = (page.parent / target) if target else page
        if not there.is_file() or (anchor and anchor not in anchors(there)):
            missing.append(f"{target}#{anchor}")
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_anchors_are_the_same_on_every_site(page: Path):
    """GitHub and mkdocs make one anchor of a heading of plain words, and none appears twice."""
    found = headings(page.read_text(encoding="utf-8"))
    assert len({slug(h) for h in found}) == len(found)
    assert all(re.fullmatch(r"[A-Za-z0-9]+(?:[ -][A-Za-z0-9]+)*", h) for h in found)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_mathematics_is_what_github_renders(page: Path):
    """Dollars come in pairs, and no formula has what Markdown would take for its own."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    blocks = re.findall(r"\$\$(.+?)\$\$", text, flags=re.S)
    inline = re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.+?\$\$", "", text, flags=re.S))
    assert text.count("$") == 4 * len(blocks) + 2 * len(inline)
    assert not [f for f in inline if f != f.strip() or "\n" in f]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = {re.sub(r"\$[^$]+\$", "", r).count("|") - r.count("|") for r in rows}
    assert cells <= {0}
    wrong = re.compile(r"[*<>]|\\[,;:!{}]")
    assert not [f for f in blocks + inline if wrong.search(f)]


def test_every_page_is_in_the_index():
    listed = set(re.findall(r"\]\((\w+\.md)\)", (THEORY / "index.md").read_text(encoding="utf-8")))
    assert listed == {p.name for p in PAGES} - {"index.md"}


def test_a_citation_that_leads_nowhere_is_found():
    assert unresolved("see docs/theory/dpo.md#losses and `docs/theory/dpo.md`.") == []
    assert unresolved("see docs/theory/dpo.md#loses") == ["dpo.md#loses"]
    assert unresolved("[there](../theory/nowhere.md)") == ["nowhere.md#"]
    assert slug("When a proxy turns over") == "when-a-proxy-turns-over"
    assert slug("Dr. GRPO & co") == "dr-grpo--co"
    assert LOST.search("(METHODS section 3)")
    assert not LOST.search("from tandem.methods import METHODS")
