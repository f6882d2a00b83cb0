"""The audit trail and the alerts."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from ops import audit
from ops.alerts import raise_alert, resolve_alert
from ops.contracts.principal import LOOPBACK, SYSTEM, Principal, PrincipalKind
from ops.models import AlertEvent, AlertSeverity, AuditEvent


@pytest.mark.django_db
class TestAudit:
    def test_it_tells_a_user_from_a_key_of_the_same_name(self) -> None:
        for kind in (PrincipalKind.USER, PrincipalKind.API_KEY):
            audit.record(Principal(kind, "ada", frozenset()), "delete.document", "docs/1", {"reason": "old"})
        for principal in (SYSTEM, LOOPBACK):
            audit.record(principal, "delete.document", "docs/1")
        assert [event.actor for event in AuditEvent.objects.filter(target="docs/1").order_by("id")] == [
            "user:ada",
            "api_key:ada",
            "system",
            "anonymous",
        ]

    def test_it_cuts_what_its_columns_cannot_hold(self) -> None:
        principal = Principal(PrincipalKind.USER, "x" * 300, frozenset())
        event = audit.record(principal, "delete.document", "y" * 1000)
        event.refresh_from_db()
        assert (len(event.actor), len(event.target)) == (audit.ACTOR_LENGTH, audit.TARGET_LENGTH)
        assert AuditEvent._meta.get_field("actor").max_length == audit.ACTOR_LENGTH
        assert AuditEvent._meta.get_field("target").max_length == audit.TARGET_LENGTH


@pytest.mark.django_db
class TestAlerts:
    def test_it_counts_up_while_open_and_opens_anew_once_resolved(self) -> None:
        raise_alert("disk", AlertSeverity.WARNING, "10 % left", free=10)
        raise_alert("disk", AlertSeverity.CRITICAL, "1 % left", free=1)
        alert = AlertEvent.objects.get()
        assert (alert.count, alert.severity, alert.message, alert.details) == (2, "critical", "1 % left", {"free": 1})
        assert alert.opened_at < alert.last_raised_at
        assert resolve_alert("disk")
        assert not resolve_alert("disk")
        raise_alert("disk", AlertSeverity.WARNING, "again")
        assert AlertEvent.objects.filter(name="disk", resolved_at=None).count() == 1
        assert AlertEvent.objects.count() == 2

    def test_it_keeps_alerts_of_other_names_apart(self) -> None:
        raise_alert("a", AlertSeverity.INFO, "a")
        raise_alert("b", AlertSeverity.INFO, "b")
        assert resolve_alert("a")
        assert AlertEvent.objects.get(resolved_at=None).name == "b"

    def test_it_refuses_an_unknown_severity(self) -> None:
        with pytest.raises(ValueError, match="loud"):
            raise_alert("a", "loud", "a")  # type: ignore[arg-type]


@pytest.mark.django_db(transaction=True)
def test_alerts_that_are_raised_at_once_share_one_row() -> None:
    start = threading.Barrier(8)

    def raise_it() -> None:
        start.wait()
        raise_alert("race", AlertSeverity.WARNING, "now")
        connection.close()

    threads = [threading.Thread(target=raise_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AlertEvent.objects.get().count == 8
