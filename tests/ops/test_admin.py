from __future__ import annotations

import re
import uuid
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from ops import alerts, audit, keys
from ops.alerts import raise_alert
from ops.contracts.principal import SYSTEM, Scope
from ops.keys import REVOKE_KEY
from ops.models import AlertRule, AlertSeverity, ApiKey, AuditEvent, QueryPerformance
from tests.ops.performance.rows import row, write

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("keys_on")]


@pytest.fixture
def administrator(local: Client) -> Client:
    local.force_login(User.objects.create_superuser("grace", password="a long password for grace"))
    return local


def form(**changes: object) -> dict[str, object]:
    return {
        "name": "crawler",
        "scopes": ["ingest"],
        "groups": "staff,guests",
        "collections": "",
        "expires_at_0": "",
        "expires_at_1": "",
    } | changes


class TestKeys:
    def test_it_makes_a_key_and_shows_it_once(self, administrator: Client) -> None:
        page = administrator.post("/admin/ops/apikey/add/", form(), follow=True)
        found = re.search(r"<code>(zg_\w+)</code>", page.text)
        assert found is not None
        principal = keys.verify(found[1])
        assert principal is not None
        assert (principal.scopes, principal.groups) == ({Scope.INGEST}, {"staff", "guests"})
        assert principal.collections is None
        secret = found[1].split("_")[2]
        record = ApiKey.objects.get()
        assert record.created_by == "grace"
        for address in ("/admin/ops/apikey/", f"/admin/ops/apikey/{record.pk}/change/"):
            shown = administrator.get(address)
            assert shown.status_code == 200
            assert record.prefix in shown.text
            assert secret not in shown.text
            assert record.key_hash not in shown.text

    @pytest.mark.parametrize(
        "changes",
        [{"scopes": []}, {"scopes": ["root"]}, {"name": ""}, {"expires_at_0": "2001-01-01", "expires_at_1": "0:00"}],
    )
    def test_it_says_what_is_wrong_with_a_form(self, administrator: Client, changes: dict[str, object]) -> None:
        page = administrator.post("/admin/ops/apikey/add/", form(**changes))
        assert page.status_code == 200
        assert "errorlist" in page.text
        assert not ApiKey.objects.exists()

    def test_it_revokes_but_neither_changes_nor_deletes(self, administrator: Client) -> None:
        key = keys.create_key("old", [Scope.QUERY], actor=SYSTEM)
        administrator.post("/admin/ops/apikey/", {"action": "revoke", "_selected_action": [key.record.pk]}, follow=True)
        assert keys.verify(key.text) is None
        assert AuditEvent.objects.get(action="api_key.revoke").actor == "user:grace"
        assert administrator.post(f"/admin/ops/apikey/{key.record.pk}/change/", form()).status_code == 403
        assert administrator.post(f"/admin/ops/apikey/{key.record.pk}/delete/", {"post": "yes"}).status_code == 403
        administrator.post(
            "/admin/ops/apikey/", {"action": "delete_selected", "_selected_action": [key.record.pk], "post": "yes"}
        )
        assert ApiKey.objects.filter(pk=key.record.pk).exists()


class TestRecords:
    def test_it_shows_what_the_product_writes_and_lets_nobody_edit_it(self, administrator: Client) -> None:
        audit.record(SYSTEM, REVOKE_KEY, "docs/1")
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        QueryPerformance.objects.create(
            id=1,
            occurred_at=timezone.now(),
            request_id=uuid.UUID(int=7),
            query_hmac="ab",
            collection="docs",
            variant="stable",
            mode="pgvector",
            cache="none",
            status=200,
            degraded=[],
            result_count=3,
            pipeline_ms=12.34,
        )
        expected = {"auditevent": "docs/1", "alertevent": "nearly full", "queryperformance": "12.3"}
        for model, text in expected.items():
            shown = administrator.get(f"/admin/ops/{model}/")
            assert shown.status_code == 200
            assert text in shown.text
            assert administrator.get(f"/admin/ops/{model}/add/").status_code == 403
        assert administrator.get("/admin/ops/queryperformance/1/change/").status_code == 200
        assert administrator.post("/admin/ops/queryperformance/1/change/", {}).status_code == 403
        assert administrator.get(f"/admin/ops/queryperformance/?q={uuid.UUID(int=7)}").status_code == 200
        assert administrator.get("/admin/ops/queryperformance/?q=nonsense").status_code == 200

    def test_it_is_closed_to_people_who_are_not_staff(self, local: Client, person: User) -> None:
        local.force_login(person)
        assert local.get("/admin/ops/apikey/").status_code == 302


class TestRules:
    def test_its_page_draws_what_it_would_have_said(self, administrator: Client) -> None:
        rule = AlertRule.objects.get(name="slow-queries")
        page = f"/admin/ops/alertrule/{rule.pk}/change/"
        assert "there was nothing to read" in administrator.get(page).text
        now = timezone.now()
        for minutes, pipeline_ms in [*((ago, 4000.0) for ago in range(60, 90)), *((ago, 20.0) for ago in range(5, 20))]:
            at = now - timedelta(minutes=minutes)
            write(row(occurred_at=at, timings_ms={"pipeline_ms": pipeline_ms}) for _ in range(3))
        shown = administrator.get(page).text
        assert 'class="less"' in shown
        assert 'class="plain"' in shown
        assert shown.count('<td class="number">') == 1
        assert "It would have fired" in shown
        assert "It would not have fired." in administrator.get(f"{page}?since=1h").text

    def test_a_form_that_is_wrong_is_shown_with_the_plot_of_what_is_saved(self, administrator: Client) -> None:
        rule = AlertRule.objects.get(name="slow-queries")
        shown = administrator.post(
            f"/admin/ops/alertrule/{rule.pk}/change/", {"name": "slow-queries", "threshold": "x"}
        )
        assert shown.status_code == 200
        assert "errorlist" in shown.text
        assert "What it would have said" in shown.text

    def test_a_rule_that_is_off_says_so(self, administrator: Client) -> None:
        AlertRule.objects.update(enabled=False)
        assert "not read yet" not in administrator.get("/admin/ops/alertrule/").text

    def test_open_alerts_are_told_from_those_that_are_over(self, administrator: Client) -> None:
        raise_alert("disk", AlertSeverity.WARNING, "nearly full")
        raise_alert("ram", AlertSeverity.WARNING, "all taken")
        alerts.close(alerts.find_open("ram"), by=SYSTEM)
        opened, over = (administrator.get(f"/admin/ops/alertevent/?state={state}").text for state in ("open", "over"))
        assert ("nearly full" in opened, "all taken" in opened) == (True, False)
        assert ("nearly full" in over, "all taken" in over) == (False, True)
        assert "over since" in over
