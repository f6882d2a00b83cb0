"""Take the pictures of the documentation from a running ZenGlow: ``python scripts/screenshots.py [ADDRESS]``.

Needs a Chromium on the machine, and the project's own documentation in the default collection, as `make run` has it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
QUESTION = "What happens when a worker dies?"


def chat(page: Page, address: str) -> None:
    page.goto(address)
    page.locator("#chat[data-ready]").wait_for(state="attached")
    page.get_by_label("Two agents").check()
    page.get_by_role("textbox", name="Your question").fill(QUESTION)
    page.keyboard.press("Enter")
    page.locator(".answer-card[aria-busy=false]").nth(1).wait_for()
    page.locator(".cite").first.click()
    page.locator("#source-panel mark").wait_for()
    page.screenshot(path=IMAGES / "chat.png")


def main(address: str) -> None:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        sys.exit("There is no Chromium on the PATH.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1680, "height": 940})
        chat(page, address)
        print(f"Wrote {IMAGES / 'chat.png'}")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/")
