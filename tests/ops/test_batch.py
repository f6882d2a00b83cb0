from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django.fixtures import Settings

from ops.instrumentation.batch import BatchWriter
from ops.instrumentation.performance import PerformanceRow, performance_writer, record_query
from ops.models import QueryPerformance
from tests.patience import PATIENCE_S, eventually


class Table:
    """A table that can be taken away."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.is_away = False
        self.refused = threading.Event()
        self.written = threading.Event()

    def write(self, rows: Sequence[int]) -> None:
        if self.is_away:
            self.refused.set()
            raise OperationalError("gone")
        self.rows += rows
        self.written.set()


def row() -> PerformanceRow:
    return PerformanceRow(
        occurred_at=timezone.now(),
        request_id=uuid.uuid4(),
        query_hmac="ab",
        collection="docs",
        variant="stable",
        mode="pgvector",
        cache="none",
        status=200,
        timings_ms={},
    )


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=django_settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_its_thread_writes_and_goes_on_after_the_database_was_away() -> None:
    table = Table()
    table.is_away = True
    writer = BatchWriter[int]("test", table.write, interval_ms=1, capacity=10)
    writer.release()
    writer.add(1)
    assert table.refused.wait(PATIENCE_S)
    writer.add(2)
    table.is_away = False
    assert table.written.wait(PATIENCE_S)
    eventually(lambda: table.rows == [1, 2])
    assert writer.lost == 0


@pytest.mark.django_db(transaction=True)
def test_its_thread_writes_the_performance_store_on_a_connection_of_its_own(settings: Settings) -> None:
    settings.OPS_PERFORMANCE_FLUSH_INTERVAL_MS = 1
    performance_writer.cache_clear()
    try:
        performance_writer().release()
        one = row()
        record_query(one)
        eventually(QueryPerformance.objects.filter(request_id=one.request_id).exists)
    finally:
        performance_writer().hold()
        performance_writer.cache_clear()
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM query_performance")


def test_a_forked_child_starts_empty_and_with_locks_that_are_free() -> None:
    """Run in a process of its own: forking one with threads is what this is about."""
    code = """
import os, sys
from django.conf import settings
settings.configure(DATABASES={})
from ops.instrumentation.batch import BatchWriter
written = []
writer = BatchWriter("test", written.extend, interval_ms=60_000, capacity=10)
writer.hold()
writer.add(1)
writer._lock.acquire()                     # as if another thread held it at the moment of the fork
child = os.fork()
if child == 0:
    writer.add(2)
    writer.flush()
    os._exit(0 if written == [2] else 1)
writer._lock.release()
status = os.waitpid(child, 0)[1]
writer.flush()
sys.exit(0 if status == 0 and written == [1] else 1)
"""
    finished = run(code)
    assert finished.returncode == 0, finished.stderr


def test_what_is_left_is_written_when_the_process_ends() -> None:
    code = """
from django.conf import settings
settings.configure(DATABASES={})
from ops.instrumentation.batch import BatchWriter
writer = BatchWriter("test", lambda rows: print(*rows), interval_ms=60_000, capacity=10)
writer.add(1)
writer.add(2)
"""
    finished = run(code)
    assert finished.stdout == "1 2\n", finished.stderr
