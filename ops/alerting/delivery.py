"""Telling people: each alert that opens, and that ends, to each channel, until the channel has taken it.

What is to be told is found in the database, not handed over, so that nothing is forgotten when a process dies. A
delivery is claimed for a while before it is tried: two processes don't tell the same. After a crash it is told again.

Webhooks follow the Standard Webhooks specification (https://www.standardwebhooks.com): ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature``, which is ``v1,`` and the base64 of HMAC-SHA256 over
``id.timestamp.body``. Alertmanagers get ``POST /api/v2/alerts`` as Prometheus sends it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx
from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from ops import outgoing
from ops.alerting.validation import addresses
from ops.contracts.env import mail_settings
from ops.contracts.metrics import declare_counter
from ops.models import AlertChannel, AlertDelivery, AlertEvent, AlertSeverity, ChannelKind

logger = logging.getLogger(__name__)

DELIVERIES = declare_counter("zenglow_alert_deliveries", "Alerts told, by channel and outcome.", ("channel", "outcome"))

ATTEMPTS = 10
FIRST_PAUSE = timedelta(seconds=15)
LONGEST_PAUSE = timedelta(hours=1)
CLAIM = timedelta(seconds=60)
ALERTMANAGER_REPEAT = timedelta(seconds=60)
ALERTMANAGER_ENDS = timedelta(minutes=5)
"""An alert that is not repeated ends for an Alertmanager after this: several repeats may get lost."""
STALE = timedelta(days=1)
"""What opened longer ago is not told to a channel that has not heard of it yet."""

_RANK = {severity: rank for rank, severity in enumerate(AlertSeverity.values)}


class DeliveryError(Exception):
    """A channel that did not take it. The text has no secret in it."""


def deliver(now: datetime | None = None) -> int:
    """Tell what is due; how many deliveries succeeded."""
    now = now or timezone.now()
    _plan(now)
    return sum(_try(delivery, now) for delivery in _claimed(now))


def _plan(now: datetime) -> None:
    """Note what each channel has yet to hear."""
    recent = AlertEvent.objects.filter(Q(resolved_at=None) | Q(resolved_at__gt=now - STALE), opened_at__gt=now - STALE)
    for channel in AlertChannel.objects.filter(enabled=True):
        severities = [name for name, rank in _RANK.items() if rank >= _RANK[channel.lowest_severity]]
        new = recent.filter(
            Q(rule=None) | Q(rule__silenced_until=None) | Q(rule__silenced_until__lte=now),
            severity__in=severities,
            resolved_at=None,
            last_raised_at__gte=channel.created_at,
        ).exclude(deliveries__channel=channel)
        told_in_time = AlertDelivery.objects.filter(
            channel=channel, ending=False, sent_at__lte=F("event__resolved_at")
        ).values("event")
        told_over = AlertDelivery.objects.filter(channel=channel, ending=True).values("event")
        over = AlertEvent.objects.filter(pk__in=told_in_time).exclude(pk__in=told_over)
        AlertDelivery.objects.bulk_create(
            [
                AlertDelivery(event=event, channel=channel, ending=ending, next_attempt_at=now)
                for events, ending in ((new, False), (over, True))
                for event in events
            ],
            ignore_conflicts=True,
        )


def _claimed(now: datetime) -> list[AlertDelivery]:
    with transaction.atomic():
        due = list(
            AlertDelivery.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(next_attempt_at__lte=now, channel__enabled=True)
            .select_related("event", "event__rule", "channel")
            .order_by("id")[:100]
        )
        AlertDelivery.objects.filter(pk__in=[one.pk for one in due]).update(next_attempt_at=now + CLAIM)
    return due


def _try(delivery: AlertDelivery, now: datetime) -> bool:
    channel, event = delivery.channel, delivery.event
    rule = event.rule
    if rule is not None and rule.silenced_until is not None and rule.silenced_until > now and not delivery.ending:
        AlertDelivery.objects.filter(pk=delivery.pk).update(next_attempt_at=rule.silenced_until)
        return False
    try:
        # A retry has the id of what may have arrived already; a repetition has another.
        again = f"-{delivery.next_attempt_at.timestamp():.0f}" if delivery.sent_at and delivery.next_attempt_at else ""
        send(channel, message_of(event), f"alert-{delivery.pk}{again}", now=now)
    except DeliveryError as error:
        delivery.attempts += 1
        gives_up = delivery.attempts >= ATTEMPTS
        pause = min(FIRST_PAUSE * 2 ** (delivery.attempts - 1), LONGEST_PAUSE)
        delivery.next_attempt_at = None if gives_up else now + pause
        delivery.fault = str(error)[:500]
        logger.warning("The alert %s could not be told to %s: %s", event.name, channel.name, error)
        DELIVERIES.labels(channel.name, "given_up" if gives_up else "failed").inc()
    else:
        delivery.attempts, delivery.fault, delivery.sent_at = 0, "", delivery.sent_at or now
        delivery.next_attempt_at = _repeat_at(delivery, now)
        DELIVERIES.labels(channel.name, "sent").inc()
    delivery.save(update_fields=["attempts", "next_attempt_at", "fault", "sent_at"])
    return not delivery.fault


def _repeat_at(delivery: AlertDelivery, now: datetime) -> datetime | None:
    event = AlertEvent.objects.get(pk=delivery.event_id)  # it may be over by now
    if delivery.ending or event.resolved_at is not None:
        return None
    if delivery.channel.kind == ChannelKind.ALERTMANAGER:
        return now + ALERTMANAGER_REPEAT
    if delivery.channel.repeat_s and event.acknowledged_at is None:
        return now + timedelta(seconds=delivery.channel.repeat_s)
    return None


def message_of(event: AlertEvent) -> dict[str, Any]:
    """An alert as it is told: JSON."""
    return {
        "name": event.name,
        "status": "firing" if event.resolved_at is None else "resolved",
        "severity": event.severity,
        "message": event.message,
        "opened_at": event.opened_at,
        "resolved_at": event.resolved_at,
        "acknowledged_by": event.acknowledged_by,
        "details": event.details,
    }


def trial_message(now: datetime) -> dict[str, Any]:
    """What the test button sends."""
    return {
        "name": "test",
        "status": "firing",
        "severity": AlertSeverity.INFO.value,
        "message": "This is a test: ZenGlow can reach you here.",
        "opened_at": now,
        "resolved_at": None,
        "acknowledged_by": "",
        "details": {},
    }


def send(channel: AlertChannel, message: Mapping[str, Any], message_id: str, *, now: datetime) -> None:
    """Send one message now. Raises `DeliveryError`."""
    if channel.kind == ChannelKind.EMAIL:
        _send_mail(channel, message)
    elif channel.kind == ChannelKind.ALERTMANAGER:
        body = json.dumps([alertmanager_alert(message, now)], cls=DjangoJSONEncoder).encode()
        _post(alertmanager_url(channel.target), body, {})
    else:
        kind = f"alert.{message['status']}"
        body = json.dumps({"type": kind, "timestamp": now, "data": message}, cls=DjangoJSONEncoder).encode()
        _post(channel.target, body, signed_headers(channel, message_id, now, body))


def signing_key(channel: AlertChannel) -> str:
    """The key that a webhook's receiver verifies with, as Standard Webhooks write it: ``whsec_`` and base64.

    Made of the server's secret key and the channel's salt, so that the database alone gives nothing away.
    """
    made = hmac.digest(settings.SECRET_KEY.encode(), f"alert-channel:{channel.key_salt}".encode(), hashlib.sha256)
    return f"whsec_{base64.b64encode(made).decode()}"


def signed_headers(channel: AlertChannel, message_id: str, now: datetime, body: bytes) -> dict[str, str]:
    timestamp = str(int(now.timestamp()))
    key = base64.b64decode(signing_key(channel).removeprefix("whsec_"))
    signature = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def alertmanager_url(target: str) -> str:
    """The place for alerts of an Alertmanager, whose own address is enough."""
    return target if target.endswith("/alerts") else f"{target.rstrip('/')}/api/v2/alerts"


def alertmanager_alert(message: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """One element of the body of Alertmanager's ``POST /api/v2/alerts``: all labels and annotations are texts."""
    details = message["details"]
    labels = {f"label_{name}": value for name, value in (details.get("labels") or {}).items()}
    annotations = {"summary": message["message"], "description": str(details.get("description") or "")}
    if details.get("value") is not None:
        annotations["value"] = str(details["value"])
    return {
        "labels": {"alertname": message["name"], "severity": message["severity"], "service": "zenglow", **labels},
        "annotations": annotations,
        "startsAt": message["opened_at"],
        "endsAt": message["resolved_at"] or now + ALERTMANAGER_ENDS,
    }


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    try:
        with outgoing.client() as http:
            answer = http.post(url, content=body, headers={"Content-Type": "application/json", **headers})
    except outgoing.OutgoingRefusedError as refused:
        raise DeliveryError(refused.detail) from refused
    except httpx.HTTPError as error:
        raise DeliveryError(f"{type(error).__name__}: the address does not answer.") from error
    if not answer.is_success:
        raise DeliveryError(f"The address answered {answer.status_code}.")


