"""Clients with keys, a collection, and a way to see a run through."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from rag.ingest import service
from rag.models import Collection, IndexRun, RunState

ClientOf = Callable[..., Client]


@pytest.fixture
def client_of(settings: Any, db: None) -> ClientOf:
    """A client that carries a key with these scopes, groups and collections."""
    settings.ENABLE_API_KEYS = True

    def make(*granted: Scope, groups: list[str] | None = None, collections: list[str] | None = None) -> Client:
        key = keys.create_key("test", granted, actor=SYSTEM, groups=groups or [], collections=collections)
        return Client(headers={"Authorization": f"Bearer {key.text}"})

    return make


@pytest.fixture
def api(client_of: ClientOf) -> Client:
    return client_of(Scope.INGEST, Scope.QUERY)


@pytest.fixture
def collection(live_models: None) -> Collection:
    return Collection.objects.create(slug="c")


def send(client: Client, method: str, path: str, body: Any = None, **headers: str) -> Any:
    content = body if isinstance(body, str | bytes) else json.dumps(body) if body is not None else ""
    return client.generic(method, path, content, content_type="application/json", headers=headers)


def post(client: Client, path: str, body: Any = None, **headers: str) -> Any:
    return send(client, "POST", path, body, **headers)


def work_off(response: Any) -> IndexRun:
    """See the run of a 202 answer through, as a worker does."""
    assert response.status_code == 202, response.content
    run = IndexRun.objects.get(id=response.json()["id"])
    assert response["Location"] == f"/rag/index-runs/{run.id}"
    while service.process_batch(run.id):
        pass
    run.refresh_from_db()
    assert run.state == RunState.FINISHED
    return run


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json"), response.content
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:zenglow:problem:{code}"
    assert problem["request_id"]
    return problem
