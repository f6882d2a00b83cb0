"""What is told of the past of vector indexes: of every moment what was live, with who and why."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.test import Client

from models_registry.live import view
from models_registry.past import what_was_live
from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from rag.ann import configs
from rag.ann.past import indexes_at
from rag.collections import delete_collection
from rag.models import AnnConfig, AnnPeriod
from tests.rag.ann.support import Subject, subject

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]

BRIEF = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def bees(module_transaction: None) -> Subject:
    view.expire()
    return subject("bees", 4)


def activate(bees: Subject, reason: str, **given: object) -> datetime:
    """When an exact search became the way, for a reason; each is a configuration of its own."""
    config = configs.propose(*bees, {"strategy": "exact"} | given, by=SYSTEM, rebuild=True)
    configs.activate(config, by=SYSTEM, reason=reason)
    assert config.activated_at is not None
    return config.activated_at


def told(moment: datetime) -> list[str]:
    return [one.reason for one in indexes_at(moment)]


def test_every_moment_has_the_configuration_that_was_live_then(bees: Subject) -> None:
    first = activate(bees, "at first")
    second = activate(bees, "better")
    assert told(first - BRIEF) == []
    assert told(first) == told(second - BRIEF) == ["at first"]
    # A change belongs to the new: at its very moment the old one has ended.
    assert told(second) == told(second + timedelta(days=400)) == ["better"]
    (past,) = indexes_at(first)
    assert (past.scope, past.slot, past.by, past.since, past.until) == ("bees", "index", "system", first, second)
    assert past.facts == {"space": bees[1].slug, "strategy": "exact", "recall_at_10": 1.0}
    assert "exact" in past.what


def test_what_failed_to_become_live_is_not_told(bees: Subject) -> None:
    live = activate(bees, "live")
    waiting = configs.propose(*bees, {"strategy": "hnsw"}, by=SYSTEM)
    with pytest.raises(Exception, match="index"):
        configs.activate(waiting, by=SYSTEM, reason="too soon")
    assert told(live + timedelta(days=1)) == ["live"]


def test_putting_the_same_live_again_begins_no_period(bees: Subject) -> None:
    config = configs.propose(*bees, {"strategy": "exact"}, by=SYSTEM)
    for reason in ("once", "twice"):
        configs.activate(config, by=SYSTEM, reason=reason)
    assert [period.reason for period in AnnPeriod.objects.all()] == ["once"]


def test_a_deleted_collection_keeps_its_past_and_has_no_present(bees: Subject) -> None:
    moment = activate(bees, "for bees")
    configs_before = AnnConfig.objects.count()
    delete_collection(bees[0], SYSTEM)
    assert AnnConfig.objects.count() < configs_before
    assert told(moment) == ["for bees"]
    assert told(moment + timedelta(days=1)) == []


def test_it_is_part_of_what_answered_beside_weights_and_models(bees: Subject) -> None:
    moment = activate(bees, "for bees")
    slots = {(one.scope, one.slot) for one in what_was_live(moment, SYSTEM)}
    assert {("bees", "index"), ("global", "weights"), ("global", "ltr"), ("global", "embedder")} <= slots
    key = keys.create_key("test", [Scope.REGISTRY_READ], actor=SYSTEM)
    client = Client(headers={"Authorization": f"Bearer {key.text}"})
    body = client.get("/registry/past", {"at": moment.isoformat()}).json()
    assert [(one["by"], one["reason"]) for one in body["live"] if one["slot"] == "index"] == [("system", "for bees")]


class TestMigration:
    """`0010` gives what is live when it runs a period: an installation that is older than the table has a past too."""

    def run(self) -> None:
        migration = MigrationExecutor(connection).loader.get_migration("rag", "0010_ann_periods")
        state = MigrationExecutor(connection).loader.project_state(("rag", "0010_ann_periods"))
        (data_step,) = [step for step in migration.operations if hasattr(step, "code")]
        data_step.code(state.apps, None)

    def test_what_is_live_begins_when_it_was_put_live(self, bees: Subject) -> None:
        activate(bees, "retired by now")
        since = activate(bees, "live")
        AnnConfig.objects.filter(state="live").update(by="olga", reason="the recall was measured")
        AnnPeriod.objects.all().delete()
        self.run()
        (period,) = AnnPeriod.objects.all()
        assert (period.collection, period.started_at, period.ended_at) == ("bees", since, None)
        assert (period.by, period.reason) == ("olga", "the recall was measured")
        assert period.facts == {"space": bees[1].slug, "strategy": "exact", "recall_at_10": 1.0}
        assert told(since - BRIEF) == []
        (past,) = indexes_at(since)
        assert "exact of bees" in past.what

    def test_what_follows_ends_the_period_that_it_made(self, bees: Subject) -> None:
        activate(bees, "old")
        AnnPeriod.objects.all().delete()
        self.run()
        second = activate(bees, "new")
        assert [period.ended_at for period in AnnPeriod.objects.order_by("id")] == [second, None]

    def test_with_nothing_live_it_does_nothing(self, bees: Subject) -> None:
        self.run()
        assert not AnnPeriod.objects.exists()
