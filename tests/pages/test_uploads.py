"""Adding documents from the pages, and following the run that takes them in."""

from __future__ import annotations

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from rag.models import Collection, Document, IndexRun
from rag.pages import runs
from rag.pages.uploads import clean_path
from tests.pages.conftest import AddDocuments, SignIn, work_off
from tests.pages.html import assert_inert, one, parse, text_of

pytestmark = pytest.mark.django_db

SCRIPTED = {"HX-Request": "true"}


def file(name: str, content: str | bytes = "Tea is a drink.") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content.encode() if isinstance(content, str) else content)


@pytest.fixture
def notes() -> Collection:
    return Collection.objects.create(slug="notes", title="Notes")


class TestUpload:
    def test_a_file_becomes_a_document(self, visitor: Client, notes: Collection) -> None:
        response = visitor.post("/documents/upload/", {"collection": "notes", "files": file("tea.md", "# Tea\n\nHot.")})
        run = IndexRun.objects.get()
        assert response.url == f"/documents/runs/{run.pk}/"
        assert (run.origin, run.started_by) == ("upload", "anonymous")
        work_off(run)
        document = Document.objects.get()
        assert (document.document_id, document.title, document.state) == ("tea.md", "Tea", "indexed")

    def test_the_page_of_the_run_shows_its_outcome(self, visitor: Client, notes: Collection) -> None:
        visitor.post(
            "/documents/upload/", {"collection": "notes", "files": [file("tea.md"), file("broken.pdf", b"no pdf")]}
        )
        run = IndexRun.objects.get()
        page = parse(visitor.get(f"/documents/runs/{run.pk}/"))
        assert one(page, "#run").get("hx-trigger") == "every 1s"
        work_off(run)
        page = parse(visitor.get(f"/documents/runs/{run.pk}/"))
        assert one(page, "#run").get("hx-trigger") is None
        counts = {
            box.cssselect("dt")[0].text: int(box.cssselect("dd")[0].text) for box in page.cssselect(".counts div")
        }
        assert counts == {"Added": 1, "Changed": 0, "Removed": 0, "Unchanged": 0, "Failed": 1}
        assert "not a PDF file in spite of its name" in one(page, ".failures .reason").text

    def test_the_script_gets_a_card_that_follows_the_run(self, visitor: Client, notes: Collection) -> None:
        response = visitor.post(
            "/documents/upload/", {"collection": "notes", "files": file("tea.md")}, headers=SCRIPTED
        )
        assert response.status_code == 202
        run = IndexRun.objects.get()
        card = one(parse(response), "[data-upload-answer]")
        assert card.get("hx-get") == f"/documents/runs/{run.pk}/card/"
        waiting = visitor.get(card.get("hx-get"), headers=SCRIPTED)
        assert "HX-Trigger" not in waiting.headers
        work_off(run)
        finished = visitor.get(card.get("hx-get"), headers=SCRIPTED)
        assert "zenglow:indexed" in finished.headers["HX-Trigger"]
        assert one(parse(finished), "[data-upload-answer]").get("hx-get") is None
        assert "1 added" in text_of(finished)

    def test_files_keep_their_place_in_a_folder(self, visitor: Client, notes: Collection) -> None:
        paths = json.dumps(["shelf/tea.md", "shelf/old/tea.md"])
        visitor.post(
            "/documents/upload/",
            {"collection": "notes", "files": [file("tea.md", "Hot."), file("tea.md", "Cold.")], "paths": paths},
            headers=SCRIPTED,
        )
        work_off(IndexRun.objects.get())
        assert set(Document.objects.values_list("document_id", flat=True)) == {"shelf/tea.md", "shelf/old/tea.md"}

    def test_the_default_collection_is_made_when_it_is_first_needed(self, visitor: Client, settings: Settings) -> None:
        settings.RAG_DEFAULT_COLLECTION = "home"
        page = parse(visitor.get("/documents/upload/"))
        assert [option.get("value") for option in page.cssselect("select option")] == ["home"]
        visitor.post("/documents/upload/", {"collection": "home", "files": file("tea.md")})
        assert Collection.objects.get().slug == "home"

    def test_a_failure_is_listed_with_its_reason(self, visitor: Client, notes: Collection) -> None:
        name = "<img src=x onerror=alert(1)>.pdf"
        visitor.post("/documents/upload/", {"collection": "notes", "files": file(name, b"no pdf")}, headers=SCRIPTED)
        run = work_off(IndexRun.objects.get())
        for address in (f"/documents/runs/{run.pk}/", f"/documents/runs/{run.pk}/card/", "/documents/runs/"):
            assert_inert(visitor.get(address))
        card = parse(visitor.get(f"/documents/runs/{run.pk}/card/"))
        assert "Nothing could be indexed" in card.text_content()
        assert "not a PDF file" in one(card, ".reason").text

    def test_it_says_when_no_worker_seems_to_be_there(self, visitor: Client, notes: Collection) -> None:
        visitor.post("/documents/upload/", {"collection": "notes", "files": file("tea.md")})
        run = IndexRun.objects.get()
        assert "Is a worker running?" not in text_of(visitor.get(f"/documents/runs/{run.pk}/card/"))
        IndexRun.objects.update(progressed_at=timezone.now() - 2 * runs.PATIENCE)
        assert "Is a worker running?" in text_of(visitor.get(f"/documents/runs/{run.pk}/card/"))


