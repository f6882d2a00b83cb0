from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from models_registry import deployments, live, loading, weights
from models_registry.models import ModelKind, ModelVersion, Slot
from ops.contracts.principal import SYSTEM, Scope
from tests.models_registry.test_weights_api import ClientOf, assert_problem, client_of

__all__ = ["client_of"]

pytestmark = pytest.mark.django_db

MakeVersion = Callable[..., ModelVersion]


@pytest.fixture
def api(client_of: ClientOf, collections: set[str]) -> Client:
    return client_of(Scope.REGISTRY_READ, Scope.OPS_READ)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loading, "_reports", {})
    live.view.reset()
    yield
    live.view.reset()


def test_it_lists_models_with_what_is_live(api: Client, make_version: MakeVersion) -> None:
    first = make_version("ranker", b"one")
    make_version("ranker", b"two")
    make_version("BAAI/bge-small", b"onnx", ModelKind.EMBEDDER)
    deployments.activate(Slot.LTR, first, by=SYSTEM)
    deployments.activate(Slot.LTR, first, "papers", by=SYSTEM)

    listed = api.get("/registry/models").json()
    assert listed["next"] is listed["previous"] is None
    embedder, ranker = listed["results"]
    assert (embedder["name"], embedder["kind"], embedder["newest_number"], embedder["live"]) == (
        "BAAI/bge-small",
        "embedder",
        1,
        [],
    )
    assert (ranker["name"], ranker["newest_number"]) == ("ranker", 2)
    assert ranker["live"] == [
        {"number": 1, "scope": "global", "slot": "ltr", "role": "stable"},
        {"number": 1, "scope": "papers", "slot": "ltr", "role": "stable"},
    ]
    assert [model["name"] for model in api.get("/registry/models?kind=ltr").json()["results"]] == ["ranker"]
    assert_problem(api.get("/registry/models?kind=other"), 400, "invalid-request")


def test_it_shows_a_model_with_its_versions_newest_first(api: Client, make_version: MakeVersion) -> None:
    for content in (b"one", b"two", b"three"):
        version = make_version("BAAI/bge-small", content, ModelKind.EMBEDDER)
    detail = api.get("/registry/models/BAAI/bge-small?limit=2").json()
    assert detail["name"] == "BAAI/bge-small"
    newest, second = detail["versions"]["results"]
    assert (newest["number"], newest["artifacts"], newest["parameters"]) == (
        3,
        version.artifacts,
        {"content": "three"},
    )
    assert second["number"] == 2
    rest = api.get(detail["versions"]["next"]).json()
    assert [version["number"] for version in rest["versions"]["results"]] == [1]
    assert_problem(api.get("/registry/models/nothing"), 404, "not-found")


def test_it_tells_what_was_live_at_a_time(api: Client) -> None:
    rows = [weights.change(weights.propose(ltr, 1), by=SYSTEM) for ltr in (1, 2, 3)]
    all_rows = api.get("/registry/deployments").json()["results"]
    assert [row["id"] for row in all_rows] == [row.id for row in reversed(rows)]
    assert all_rows[0]["weights_version"] == rows[2].weights_id
    assert all_rows[0]["model_version"] is None

    def at(moment: str) -> list[int]:
        return [row["id"] for row in api.get("/registry/deployments", {"at": moment}).json()["results"]]

    assert at(rows[1].started_at.isoformat()) == [rows[1].id]
    assert at((rows[0].started_at - timedelta(seconds=1)).isoformat()) == []
    assert_problem(api.get("/registry/deployments?at=yesterday"), 400, "invalid-request")


def test_it_filters_deployments_by_slot_and_scope(api: Client, make_version: MakeVersion) -> None:
    deployments.activate(Slot.LTR, make_version(), "papers", by=SYSTEM)
    weights.change(weights.propose(1, 1), by=SYSTEM)
    [row] = api.get("/registry/deployments?slot=ltr").json()["results"]
    assert (row["scope"], row["model_version"]) == ("papers", "ranker@1")
    assert [row["slot"] for row in api.get("/registry/deployments?scope=global").json()["results"]] == ["weights"]


def test_a_key_for_one_collection_does_not_see_the_others(
    client_of: ClientOf,
    collections: set[str],
) -> None:
    for scope in ("global", "papers", "manuals"):
        weights.change(weights.propose(1, 1), scope, by=SYSTEM)
    limited = client_of(Scope.REGISTRY_READ, collections=["manuals"])
    rows = limited.get("/registry/deployments").json()["results"]
    assert {row["scope"] for row in rows} == {"global", "manuals"}


@pytest.mark.parametrize("path", ["models", "models/x", "deployments"])
def test_it_asks_for_the_right_scope(client_of: ClientOf, path: str) -> None:
    assert_problem(client_of(Scope.QUERY).get(f"/registry/{path}"), 403, "forbidden")


def test_health_follows_a_model_through_its_life(api: Client, make_version: MakeVersion) -> None:
    version = make_version()
    deployments.activate(Slot.LTR, version, by=SYSTEM)

    def entry() -> dict[str, Any]:
        answer = api.get("/health/models").json()
        assert answer["process"].endswith(f":{os.getpid()}")
        [one] = answer["models"]
        assert (one["model"], one["slots"]) == ("ranker@1", ["ltr"])
        return dict(one)

    def state() -> dict[str, object]:
        one = entry()
        errors = [process["error"] for process in one["processes"]]
        return {"state": one["state"], "error": next(iter(errors), None)}

    expected: dict[str, object] = {"error": None}
    assert state() == expected | {"state": "unloaded"}
    with loading.loading("ranker@1"):
        assert state() == expected | {"state": "loading"}
    assert state() == expected | {"state": "ready"}
    assert entry()["processes"][0]["load_time_ms"] >= 0
    with pytest.raises(MemoryError), loading.loading("ranker@1"):
        raise MemoryError("too large")
    assert state() == expected | {"state": "failed", "error": "MemoryError: too large"}
    loading.draining("ranker@1")
    assert state() == expected | {"state": "draining"}
    loading.unloaded("ranker@1")
    assert state() == expected | {"state": "unloaded"}


def test_health_also_names_what_is_loaded_but_no_longer_live(api: Client) -> None:
    with loading.loading("old@1"):
        pass
    [entry] = api.get("/health/models").json()["models"]
    assert (entry["model"], entry["state"], entry["slots"]) == ("old@1", "ready", [])
