from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.utils import timezone

from ops import tasks
from ops.alerts import raise_alert, resolve_alert
from ops.models import AlertEvent, AlertSeverity

pytestmark = pytest.mark.django_db


def test_the_partitions_of_the_coming_days_are_there_after_the_migration() -> None:
    assert tasks.maintain()["made"] <= 1  # one more when the tests' database was made yesterday
    assert tasks.maintain() == {"made": 0, "dropped": []}


def test_it_forgets_alerts_that_were_resolved_long_ago() -> None:
    for name in ("old", "recent", "open"):
        raise_alert(name, AlertSeverity.INFO, name)
    for name in ("old", "recent"):
        resolve_alert(name)
    long_ago = timezone.now() - timedelta(days=tasks.RESOLVED_ALERTS_KEPT_DAYS + 1)
    AlertEvent.objects.filter(name="old").update(resolved_at=long_ago)
    assert tasks.purge() == 1
    assert set(AlertEvent.objects.values_list("name", flat=True)) == {"recent", "open"}


def test_it_forgets_sessions_that_have_ended() -> None:
    for key, days in (("over", -1), ("running", 1)):
        Session.objects.create(session_key=key, session_data="", expire_date=timezone.now() + timedelta(days=days))
    tasks.purge()
    assert list(Session.objects.values_list("session_key", flat=True)) == ["running"]


def test_it_rolls_up_the_performance_store() -> None:
    reached = tasks.roll_up_performance()
    assert reached is not None
    assert datetime.fromisoformat(reached) < timezone.now()


def test_they_are_scheduled() -> None:
    scheduled = {entry["task"] for entry in django_settings.CELERY_BEAT_SCHEDULE.values()}
    assert {"ops.maintain_performance_store", "ops.roll_up_performance", "ops.purge"} <= scheduled
