"""Sources as they are made, scheduled, asked for, changed and forgotten: by API, admin, command and schedule."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from ops.contracts.problems import Conflict
from ops.models import AuditEvent
from rag import tasks
from rag.ingest import service as ingest
from rag.models import Collection, Document, DocumentState, Source, SourceOutcome
from rag.sources import service
from tests.rag.sources.conftest import Make, ids, look
from tests.rag.sources.places import Folder

pytestmark = pytest.mark.django_db


@pytest.fixture
def folder(opened: Path) -> Folder:
    made = Folder(opened / "folder")
    made.put("bees.txt", "Bees make honey.")
    return made


@pytest.fixture
def client_of(settings: Any) -> Any:
    settings.ENABLE_API_KEYS = True

    def make(*scopes: Scope, collections: list[str] | None = None) -> Client:
        key = keys.create_key("test", scopes, actor=SYSTEM, collections=collections)
        return Client(headers={"Authorization": f"Bearer {key.text}"})

    return make


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was queued for a worker."""
    queued: list[Any] = []
    monkeypatch.setattr(
        tasks.sync_source, "apply_async", lambda args, kwargs=None, **_: queued.append((args[0], kwargs or {}))
    )
    return queued


# --- when ----


def test_a_source_is_due_at_once_and_then_by_its_interval(folder: Folder, make: Make, asked: list[Any]) -> None:
    source = make(folder, interval_minutes=10)
    tasks.start_due_sources()
    assert asked == [(source.pk, {})]
    source = look(source)
    assert source.next_run_at is not None
    assert source.finished_at is not None
    assert source.next_run_at - source.finished_at == timedelta(minutes=10)
    assert service.due(timezone.now()) == []
    assert service.due(source.next_run_at) == [source.pk]


@pytest.mark.parametrize("settings_of_source", [{"interval_minutes": 0}, {"is_paused": True}])
def test_a_source_is_never_due_unless_it_is_wanted(
    folder: Folder, make: Make, settings_of_source: dict[str, Any]
) -> None:
    make(folder, **settings_of_source)
    assert service.due(timezone.now() + timedelta(days=400)) == []


def test_a_source_that_fails_is_looked_at_less_and_less(folder: Folder, make: Make) -> None:
    source = look(make(folder, interval_minutes=60))
    folder.close()
    pauses = []
    for _ in range(7):
        source = look(source)
        assert source.next_run_at is not None
        assert source.finished_at is not None
        pauses.append((source.next_run_at - source.finished_at) / timedelta(hours=1))
    assert pauses == [2, 4, 8, 16, 24, 24, 24]
    folder.root.mkdir()
    folder.put("bees.txt", "Bees make honey.")
    source = look(source)
    assert (source.outcome, source.failures_in_a_row) == (SourceOutcome.OK, 0)


def test_two_never_look_at_once_and_a_dead_one_is_overtaken(folder: Folder, make: Make) -> None:
    source = make(folder)
    Source.objects.update(running_until=timezone.now() + timedelta(minutes=1))
    assert service.perform(source.pk) is None
    assert service.due(timezone.now()) == []
    source.refresh_from_db()
    with pytest.raises(Conflict, match="just now"):
        service.ask_for_sync(source, SYSTEM)
    Source.objects.update(running_until=timezone.now() - timedelta(seconds=1))
    assert service.due(timezone.now()) == [source.pk]
    assert look(source).outcome == SourceOutcome.OK


