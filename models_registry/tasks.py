"""Scheduled work of the registry."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from models_registry import rollup
from models_registry.discovery.refresh import refresh
from ops.contracts.principal import SYSTEM


@shared_task(name="registry.roll_up_statistics")
def roll_up_statistics() -> int:
    """Keep what the rolling statistics counted before Redis forgets it, and forget what is long ago."""
    rollup.purge(timezone.now())
    return rollup.roll_up()


@shared_task(name="registry.refresh")
def refresh_models() -> None:
    """Look for models at the sources that the settings name."""
    refresh(SYSTEM)
