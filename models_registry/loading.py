"""Which model versions this process holds in memory, as told by the code that loads them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

import psutil
from django.utils import timezone

ERROR_CHARACTERS = 500


class LoadState(StrEnum):
    """``IDLE`` starts when somebody needs it; ``DRAINING`` still answers what it began, and nothing new."""

    UNLOADED = "unloaded"
    IDLE = "idle"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The state of one version in a process. ``load_time_ms`` is that of the last load that succeeded.

    ``memory_bytes`` is what the process grew by while it loaded, with the processes that it started for the version: it
    is near the truth and not exact.
    """

    label: str
    state: LoadState
    since: datetime | None = None
    load_time_ms: float | None = None
    memory_bytes: int | None = None
    device: str | None = None
    error: str | None = None


_reports: dict[str, LoadReport] = {}
# Taken again by a thread that holds it when garbage collection, at any moment, ends a model: `unloaded` is called then.
_lock = threading.RLock()
_listeners: list[Callable[[], None]] = []


@contextmanager
def loading(label: str, device: str = "cpu", children: Callable[[], Iterable[int]] = tuple) -> Iterator[None]:
    """Around the loading of the version ``name@number``: it is ready afterwards, or failed with the exception.

    ``children``: the ids of the processes that hold it for this one.
    """
    _set(label, LoadState.LOADING, device=device)
    before, started = _resident_bytes(), time.perf_counter()
    try:
        yield
    except Exception as error:
        _set(label, LoadState.FAILED, error=f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS])
        raise
    load_time_ms = (time.perf_counter() - started) * 1000
    grown = max(_resident_bytes() - before, 0) + sum(_resident_bytes(pid) for pid in children())
    _set(label, LoadState.READY, load_time_ms=load_time_ms, memory_bytes=grown)


def draining(label: str) -> None:
    """The version has been replaced and answers only what it began."""
    _set(label, LoadState.DRAINING)


def unloaded(label: str) -> None:
    """The version's memory has been given back."""
    with _lock:
        _reports.pop(label, None)


def report_of(label: str) -> LoadReport:
    """The state of one version; `LoadState.UNLOADED` when nothing was told of it."""
    with _lock:
        return _reports.get(label, LoadReport(label, LoadState.UNLOADED))


def reports() -> tuple[LoadReport, ...]:
    """Every version that this process has told of, sorted by label."""
    with _lock:
        return tuple(_reports[label] for label in sorted(_reports))


def _set(label: str, state: LoadState, *, error: str | None = None, **facts: float | str | None) -> None:
    with _lock:
        before = _reports.get(label, LoadReport(label, state))
        _reports[label] = replace(before, state=state, since=timezone.now(), error=error, **facts)  # type: ignore[arg-type]
    for listener in _listeners:
        listener()


def on_change(listener: Callable[[], None]) -> None:
    """Call ``listener`` after every change of a report, on the thread that made it; it must be quick."""
    _listeners.append(listener)


def _resident_bytes(pid: int | None = None) -> int:
    """Of a process, this one if none is named; 0 when it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
