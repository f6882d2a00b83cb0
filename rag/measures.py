"""What alert rules can watch of retrieval."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Q, Sum
from redis.exceptions import RedisError

from models_registry import deployments, processes
from models_registry.loading import LoadState
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
    """Of any process and any slot. What retrieval can't load is an open alert as well (`rag.pipeline.loaded`), which
    is known without Redis.
    """
    broken = Q(name__startswith="embedder-broken-") | Q(name__startswith="ranker-broken-")
    return float(max(AlertEvent.objects.filter(broken, resolved_at=None).count(), len(_failed_elsewhere())))


def _failed_elsewhere() -> set[str]:
    """Labels of live versions of which a process says that it can't load them; none while Redis is away."""
    live = {str(one.model_version) for one in deployments.live() if one.model_version is not None}
    try:
        reports = processes.all_reports()
    except RedisError:
        return set()
    return {
        one.label for report in reports for one in report.models if one.state is LoadState.FAILED and one.label in live
    }
