from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from models_registry import deployments, past, weights
from models_registry.models import Deployment, ModelVersion, Slot
from models_registry.past import Past, what_was_live
from ops import keys
from ops.contracts.principal import SYSTEM, Principal, Scope

pytestmark = pytest.mark.django_db

MONDAY = datetime(2026, 3, 2, 9, tzinfo=UTC)


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What other apps tell of the past: nothing, unless a test says something."""
    registered: dict[str, Any] = {}
    monkeypatch.setattr(past, "_sources", registered)
    return registered


@pytest.fixture
def week(make_version: Callable[..., ModelVersion], collections: set[str], sources: dict[str, Any]) -> None:
    """A change every day from Monday on: weights, a ranker, the weights of a collection, other weights."""
    changes = [
        lambda: weights.change(weights.propose(6, 4), by=SYSTEM, reason="start"),
        lambda: deployments.activate(Slot.LTR, make_version(), by=SYSTEM, reason="trained"),
        lambda: weights.change(weights.propose(9, 1), "papers", by=SYSTEM, reason="for papers"),
        lambda: weights.change(weights.propose(7, 3), by=SYSTEM, reason="more"),
    ]
    for day, change in enumerate(changes):
        row = change()
        at = MONDAY + timedelta(days=day)
        Deployment.objects.filter(ended_at=row.started_at).update(ended_at=at)
        Deployment.objects.filter(pk=row.pk).update(started_at=at)


def shown(moment: datetime, principal: Principal = SYSTEM) -> list[str]:
    return [f"{one.scope}/{one.slot}: {one.reason}" for one in what_was_live(moment, principal)]


def test_every_moment_has_what_answered_then(week: None) -> None:
    assert shown(MONDAY - timedelta(seconds=1)) == []
    assert shown(MONDAY) == ["global/weights: start"]
    assert shown(MONDAY + timedelta(days=2.5)) == [
        "global/ltr: trained",
        "global/weights: start",
        "papers/weights: for papers",
    ]
    # A change belongs to the new: at its very moment the old one has ended.
    assert "global/weights: more" in shown(MONDAY + timedelta(days=3))
    assert "global/weights: start" not in shown(MONDAY + timedelta(days=3))
    assert len(shown(timezone.now())) == 3


def test_it_says_who_until_when_and_what_exactly(week: None) -> None:
    (first,) = what_was_live(MONDAY, SYSTEM)
    assert (first.by, first.since, first.until) == ("system", MONDAY, MONDAY + timedelta(days=3))
    assert (first.facts["ltr"], first.facts["conceptual"]) == (0.6, 0.4)


def test_other_apps_add_what_they_know_and_nobody_sees_other_collections(
    week: None, sources: dict[str, Any], limited_operator: Principal
) -> None:
    def indexes(moment: datetime) -> list[Past]:
        return [Past(slug, "index", "stable", "HNSW", MONDAY, None, "olga", "faster") for slug in ("manuals", "papers")]

    sources["indexes"] = indexes
    assert "papers/index: faster" in shown(MONDAY)
    assert shown(MONDAY, limited_operator) == ["global/weights: start", "manuals/index: faster"]


def test_the_api_tells_it(week: None) -> None:
    key = keys.create_key("test", [Scope.REGISTRY_READ], actor=SYSTEM)
    client = Client(headers={"Authorization": f"Bearer {key.text}"})
    body = client.get("/registry/past?at=2026-03-02T12:00:00Z").json()
    assert body["at"] == "2026-03-02T12:00:00Z"
    (entry,) = body["live"]
    assert (entry["slot"], entry["by"], entry["reason"], entry["until"]) == (
        "weights",
        "system",
        "start",
        "2026-03-05T09:00:00Z",
    )
    assert len(client.get("/registry/past").json()["live"]) == 3
    assert client.get("/registry/past?at=yesterday").status_code == 400


def test_the_admin_tells_it(week: None) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    address = "/admin/models_registry/deployment/past/"
    page = client.get(f"{address}?at=2026-03-04T10:00").content.decode()
    assert "trained" in page
    assert "for papers" in page
    assert "Write a time as" in client.get(f"{address}?at=x").content.decode()
    assert "Nothing was live then" in client.get(f"{address}?at=1999-01-01").content.decode()
    assert "What was live at" in client.get("/admin/models_registry/deployment/").content.decode()
