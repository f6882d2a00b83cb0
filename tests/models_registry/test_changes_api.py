"""Promoting, rolling back, refreshing and moving versions over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from models_registry import artifacts, deployments, versions
from models_registry.models import ModelKind, ModelVersion, Slot
from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from ops.contracts.problems import Unprocessable
from tests.models_registry.test_archives import TREES

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("store", "collections")]

MakeVersion = Callable[..., ModelVersion]


def client_with(*granted: Scope) -> Client:
    key = keys.create_key("test", granted, actor=SYSTEM)
    return Client(headers={"Authorization": f"Bearer {key.text}"})


@pytest.fixture
def api() -> Client:
    return client_with(Scope.REGISTRY_READ, Scope.REGISTRY_WRITE)


def post(client: Client, path: str, body: Any = None) -> Any:
    return client.post(path, body or {}, content_type="application/json")


def test_a_version_is_promoted_and_rolled_back(api: Client, make_version: MakeVersion) -> None:
    make_version(content=b"one")
    make_version(content=b"two")
    assert post(api, "/registry/promotions", {"version": "ranker@1"}).json()["model_version"] == "ranker@1"
    body = {"version": "ranker", "reason": "better"}
    answer = post(api, "/registry/promotions?collection=papers", body).json()
    assert (answer["model_version"], answer["scope"], answer["reason"]) == ("ranker@2", "papers", "better")
    back = post(api, "/registry/rollbacks?collection=papers", {"slot": "ltr"}).json()
    assert (back["model_version"], back["scope"]) == ("ranker@1", "global")
    assert post(api, "/registry/rollbacks", {"slot": "ltr"}).status_code == 409
    assert post(api, "/registry/rollbacks", {"slot": "weights"}).status_code == 400


def test_a_broken_version_is_refused_and_shown_as_failed(
    api: Client, make_version: MakeVersion, trials: dict[Slot, deployments.Trial]
) -> None:
    def refuse(version: ModelVersion) -> None:
        raise Unprocessable("It has no trees.")

    good = make_version(content=b"one")
    deployments.activate(Slot.LTR, good, by=SYSTEM)
    make_version(content=b"two")
    trials[Slot.LTR] = refuse
    refusal = post(api, "/registry/promotions", {"version": "ranker@2", "force": True})
    assert (refusal.status_code, refusal.json()["detail"]) == (422, "It has no trees.")
    shown = api.get("/registry/models/ranker").json()["versions"]["results"]
    assert [(one["number"], one["status"], one["status_detail"]) for one in shown] == [
        (2, "failed", "It has no trees."),
        (1, "ready", ""),
    ]
    only = api.get("/registry/models/ranker?status=failed").json()["versions"]["results"]
    assert [one["number"] for one in only] == [2]
    live = deployments.effective(Slot.LTR, "global")
    assert live is not None
    assert live.model_version == good


def test_models_are_found_by_kind_provider_name_and_being_live(api: Client, make_version: MakeVersion) -> None:
    deployments.activate(Slot.LTR, make_version("trees"), by=SYSTEM)
    make_version("encoder", b"onnx", ModelKind.EMBEDDER)

    def names(query: str) -> list[str]:
        return [model["name"] for model in api.get(f"/registry/models?{query}").json()["results"]]

    assert names("kind=embedder") == ["encoder"]
    assert names("provider=lightgbm") == ["trees"]
    assert names("search=ENC") == ["encoder"]
    assert (names("live=true"), names("live=false")) == (["trees"], ["encoder"])
    assert names("") == ["encoder", "trees"]
    assert api.get("/registry/models?kind=virus").status_code == 400


def test_a_version_moves_by_two_requests(api: Client) -> None:
    model = versions.register_model("teams/ranker", ModelKind.LTR, "lightgbm")
    versions.register_version(model, {"model": artifacts.put(TREES, "r.txt").sha256}, {}, {}, {})
    answer = api.get("/registry/exports/teams/ranker@1")
    archive = b"".join(answer.streaming_content)
    assert answer["Content-Type"] == "application/zip"
    assert "teams--ranker@1.zenglow.zip" in answer["Content-Disposition"]

    def send(path: str, content: bytes = archive, client: Client = api) -> Any:
        return client.post(path, content, content_type="application/zip")

    assert send("/registry/imports").json() == {"version": "teams/ranker@1", "is_new": False}
    assert send("/registry/imports?name=theirs").json() == {"version": "theirs@1", "is_new": True}
    refusal = send("/registry/imports", archive[:50])
    assert (refusal.status_code, refusal["Content-Type"]) == (422, "application/problem+json")
    assert send("/registry/imports", client=client_with(Scope.REGISTRY_READ)).status_code == 403
    assert api.get("/registry/exports/nothing@1").status_code == 404
    assert post(api, "/registry/imports").status_code == 415
    assert send("/registry/imports", b"").status_code == 422


def test_an_archive_above_the_limit_is_refused(api: Client, settings: Any) -> None:
    settings.REGISTRY_ARTIFACT_MAX_BYTES = 1024
    answer = api.post("/registry/imports", b"x" * 1025, content_type="application/zip")
    assert answer.status_code == 413


def test_refreshing_tells_of_every_source(api: Client, settings: Any) -> None:
    settings.REGISTRY_DISCOVER_DIRS = ("/nowhere",)
    (looked,) = post(api, "/registry/refresh").json()["sources"]
    assert looked["source"] == "folder /nowhere"
    assert "no folder" in looked["error"]
    assert post(client_with(Scope.REGISTRY_READ), "/registry/refresh").status_code == 403
