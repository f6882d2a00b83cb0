"""Alerts: something an operator should know, open until it is resolved."""

from __future__ import annotations

import json
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.utils import timezone

from ops.models import AlertEvent, AlertSeverity


def raise_alert(name: str, severity: AlertSeverity, message: str, **details: Any) -> None:
    """Open the alert called ``name``, or count it up and bring it up to date while it is open.

    One statement on the partial unique index, so that processes which raise it at the same moment share one row.
    ``details`` is JSON without secrets.
    """
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO ops_alertevent (name, severity, message, details, opened_at, last_raised_at, count)
            VALUES (%(name)s, %(severity)s, %(message)s, %(details)s::jsonb, %(now)s, %(now)s, 1)
            ON CONFLICT (name) WHERE resolved_at IS NULL DO UPDATE
            SET severity = excluded.severity, message = excluded.message, details = excluded.details,
                last_raised_at = excluded.last_raised_at, count = ops_alertevent.count + 1
            """,
            {
                "name": name,
                "severity": AlertSeverity(severity).value,
                "message": message,
                "details": json.dumps(details, cls=DjangoJSONEncoder),
                "now": now,
            },
        )


def resolve_alert(name: str) -> bool:
    """Close the open alert called ``name``; whether there was one."""
    return AlertEvent.objects.filter(name=name, resolved_at=None).update(resolved_at=timezone.now()) > 0
