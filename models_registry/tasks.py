"""Scheduled work of the registry."""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task
from django.db import InterfaceError, OperationalError

from models_registry import clock, rollup, space_builds
from models_registry.background import STALLED_AFTER
from models_registry.discovery.refresh import refresh
from ops.contracts.principal import SYSTEM


@shared_task(name="registry.roll_up_statistics")
def roll_up_statistics() -> int:
    """Keep what the rolling statistics counted before Redis forgets it, and forget what is long ago."""
    rollup.purge(clock.now())
    return rollup.roll_up()


@shared_task(name="registry.refresh")
def refresh_models() -> None:
    """Look for models at the sources that the settings name."""
    refresh(SYSTEM)


@shared_task(
    name="registry.build_space",
    autoretry_for=(OperationalError, InterfaceError),
    retry_backoff=True,
    retry_backoff_max=60,
    max_retries=20,
)
def build_space(number: int) -> None:
    """Work on a space for a while, and queue the next while."""
    wait_s = space_builds.work(number)
    if wait_s is not None:
        space_builds.enqueue(number, wait_s)


@shared_task(name="registry.drop_spaces")
def drop_spaces() -> None:
    """Drop the vectors that builds left behind, once their time is over."""
    space_builds.drop_due()


@shared_task(name="registry.resume_space_builds")
def resume_space_builds(*, at_once: bool = False) -> None:
    """Queue builds again whose messages or workers were lost; ``at_once``, all, as when a worker has just started."""
    stalled_after = timedelta(0) if at_once else STALLED_AFTER
    for number in space_builds.take_stalled(clock.now(), stalled_after):
        space_builds.enqueue(number)
