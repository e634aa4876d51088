"""The labelling page in a real browser: by keyboard alone, accessible, deaf to hostile text."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("litestar", reason="needs the extra `label`")

import sqlalchemy as sa

from label_server import invite, served
from labels import write_rows
from tandem.labelling.judgements import load_votes
from tandem.labelling.setup import find_database

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `make browser` installs one"),
]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
QUESTIONS = 50


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in [dev]")
    with playwright.sync_playwright() as start:
        found = start.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Desk:
    """A page whose console, errors and requests are kept, and which is checked by axe."""

    def __init__(self, browser, base, viewport=DESKTOP, **context):
        self.base = base
        self.context = browser.new_context(viewport=viewport, **context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(m.text))
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("dialog", lambda d: self.said.append(f"dialog {d.message}"))

    def enter(self, path):
        self.page.goto(self.base + path)
        self.check("invitation")
        self.begin()

    def begin(self):
        self.page.get_by_role("button", name="Begin").press("Enter")
        self.page.wait_for_selector("#work")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def token(self):
        return self.page.locator("#work").get_attribute("data-token") or ""

    @property
    def state(self):
        return self.page.locator("#state").inner_text()

    def await_next(self, before):
        self.page.wait_for_function(
            "t => !document.querySelector('#work.saving') && "
            "(document.querySelector('#work').dataset.token || '') !== t",
            arg=before,
        )

    def vote(self, *keys):
        before = self.token
        self.press(*keys, "Enter")
        self.await_next(before)

    def check(self, where):
        """No violation of any level, and nothing that scrolls sideways."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is in [dev]")
        found = axe.Axe().run(self.page).response["violations"]
        assert not found, (where, [(v["id"], [n["target"] for n in v["nodes"]]) for v in found])
        width = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert width <= 0, (where, "scrolls sideways by", width)

    def close(self):
        self.context.close()


def questions(path: Path) -> Path:
    rows = [
        {"prompt": f"question {k}", "chosen": f"good {k}", "rejected": f"bad {k}"}
        for k in range(QUESTIONS)
    ]
    return write_rows(path, rows)


def test_fifty_questions_by_keyboard_over_two_days(browser, tmp_path):
    folder = tmp_path / "project"
    data = questions(tmp_path / "data.jsonl")
    with served("serve", str(data), "--out", str(folder)) as server:
        link = invite(folder, "Ann")
        desk = Desk(browser, server.base)
        desk.enter(link)
        desk.check("first question")
        desk.vote("1")
        assert desk.state == "Saved."
        first = desk.token
        desk.press("u")
        desk.await_next(first)
        assert "Taken back" in desk.state
        assert desk.page.locator("input[value='1']").is_checked()
        desk.check("taken back")
        desk.vote("3")
        # a reason, a better answer, both bad
        desk.press("r")
        desk.page.keyboard.type("because 7 is better")
        desk.press("Escape", "w")
        desk.page.keyboard.type("a better one")
        desk.press("Escape", "b")
        desk.check("with boxes open")
        desk.vote("6")
        # marked differences keep what was typed
        desk.press("r")
        desk.page.keyboard.type("typed")
        desk.press("Escape", "d")
        desk.page.wait_for_selector("mark")
        desk.check("differences")
        assert desk.page.locator("[name=rationale]").input_value() == "typed"
        desk.vote("2")
        # a skip with a reason
        before = desk.token
        desk.press("s", "ArrowDown", "Enter")
        desk.await_next(before)
        assert desk.state == "Skipped."
        # nothing is sent without a choice
        desk.press("Enter")
        assert "Choose an answer first" in desk.state
        # edit an earlier one
        desk.page.goto(f"{server.base}/mine")
        desk.check("my votes")
        desk.page.locator(".votes a").last.focus()
        desk.press("Enter")
        desk.page.wait_for_selector("#work")
        assert "What you save now replaces it" in desk.page.locator("#work").inner_text()
        desk.check("an edit")
        desk.vote("7")
        desk.press("?")
        desk.check("keys")
        # save at once
        desk.press("?", "a")
        for k in range(20):
            before = desk.token
            desk.press(str(1 + k % 7))
            desk.await_next(before)
        # a password for another day
        desk.page.goto(f"{server.base}/account")
        desk.check("account")
        desk.page.locator("[name=password]").focus()
        desk.page.keyboard.type("four quiet green boats")
        desk.press("Enter")
        desk.page.wait_for_selector("text=The password is set")
        assert desk.said == []
        desk.close()

        # the next day: another browser, another session
        desk = Desk(browser, server.base, color_scheme="dark", reduced_motion="reduce")
        desk.page.goto(server.base)
        desk.check("sign in")
        desk.page.locator("[name=name]").focus()
        desk.page.keyboard.type("Ann")
        desk.press("Tab")
        desk.page.keyboard.type("four quiet green boats")
        desk.press("Enter")
        desk.page.wait_for_selector("#work")
        assert "24 done, 26 left" in desk.page.locator(".progress").inner_text()
        desk.check("dark")
        while desk.token:
            desk.vote("2")
        assert "You are done" in desk.page.locator("#work").inner_text()
        desk.check("finished")
        assert desk.said == []
        desk.close()
    assert not (folder / "csp-reports.jsonl").exists()
    database = find_database(folder)
    with database.read() as connection:
        votes = load_votes(connection)
        skips = load_votes(connection, ("skip",))
    database.close()
    assert (len(votes), len(skips)) == (QUESTIONS - 1, 1)
    written = [v.event for v in votes if v.event["better_answer"]]
    assert [(e["rationale"], e["better_answer"], e["both_bad"]) for e in written] == [
        ("because 7 is better", "a better one", True)
    ]
    assert sorted(v.event["choice"] for v in votes)[-1] == 7
    assert all(0 < v.event["seconds"] < 60 for v in votes)
    assert {v.event["device"] for v in votes} == {"desktop"}


