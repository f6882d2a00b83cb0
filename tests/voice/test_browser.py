"""The page in a real Chromium, before the whole product, with a microphone that is fed from a recording."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.conftest import ARGUMENTS, DEADLINE_MS, chromium
from tests.patience import eventually
from tests.serving import Zenglow, make_zenglow, prepared_data
from tests.voice.sounds import pcm_of, silence

__all__ = ["chromium", "make_zenglow", "prepared_data"]

pytestmark = [pytest.mark.browser, pytest.mark.faults]

RUNBOOK = (
    "The runbook says that slow queries are listed on the dashboard, in the table of the slowest ones, together with "
    "the time that each of their stages took and with the cache that answered them. Whoever finds slow queries there "
    "looks at the load of the database first, then at the indexing worker, and stops it when the database is busy."
)


@pytest.fixture
def microphone(tmp_path: Path) -> Path:
    """A question again and again, with time for an answer to begin: the next one falls into it."""
    path = tmp_path / "microphone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(silence(1500) + pcm_of("slow-queries") + silence(4500))
    return path


@pytest.fixture
def zenglow(make_zenglow: Callable[..., Zenglow]) -> Zenglow:
    zenglow = make_zenglow(VOICE_STT_PROCESSES="1", VOICE_VOCABULARY="true")
    zenglow.start()
    zenglow.finished(zenglow.index({"runbook": RUNBOOK}))
    # A worker makes it of what was indexed; nobody asks for it.
    eventually(lambda: list((zenglow.data_dir / "voice" / "vocabularies").glob("papers.*.lm.bin")) != [])
    return zenglow


@pytest.fixture
def browsing(chromium: str) -> Iterator[Callable[..., Browser]]:
    with sync_playwright() as playwright:
        browsers: list[Browser] = []

        def launch(*arguments: str) -> Browser:
            browsers.append(
                playwright.chromium.launch(executable_path=chromium, args=[*ARGUMENTS, *arguments], timeout=DEADLINE_MS)
            )
            return browsers[-1]

        yield launch
        for browser in browsers:
            browser.close()


def opened(browser: Browser, zenglow: Zenglow, faults: list[str], query: str = "", **options: Any) -> Page:
    page = browser.new_page(**options)
    page.set_default_timeout(DEADLINE_MS)
    expect.set_options(timeout=DEADLINE_MS)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"http://127.0.0.1:{zenglow.port}/voice/?collection=papers{query}")
    return page


def ask_in_writing(page: Page) -> None:
    page.get_by_placeholder("Or type a question").fill("What about slow queries?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".captions .reply").first).to_contain_text("slow queries are listed")


def test_the_browser_hears_an_answer_and_interrupts_it_and_does_without_a_microphone(
    zenglow: Zenglow, browsing: Callable[..., Browser], microphone: Path
) -> None:
    faults: list[str] = []
    page = opened(
        browsing(
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-audio-capture={microphone}",
        ),
        zenglow,
        faults,
    )
    page.get_by_role("button", name="Start talking").click()
    expect(page.locator(".captions .said").first).to_contain_text("slow queries")
    # Which of the document's sentences comes first depends on how the question was heard.
    expect(page.locator(".captions .reply").first).to_contain_text("slow queries")
    expect(page.locator(".passages .passage").first).to_contain_text("The runbook says")
    expect(page.locator("#latency")).to_contain_text("First sound")
    # The recording asks again while the answer is spoken.
    expect(page.locator(".captions .aside", has_text="You interrupted").first).to_be_visible()
    page.get_by_role("button", name="End").click()
    expect(page.locator("#state")).to_have_text("Not listening")
    page.get_by_role("link", name="Open it").click()
    expect(page.get_by_text("slow queries").first).to_be_visible()

    # A telephone, whose browser packs the sound, and whose person sends no microphone.
    denied = opened(
        browsing("--use-fake-device-for-media-stream"),
        zenglow,
        faults,
        "&sound=opus",
        viewport={"width": 390, "height": 844},
    )
    denied.get_by_role("button", name="Start talking").click()
    expect(denied.get_by_role("alert")).to_contain_text("The microphone is not allowed")
    expect(denied.locator("#voice")).to_have_attribute("data-sound", "opus opus")
    ask_in_writing(denied)
    # All of it was decoded, played, and acknowledged.
    expect(denied.locator("#state")).to_have_text("Ask in writing")
    expect(denied.locator(".captions .unheard")).to_have_count(0)
    assert denied.evaluate("document.documentElement.scrollWidth <= innerWidth")
    denied.get_by_role("button", name="Delete it").click()
    expect(denied.locator(".captions .aside")).to_contain_text("Deleted")

    silent = opened(browsing(), zenglow, faults)
    silent.get_by_role("button", name="Start talking").click()
    expect(silent.get_by_role("alert")).to_contain_text("There is no microphone")
    ask_in_writing(silent)
    assert faults == []
