"""The report in a real browser: silent, offline, complete, usable by keyboard, accessible."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from reports import synthetic
from tandem.report import write_comparison, write_report

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `make browser` installs one"),
]
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in [dev]")
    with playwright.sync_playwright() as start:
        found = start.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "results.json").write_text(json.dumps(synthetic()))
    return write_report(folder)


@pytest.fixture
def opened(browser):
    """Opens a page and collects what the console says and what is asked of the network."""
    contexts = []

    def start(file: Path, size: str = "desktop", scheme: str = "light"):
        context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda m: page.said.append(m.text))
        page.on("pageerror", lambda e: page.said.append(str(e)))
        page.on("request", lambda r: page.asked.append(r.url))
        page.goto(file.as_uri())
        return page

    yield start
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_silent_offline_complete_and_accessible(opened, page_file, size, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is in [dev]")
    page = opened(page_file, size, scheme)
    drawings = page.locator("svg[role=img]")
    assert drawings.count() == 5
    for k in range(5):
        box = drawings.nth(k).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 120
    width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0, "the page itself never scrolls sideways"
    assert page.said == []
    assert page.asked == [page_file.as_uri()]
    found = axe.Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], [n["target"] for n in v["nodes"]]) for v in serious]


def test_drawings_follow_the_readers_colours(opened, page_file):
    ask = "getComputedStyle(document.querySelector('#frontier text')).fill"
    light, dark = (opened(page_file, scheme=s).evaluate(ask) for s in ("light", "dark"))
    assert light != dark


def test_samples_are_browsed_by_keyboard(opened, page_file):
    page = opened(page_file)
    shown = page.locator(".sample:visible")
    place = page.locator("#place")
    assert shown.count() == 1
    assert place.inner_text() == "1 of 12"
    assert shown.locator("h3").inner_text() == "Prompt 1"
    page.locator("#order").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("j")
    page.keyboard.press("ArrowRight")
    assert (place.inner_text(), shown.locator("h3").inner_text()) == ("3 of 12", "Prompt 3")
    page.keyboard.press("k")
    page.keyboard.press("End")
    assert place.inner_text() == "12 of 12"
    page.keyboard.press("j")
    assert place.inner_text() == "12 of 12"
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert place.inner_text() == "2 of 12"


def test_keys_do_nothing_outside_the_samples(opened, page_file):
    page = opened(page_file)
    page.locator("nav a").first.focus()
    page.keyboard.press("j")
    assert page.locator("#place").inner_text() == "1 of 12"


def test_samples_are_sorted_by_what_the_reader_asks(opened, page_file):
    page = opened(page_file)
    first = page.locator(".sample:visible")
    page.locator("#order").select_option("length")
    lengths = [a["length"] for s in synthetic()["samples"] for a in s["answers"]]
    assert int(first.get_attribute("data-length")) == max(lengths)
    page.locator("#order").select_option("regression")
    every = page.locator(".sample").evaluate_all(
        "all => all.map(s => Number(s.dataset.regression))"
    )
    assert float(first.get_attribute("data-regression")) == max(every)
    page.locator("#order").select_option("gap")
    assert "against SFT: proxy" in first.locator(".why").inner_text()


def test_without_script_every_sample_can_be_read(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator(".sample:visible").count() == 12
    assert not page.locator(".controls").is_visible()
    context.close()


def test_hostile_text_does_nothing_in_a_browser(opened, tmp_path):
    from unit.test_report import hostile

    (tmp_path / "results.json").write_text(json.dumps(hostile()))
    page = opened(write_report(tmp_path))
    assert page.title() != "owned"
    assert page.said == []
    assert len(page.asked) == 1
    assert page.locator("#samples").is_visible()


def test_a_comparison_is_silent_and_accessible(opened, page_file, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is in [dev]")
    source = page_file.parent
    page = opened(write_comparison(source, source, tmp_path / "diff.html"), "phone")
    assert page.said == []
    found = axe.Axe().run(page).response["violations"]
    assert not [v["id"] for v in found if v["impact"] in ("serious", "critical")]


def test_it_prints(opened, page_file):
    page = opened(page_file, scheme="dark")
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
