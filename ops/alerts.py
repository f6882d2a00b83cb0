"""Alerts: something an operator should know, open until it is resolved."""

from __future__ import annotations

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, transaction
from django.utils import timezone

from ops.audit import record
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, NotFound
from ops.models import AlertEvent, AlertSeverity, AlertState

ACKNOWLEDGE = declare_action("alert.acknowledge", "Somebody took an open alert on.")
RESOLVE = declare_action("alert.resolve", "Somebody closed an alert by hand.")


def raise_alert(
    name: str, severity: AlertSeverity, message: str, *, rule_id: int | None = None, **details: Any
) -> None:
    """Open the alert called ``name``, or count it up and bring it up to date while it is open.

    One statement on the partial unique index, so that processes which raise it at the same moment share one row.
    ``details`` is JSON without secrets.
    """
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO ops_alertevent
                (name, rule_id, severity, message, details, opened_at, last_raised_at, count, acknowledged_by)
            VALUES
                (%(name)s, %(rule_id)s, %(severity)s, %(message)s, %(details)s::jsonb, %(now)s, %(now)s, 1, '')
            ON CONFLICT (name) WHERE resolved_at IS NULL DO UPDATE
            SET severity = excluded.severity, message = excluded.message, details = excluded.details,
                last_raised_at = excluded.last_raised_at, count = ops_alertevent.count + 1
            """,
            {
                "name": name,
                "rule_id": rule_id,
                "severity": AlertSeverity(severity).value,
                "message": message,
                "details": json.dumps(details, cls=DjangoJSONEncoder),
                "now": now,
            },
        )


def resolve_alert(name: str) -> bool:
    """Close the open alert called ``name``; whether there was one."""
    return AlertEvent.objects.filter(name=name, resolved_at=None).update(resolved_at=timezone.now()) > 0


def find_open(name: str) -> AlertEvent:
    """The open alert of this name or number. Raises `NotFound`."""
    open_events = AlertEvent.objects.filter(resolved_at=None)
    found = open_events.filter(name=name).first()
    if found is None and name.isdecimal():
        found = open_events.filter(pk=min(int(name), 2**63 - 1)).first()
    if found is None:
        raise NotFound(f"No alert '{name}' is open. `manage.py alerts list` shows those that are.")
    return found


def acknowledge(event: AlertEvent, *, by: Principal) -> None:
    """Note that somebody is at it: it is not told again, and goes on until it is over."""
    with transaction.atomic():
        changed = AlertEvent.objects.filter(pk=event.pk, resolved_at=None, acknowledged_at=None).update(
            acknowledged_at=timezone.now(), acknowledged_by=by.name[:200]
        )
        if not changed:
            raise Conflict(f"The alert '{event.name}' is acknowledged or over already.")
        record(by, ACKNOWLEDGE, event.name)


def close(event: AlertEvent, *, by: Principal) -> None:
    """Close an alert by hand. A rule that still finds it bad opens it again after its waiting time."""
    with transaction.atomic():
        if not AlertEvent.objects.filter(pk=event.pk, resolved_at=None).update(resolved_at=timezone.now()):
            raise Conflict(f"The alert '{event.name}' is over already.")
        AlertState.objects.filter(rule=event.rule_id).update(phase="ok", since=None)
        record(by, RESOLVE, event.name)