def test_a_source_that_is_paused_in_the_middle_stops_there(
    folder: Folder, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag.sources import sync

    source = make(folder)
    monkeypatch.setattr(sync, "HEARTBEAT_S", -1.0)
    Source.objects.update(is_paused=True)
    source = look(source)
    assert (source.outcome, "paused" in source.error, ids()) == (SourceOutcome.FAILED, True, set())


def test_a_fault_of_ours_leaves_the_source_free_and_says_so(
    folder: Folder, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(folder)
    monkeypatch.setattr(service, "look", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        service.perform(source.pk)
    source.refresh_from_db()
    assert (source.is_running, source.outcome, "log" in source.error) == (False, SourceOutcome.FAILED, True)


def test_the_schedule_and_the_tasks_are_there() -> None:
    from django.conf import settings

    planned = settings.CELERY_BEAT_SCHEDULE["rag.start_due_sources"]
    assert planned["task"] in current_app.tasks
    assert planned["schedule"] == tasks.SOURCES_EVERY_S
    assert "rag.sync_source" in current_app.tasks


# --- changed and forgotten ----


def test_what_decides_its_documents_has_all_of_them_read_again(folder: Folder, make: Make) -> None:
    source = look(make(folder))
    service.update(source, SYSTEM, interval_minutes=5)
    assert look(source).tally["same"] == 1
    service.update(source, SYSTEM, metadata={"shelf": 3})
    source = look(source)
    assert source.tally["found"] == 1
    assert Document.objects.get().metadata == {"shelf": 3}


@pytest.mark.parametrize("keep", [False, True])
def test_a_source_goes_with_its_documents_or_leaves_them(folder: Folder, make: Make, keep: bool) -> None:
    source = look(make(folder))
    run = service.delete(source, SYSTEM, keep_documents=keep)
    while run is not None and ingest.process_batch(run.id):
        pass
    assert Document.objects.get().state == (DocumentState.INDEXED if keep else DocumentState.DELETED)
    assert not Source.objects.exists()
    assert list(AuditEvent.objects.filter(target="shelf").order_by("id").values_list("action", flat=True)) == [
        "source.create",
        "source.delete",
    ]


# --- the API ----


def test_the_api_makes_shows_syncs_changes_and_forgets(folder: Folder, collection: Collection, client_of: Any) -> None:
    admin = client_of(Scope.ADMIN)
    body = {"name": "shelf", "collection": "c", "kind": "folder", "location": folder.location, "interval_minutes": 0}
    made = admin.post("/rag/sources", body, content_type="application/json")
    assert (made.status_code, made["Location"]) == (201, "/rag/sources/shelf"), made.content
    assert made.json()["outcome"] == "never"
    assert admin.post("/rag/sources", body, content_type="application/json").status_code == 409
    number = Source.objects.get().pk
    service.perform(number, dry_run=True)
    shown = admin.get("/rag/sources/shelf").json()
    assert shown["preview"]["changes"] == [{"state": "added", "document_id": "shelf/bees.txt", "reason": ""}]
    look(Source.objects.get())
    (listed,) = admin.get("/rag/sources").json()["results"]
    assert (listed["outcome"], listed["tally"]["found"], listed["is_running"]) == ("ok", 1, False)
    changed = admin.patch("/rag/sources/shelf", {"is_paused": True}, content_type="application/json")
    assert changed.json()["is_paused"]
    assert admin.delete("/rag/sources/shelf").status_code == 400
    gone = admin.delete("/rag/sources/shelf?confirm=shelf")
    assert gone.json()["index_run"]["total"] == 1
    assert admin.get("/rag/sources/shelf").status_code == 404


def test_a_sync_is_asked_for_and_taken_by_a_worker(
    folder: Folder, make: Make, client_of: Any, asked: list[Any]
) -> None:
    source = make(folder)
    client = client_of(Scope.INGEST)
    answer = client.post("/rag/sources/shelf/sync", {"dry_run": True}, content_type="application/json")
    assert (answer.status_code, answer["Location"]) == (202, "/rag/sources/shelf")
    assert asked == [(source.pk, {"dry_run": True, "may_be_empty": False})]
    tasks.sync_source(*asked[0][:1], **asked[0][1])
    assert client.get("/rag/sources/shelf").json()["preview"]["tally"]["found"] == 1


def test_a_source_is_shown_to_those_who_may_touch_its_collection(folder: Folder, make: Make, client_of: Any) -> None:
    make(folder)
    stranger = client_of(Scope.INGEST, collections=["other"])
    assert stranger.get("/rag/sources").json()["results"] == []
    assert stranger.get("/rag/sources/shelf").status_code == 404
    assert stranger.post("/rag/sources/shelf/sync", {}, content_type="application/json").status_code == 404
    assert client_of(Scope.INGEST).post("/rag/sources", {}, content_type="application/json").status_code == 403


def test_the_api_says_what_is_wrong(folder: Folder, collection: Collection, client_of: Any) -> None:
    admin = client_of(Scope.ADMIN)
    good = {"name": "shelf", "collection": "c", "kind": "folder", "location": folder.location}
    for changes, status, field in (
        ({"location": "/etc"}, 400, "location"),
        ({"options": {"depth": 3}}, 400, "options.depth"),
        ({"name": "No Slug"}, 400, "name"),
        ({"kind": "ftp"}, 400, "kind"),
        ({"interval_minutes": -1}, 400, "interval_minutes"),
        ({"collection": "nowhere"}, 404, None),
    ):
        refused = admin.post("/rag/sources", good | changes, content_type="application/json")
        assert refused.status_code == status, refused.content
        if field:
            assert field in refused.json()["errors"]


# --- the admin ----


def test_the_admin_makes_a_source_shows_how_it_stands_and_looks_now(
    folder: Folder, collection: Collection, asked: list[Any]
) -> None:
    User.objects.create_superuser("root", password="x")
    client = Client()
    client.login(username="root", password="x")
    form = {
        "name": "shelf",
        "collection": collection.pk,
        "kind": "folder",
        "location": "/etc",
        "options": "{}",
        "secret": "",
        "access_groups": "",
        "metadata": "{}",
        "interval_minutes": "30",
    }
    refused = client.post("/admin/rag/source/add/", form)
    assert "RAG_SOURCE_FOLDERS" in refused.content.decode()
    made = client.post("/admin/rag/source/add/", form | {"location": folder.location})
    assert made.status_code == 302, made.content.decode()
    source = look(Source.objects.get())
    folder.close()
    look(source)
    listed = client.get("/admin/rag/source/").content.decode()
    assert "✗" in listed
    assert "Is it mounted?" in listed
    shown = client.get(f"/admin/rag/source/{source.pk}/change/").content.decode()
    assert "1 found" in shown
    client.post("/admin/rag/source/", {"action": "sync_now", "_selected_action": source.pk})
    client.post("/admin/rag/source/", {"action": "dry_run", "_selected_action": source.pk})
    assert [options["dry_run"] for _, options in asked] == [False, True]
    changed = form | {"location": folder.location, "interval_minutes": "45"}
    page = client.post(f"/admin/rag/source/{source.pk}/change/", changed | {"_sync": "Save and sync now"}, follow=True)
    assert "begins; its page shows what comes of it." in page.content.decode()
    client.post(f"/admin/rag/source/{source.pk}/change/", changed | {"_dry_run": "Save and show"})
    assert [options["dry_run"] for _, options in asked] == [False, True, False, True]
    assert Source.objects.get().interval_minutes == 45
    client.post("/admin/rag/source/", {"action": "pause", "_selected_action": source.pk})
    assert Source.objects.get().is_paused
    assert "shelf" in client.get("/admin/rag/source/?paused=yes").content.decode()
    assert "0 sources" in client.get("/admin/rag/source/?paused=no").content.decode()
    confirmation = client.post(f"/admin/rag/source/{source.pk}/delete/")
    assert "with 1 documents" in confirmation.content.decode()


# --- the command ----


def command(*arguments: str) -> str:
    output = io.StringIO()
    call_command("sources", *arguments, stdout=output, stderr=io.StringIO())
    return output.getvalue()


def test_a_file_that_could_be_read_but_not_indexed_is_no_good_news(folder: Folder, collection: Collection) -> None:
    folder.put("broken.pdf", "%PDF-1.7 and no more")
    command("add", "shelf", "folder", folder.location, "--collection=c")
    command("sync", "shelf")
    (listed,) = json.loads(command("list", "--json"))
    assert listed["state"] == "1 of its documents could not be indexed"


def test_the_command_does_all_of_it(folder: Folder, collection: Collection) -> None:
    folder.put("draft.txt", "A draft.")
    assert "no source yet" in command("list")
    made = command("add", "shelf", "folder", folder.location, "--collection=c", "--option=exclude=draft*", "--every=0")
    assert made.startswith("Made the source 'shelf'. It is looked at when it is asked for")
    assert "added     shelf/bees.txt" in command("sync", "shelf", "--dry-run")
    assert command("sync", "shelf") == "1 new or changed · 0 the same · 0 gone · 0 unreadable\n"
    assert ids() == {"shelf/bees.txt"}
    (listed,) = json.loads(command("list", "--json"))
    assert (listed["options"], listed["state"]) == ({"exclude": ["draft*"]}, "all is well")
    command("pause", "shelf")
    assert "is_paused:         True" in command("show", "shelf")
    command("resume", "shelf")
    folder.close()
    with pytest.raises(CommandError, match="Is it mounted") as failure:
        command("sync", "shelf")
    assert failure.value.returncode == 1
    assert command("remove", "shelf", "--yes", "--keep-documents") == "'shelf' is gone.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "nothing"),
        ("add", "shelf", "folder", "/etc", "--collection=c"),
        ("add", "shelf", "web", "https://example.org", "--collection=nowhere"),
        ("add", "shelf", "web", "https://example.org", "--collection=c", "--option=mode"),
        ("add", "shelf", "web", "https://example.org", "--collection=c", "--option=mode=all"),
    ],
)
def test_the_command_refuses_in_one_line(collection: Collection, arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError) as refusal:
        command(*arguments)
    assert refusal.value.returncode == 2
    assert "\n" not in str(refusal.value)