def _send_mail(channel: AlertChannel, message: Mapping[str, Any]) -> None:
    url = settings.OPS_EMAIL_URL
    if not url:
        raise DeliveryError("Set OPS_EMAIL_URL to send mail.")
    server = mail_settings(url)
    lines = [
        message["message"],
        "",
        str(message["details"].get("description") or ""),
        f"Severity: {message['severity']}",
        f"Since: {message['opened_at']:%Y-%m-%d %H:%M:%S} UTC",
        *([f"Until: {message['resolved_at']:%Y-%m-%d %H:%M:%S} UTC"] if message["resolved_at"] else []),
    ]
    try:
        EmailMessage(
            subject=f"[{message['status']}] {message['name']}".replace("\n", " "),
            body="\n".join(lines),
            from_email=settings.OPS_EMAIL_FROM,
            to=addresses(channel.target),
            connection=get_connection(
                server["EMAIL_BACKEND"],
                host=server.get("EMAIL_HOST"),
                port=server.get("EMAIL_PORT"),
                username=server.get("EMAIL_HOST_USER"),
                password=server.get("EMAIL_HOST_PASSWORD"),
                use_tls=server.get("EMAIL_USE_TLS", False),
                use_ssl=server.get("EMAIL_USE_SSL", False),
                timeout=outgoing.DEFAULT_TIMEOUT_S,
            ),
        ).send()
    except OSError as error:  # smtplib's errors are OSErrors
        raise DeliveryError(f"{type(error).__name__}: the mail server did not take it.") from error
