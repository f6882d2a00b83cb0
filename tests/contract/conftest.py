"""The server that the contract is tried against: Daphne, in a process of its own, on this test process's database."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import schemathesis
from celery import current_app
from django.db import connection
from pytest_django import DjangoDbBlocker

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from rag.evaluation.measures import MEASURES
from rag.evaluation.rows import ROWS
from rag.ingest.plan import Offer
from rag.ingest.service import process_batch, start_run
from rag.models import Collection, EvaluationRun
from tests.conftest import forget_cached
from tests.patience import PATIENCE_S
from tests.serving import free_port
from tests.sessions import end_other_sessions

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.05

# An archive is bytes to those who try the contract.
schemathesis.serializer.alias("application/zip", "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    key: str
    run_id: str
    """Of the run that has indexed the document."""
    evaluation_id: int

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@pytest.fixture(scope="module")
def server(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with one indexed document, and a key that may do everything."""
    log = tmp_path_factory.mktemp("contract") / "daphne.log"
    with django_db_blocker.unblock(), copied_database() as database:
        with connected_to(database):
            run_id, evaluation_id = _fill(), _evaluated()
            key = keys.create_key("contract", [Scope.ADMIN], actor=SYSTEM).text
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "zenglow_site.asgi:application"],
                cwd=ROOT,
                env=os.environ
                | {
                    "DJANGO_SETTINGS_MODULE": "tests.contract.settings",
                    "ZENGLOW_TEST_DATABASE": database,
                    "OMP_NUM_THREADS": "1",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(f"{url}/health/live", process, log)
            yield Server(url, key, run_id, evaluation_id)
        finally:
            process.kill()
            process.wait()
            current_app.control.purge()
            forget_cached()


@contextmanager
def copied_database() -> Iterator[str]:
    """A copy of this process's database: what a server writes stays out of the sight of other tests."""
    own = connection.settings_dict["NAME"]
    copy = f"{own}_contract"
    end_other_sessions()
    with connected_to(None), connection.cursor() as cursor:
        cursor.execute(f'DROP DATABASE IF EXISTS "{copy}" WITH (FORCE)')
        cursor.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{own}"')
    try:
        yield copy
    finally:
        with connected_to(None), connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{copy}" WITH (FORCE)')


@contextmanager
def connected_to(database: str | None) -> Iterator[None]:
    """Meanwhile the connection leads to another database; to that of maintenance for ``None``."""

    def close() -> None:
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL's

    own = connection.settings_dict["NAME"]
    close()
    connection.settings_dict["NAME"] = database or "postgres"
    try:
        yield
    finally:
        close()
        connection.settings_dict["NAME"] = own


def _fill() -> str:
    home, _ = Collection.objects.get_or_create(slug="default")
    offer = Offer("tea", "Green tea is brewed at 70 to 80 degrees Celsius.", metadata={"year": 2001})
    run = start_run(home, [offer], SYSTEM, "command", enqueue=False)
    while process_batch(run.id):
        pass
    return str(run.id)


def _evaluated() -> int:
    values = {"q": dict.fromkeys(MEASURES, 0.5)}
    run = EvaluationRun.objects.create(
        collection="default",
        dataset_sha256="0" * 64,
        total=1,
        done=1,
        metrics=dict.fromkeys(ROWS, values["q"]),
        per_query=dict.fromkeys(ROWS, values),
    )
    return run.pk


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S):
                return
        except OSError as error:
            seen = error
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"The server did not come up ({seen}):\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(POLL_S)
