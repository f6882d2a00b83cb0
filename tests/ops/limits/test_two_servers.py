"""Fifty callers at once on two servers: together they get exactly what one key may have."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from tests.conftest import forget_cached
from tests.contract.conftest import PATIENCE_S, ROOT, _wait_for, connected_to, copied_database
from tests.serving import free_port

CALLERS = 50
CALLS_EACH = 4
BURST = 100
"""As in the servers' settings, which can be read in their own processes only."""


@dataclass(frozen=True, slots=True)
class Servers:
    urls: list[str]
    key: str


@pytest.fixture
def servers(django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path: Path) -> Iterator[Servers]:
    with django_db_blocker.unblock(), copied_database() as database:
        with connected_to(database):
            key = keys.create_key("limits", [Scope.QUERY], actor=SYSTEM).text
        environment = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.ops.limits.server_settings",
            "ZENGLOW_TEST_DATABASE": database,
            "OMP_NUM_THREADS": "1",
        }
        ports = [free_port(), free_port()]
        logs = [tmp_path / f"{port}.log" for port in ports]
        processes = []
        try:
            for port, log in zip(ports, logs, strict=True):
                command = ["-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "zenglow_site.asgi:application"]
                with log.open("wb") as output:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, *command],
                            cwd=ROOT,
                            env=environment,
                            stdout=output,
                            stderr=subprocess.STDOUT,
                        )
                    )
            urls = [f"http://127.0.0.1:{port}" for port in ports]
            for url, process, log in zip(urls, processes, logs, strict=True):
                _wait_for(f"{url}/health/live", process, log)
            yield Servers(urls, key)
        finally:
            for process in processes:
                process.kill()
                process.wait()
            forget_cached()


def test_one_key_gets_exactly_its_burst(servers: Servers) -> None:
    start = threading.Barrier(CALLERS)

    def ask(caller: int) -> list[tuple[str, int]]:
        start.wait(PATIENCE_S)
        answers = []
        for call in range(CALLS_EACH):
            url = servers.urls[(caller + call) % 2]
            request = urllib.request.Request(f"{url}/rag/collections", headers={"X-API-Key": servers.key})
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                    answers.append((url, response.status))
            except urllib.error.HTTPError as error:
                with error:
                    answers.append((url, error.code if "Retry-After" in error.headers else 0))
        return answers

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = [answer for caller in pool.map(ask, range(CALLERS)) for answer in caller]
    assert Counter(status for _, status in answers) == {200: BURST, 429: CALLERS * CALLS_EACH - BURST}
    assert {url for url, status in answers if status == 200} == set(servers.urls)
