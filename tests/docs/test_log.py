"""The log can be read by a visitor: short lines, the same three parts, one index of everything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LOG = Path(__file__).parents[2] / "docs" / "log"
TOPICS = sorted(p for p in LOG.glob("*.md") if p.name != "index.md")
WIDEST = 110
PARTS = ["Expected", "Happened", "Done"]


def entries(page: Path) -> list[tuple[str, str]]:
    """The headings of a page with what stands under each."""
    _, *pieces = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.M)
    return [(p.partition("\n")[0], p.partition("\n")[2]) for p in pieces]


def anchor(heading: str) -> str:
    """What GitHub and the site make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", TOPICS, ids=lambda p: p.stem)
def test_an_entry_has_a_date_and_three_parts(page: Path):
    found = entries(page)
    assert found
    for heading, text in found:
        assert re.match(r"\d{4}-\d\d-\d\d \S", heading), heading
        assert re.findall(rf"^\*\*({'|'.join(PARTS)})\b", text, flags=re.M) == PARTS, heading


@pytest.mark.parametrize("page", [*TOPICS, LOG / "index.md"], ids=lambda p: p.stem)
def test_lines_are_short(page: Path):
    lines = page.read_text(encoding="utf-8").splitlines()
    prose = [x for x in lines if not x.startswith(("|", "- 2"))]
    assert max(map(len, prose)) <= WIDEST


def test_the_index_lists_every_entry_once_newest_first():
    lines = re.findall(
        r"^- (\S+) \[(.+)\]\((\S+\.md)#(\S+)\): \S.*$", (LOG / "index.md").read_text("utf-8"), re.M
    )
    listed = [(file, f"{date} {title}") for date, title, file, _ in lines]
    assert sorted(listed) == sorted((p.name, h) for p in TOPICS for h, _ in entries(p))
    assert all(at == anchor(f"{date} {title}") for date, title, _, at in lines)
    dates = [date for date, *_ in lines]
    assert dates == sorted(dates, reverse=True)
