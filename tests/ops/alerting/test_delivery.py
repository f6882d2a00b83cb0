from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from ops import alerts
from ops.alerting import delivery, rules
from ops.alerting.delivery import deliver, signing_key
from ops.alerts import raise_alert, resolve_alert
from ops.contracts.principal import SYSTEM
from ops.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule, AlertSeverity

pytestmark = pytest.mark.django_db


@dataclass
class Receiver:
    """What a real HTTP server was sent, and what it answers."""

    url: str = ""
    status: int = 200
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver(settings: Settings) -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(found.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_port}"
        settings.OPS_OUTGOING_ALLOWED = ["127.0.0.1"]
        yield found
        server.shutdown()


def channel(**changes: Any) -> AlertChannel:
    return AlertChannel.objects.create(**({"name": "team", "kind": "webhook"} | changes))


def told(receiver: Receiver) -> list[tuple[str, str]]:
    return [(body["type"], body["data"]["name"]) for body in (json.loads(sent) for _, _, sent in receiver.got)]


class TestWebhook:
    def test_it_tells_once_that_an_alert_opened_and_once_that_it_is_over(self, receiver: Receiver) -> None:
        channel(target=receiver.url)
        raise_alert("disk", AlertSeverity.WARNING, "nearly full", free=1)
        raise_alert("disk", AlertSeverity.WARNING, "nearly full", free=0)
        assert [deliver(), deliver()] == [1, 0]
        resolve_alert("disk")
        assert [deliver(), deliver()] == [1, 0]
        assert told(receiver) == [("alert.firing", "disk"), ("alert.resolved", "disk")]
        assert json.loads(receiver.got[0][2])["data"]["details"] == {"free": 0}

    def test_its_signature_can_be_verified_with_the_key_alone(self, receiver: Receiver) -> None:
        one = channel(target=receiver.url)
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        deliver()
        _, headers, body = receiver.got[0]
        key = base64.b64decode(signing_key(one).removeprefix("whsec_"))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert abs(int(headers["webhook-timestamp"]) - timezone.now().timestamp()) < 3600
        assert signing_key(one) != signing_key(channel(name="other", target=receiver.url))
        assert key not in json.dumps(list(AlertChannel.objects.values()), default=str).encode()

    def test_it_tries_again_later_and_later_and_then_gives_up(self, receiver: Receiver) -> None:
        channel(target=receiver.url)
        receiver.status = 503
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        now = timezone.now()
        assert deliver(now) == 0
        first = AlertDelivery.objects.get()
        assert first.fault == "The address answered 503."
        assert first.next_attempt_at == now + timedelta(seconds=15)
        assert deliver(now + timedelta(seconds=14)) == 0
        assert len(receiver.got) == 1
        ids = set()
        for _ in range(delivery.ATTEMPTS - 1):
            due = AlertDelivery.objects.get().next_attempt_at
            assert due is not None
            deliver(due)
        last = AlertDelivery.objects.get()
        assert (last.attempts, last.next_attempt_at, last.sent_at) == (delivery.ATTEMPTS, None, None)
        ids = {headers["webhook-id"] for _, headers, _ in receiver.got}
        assert len(receiver.got) == delivery.ATTEMPTS
        assert len(ids) == 1

    def test_it_tells_what_is_true_when_it_gets_through(self, receiver: Receiver) -> None:
        channel(target=receiver.url)
        receiver.status = 500
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        now = timezone.now()
        deliver(now)
        resolve_alert("disk")
        receiver.status = 200
        assert deliver(now + timedelta(seconds=20)) == 1
        assert deliver(now + timedelta(seconds=60)) == 0
        assert told(receiver)[-1] == ("alert.resolved", "disk")

    def test_it_is_not_sent_to_addresses_that_are_not_public(self, receiver: Receiver, settings: Settings) -> None:
        settings.OPS_OUTGOING_ALLOWED = []
        with pytest.raises(ValidationError, match="OPS_OUTGOING_ALLOWED"):
            AlertChannel(name="x", kind="webhook", target=receiver.url).full_clean()
        channel(target=receiver.url)
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        deliver()
        assert receiver.got == []
        assert "OPS_OUTGOING_ALLOWED" in AlertDelivery.objects.get().fault

    def test_an_address_that_does_not_answer_is_tried_again(self, settings: Settings) -> None:
        settings.OPS_OUTGOING_ALLOWED = ["127.0.0.1"]
        channel(target="http://127.0.0.1:9")
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        assert deliver() == 0
        assert "does not answer" in AlertDelivery.objects.get().fault


class TestWho:
    def test_a_channel_hears_of_its_severities_and_of_what_comes_after_it(self, receiver: Receiver) -> None:
        raise_alert("before", AlertSeverity.CRITICAL, "x")
        channel(target=receiver.url, lowest_severity="critical")
        for name, severity in (("a", AlertSeverity.INFO), ("b", AlertSeverity.WARNING), ("c", AlertSeverity.CRITICAL)):
            raise_alert(name, severity, "x")
        deliver()
        assert told(receiver) == [("alert.firing", "c")]

    def test_nobody_hears_of_a_silenced_rule_until_the_silence_is_over(self, receiver: Receiver) -> None:
        channel(target=receiver.url)
        rule = AlertRule.objects.get(name="disk-full")
        now = timezone.now()
        rules.silence(rule, now + timedelta(hours=1), by=SYSTEM)
        raise_alert("disk-full", AlertSeverity.CRITICAL, "full", rule_id=rule.pk)
        assert deliver(now) == 0
        assert deliver(now + timedelta(minutes=61)) == 1

    def test_it_repeats_until_somebody_is_at_it(self, receiver: Receiver) -> None:
        channel(target=receiver.url, repeat_s=600)
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        now = timezone.now()
        assert [deliver(now + timedelta(seconds=second)) for second in (0, 599, 600)] == [1, 0, 1]
        alerts.acknowledge(alerts.find_open("disk"), by=SYSTEM)
        assert [deliver(now + timedelta(seconds=second)) for second in (1200, 1800)] == [1, 0]
        assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 3


