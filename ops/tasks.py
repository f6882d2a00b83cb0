"""Scheduled work of operations."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import Any

from celery import shared_task
from celery.signals import worker_process_shutdown
from django.conf import settings
from django.utils import timezone

from ops.alerting import rules
from ops.instrumentation.batch import flush_all
from ops.models import AlertEvent, AlertReading
from ops.performance import maintenance

RESOLVED_ALERTS_KEPT_DAYS = 90


@shared_task(name="ops.maintain_performance_store")
def maintain() -> dict[str, Any]:
    """Make the coming partitions of ``query_performance`` and drop the outlived ones."""
    done = maintenance.maintain(timezone.now())
    return {"made": done.made, "dropped": list(done.dropped)}


@shared_task(name="ops.roll_up_performance")
def roll_up_performance() -> str | None:
    """Bring the histograms of ``query_performance`` up to date; up to when they are, where that is our work."""
    reached = maintenance.bring_up_to_date(timezone.now())
    return reached.isoformat() if reached else None


@shared_task(name="ops.purge")
def purge() -> int:
    """Delete alerts that were resolved long ago, and sessions that have ended; how many alerts that were."""
    import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()
    limit = timezone.now() - timedelta(days=RESOLVED_ALERTS_KEPT_DAYS)
    AlertReading.objects.filter(read_at__lt=timezone.now() - rules.READINGS_KEPT).delete()
    events = AlertEvent.objects.filter(resolved_at__lt=limit)
    count = events.count()
    events.delete()
    return count


@worker_process_shutdown.connect
def _write_what_is_left(**_: Any) -> None:
    """A worker's child process ends without Python's own exit hooks."""
    flush_all()
