"""People, a store of its own per test, and small versions to deploy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import connection

from models_registry import artifacts, deployments, scopes, versions
from models_registry.live import LiveView
from models_registry.models import (
    Artifact,
    Deployment,
    FusionWeights,
    Model,
    ModelKind,
    ModelVersion,
    Rollout,
    Slot,
    TrainingRun,
)
from ops.contracts.principal import Principal, PrincipalKind, Scope
from ops.models import AuditEvent
from tests.patience import PATIENCE_S


def person(name: str, *granted: Scope, collections: set[str] | None = None) -> Principal:
    return Principal(
        PrincipalKind.USER,
        name,
        frozenset(granted),
        collections=None if collections is None else frozenset(collections),
    )


@pytest.fixture(autouse=True)
def empty_registry(request: pytest.FixtureRequest) -> None:
    """Nothing registered and nothing live: these tests say themselves what there is."""
    marker = request.node.get_closest_marker("django_db")
    if marker is not None:
        request.getfixturevalue("transactional_db" if marker.kwargs.get("transaction") else "db")
        Deployment.objects.exclude(rollout=None).delete()
        for table in (Rollout, Deployment, ModelVersion, TrainingRun, Model, FusionWeights, Artifact, AuditEvent):
            table.objects.all().delete()


@pytest.fixture(autouse=True)
def trials(monkeypatch: pytest.MonkeyPatch) -> dict[Slot, deployments.Trial]:
    """How versions show that they work: none does here, unless a test says how. Their contents are not models."""
    registered: dict[Slot, deployments.Trial] = {}
    monkeypatch.setattr(deployments, "_trials", registered)
    return registered


@pytest.fixture
def operator() -> Principal:
    return person("olga", Scope.REGISTRY_READ, Scope.REGISTRY_WRITE)


@pytest.fixture
def reader() -> Principal:
    return person("rita", Scope.REGISTRY_READ)


@pytest.fixture
def limited_operator() -> Principal:
    """May change the registry, but only for the collection ``manuals``."""
    return person("lena", Scope.REGISTRY_READ, Scope.REGISTRY_WRITE, collections={"manuals"})


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The collections that exist."""
    existing = {"manuals", "papers"}
    monkeypatch.setattr(scopes, "_collection_exists", existing.__contains__)
    return existing


@pytest.fixture
def store(settings: Any, tmp_path: Path) -> Iterator[Path]:
    """The folder of an empty local artifact store."""
    yield from _storage(settings, tmp_path, "django.core.files.storage.FileSystemStorage", location=tmp_path / "files")


@pytest.fixture
def remote_store(settings: Any, tmp_path: Path) -> Iterator[Path]:
    """An empty store without local paths, as an object store is; yields the data folder it is cached in."""
    yield from _storage(settings, tmp_path, "django.core.files.storage.InMemoryStorage")


def _storage(settings: Any, tmp_path: Path, backend: str, **options: Any) -> Iterator[Path]:
    settings.ZENGLOW_DATA_DIR = tmp_path
    settings.STORAGES = {**settings.STORAGES, "default": {"BACKEND": backend, "OPTIONS": options}}
    yield options.get("location", tmp_path)
    storages._storages.clear()


@pytest.fixture
def make_version(store: Path) -> Callable[..., ModelVersion]:
    """A version whose one file has the given content."""

    def make(name: str = "ranker", content: bytes = b"trees", kind: ModelKind = ModelKind.LTR) -> ModelVersion:
        artifact = artifacts.put(content, f"{name}.txt")
        model = versions.register_model(name, kind, provider="lightgbm" if kind == ModelKind.LTR else "onnxruntime")
        return versions.register_version(model, {"model": artifact.sha256}, {"content": content.decode()}, {}, {})

    return make


@pytest.fixture
def view() -> Iterator[LiveView]:
    own = LiveView()
    yield own
    own.reset()


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at the same time, each on a thread and connection of its own; an exception is its result."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            connection.ensure_connection()
            barrier.wait(timeout=PATIENCE_S)
            return call()
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as executor:
        return list(executor.map(run, calls))
