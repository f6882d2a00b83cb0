"""Rows that are written off the request path: collected in memory, written together by one thread of the process."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from django.db import InterfaceError, OperationalError, connection

from ops.contracts.metrics import declare_counter

logger = logging.getLogger(__name__)

Row = TypeVar("Row")

LOST = declare_counter("zenglow_batch_rows_lost", "Rows dropped because their table can't keep up.", ("table",))
WRITTEN = declare_counter("zenglow_batch_rows_written", "Rows written in batches.", ("table",))

_all_held = False
_writers: weakref.WeakSet[BatchWriter[object]] = weakref.WeakSet()


class BatchWriter(Generic[Row]):
    """Collects rows and hands them to ``write`` every ``interval_ms``, on a thread with a connection of its own.

    Memory is bounded by ``capacity`` rows: what comes on top is dropped and counted. When the database is away the
    rows wait for it. Rows of a process that is killed are lost; at an ordinary end the last ones are written.
    """

    def __init__(self, table: str, write: Callable[[Sequence[Row]], None], *, interval_ms: int, capacity: int) -> None:
        self._table = table
        self._write = write
        self._interval_s = interval_ms / 1000
        self._capacity = capacity
        self._rows: list[Row] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._held = _all_held
        self.lost = 0
        _writers.add(self)  # type: ignore[arg-type]

    def add(self, row: Row) -> None:
        """Keep a row for the next batch. Never waits for the database and never raises."""
        with self._lock:
            if len(self._rows) >= self._capacity:
                self._count_lost(1)
                return
            self._rows.append(row)
            if self._thread is None and not self._held:
                self._thread = threading.Thread(target=self._run, name=f"write-{self._table}", daemon=True)
                self._thread.start()

    def flush(self) -> int:
        """Write what is waiting, on this thread's connection; how many rows that were.

        When the database is away the rows go back to the front of the queue; rows that it refuses are dropped and
        counted. Its error is raised in both cases.
        """
        with self._writing:
            with self._lock:
                rows, self._rows = self._rows, []
            if not rows:
                return 0
            try:
                self._write(rows)
            except (OperationalError, InterfaceError):
                self._put_back(rows)
                raise
            except Exception:
                with self._lock:
                    self._count_lost(len(rows))
                raise
        WRITTEN.labels(self._table).inc(len(rows))
        return len(rows)

    def hold(self) -> None:
        """Write only when `flush` is called: for tests, whose transaction another thread would not see."""
        self._held = True

    def release(self) -> None:
        """Write by itself again, from the next row on."""
        self._held = False

    def forget(self) -> None:
        """Start empty: in a forked child, whose parent still has the rows and the thread."""
        self._rows = []
        self._thread = None
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    def _put_back(self, rows: list[Row]) -> None:
        with self._lock:
            room = self._capacity - len(self._rows)
            self._count_lost(max(len(rows) - room, 0))
            self._rows = rows[len(rows) - room if len(rows) > room else 0 :] + self._rows

    def _count_lost(self, count: int) -> None:
        if count:
            self.lost += count
            LOST.labels(self._table).inc(count)

    def _run(self) -> None:
        pause = threading.Event()
        failing = False
        while not pause.wait(self._interval_s):
            try:
                self.flush()
                failing = False
            except (OperationalError, InterfaceError) as error:
                if not failing:
                    logger.warning("Rows of %s wait for the database: %s", self._table, type(error).__name__)
                failing = True
            except Exception:
                logger.exception("A batch of %s was dropped", self._table)
            finally:
                connection.close()


def flush_all() -> None:
    """Write what every writer of this process still has; a failure is logged."""
    for writer in list(_writers):
        try:
            writer.flush()
        except Exception as error:  # nobody is left to hear of it
            logger.warning("Rows could not be written at the end: %s", type(error).__name__)


def hold_all() -> None:
    """`BatchWriter.hold` for every writer of this process, those to come included."""
    global _all_held
    _all_held = True
    for writer in list(_writers):
        writer.hold()


def forget_all() -> None:
    """`BatchWriter.forget` for every writer of this process."""
    for writer in list(_writers):
        writer.forget()


atexit.register(flush_all)
os.register_at_fork(after_in_child=forget_all)
