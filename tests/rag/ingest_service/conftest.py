"""A collection with the shipped models live, and somebody who indexes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.contracts.principal import Principal, PrincipalKind, Scope
from rag.models import Collection
from zenglow_site.celery import app


@pytest.fixture
def collection(live_models: None) -> Collection:
    return Collection.objects.create(slug="c")


@pytest.fixture
def ingester() -> Principal:
    return Principal(PrincipalKind.USER, "ida", frozenset({Scope.INGEST, Scope.QUERY}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files to index."""
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "bees.md").write_text("# Bees\n\nBees make honey.\n\n## Dance\n\nA waggle dance shows the way.\n")
    (folder / "deep" / "tax.txt").write_text("Income tax is due in January.\n")
    (folder / "code.py").write_text("def waggle_dance(angle):\n    return angle * 2\n")
    return folder


@pytest.fixture
def empty_queue(embedded_stack: object) -> Iterator[None]:
    app.control.purge()
    yield
    app.control.purge()
