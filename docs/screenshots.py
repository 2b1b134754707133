"""Makes docs/images/report_*.png from a run folder's report.html, in a headless Chromium.

    python docs/screenshots.py runs/first

Needs `pip install -c constraints.txt -e '.[test]'` and a Chromium (Debian: apt-get install
chromium).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main(folder: str) -> None:
    """Write the three images."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    report = (Path(folder).absolute() / "report.html").as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)

        def visit(name: str, **options: Any) -> None:
            page = browser.new_page(reduced_motion="reduce", **options)
            page.goto(report)
            if name == "dark":  # the samples, one of them with its whole text
                page.get_by_label("Show").select_option("most ambiguous")
                page.locator(".explorer tbody tr").nth(1).click()
                page.mouse.move(0, 0)
                page.evaluate("document.querySelector('.explorer').scrollIntoView()")
                page.evaluate("scrollBy(0, -60)")
            page.screenshot(path=IMAGES / f"report_{name}.png")

        IMAGES.mkdir(exist_ok=True)
        visit("light", viewport=DESK, color_scheme="light")
        visit("dark", viewport=DESK, color_scheme="dark")
        visit("phone", viewport=PHONE, color_scheme="light", device_scale_factor=1.5)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
