from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from models_registry import deployments, notices, weights
from models_registry.live import LiveView
from models_registry.models import Deployment, ModelVersion, Slot
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import Unavailable
from tests.models_registry.conftest import at_once
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.django_db


@pytest.fixture
def hour(settings: Any) -> None:
    """A refresh interval that never passes during a test."""
    settings.REGISTRY_REFRESH_INTERVAL_MS = 3_600_000


@pytest.fixture
def always(settings: Any) -> None:
    """Every use looks at the database."""
    settings.REGISTRY_REFRESH_INTERVAL_MS = 0


def set_weights(ltr: float, scope: str = "global") -> Deployment:
    return weights.change(weights.propose(ltr, 1 - ltr), scope, by=SYSTEM)


@pytest.fixture
def lost_database() -> Iterator[Callable[[], Any]]:
    """A context in which every query fails as it does when the server is gone."""

    def fail(*args: Any) -> Any:
        raise OperationalError("server closed the connection unexpectedly")

    return lambda: connection.execute_wrapper(fail)  # type: ignore[return-value]


def test_it_shows_what_is_live_as_plain_frozen_facts(
    view: LiveView, operator: Principal, make_version: Callable[..., ModelVersion]
) -> None:
    version = make_version()
    row = deployments.activate(Slot.LTR, version, by=operator)
    set_weights(0.75)

    model = view.model(Slot.LTR, "papers")
    assert (model.label, model.version_id, model.deployment_id) == ("ranker@1", version.id, row.id)
    assert (model.provider, model.scope, dict(model.artifacts)) == ("lightgbm", "global", version.artifacts)
    assert model.parameters["content"] == "trees"
    assert view.weights("papers").normalized == (0.75, 0.25)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        model.parameters["content"] = "other"  # type: ignore[index]


def test_a_collection_overrides_the_global_choice(view: LiveView, collections: set[str]) -> None:
    set_weights(0.6)
    set_weights(0.9, "papers")
    assert view.weights("papers").ltr == 0.9
    assert view.weights("manuals").ltr == 0.6
    assert [(live.slot if hasattr(live, "slot") else "weights", live.scope) for live in view.all()] == [
        ("weights", "global"),
        ("weights", "papers"),
    ]


def test_it_says_when_nothing_is_live(view: LiveView) -> None:
    with pytest.raises(Unavailable, match="seed` provides"):
        view.weights("papers")
    with pytest.raises(Unavailable, match="embedder"):
        view.model(Slot.EMBEDDER, "papers")


def test_within_the_interval_it_asks_the_database_nothing(view: LiveView, hour: None) -> None:
    set_weights(0.6)
    view.weights("papers")
    set_weights(0.7)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert [view.weights("papers").ltr for _ in range(100)] == [0.6] * 100
    assert len(queries) == 0


def test_after_the_interval_it_asks_one_question_unless_something_changed(view: LiveView, always: None) -> None:
    set_weights(0.6)
    view.weights("papers")
    with CaptureQueriesContext(connection) as queries:
        assert view.weights("papers").ltr == 0.6
    assert len(queries) == 1

    set_weights(0.7)
    with CaptureQueriesContext(connection) as queries:
        assert view.weights("papers").ltr == 0.7
    assert len(queries) == 2


def test_it_notices_the_end_of_an_override(view: LiveView, always: None, collections: set[str]) -> None:
    set_weights(0.6)
    set_weights(0.9, "papers")
    assert view.weights("papers").ltr == 0.9
    deployments.deactivate(Slot.WEIGHTS, "papers", by=SYSTEM)
    assert view.weights("papers").ltr == 0.6


def test_it_serves_the_last_known_while_the_database_is_away(
    view: LiveView, always: None, lost_database: Callable[[], Any]
) -> None:
    set_weights(0.6)
    assert view.weights("papers").ltr == 0.6
    with lost_database():
        assert view.weights("papers").ltr == 0.6
    set_weights(0.7)
    assert view.weights("papers").ltr == 0.7


def test_without_a_last_known_a_lost_database_is_an_error(view: LiveView, lost_database: Callable[[], Any]) -> None:
    with lost_database(), pytest.raises(OperationalError):
        view.weights("papers")
    set_weights(0.6)
    assert view.weights("papers").ltr == 0.6


@pytest.mark.django_db(transaction=True)
def test_many_threads_that_start_together_read_the_table_once(view: LiveView, hour: None) -> None:
    set_weights(0.6)
    loads: list[str] = []

    def count(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        loads.append(sql)
        return execute(sql, *rest)

    def ask() -> float:
        with connection.execute_wrapper(count):
            return view.weights("papers").ltr

    assert at_once(*[ask] * 8) == [0.6] * 8
    assert len(loads) == 2


@pytest.mark.django_db(transaction=True)
def test_others_go_on_with_what_is_known_while_one_looks(view: LiveView, always: None) -> None:
    set_weights(0.6)
    view.weights("papers")
    looking, answered = threading.Event(), threading.Event()

    def slow(execute: Callable[..., Any], *arguments: Any) -> Any:
        looking.set()
        assert answered.wait(PATIENCE_S)
        return execute(*arguments)

    def look() -> float:
        with connection.execute_wrapper(slow):
            return view.weights("papers").ltr

    def go_on() -> float:
        assert looking.wait(PATIENCE_S)
        try:
            return view.weights("papers").ltr
        finally:
            answered.set()

    assert at_once(look, go_on) == [0.6, 0.6]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("empty_cache")
def test_a_notice_makes_other_processes_follow_at_once(view: LiveView, hour: None) -> None:
    set_weights(0.6)
    noticed = threading.Event()
    expire = view.expire

    def expire_and_tell() -> None:
        expire()
        noticed.set()

    view.expire = expire_and_tell  # type: ignore[method-assign]
    view.follow()
    assert view._listener is not None
    assert view._listener.subscribed.wait(PATIENCE_S)
    assert noticed.wait(PATIENCE_S)
    noticed.clear()
    assert view.weights("papers").ltr == 0.6

    set_weights(0.7)

    assert noticed.wait(PATIENCE_S)
    assert view.weights("papers").ltr == 0.7


@pytest.mark.django_db(transaction=True)
def test_a_change_works_without_redis(view: LiveView, always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(alias: str) -> Any:
        raise notices.redis.ConnectionError("refused")

    monkeypatch.setattr(notices, "get_redis_connection", refuse)
    set_weights(0.6)
    assert view.weights("papers").ltr == 0.6


@pytest.mark.django_db(transaction=True)
def test_a_change_that_is_undone_sends_no_notice(operator: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(notices, "_publish", lambda: sent.append("notice"))

    def refuse(current: Deployment | None) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        weights.change(weights.propose(1, 1), by=operator, precondition=refuse)
    assert sent == []
    weights.change(weights.propose(1, 1), by=operator)
    assert sent == ["notice"]
