"""Scheduled work of the registry."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from models_registry import rollup


@shared_task(name="registry.roll_up_statistics")
def roll_up_statistics() -> int:
    """Keep what the rolling statistics counted before Redis forgets it, and forget what is long ago."""
    rollup.purge(timezone.now())
    return rollup.roll_up()