def test_criteria_are_judged_by_keyboard(browser, tmp_path):
    folder = tmp_path / "project"
    data = questions(tmp_path / "data.jsonl")
    asked = ("--criteria", json.dumps(["helpful", "honest"]))
    with served("serve", str(data), "--out", str(folder), *asked) as server:
        for viewport in (DESKTOP, PHONE):
            desk = Desk(browser, server.base, viewport)
            desk.enter(invite(folder, f"Ann {viewport['width']}"))
            desk.press("c", "ArrowRight")  # from "not judged" round to "A is better"
            desk.check("criteria")
            desk.press("Escape")
            assert desk.page.locator("#criteria").get_attribute("open") is not None
            desk.vote("6")
            assert desk.state == "Saved."
            assert desk.page.locator("#criteria").get_attribute("open") is None
            assert desk.said == []
            desk.close()
    database = find_database(folder)
    with database.read() as connection:
        votes = load_votes(connection)
    database.close()
    assert [v.event["criteria"] for v in votes] == [{"helpful": "a"}] * 2
    assert [v.event["choice"] for v in votes] == [6, 6]


def test_every_page_and_state_is_accessible_on_desktop_and_phone(browser, tmp_path):
    folder = tmp_path / "demo"
    with served("demo", "--out", str(folder)) as server:
        desk = Desk(browser, server.base)
        desk.enter(server.link.removeprefix(server.base))
        shapes = {"code": "text file", "arabic": "المغرب", "table": "bicycle", "rank": "first talk"}
        paths = ["/lead", "/lead/report", "/lead/items", "/lead/items/1", "/lead/disputed",
                 "/lead/people", "/lead/rubric", "/mine", "/account", "/nowhere"]  # fmt: skip
        seen = set()
        for _ in range(60):
            text = desk.page.locator("#work").inner_text()
            new = [name for name, words in shapes.items() if words in text and name not in seen]
            for name in new:
                seen.add(name)
                for viewport in (DESKTOP, PHONE):
                    for scheme in ("light", "dark"):
                        desk.page.set_viewport_size(viewport)
                        desk.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                        desk.check((name, viewport["width"], scheme))
                desk.page.set_viewport_size(DESKTOP)
            if len(seen) == len(shapes):
                break
            ranking = desk.page.locator("#vote select").count()
            desk.vote(*(("2", "1", "3") if ranking else ("2",)))
        assert len(seen) == len(shapes)
        for path in paths:
            desk.page.goto(server.base + path)
            for viewport in (DESKTOP, PHONE):
                desk.page.set_viewport_size(viewport)
                desk.check((path, viewport["width"]))
        desk.close()
    assert not (folder / "csp-reports.jsonl").exists()


HOSTILE = {
    "script": "<script>document.title='owned';fetch('http://127.0.0.1:9/x')</script>",
    "image": "<img src=http://127.0.0.1:9/pixel.png onerror=\"document.title='owned'\">",
    "svg": "<svg onload=\"document.title='owned'\"><use href='data:image/svg+xml,x'/></svg>",
    "style": "<style>*{display:none}body{background:url(http://127.0.0.1:9/css)}</style>",
    "form": "</div></article></form><form action=http://127.0.0.1:9/steal><input name=key>",
    "markdown": "![x](http://127.0.0.1:9/md.png) [click](javascript:document.title='owned')"
    " <http://127.0.0.1:9/auto> [ref]\n\n[ref]: http://127.0.0.1:9/ref",
    "data": '<a href="data:text/html,<script>alert(1)</script>">x</a>'
    "<iframe src=data:text/html,x></iframe>",
    "template": "{{ 7*7 }} {% raw %} ${7*7} <div hx-get=/lead hx-trigger=load>",
    "bidi": "user\u202e\u2066 // admin\u2069 \u2066 end",
    "terminal": "\x1b[31mred\x1b[0m\x07 \x9b31m",
    "long": "x" * (1 << 20),
    "zalgo": "a" + "\u0301" * 500,
    "fence": "```html\n</code></pre><script>document.title='owned'</script>\n```",
}


