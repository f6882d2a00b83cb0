"""Which model versions this process holds in memory, as told by the code that loads them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from django.utils import timezone

ERROR_CHARACTERS = 500


class LoadState(StrEnum):
    """``DRAINING`` still answers what it began, and nothing new."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The state of one version in this process. ``load_time_ms`` is that of the last load that succeeded."""

    label: str
    state: LoadState
    since: datetime | None = None
    load_time_ms: float | None = None
    error: str | None = None


_reports: dict[str, LoadReport] = {}
_lock = threading.Lock()


@contextmanager
def loading(label: str) -> Iterator[None]:
    """Around the loading of the version ``name@number``: it is ready afterwards, or failed with the exception."""
    _set(label, LoadState.LOADING)
    started = time.perf_counter()
    try:
        yield
    except Exception as error:
        _set(label, LoadState.FAILED, error=f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS])
        raise
    _set(label, LoadState.READY, load_time_ms=(time.perf_counter() - started) * 1000)


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


def _set(label: str, state: LoadState, *, load_time_ms: float | None = None, error: str | None = None) -> None:
    with _lock:
        before = _reports.get(label, LoadReport(label, state))
        _reports[label] = replace(
            before,
            state=state,
            since=timezone.now(),
            load_time_ms=before.load_time_ms if load_time_ms is None else load_time_ms,
            error=error,
        )
