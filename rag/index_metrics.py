"""Indexing as Prometheus metrics."""

from __future__ import annotations

from django.db import connection
from django.db.models import Count, Min
from django.utils import timezone

from ops.contracts.metrics import Samples, declare_counter, declare_scraped
from rag.models import IndexRun, RunState

ENDED = declare_counter("zenglow_index_runs", "Index runs that ended, by their state.", ("state",))
DOCUMENTS = declare_counter("zenglow_index_documents", "Documents that index runs have dealt with.", ("outcome",))

OPEN_STATES = (RunState.PENDING, RunState.RUNNING)


def export_open_runs() -> None:
    """Let each scrape ask which runs are not over."""
    declare_scraped("zenglow_index_runs_open", "Index runs that are not over.", _open_runs, ("state",))
    declare_scraped(
        "zenglow_index_progress_age_seconds",
        "Time since the running index run that stands still longest made progress; 0 when none runs.",
        _progress_age,
    )


def _open_runs() -> Samples:
    try:
        counted = IndexRun.objects.filter(state__in=OPEN_STATES).order_by().values_list("state").annotate(Count("id"))
        counts = dict(counted)
        return [((state.value,), counts.get(state.value, 0)) for state in OPEN_STATES]
    finally:
        _give_back()


def _progress_age() -> Samples:
    try:
        oldest = IndexRun.objects.filter(state=RunState.RUNNING).aggregate(at=Min("progressed_at"))["at"]
        return [((), 0.0 if oldest is None else max((timezone.now() - oldest).total_seconds(), 0.0))]
    finally:
        _give_back()


def _give_back() -> None:
    if not connection.in_atomic_block:
        connection.close()
