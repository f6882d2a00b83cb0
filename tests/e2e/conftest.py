"""A real Chromium in front of a real server. Marked ``browser``; without a Chromium it is skipped, but fails in CI."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from axe_playwright_python.sync_playwright import Axe
from celery import current_app
from django.db import connections
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from pytest_django.live_server_helper import LiveServer

from ops.contracts.principal import SYSTEM
from rag.ingest.plan import Offer
from rag.ingest.service import process_batch, start_run
from rag.models import Collection, IndexRun, RunState
from tests.patience import PATIENCE_S

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEADLINE_MS = 120_000

Result = TypeVar("Result")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    found = next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("There is no Chromium on the PATH.")
    return found


class Backstage:
    """The database and the worker, on a thread of their own: the browser's driver keeps the test's thread busy."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)

    def do(self, work: Callable[[], Result]) -> Result:
        return self._thread.submit(work).result(timeout=PATIENCE_S)

    def add(self, contents: dict[str, str], *, collection: str = "default", **about: Any) -> None:
        """Index documents."""

        def work() -> None:
            home, _ = Collection.objects.get_or_create(slug=collection)
            offers = [Offer(name, text.encode(), source=name, **about) for name, text in contents.items()]
            run = start_run(home, offers, SYSTEM, "command", enqueue=False)
            while process_batch(run.id):
                pass

        self.do(work)

    def work_off(self) -> None:
        """What a worker does with everything that waits."""

        def work() -> None:
            for run in IndexRun.objects.filter(state=RunState.RUNNING):
                while process_batch(run.id):
                    pass

        self.do(work)

    def close(self) -> None:
        self.do(connections.close_all)
        self._thread.shutdown()


@pytest.fixture
def backstage(transactional_db: None, live_models: None, empty_cache: None) -> Iterator[Backstage]:
    stage = Backstage()
    yield stage
    stage.close()
    current_app.control.purge()


# The tests' server speaks HTTP alone, so the dashboard goes on by polling. What the policy forbids reads otherwise.
NO_SOCKETS_HERE = re.compile(r"^WebSocket connection to '\S+/ws/[^']+' failed: .*Unexpected response code: 404$")


class Visitor:
    """A browser window that remembers what went wrong in it."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.faults: list[str] = []
        page.set_default_timeout(DEADLINE_MS)
        expect.set_options(timeout=DEADLINE_MS)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def _note(self, message: ConsoleMessage) -> None:
        if NO_SOCKETS_HERE.search(message.text):
            return
        if message.type in {"error", "warning"}:
            self.faults.append(message.text)

    def open(self, path: str) -> Page:
        self.page.goto(self.address + path)
        return self.page


OpenBrowser = Callable[..., Visitor]


def accessibility_faults(page: Page) -> list[str]:
    """What axe-core holds against a page as it stands: WCAG 2.2 A and AA, and good practice."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']} {[node['html'][:200] for node in one['nodes'][:4]]}" for one in found]


@pytest.fixture
def open_browser(chromium: str, backstage: Backstage, live_server: LiveServer, tmp_path: Path) -> Iterator[OpenBrowser]:
    """Opens a window: ``open_browser(color_scheme="dark", viewport={…})``. Nothing may go wrong in it unnoticed."""
    contexts: list[BrowserContext] = []
    visitors: list[Visitor] = []
    with sync_playwright() as playwright:

        def make(**options: Any) -> Visitor:
            context = playwright.chromium.launch_persistent_context(
                tmp_path / f"profile-{len(contexts)}",
                executable_path=chromium,
                args=list(ARGUMENTS),
                timeout=DEADLINE_MS,
                **options,
            )
            contexts.append(context)
            visitors.append(Visitor(context.pages[0], live_server.url))
            return visitors[-1]

        yield make
        for context in contexts:
            context.close()
    assert [fault for visitor in visitors for fault in visitor.faults] == []


@pytest.fixture
def visitor(open_browser: OpenBrowser) -> Visitor:
    """A window on a desk."""
    return open_browser(viewport={"width": 1280, "height": 860})
