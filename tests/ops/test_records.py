"""The audit trail and the alerts."""

from __future__ import annotations

import ast
import re
import threading
from pathlib import Path
from typing import get_type_hints

import pytest
from django.db import connection

from models_registry.deployments import ROLLBACK
from ops import audit
from ops.alerts import raise_alert, resolve_alert
from ops.backup.service import RESTORE_BACKUP
from ops.contracts.audit import AuditAction, audit_actions, declare_action
from ops.contracts.principal import LOOPBACK, SYSTEM, Principal, PrincipalKind
from ops.keys import CREATE_KEY
from ops.models import AlertEvent, AlertSeverity, AuditEvent
from rag.ingest.service import DELETE

ROOT = Path(__file__).resolve().parents[2]


class TestAuditActions:
    def test_each_app_declares_what_it_records_as_noun_and_verb(self) -> None:
        actions = audit_actions()
        assert {CREATE_KEY, RESTORE_BACKUP, ROLLBACK, DELETE} <= set(actions)
        assert all(re.fullmatch("[a-z_]+[.][a-z_]+", action) for action in actions)
        assert all(action.help.endswith(".") for action in actions)

    @pytest.mark.parametrize("name", ["delete", "Document.delete", "document delete", "document.delete.all", ""])
    def test_another_form_of_name_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"noun\.verb"):
            declare_action(name, "Never.")

    def test_a_name_has_one_meaning(self) -> None:
        with pytest.raises(ValueError, match="declared already"):
            declare_action("document.delete", "Something else.")

    def test_everything_that_is_recorded_is_declared(self) -> None:
        """The type of `audit.record` asks for a declared action; here, that no call hands it a text of its own."""
        assert get_type_hints(audit.record)["action"] is AuditAction
        recorded = 0
        for app in ("ops", "models_registry", "rag", "voice", "zenglow_site"):
            for path in (ROOT / app).rglob("*.py"):
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.Call) and ast.unparse(node.func) == "audit.record":
                        assert isinstance(node.args[1], ast.Name | ast.Attribute), f"{path}:{node.lineno}"
                        recorded += 1
        assert recorded > 8


@pytest.mark.django_db
class TestAudit:
    def test_it_tells_a_user_from_a_key_of_the_same_name(self) -> None:
        for kind in (PrincipalKind.USER, PrincipalKind.API_KEY):
            audit.record(Principal(kind, "ada", frozenset()), DELETE, "docs/1", {"reason": "old"})
        for principal in (SYSTEM, LOOPBACK):
            audit.record(principal, DELETE, "docs/1")
        assert [event.actor for event in AuditEvent.objects.filter(target="docs/1").order_by("id")] == [
            "user:ada",
            "api_key:ada",
            "system",
            "anonymous",
        ]

    def test_it_cuts_what_its_columns_cannot_hold(self) -> None:
        principal = Principal(PrincipalKind.USER, "x" * 300, frozenset())
        event = audit.record(principal, DELETE, "y" * 1000)
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