class TestRefusals:
    def test_without_a_file(self, visitor: Client, notes: Collection) -> None:
        response = visitor.post("/documents/upload/", {"collection": "notes"})
        assert response.status_code == 400
        assert "Choose at least one file" in one(parse(response), "[role=alert]").text_content()

    def test_into_an_unknown_collection(self, visitor: Client, notes: Collection) -> None:
        response = visitor.post(
            "/documents/upload/", {"collection": "<b>x</b>", "files": file("tea.md")}, headers=SCRIPTED
        )
        assert response.status_code == 404
        card = one(parse(response), "[data-upload-answer][role=alert]")
        assert "There is no collection “<b>x</b>”" in card.text_content()
        assert IndexRun.objects.count() == 0

    def test_more_than_may_be_sent_at_once(self, visitor: Client, notes: Collection, settings: Settings) -> None:
        settings.RAG_REQUEST_MAX_BYTES = 1000
        response = visitor.post("/documents/upload/", {"collection": "notes", "files": file("tea.md", "x" * 2000)})
        assert response.status_code == 413
        assert IndexRun.objects.count() == 0

    def test_more_files_than_may_be_sent_at_once(self, visitor: Client, notes: Collection, settings: Settings) -> None:
        settings.DATA_UPLOAD_MAX_NUMBER_FILES = 2
        files = [file(f"{number}.txt") for number in range(3)]
        response = visitor.post("/documents/upload/", {"collection": "notes", "files": files}, headers=SCRIPTED)
        assert response.status_code == 413
        assert "more than this server accepts" in one(parse(response), "#problem .detail").text

    @pytest.mark.parametrize("paths", ["[", "{}", '["a", "b"]', "[1]", '"a"', "[" * 100_000])
    def test_paths_that_cannot_be_read(self, visitor: Client, notes: Collection, paths: str) -> None:
        response = visitor.post(
            "/documents/upload/", {"collection": "notes", "files": file("a.md"), "paths": paths}, headers=SCRIPTED
        )
        assert response.status_code == 400
        assert IndexRun.objects.count() == 0

    def test_without_the_token_of_the_form(self, notes: Collection) -> None:
        careful = Client(enforce_csrf_checks=True, SERVER_NAME="127.0.0.1", headers={"Accept": "text/html"})
        response = careful.post("/documents/upload/", {"collection": "notes", "files": file("tea.md")})
        assert response.status_code == 403
        assert IndexRun.objects.count() == 0

    def test_by_somebody_who_may_not(
        self, sign_in: SignIn, notes: Collection, add_documents: AddDocuments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ops import authentication
        from ops.contracts.principal import Scope

        document = add_documents({"tea.md": "Tea."})["tea.md"]
        monkeypatch.setattr(authentication, "USER_SCOPES", frozenset({Scope.QUERY}))
        reader = sign_in()
        for address in ("upload/", f"{document.pk}/delete/", f"{document.pk}/reindex/", f"{document.pk}/restore/"):
            response = reader.post(f"/documents/{address}", {"collection": "notes", "files": file("tea.md")})
            assert response.status_code == 403
            assert "needs the scope ingest" in text_of(response)
        page = parse(reader.get("/documents/"))
        assert not page.cssselect("[data-open-upload], #upload-dialog, .menu-item.danger")


@given(st.text())
def test_a_path_never_leads_upwards_or_to_the_root(path: str) -> None:
    clean = clean_path(path)
    parts = clean.split("/")
    assert not clean.startswith("/")
    assert {".", ".."}.isdisjoint(parts)
    assert clean.isprintable()


def test_a_plain_path_stays_as_it_is() -> None:
    assert clean_path("Über uns/tea (old).md") == "Über uns/tea (old).md"
    assert clean_path("/etc/../../passwd") == "etc/passwd"
    assert clean_path("C:\\notes\\tea.md") == "C:/notes/tea.md"
