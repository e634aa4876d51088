"""Take the README's picture: the first screen of a report, in a real Chromium.

    python docs/picture.py runs/demo/report.html        # writes docs/report.png

Chromium is Debian's (`make browser`) or the one that CHROMIUM names.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

OUT = Path(__file__).with_name("report.png")
SIZE = {"width": 1180, "height": 1120}
LARGEST = 200_000


def main(report: Path, out: Path = OUT) -> int:
    """Open the report, take its first screen, refuse a picture that is too large for the README."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as start:
        browser = start.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.screenshot(path=str(out))
        browser.close()
    size = out.stat().st_size
    print(f"{out} ({size:,} bytes)")
    return int(size > LARGEST)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(Path, sys.argv[2:])))
