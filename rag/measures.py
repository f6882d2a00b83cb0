"""What alert rules can watch of retrieval."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Q, Sum

from ops.contracts.measures import Labels, Measure, register_measure
from ops.models import AlertEvent
from rag.models import IndexRun


def register_measures() -> None:
    register_measure(
        Measure(
            "index_failures",
            "Documents that could not be indexed, in the runs that made progress in the window.",
            "",
            read_index_failures,
            ("collection",),
        )
    )
    register_measure(Measure("models_failed", "Live models that can't be loaded.", "", read_models_failed))


def read_index_failures(labels: Labels, at: datetime, window: timedelta) -> float:
    runs = IndexRun.objects.filter(progressed_at__gt=at - window, progressed_at__lte=at)
    if "collection" in labels:
        runs = runs.filter(collection__slug=labels["collection"])
    return float(runs.aggregate(failed=Sum("failed"))["failed"] or 0)


def read_models_failed(labels: Labels, at: datetime, window: timedelta) -> float:
    """Of any process: each that fails to load one opens an alert (`rag.pipeline.loaded`)."""
    broken = Q(name__startswith="embedder-broken-") | Q(name__startswith="ranker-broken-")
    return float(AlertEvent.objects.filter(broken, resolved_at=None).count())
