"""A whole server of the test's own, on stores of its own, that may be taken away from it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.embedded.support import temporary_place
from tests.patience import PATIENCE_S
from tests.serving import free_port, make_zenglow, prepared_data  # noqa: F401  (fixtures)
from zenglow_site.embedded.stack import EmbeddedStack

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True, slots=True)
class Server:
    """A Daphne with its stores. Its database is migrated and holds no model."""

    stack: EmbeddedStack
    port: int
    log: Path

    def call(self, path: str, body: object = None, **headers: str) -> Answer:
        """A GET, or a POST of ``body`` as JSON. Any status is an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=data,
            headers={"Content-Type": "application/json"} | {name.replace("_", "-"): v for name, v in headers.items()},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return Answer(response.status, response.headers, response.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read().decode())

    def wait_for(self, path: str, status: int) -> Answer:
        """Ask again until the answer has this status."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.call(path)
                if answer.status == status:
                    return answer
                seen: object = answer.status
            except OSError as error:
                seen = error
            if time.monotonic() > deadline:
                raise AssertionError(f"{path} is {seen}, not {status}:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def health(self) -> dict[str, str]:
        """The state of each dependency by name, as ``/health/ready`` tells it."""
        return {check["name"]: check["state"] for check in self.call("/health/ready").body["checks"]}

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.postgres.dsn("zenglow")) as connection:
            return connection.execute(statement).fetchall()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with temporary_place() as folder:
        data_dir = folder / "data"
        stack = EmbeddedStack(data_dir)
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "ZENGLOW_DATA_DIR": str(data_dir),
            "OPS_PERFORMANCE_FLUSH_INTERVAL_MS": "50",
            "OPS_HEALTH_CACHE_S": "0",
            "DATABASE_CONNECT_TIMEOUT_S": "3",
            "OPS_HEALTH_TIMEOUT_S": "30",
            "OMP_NUM_THREADS": "1",
        }
        port = free_port()
        log = folder / "daphne.log"
        stack.ensure()
        try:
            _run(environment, "manage.py", "migrate", "--verbosity=0")
            daphne = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port)]
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*daphne, "zenglow_site.asgi:application"],
                    cwd=REPOSITORY,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            try:
                running = Server(stack, port, log)
                running.wait_for("/health/live", 200)
                yield running
            finally:
                process.terminate()
                process.wait(PATIENCE_S)
        finally:
            stack.stop()


def _run(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, env=environment, check=True, timeout=PATIENCE_S)
