"""Every process follows a change: at once by a notice, and by its own look where the notice is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from django.conf import settings
from django.db import connection

from models_registry import notices, weights
from ops.contracts.principal import SYSTEM

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_cache")]

# Prints the version that it sees, once it is the one that a line asks for.
PROCESS = """
import sys, time
import django
django.setup()
from django.db import connection
connection.settings_dict["NAME"] = sys.argv[1]
from models_registry.live import view
if sys.argv[2] == "follows":
    view.follow()
    assert view._listener.subscribed.wait(300)
print(view.weights("papers").version, flush=True)
for line in sys.stdin:
    while view.weights("papers").version != int(line):
        time.sleep(0.01)
    print(line.strip(), flush=True)
"""


class Process:
    """Another process of the installation."""

    def __init__(self, stack: ExitStack, mode: str) -> None:
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "ZENGLOW_TEST_DATA_DIR": str(settings.ZENGLOW_DATA_DIR),
            "PYTEST_XDIST_WORKER": settings.CACHES["default"]["KEY_PREFIX"].removeprefix("test-"),
            "PATH": "",
        }
        command = [sys.executable, "-c", PROCESS, str(connection.settings_dict["NAME"]), mode]
        self._child = stack.enter_context(
            subprocess.Popen(
                command,
                cwd=settings.BASE_DIR,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self._child.kill)

    def read(self) -> int:
        assert self._child.stdout is not None
        return int(self._child.stdout.readline())

    def wait_for(self, version: int) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{version}\n")
        self._child.stdin.flush()


@pytest.fixture
def start() -> Iterator[Callable[[str], Process]]:
    with ExitStack() as stack:
        yield lambda mode: Process(stack, mode)


def change(ltr: float) -> int:
    row = weights.change(weights.propose(ltr, 1 - ltr), by=SYSTEM)
    assert row.weights_id is not None
    return row.weights_id


def test_processes_that_hear_and_one_that_misses_every_notice_follow_alike(start: Callable[[str], Process]) -> None:
    first = change(0.6)
    processes = [start("follows"), start("follows"), start("misses")]
    assert [process.read() for process in processes] == [first] * 3
    for ltr in (0.7, 0.8):
        version = change(ltr)
        for process in processes:
            process.wait_for(version)
        assert [process.read() for process in processes] == [version] * 3


def test_a_change_while_redis_is_down_only_comes_a_little_later(
    start: Callable[[str], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(0.6)
    process = start("follows")
    process.read()

    def refuse(alias: str) -> None:
        raise notices.redis.ConnectionError("refused")

    monkeypatch.setattr(notices, "get_redis_connection", refuse)
    version = change(0.7)
    process.wait_for(version)
    assert process.read() == version
