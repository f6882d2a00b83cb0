"""The dashboard in a real browser, before the whole product: its figures come over the real websocket, and change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.e2e.conftest import ARGUMENTS, DEADLINE_MS
from tests.serving import Zenglow, installations, prepared_data  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("serve")]

DOCUMENTS = {
    "owls": "Owls hunt at night. Their feathers are made so that they fly without a sound.",
    "bees": "Bees dance to tell each other where flowers are. The angle of the dance is that to the sun.",
}
# While the server is away, a browser notes each address that does not answer.
AWAY = re.compile("Failed to load resource|WebSocket connection to")


@pytest.fixture(scope="module")
def zenglow(request: pytest.FixtureRequest) -> Iterator[Zenglow]:
    """A running installation that has answered some queries."""
    with installations(request) as make:
        running = make(OPS_TRACE_URL="https://traces.example/?tags={request_id}")
        running.start()
        running.finished(running.index(DOCUMENTS))
        assert running.query("flying without noise").status == 200
        yield running


@pytest.fixture(scope="module")
def context(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=chromium, args=list(ARGUMENTS), timeout=DEADLINE_MS
        )
        yield context
        context.close()


@pytest.fixture
def faults(context: BrowserContext, zenglow: Zenglow) -> Iterator[list[str]]:
    """What goes wrong in the page, which must be nothing."""
    seen: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not AWAY.search(message.text):
            seen.append(message.text)

    context.on("console", note)
    context.on("weberror", lambda error: seen.append(str(error.error)))
    yield seen
    context.remove_listener("console", note)
    assert seen == []


@pytest.fixture
def page(context: BrowserContext, zenglow: Zenglow, faults: list[str]) -> Iterator[Page]:
    page = context.new_page()
    page.set_default_timeout(DEADLINE_MS)
    expect.set_options(timeout=DEADLINE_MS)
    page.goto(f"http://127.0.0.1:{zenglow.port}/dashboard/")
    yield page
    page.close()


def feed(page: Page, state: str) -> None:
    """Returns once the page says so."""
    expect(page.locator(f"#feed[data-state={state}]")).to_be_visible()


def test_figures_arrive_and_change(page: Page, zenglow: Zenglow) -> None:
    feed(page, "live")
    note = page.locator("#now-cache-note")
    expect(note).to_contain_text("whole")
    before = note.text_content()
    zenglow.query("dance of bees")
    zenglow.query("dance of bees")
    expect(note).not_to_have_text(before or "")
    expect(page.locator("#now-p95")).to_have_text(re.compile(r"\d"))
    expect(page.locator("#models")).to_contain_text("embedder")
    processes = page.locator("#system tbody tr")
    expect(processes.filter(has_text="web")).to_have_count(1)
    expect(processes.filter(has_text="web")).not_to_contain_text(re.compile(r"\b0 %"))


def test_a_single_busy_minute_is_drawn(page: Page, zenglow: Zenglow) -> None:
    """All queries of this server were asked within a minute or two, of the hour that is shown."""
    expect(page.locator("#chart-stages canvas")).to_be_visible()
    for chart in ("stages", "traffic", "cache"):
        coloured = page.evaluate(COLOURED, f"#chart-{chart} canvas")
        assert coloured > 20, f"{chart}: {coloured} pixels of a colour"


COLOURED = """selector => {
  const canvas = document.querySelector(selector);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let coloured = 0;
  for (let at = 0; at < data.length; at += 4) {
    const [red, green, blue, opaque] = data.slice(at, at + 4);
    if (opaque > 100 && Math.max(red, green, blue) - Math.min(red, green, blue) > 40) coloured += 1;
  }
  return coloured;
}"""
"""How many pixels are neither black, white nor grey, as axes and grid are."""


ALERT = """
from ops.alerts import raise_alert
raise_alert("room", "warning", "The disk is almost full.")
"""


def test_alerts_rollouts_and_traces_are_a_step_away(page: Page, zenglow: Zenglow) -> None:
    for arguments in (("rollout", "start", "0.6:0.4", "--steps", "5,100"), ("shell", "-c", ALERT)):
        done = zenglow.run(*arguments)
        assert done.returncode == 0, done.stderr
    page.reload()
    expect(page.locator("#alert-list")).to_contain_text("The disk is almost full.")
    expect(page.locator("#rollouts")).to_contain_text("5 %")
    links = page.locator("#slowest a")
    expect(links.first).to_have_attribute("href", re.compile(r"^https://traces.example/\?tags=[0-9a-f-]{36}$"))


def test_another_time_range_is_read_and_drawn(page: Page, zenglow: Zenglow) -> None:
    feed(page, "live")
    with page.expect_response(re.compile("range=7d")) as answered:
        page.get_by_role("radio", name="7d").check()
    assert answered.value.status == 200
    expect(page.locator("#chart-stages canvas")).to_be_visible()
    assert page.evaluate(COLOURED, "#chart-stages canvas") > 0


def test_it_reconnects_after_the_server_was_away(page: Page, zenglow: Zenglow) -> None:
    feed(page, "live")
    zenglow.web.kill()  # which the supervisor starts again
    expect(page.locator("#feed:not([data-state=live])")).to_be_visible()
    zenglow.wait_for_line("The web process ended with -9; starting it again")
    feed(page, "live")
    zenglow.eventually(lambda: zenglow.query("silent flight"), lambda answer: answer.status == 200)
    expect(page.locator("#now-errors-note")).to_contain_text(re.compile(r"0 of [1-9]"))


def test_it_fits_a_phone(page: Page, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    feed(page, "live")
    expect(page.locator("#chart-stages canvas")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
