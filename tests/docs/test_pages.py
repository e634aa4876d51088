"""The generated pages are whole, up to date, and speak of code that exists."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import generate
import method_pages
from symbols import ROOT, symbol
from tandem.methods import METHODS, load_method

PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))


def test_what_is_generated_is_up_to_date(capsys):
    """`make docs` would change nothing."""
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_every_method_has_a_page_and_nothing_else_has():
    assert {p.stem for p in PAGES} == set(METHODS) == set(method_pages.written())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_has_all_parts(page: Path):
    text = page.read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.M)
    told = {s.partition("\n")[0]: s.partition("\n")[2].strip() for s in sections[1:]}
    assert list(told) == list(method_pages.PARTS)
    assert all(len(part) > 12 for part in told.values())
    assert "**Not when**" in told["When to use it"]
    assert "](" in told["The paper, and what differs"].partition("The head of")[0]


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_the_configs_fields(name: str):
    """Read from the source as text, they are those of the class; ranges name existing ones."""
    listed = re.findall(rf"^\| `{name}\.(\w+)` ", method_pages.path_of(name).read_text(), re.M)
    own = [f.name for f in fields(load_method(name).config)]
    assert listed == own
    assert set(method_pages.written()[name]["ranges"]) <= set(own)


@pytest.mark.parametrize("name", METHODS)
def test_linked_lines_hold_the_symbol(name: str):
    for term in method_pages.written()[name]["terms"]:
        found = symbol(term["code"])
        line = (ROOT / found.path).read_text(encoding="utf-8").splitlines()[found.first - 1]
        assert re.search(rf"(def|class) {term['code'].rpartition(':')[2].split('.')[-1]}\b", line)


def test_a_symbol_that_is_not_there_is_refused():
    with pytest.raises(LookupError, match="there is no sigmoidal"):
        symbol("tandem.objectives.pairwise:sigmoidal")


def test_the_guide_names_methods_that_exist():
    rows = tomllib.loads((ROOT / "docs" / "guide.toml").read_text(encoding="utf-8"))["row"]
    assert {r["method"] for r in rows if "method" in r} <= set(METHODS)