def test_hostile_completions_do_nothing_and_nothing_leaves_the_page(browser, tmp_path):
    rows = [
        {"prompt": f"{name}: {text[:200]}", "chosen": text, "rejected": f"plain {name}"}
        for name, text in HOSTILE.items()
    ]
    conversation = [
        {"role": "user", "content": HOSTILE["script"]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "search", "arguments": HOSTILE}}],
        },
        *({"role": "user", "content": f"turn {k}"} for k in range(100)),
    ]
    rows.append(
        {
            "prompt": [*conversation, {"role": "user", "content": "final turn"}],
            "chosen": [{"role": "assistant", "content": HOSTILE["image"]}],
            "rejected": [{"role": "assistant", "content": HOSTILE["svg"]}],
        }
    )
    data = write_rows(tmp_path / "hostile.jsonl", rows)
    rubric = tmp_path / "rubric.md"
    rubric.write_text("\n\n".join(v for k, v in HOSTILE.items() if k != "long"))
    folder = tmp_path / "project"
    words = ("serve", str(data), "--out", str(folder), "--rubric", str(rubric))
    with served(*words) as server:
        desk = Desk(browser, server.base)
        desk.page.goto(server.link)
        desk.begin()
        count = 0
        whole = False
        while desk.token:
            count += 1
            page = desk.page
            assert page.title() == "Which answer is better?"
            assert page.locator(".answer").count() == 2, "no form or article was closed"
            assert page.locator(".text img, .text svg, .text iframe, .text form").count() == 0
            assert page.locator(".text a, .text script, .text style, .text [hx-get]").count() == 0
            assert page.locator("#vote").is_visible()
            shown = page.locator("#work").inner_text()
            assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b\x9b]", shown)
            if "All of it, as plain text" in shown:
                whole = True
                address = page.get_by_text("All of it, as plain text").get_attribute("href")
                answer = desk.context.request.get(server.base + address)
                assert answer.headers["content-type"].startswith("text/plain")
                assert len(answer.text()) == 1 << 20
            if "final turn" in shown:
                assert "earlier turns" in shown
            desk.press("d")
            page.wait_for_selector("text=Hide differences")
            desk.vote("2", "r", "x", "Escape")
        assert count == len(rows)
        assert whole
        for path in ("/mine", "/lead/items", *(f"/lead/items/{k + 1}" for k in range(len(rows)))):
            desk.page.goto(server.base + path)
            assert desk.page.title() != "owned"
        assert desk.said == []
        away = [u for u in desk.asked if not u.startswith(server.base)]
        assert away == []
        desk.close()
    assert not (folder / "csp-reports.jsonl").exists(), "the policy had nothing to stop"


def test_the_policy_is_on_and_its_reports_arrive(browser, tmp_path):
    """What is stopped is reported; otherwise no report would prove nothing."""
    folder = tmp_path / "project"
    data = questions(tmp_path / "data.jsonl")
    with served("serve", str(data), "--out", str(folder)) as server:
        desk = Desk(browser, server.base)
        desk.page.goto(server.link)
        desk.page.evaluate(
            "() => { const s = document.createElement('script'); s.textContent = "
            "\"document.title='owned'\"; document.body.append(s); }"
        )
        desk.page.wait_for_timeout(300)
        assert desk.page.title() != "owned"
        desk.close()
    (line, *_) = (folder / "csp-reports.jsonl").read_text().splitlines()
    assert "script-src" in json.loads(line)


def test_a_vote_is_sent_again_when_the_server_was_away(browser, tmp_path):
    folder = tmp_path / "project"
    data = questions(tmp_path / "data.jsonl")
    with served("serve", str(data), "--out", str(folder)) as server:
        desk = Desk(browser, server.base)
        desk.page.goto(server.link)
        desk.begin()
        before = desk.token
        server.kill()
        desk.press("2", "Enter")
        desk.page.wait_for_selector("text=Not saved yet")
        server.start()
        desk.await_next(before)
        assert desk.state == "Saved."
        desk.close()
    database = find_database(folder)
    with database.read() as connection:
        assert len(load_votes(connection)) == 1
        assert connection.execute(sa.text("SELECT count(*) FROM event")).scalar() == 1
    database.close()
