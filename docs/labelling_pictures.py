"""Take the pictures of docs/labelling in a real Chromium: `python docs/labelling_pictures.py`."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from label_server import served
from labels import everything, join, say
from tandem.labelling.assignment import Project
from tandem.labelling.data_access import draw_posts
from tandem.labelling.demo import RUBRIC, demo_questions
from tandem.labelling.questions import Questions
from tandem.labelling.setup import find_database, open_project
from tandem.labelling.vote_store import Judgement, record_vote
from tandem.rng import Seed

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
OUT = Path(__file__).parent / "labelling"
DESKTOP, PHONE = {"width": 1280, "height": 760}, {"width": 390, "height": 800}


def shoot(page: Page, name: str, *, phone: bool = False, dark: bool = False) -> None:
    page.set_viewport_size(PHONE if phone else DESKTOP)
    page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")
    page.wait_for_timeout(250)
    page.screenshot(path=OUT / f"{name}.png")


def label_demo(page: Page, link: str) -> None:
    """Vote through the demo and take each kind of question when it comes."""
    page.set_viewport_size(DESKTOP)
    page.goto(link)
    page.get_by_role("button", name="Begin").press("Enter")
    page.wait_for_selector("#work")
    wanted = {"code": "text file", "right-to-left": "المغرب", "ranking": "first talk"}
    while token := page.locator("#work").get_attribute("data-token"):
        text = page.locator("#work").inner_text()
        for name, words in wanted.items():
            if words not in text:
                continue
            if name == "code":
                page.keyboard.press("2")
                shoot(page, "desktop")
                shoot(page, "dark", dark=True)
            else:
                shoot(page, name)
            if name == "right-to-left":
                page.evaluate("document.querySelector('.rubric details').open = false")
                shoot(page, "phone", phone=True)
            page.set_viewport_size(DESKTOP)
        ranking = page.locator("#vote select").count()
        for key in "213" if ranking else random.Random(token).choice("12345"):
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.wait_for_function(
            "t => (document.querySelector('#work').dataset.token || '') !== t", arg=token
        )
    shoot(page, "finished")


def fill(folder: Path) -> None:
    """Let three people of different accuracy judge the demo's questions."""
    project = Project(gold_share=0.2)
    rows = demo_questions(Seed(0))
    open_project(folder, rows, project, Questions(overlap=3), rubric=RUBRIC)
    database = find_database(folder)
    better = {row.id: b for row, b in draw_posts(40, Seed(0))}
    for name, accuracy in (("Ann", 0.95), ("Bob", 0.8), ("Cleo", 0.65)):
        who, draw = join(database, name), random.Random(name)
        for k, ticket in enumerate(everything(database, who, project)):
            if ticket.item["kind"] == "ranking":
                said = Judgement(f"{name}-{k}", ranks=(1, 2, 3, 4), seconds=4)
                with database.write() as connection:
                    record_vote(connection, who, ticket.token, said, project)
                continue
            with database.read() as connection:
                group = connection.exec_driver_sql(
                    f"SELECT group_id FROM item WHERE id = {ticket.item_id}"
                ).scalar()
            sign = better.get(str(group), 1) * (1 if draw.random() < accuracy else -1)
            seconds = draw.uniform(2, 4.9)  # more than went by would not be believed
            say(database, who, ticket, sign * draw.choice((1, 2, 3)), project, seconds=seconds)
    database.close()


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as start:
        browser = start.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with served("demo", "--out", f"{temporary}/demo") as server:
            label_demo(browser.new_page(), server.link)
        fill(Path(temporary) / "filled")
        with served("demo", "--out", f"{temporary}/filled") as server:
            page = browser.new_page(viewport=DESKTOP)
            page.goto(server.link)
            page.get_by_role("button", name="Begin").click()
            page.wait_for_selector("#work")
            page.goto(f"{server.base}/lead/report")
            shoot(page, "agreement")
            page.goto(f"{server.base}/lead")
            shoot(page, "lead")
        browser.close()


if __name__ == "__main__":
    main()
