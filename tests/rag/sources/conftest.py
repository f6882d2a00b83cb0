"""A source of each kind, on a real place, and a way to look at it to the end."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.contracts.principal import SYSTEM
from rag.ingest import service as ingest
from rag.models import Collection, Document, DocumentState, Source
from rag.sources import service
from tests.rag.sources.places import Bucket, Folder, Repository, Site, TestPlace, s3_server

Make = Callable[..., Source]


@pytest.fixture
def collection(live_models: None) -> Collection:
    return Collection.objects.create(slug="c")


@pytest.fixture(autouse=True)
def opened(settings: Any, tmp_path: Path) -> Path:
    """What sources may touch: a folder, this machine's servers, and one secret."""
    folder = tmp_path / "open"
    folder.mkdir()
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "bucket").write_text(json.dumps({"access_key": "key", "secret_key": "secret"}))
    (secrets / "token").write_text("token-that-nobody-may-see\n")
    settings.RAG_SOURCE_FOLDERS = (str(folder),)
    settings.RAG_SOURCE_SECRETS_DIR = secrets
    settings.RAG_SOURCE_WEB_DELAY_S = 0
    settings.OPS_OUTGOING_ALLOWED = ("127.0.0.1",)
    settings.ZENGLOW_DATA_DIR = tmp_path / "data"
    return folder


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture
def repository(opened: Path) -> Repository:
    return Repository(opened / "repository")


@pytest.fixture(params=["folder", "web", "git", "s3"])
def place(request: pytest.FixtureRequest, opened: Path) -> TestPlace:
    match request.param:
        case "folder":
            return Folder(opened / "folder")
        case "web":
            found: Site = request.getfixturevalue("site")
            return found
        case "git":
            return Repository(opened / "repository")
    return Bucket(request.getfixturevalue("s3_endpoint"), f"b-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def make(collection: Collection) -> Make:
    """A source of a place; what is given goes before what the place says."""

    def of(place: TestPlace, **given: Any) -> Source:
        options = place.options | given.pop("options", {})
        secret = given.pop("secret", "bucket" if place.kind == "s3" else "")
        location = given.pop("location", place.location)
        return service.create(
            "shelf", collection, place.kind, SYSTEM, location=location, options=options, secret=secret, **given
        )

    return of


def look(source: Source, **options: Any) -> Source:
    """Look at a source, and see its run through, as a worker does."""
    looked = service.perform(source.pk, enqueue=False, **options)
    while looked is not None and looked.run is not None and ingest.process_batch(looked.run.id):
        pass
    return Source.objects.select_related("collection", "last_run").get(pk=source.pk)


def texts() -> dict[str, str]:
    """The texts of what can be found, by id."""
    found = Document.objects.filter(state=DocumentState.INDEXED).values_list("document_id", "text")
    return {document_id: text.strip() for document_id, text in found}


def ids() -> set[str]:
    return set(texts())
