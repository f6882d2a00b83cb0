"""Collections are made, changed and deleted with everything that hangs on them."""

from __future__ import annotations

from typing import Any

import pytest

from models_registry import deployments
from models_registry.models import ModelVersion, Slot
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import Conflict, InvalidRequest, Problem, Unprocessable
from ops.models import AuditEvent
from rag import collections
from rag.ingest import service
from rag.models import Collection, Document, RunState
from tests.rag.ingest_service.support import postings
from tests.rag.ingest_service.test_service import index, text


def test_it_makes_a_collection_with_its_settings(live_models: None, ingester: Principal) -> None:
    made = collections.create_collection("code", ingester, text_configuration="simple", split_identifiers=True)
    assert (made.text_configuration, made.split_identifiers, made.chunk_tokens) == ("simple", True, 220)
    event = AuditEvent.objects.latest("id")
    assert (event.actor, event.action, event.target) == ("user:ida", "collection.create", "code")


@pytest.mark.parametrize(
    ("slug", "settings", "field"),
    [
        ("Bad Slug", {}, "slug"),
        ("-", {}, "slug"),
        ("global", {}, "slug"),
        ("ok", {"text_configuration": "klingon"}, "text_configuration"),
        ("ok", {"chunk_tokens": 5}, "chunk_tokens"),
        ("ok", {"chunk_tokens": 64, "chunk_overlap_tokens": 33}, "chunk_overlap_tokens"),
        ("ok", {"chunk_tokens": 2000}, "chunk_tokens"),
        ("ok", {"title": "x" * 201}, "title"),
    ],
)
def test_it_names_the_setting_that_is_wrong(
    live_models: None, ingester: Principal, slug: str, settings: dict[str, Any], field: str
) -> None:
    with pytest.raises((InvalidRequest, Unprocessable)) as caught:
        collections.create_collection(slug, ingester, **settings)
    assert isinstance(caught.value, Problem)
    assert set(caught.value.errors) == {field}
    assert not Collection.objects.exists()


def test_it_refuses_a_slug_that_is_taken(collection: Collection, ingester: Principal) -> None:
    with pytest.raises(Conflict):
        collections.create_collection("c", ingester)


def test_it_renames_without_touching_documents(collection: Collection, ingester: Principal) -> None:
    index(collection, [text("a", "The running dogs.")], ingester)
    generation = Collection.objects.get().generation
    updated = collections.update_collection(collection, ingester, title="A title")
    assert (updated.collection.title, updated.run) == ("A title", None)
    assert updated.collection.generation == generation


def test_it_notes_who_may_read_now(collection: Collection, ingester: Principal) -> None:
    updated = collections.update_collection(collection, ingester, default_access_groups=["staff"])
    assert updated.collection.access_epoch == 1
    again = collections.update_collection(collection, ingester, default_access_groups=["staff"])
    assert again.collection.access_epoch == 1


def test_it_indexes_everything_again_when_the_text_configuration_changes(
    collection: Collection, ingester: Principal
) -> None:
    index(collection, [text("a", "The running dogs.")], ingester)
    assert set(postings(collection)) == {"run", "dog"}
    updated = collections.update_collection(collection, ingester, text_configuration="simple")
    assert updated.run is not None
    assert updated.run.state == RunState.RUNNING
    assert updated.collection.generation == 2  # answers computed with the old configuration are stale
    while service.process_batch(updated.run.id):
        pass
    assert set(postings(collection)) == {"the", "running", "dogs"}


def test_it_deletes_a_collection_and_what_was_deployed_for_it(collection: Collection, ingester: Principal) -> None:
    index(collection, [text("a", "Some words.")], ingester)
    version = ModelVersion.objects.filter(model__kind="ltr").latest("id")
    deployments.activate(Slot.LTR, version, "c", by=SYSTEM, reason="test")
    collections.delete_collection(collection, ingester)
    assert not Collection.objects.exists()
    assert not Document.objects.exists()
    assert not deployments.live().filter(scope="c").exists()
