"""The docs as a site: built strictly, every module in it, and nothing loaded from elsewhere."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

pytest.importorskip("mkdocs", reason="the extra `site` is not installed (make site)")
pytestmark = pytest.mark.site

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tandem"
BUILT = ROOT / "build" / "site"
SETTINGS = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
HOME = re.findall(r"^repo_url: !ENV \[REPOSITORY_URL, \"(.+)\"\]", SETTINGS, flags=re.M)[0]
REPOSITORY = os.environ.get("REPOSITORY_URL", HOME)
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""What a browser fetches by itself, by element."""


class Page(HTMLParser):
    """What one built page loads, where it links, and which anchors it has."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v for k, v in attrs if v}
        self.anchors |= {found[k] for k in ("id", "name") if k in found}
        if LOADED.get(tag, "") in found:
            self.loads.append(found[LOADED[tag]])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def site() -> Path:
    """The site that `make site` has built."""
    if not (BUILT / "index.html").exists():
        pytest.skip("there is no build/site; `make site` builds it and runs these tests")
    return BUILT


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page that mkdocs made; reports that lie in docs/results are no pages of the site."""
    made = [p for p in site.rglob("*.html") if not (ROOT / "docs" / p.relative_to(site)).exists()]
    return {p: Page(p.read_text(encoding="utf-8")) for p in made}


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]):
    loads = {x for page in pages.values() for x in page.loads}
    assert loads
    assert not {x for x in loads if re.match(r"(?:[a-z]+:)?//", x)}
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text("utf-8"))
    assert not [p for p in pages if 'data-md-component="source"' in p.read_text("utf-8")]


def test_every_public_module_has_a_page(site: Path):
    files = [f for f in PACKAGE.rglob("*.py") if not re.search(r"/_(?!_init__)", str(f))]
    files = [f for f in files if (f.parent / "__init__.py").exists()]  # scripts are no modules
    assert len(files) > 100
    for file in files:
        inside = file.relative_to(PACKAGE).with_suffix("")
        inside = inside.parent if inside.name == "__init__" else inside
        text = (site / "api" / inside / "index.html").read_text(encoding="utf-8")
        assert f'id="{".".join(("tandem", *inside.parts))}"' in text, file


def test_docstrings_are_on_the_page_of_their_module(site: Path):
    text = (site / "api" / "errors" / "index.html").read_text(encoding="utf-8")
    for name in ("ConfigError", "DataError", "RunError"):
        assert f'id="tandem.errors.{name}"' in text


def test_links_inside_the_site_lead_somewhere(site: Path, pages: dict[Path, Page]):
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            target, anchor = urldefrag(unquote(link))
            if re.match(r"[a-z]+:", target):
                continue
            there = (path.parent / target).resolve() if target else path
            there = there / "index.html" if there.is_dir() else there
            assert there.exists(), (path, link)
            if anchor and there in pages:
                assert anchor in pages[there].anchors, (path, link)


def test_links_into_the_repository_name_files_that_are_there(pages: dict[Path, Page]):
    links = {urldefrag(x)[0] for page in pages.values() for x in page.links}
    inside = [x.removeprefix(REPOSITORY) for x in links if x.startswith(f"{REPOSITORY}/")]
    assert len(inside) > 100
    for link in inside:
        kind, path = re.fullmatch(r"/(blob|tree)/main/(.+)", link).groups()  # type: ignore[union-attr]
        assert (ROOT / path).is_dir() if kind == "tree" else (ROOT / path).is_file(), link


def drawn(text: str) -> str:
    """Return Markdown as the site shows it."""
    import markdown

    import site_hooks

    made: Any = markdown.markdown(
        text,
        extensions=["pymdownx.arithmatex"],
        extension_configs={"pymdownx.arithmatex": {"generic": True}},
    )
    page: Any = SimpleNamespace(file=SimpleNamespace(src_uri="theory/" + "x.md"))
    return site_hooks.on_page_content(made, page)


def test_formulas_become_mathml():
    text = drawn("A ratio $\\frac{a}{b} < 1$ and `$x$`.\n\n$$\nx_i^2\n$$\n")
    assert re.search(r'<math [^>]*display="inline"[^>]*>.*<mfrac>.*<mo>&#x0003C;', text)
    assert re.search(r'<math [^>]*display="block"[^>]*>.*<msubsup>', text)
    assert "<code>$x$</code>" in text
    assert "arithmatex" not in text


def test_a_formula_that_cannot_be_drawn_is_refused():
    from mkdocs.exceptions import PluginError

    with pytest.raises(PluginError, match=r"theory/x\.md.*unknown command, 'nosuchthing'"):
        drawn("$\\nosuchthing x$")
    with pytest.raises(PluginError, match="cannot be read"):
        drawn("$x_$")
    with pytest.raises(PluginError, match="brace"):
        drawn("$\\frac{a$")


@pytest.mark.parametrize(
    ("target", "led"),
    [
        ("../src/tandem/rng.py#L3", "R/blob/main/src/tandem/rng.py#L3"),
        ("../experiments", "R/tree/main/experiments"),
        ("adr", "adr/index.md"),
        ("guide.md", "guide.md"),
        ("https://arxiv.org", "https://arxiv.org"),
        ("#here", "#here"),
    ],
)
def test_a_link_is_pointed_at_what_it_means(target: str, led: str):
    import site_hooks

    config: Any = SimpleNamespace(repo_url="R/")
    page: Any = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    text = f"[a]({target}) and `[a]({target})`\n\n```text\n[a]({target})\n```\n"
    made = site_hooks.on_page_markdown(text, page, config, None)  # type: ignore[arg-type]
    assert made == text.replace(f"[a]({target})", f"[a]({led})", 1)


def test_a_link_to_no_file_of_the_repository_is_refused():
    from mkdocs.exceptions import PluginError

    import site_hooks

    page: Any = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    for target in ("../src/tandem/absent.py", "../../elsewhere.md"):
        with pytest.raises(PluginError, match="leads to no file"):
            site_hooks.on_page_markdown(f"[a]({target})", page, None, None)  # type: ignore[arg-type]
