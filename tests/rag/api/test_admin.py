"""The admin shows everything and changes nothing behind the services' back."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client

from ops.contracts.principal import SYSTEM
from ops.models import AuditEvent
from rag.ingest import service
from rag.ingest.plan import Offer
from rag.models import Chunk, Collection, Document, DocumentState, IndexRun, RunState
from tests.rag.ingest_service.support import assert_consistent, postings

ADMIN = "/admin/rag"


@pytest.fixture
def admin(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


@pytest.fixture
def run(collection: Collection) -> IndexRun:
    offers = [Offer("a", "Bees make honey.", media_type="text/plain"), Offer("b", b"%PDF-1.4", source="b.pdf")]
    started = service.start_run(collection, offers, SYSTEM, "test", enqueue=False)
    service.process_batch(started.id)
    return started


def act(client: Client, table: str, action: str, *rows: Any) -> list[str]:
    response = client.post(
        f"{ADMIN}/{table}/", {"action": action, "_selected_action": [row.pk for row in rows]}, follow=False
    )
    assert response.status_code == 302, response.content
    return [str(message) for message in get_messages(response.wsgi_request)]


def work_off() -> None:
    for run in IndexRun.objects.filter(state=RunState.RUNNING):
        while service.process_batch(run.id):
            pass


def collection_form(**changes: Any) -> dict[str, Any]:
    return {
        "title": "",
        "description": "",
        "default_access_groups": "",
        "text_configuration": "english",
        "chunk_tokens": 220,
        "chunk_overlap_tokens": 32,
    } | changes


def test_every_page_shows(admin: Client, run: IndexRun) -> None:
    document, chunk, item = Document.objects.get(document_id="a"), Chunk.objects.get(), run.items.first()
    assert item is not None
    for path in (
        "collection/",
        "collection/?q=c",
        "collection/add/",
        f"collection/{run.collection_id}/change/",
        f"collection/{run.collection_id}/delete/",
        "document/?q=a&state__exact=indexed",
        f"document/{document.pk}/change/",
        f"chunk/?document__id__exact={document.pk}",
        f"chunk/{chunk.pk}/change/",
        "indexrun/",
        f"indexrun/{run.pk}/change/",
        f"indexitem/?run__id__exact={run.pk}",
        f"indexitem/{item.pk}/change/",
    ):
        assert admin.get(f"{ADMIN}/{path}").status_code == 200, path
    page = admin.get(f"{ADMIN}/document/{document.pk}/change/").content.decode()
    assert "Bees make honey." in page
    assert "tokens" not in admin.get(f"{ADMIN}/chunk/{chunk.pk}/change/").content.decode().replace("token_count", "")


@pytest.mark.parametrize("table", ["document", "chunk", "indexrun", "indexitem"])
def test_nothing_is_edited_or_deleted_in_place(admin: Client, run: IndexRun, table: str) -> None:
    keys = {
        "document": Document.objects.first(),
        "chunk": Chunk.objects.first(),
        "indexrun": run,
        "indexitem": run.items.first(),
    }
    row = keys[table]
    assert row is not None
    for path in (f"{table}/{row.pk}/delete/", f"{table}/add/"):
        assert admin.post(f"{ADMIN}/{path}", {"post": "yes"}).status_code == 403
    assert admin.post(f"{ADMIN}/{table}/{row.pk}/change/", {"title": "x"}).status_code == 403
    admin.post(f"{ADMIN}/{table}/", {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert type(row).objects.filter(pk=row.pk).exists()  # type: ignore[attr-defined]


def test_documents_are_deleted_restored_and_indexed_again_through_the_services(
    admin: Client, run: IndexRun, collection: Collection
) -> None:
    document = Document.objects.get(document_id="a")
    assert "can be restored" in act(admin, "document", "remove", document)[-1]
    assert postings(collection) == {}
    assert "is deleted" in act(admin, "document", "reindex", document)[-1]
    act(admin, "document", "restore", document)
    work_off()
    document.refresh_from_db()
    assert document.state == DocumentState.INDEXED
    chunk = Chunk.objects.get()
    act(admin, "document", "reindex", document)
    work_off()
    assert Chunk.objects.get().pk != chunk.pk
    assert_consistent(collection)
    assert AuditEvent.objects.filter(actor="user:ada", action="document.delete", target="c/a").exists()


def test_collections_are_made_and_changed_through_the_services(admin: Client, live_models: None) -> None:
    admin.post(f"{ADMIN}/collection/add/", collection_form(slug="new", title="New", default_access_groups="staff"))
    made = Collection.objects.get(slug="new")
    assert (made.title, made.default_access_groups) == ("New", ["staff"])
    admin.post(f"{ADMIN}/collection/{made.pk}/change/", collection_form(title="Renamed"))
    made.refresh_from_db()
    assert (made.title, made.access_epoch) == ("Renamed", 1)
    actions = AuditEvent.objects.filter(actor="user:ada").order_by("id").values_list("action", flat=True)
    assert list(actions) == ["collection.create", "collection.update"]


def test_new_index_settings_start_a_run(admin: Client, run: IndexRun, collection: Collection) -> None:
    admin.post(f"{ADMIN}/collection/{collection.pk}/change/", collection_form(text_configuration="simple"))
    work_off()
    assert set(postings(collection)) == {"bees", "make", "honey"}
    assert_consistent(collection)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slug": "global"}, "means all collections"),
        ({"slug": "ok", "chunk_tokens": 1000}, "At most 238"),
        ({"slug": "ok", "chunk_overlap_tokens": 200}, "half of chunk_tokens"),
    ],
)
def test_wrong_settings_are_shown_at_the_form(
    admin: Client, live_models: None, changes: dict[str, Any], message: str
) -> None:
    response = admin.post(f"{ADMIN}/collection/add/", collection_form(**changes))
    assert response.status_code == 200
    assert message in response.content.decode()
    assert not Collection.objects.exists()


def test_a_collection_is_deleted_with_its_postings(admin: Client, run: IndexRun, collection: Collection) -> None:
    admin.post(f"{ADMIN}/collection/{collection.pk}/delete/", {"post": "yes"})
    assert not Collection.objects.exists()
    assert postings(collection) == {}
    assert AuditEvent.objects.filter(actor="user:ada", action="collection.delete").exists()


def test_a_run_is_cancelled(admin: Client, collection: Collection) -> None:
    run = service.start_run(collection, [Offer("a", "Words.", media_type="text/plain")], SYSTEM, "test", enqueue=False)
    act(admin, "indexrun", "cancel", run)
    run.refresh_from_db()
    assert run.state == RunState.CANCELLED


def test_staff_without_the_right_to_change_documents_only_look(run: IndexRun) -> None:
    user = User.objects.create_user("sam", is_staff=True)
    user.user_permissions.add(Permission.objects.get(content_type__app_label="rag", codename="view_document"))
    client = Client()
    client.force_login(user)
    assert "Bees" in client.get(f"{ADMIN}/document/{Document.objects.get(document_id='a').pk}/change/").content.decode()
    document = Document.objects.get(document_id="a")
    client.post(f"{ADMIN}/document/", {"action": "remove", "_selected_action": [document.pk]})
    document.refresh_from_db()
    assert document.state == DocumentState.INDEXED