class TestAlertmanager:
    def test_it_gets_what_prometheus_would_send_each_minute_until_it_is_over(self, receiver: Receiver) -> None:
        channel(kind="alertmanager", target=receiver.url)
        raise_alert("slow", AlertSeverity.WARNING, "slow", labels={"stage": "embed"}, value=12.5)
        now = timezone.now()
        assert [deliver(now), deliver(now + timedelta(seconds=61))] == [1, 1]
        resolve_alert("slow")
        deliver(now + timedelta(seconds=122))
        path, _, body = receiver.got[0]
        (alert,) = json.loads(body)
        assert path == "/api/v2/alerts"
        assert alert["labels"] == {
            "alertname": "slow",
            "severity": "warning",
            "service": "zenglow",
            "label_stage": "embed",
        }
        assert alert["annotations"]["value"] == "12.5"
        assert alert["endsAt"] > alert["startsAt"]
        event = AlertEvent.objects.get()
        assert event.resolved_at is not None
        assert json.loads(receiver.got[-1][2])[0]["endsAt"][:19] == event.resolved_at.isoformat()[:19]


class TestMail:
    def test_it_goes_to_every_address(self, settings: Settings) -> None:
        settings.OPS_EMAIL_URL = "memorymail://"
        channel(kind="email", target="ada@zenglow.example, grace@zenglow.example")
        raise_alert("disk", AlertSeverity.WARNING, "nearly full", description="Make room.")
        assert deliver() == 1
        (message,) = mail.outbox
        assert message.to == ["ada@zenglow.example", "grace@zenglow.example"]
        assert message.subject == "[firing] disk"
        assert "Make room." in message.body

    def test_it_says_what_is_missing(self, settings: Settings) -> None:
        settings.OPS_EMAIL_URL = None
        channel(kind="email", target="ada@zenglow.example")
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        assert deliver() == 0
        assert AlertDelivery.objects.get().fault == "Set OPS_EMAIL_URL to send mail."

    @pytest.mark.parametrize("target", ["", "nobody", "a@b.example,,c@d.example"])
    def test_it_takes_mail_addresses_only(self, target: str) -> None:
        with pytest.raises(ValidationError):
            AlertChannel(name="x", kind="email", target=target).full_clean()


@pytest.mark.django_db(transaction=True)
def test_two_processes_tell_it_once(receiver: Receiver) -> None:
    channel(target=receiver.url)
    raise_alert("disk", AlertSeverity.WARNING, "nearly full")
    ready, now = threading.Barrier(4), timezone.now()

    def run() -> None:
        ready.wait(60)
        deliver(now)
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(receiver.got) == 1


class TestAdmin:
    @pytest.fixture
    def administrator(self, local: Client) -> Client:
        local.force_login(User.objects.create_superuser("grace", password="a long password for grace"))
        return local

    def test_the_button_sends_a_test(self, administrator: Client, receiver: Receiver) -> None:
        one = channel(target=receiver.url)
        assert (
            f"/admin/ops/alertchannel/{one.pk}/test/"
            in administrator.get(f"/admin/ops/alertchannel/{one.pk}/change/").text
        )
        page = administrator.post(f"/admin/ops/alertchannel/{one.pk}/test/", follow=True)
        assert "took the test" in page.text
        assert told(receiver) == [("alert.firing", "test")]
        receiver.status = 500
        page = administrator.post(f"/admin/ops/alertchannel/{one.pk}/test/", follow=True)
        assert "answered 500" in page.text
        assert administrator.get(f"/admin/ops/alertchannel/{one.pk}/test/").status_code == 405

    def test_rules_are_shown_silenced_and_checked(self, administrator: Client) -> None:
        assert "latency_p95" in administrator.get("/admin/ops/alertrule/").text
        rule = AlertRule.objects.get(name="slow-queries")
        for action, is_silent in (("silence_hour", True), ("end_silence", False), ("silence_day", True)):
            administrator.post("/admin/ops/alertrule/", {"action": action, "_selected_action": [rule.pk]})
            rule.refresh_from_db()
            assert (rule.silenced_until is not None) is is_silent
        page = administrator.post(
            "/admin/ops/alertrule/add/",
            {
                "name": "x",
                "measure": "disk_used",
                "labels": '{"stage": "embed"}',
                "comparison": "above",
                "threshold": "1",
                "window_s": "60",
                "for_s": "0",
                "severity": "info",
            },
        )
        assert "disk_used has no stage" in page.text

    def test_alerts_are_acknowledged_and_closed(self, administrator: Client) -> None:
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        event = AlertEvent.objects.get()
        for action in ("acknowledge", "close", "close"):
            page = administrator.post(
                "/admin/ops/alertevent/", {"action": action, "_selected_action": [event.pk]}, follow=True
            )
        assert "over already" in page.text
        event.refresh_from_db()
        assert event.acknowledged_by == "grace"
        assert event.resolved_at is not None
        for name in ("alertdelivery", "alertchannel"):
            assert administrator.get(f"/admin/ops/{name}/").status_code == 200
