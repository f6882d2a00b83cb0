"""The documents page, a document's own page, its original, and what can be done to it."""

from __future__ import annotations

import pytest
from django.test import Client

from rag.models import Collection, Document, DocumentState, IndexRun
from rag.pages import documents
from tests.pages.conftest import AddDocuments, SignIn, work_off
from tests.pages.html import assert_inert, one, parse, text_of

pytestmark = pytest.mark.django_db

ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj\n"
    b"4 0 obj<</Length 44>>stream\nBT /F 12 Tf 20 100 Td (Tea in a printed book) Tj ET\nendstream endobj\n"
    b"5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
)


def names(client: Client, address: str) -> list[str]:
    """The titles in the list at ``address``, in its order."""
    return [link.text_content() for link in parse(client.get(address)).cssselect("tbody a.name")]


class TestList:
    def test_it_shows_each_document_with_its_state(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": "# Tea\n\nGreen."}, collection="leaves")
        add_documents({"broken.pdf": b"no pdf"}, collection="leaves")
        page = parse(visitor.get("/documents/"))
        rows = {one(row, "a.name").text_content(): row.text_content() for row in page.cssselect("tbody tr")}
        assert "Indexed" in rows["Tea"]
        assert "Failed" in rows["broken.pdf"]
        assert "not a PDF file in spite of its name" in rows["broken.pdf"]

    def test_it_filters_by_collection_state_and_words(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": "# Green tea\n\nLeaves."}, collection="leaves")
        add_documents({"coffee.md": "# Coffee\n\nBeans.", "broken.pdf": b"no pdf"}, collection="beans")
        assert sorted(names(visitor, "/documents/")) == ["Coffee", "Green tea", "broken.pdf"]
        assert names(visitor, "/documents/?collection=leaves") == ["Green tea"]
        assert names(visitor, "/documents/?state=failed") == ["broken.pdf"]
        assert names(visitor, "/documents/?q=TEA+green") == ["Green tea"]
        assert names(visitor, "/documents/?q=coffee.md") == ["Coffee"]
        assert names(visitor, "/documents/?q=%25") == []

    def test_the_tabs_count_what_they_lead_to(self, visitor: Client, add_documents: AddDocuments) -> None:
        added = add_documents({"a.txt": "one", "b.txt": "two", "broken.pdf": b"no pdf"})
        visitor.post(f"/documents/{added['a.txt'].pk}/delete/")
        page = parse(visitor.get("/documents/"))
        tabs = {tab.text.strip(): (tab.get("href"), int(one(tab, ".count").text)) for tab in page.cssselect(".tabs a")}
        assert {label: count for label, (_, count) in tabs.items()} == {
            "All": 2,
            "Indexed": 1,
            "Failed": 1,
            "Deleted": 1,
        }
        for address, count in tabs.values():
            assert len(names(visitor, f"/documents/{address}")) == count

    def test_it_turns_the_pages(
        self, visitor: Client, add_documents: AddDocuments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(documents, "PAGE_SIZE", 2)
        add_documents({f"{number}.txt": f"text {number}" for number in range(3)})
        following = one(parse(visitor.get("/documents/?q=txt")), "nav.pages a").get("href")
        found = names(visitor, "/documents/?q=txt") + names(visitor, f"/documents/{following}")
        assert len(found) == 3
        assert len(set(found)) == 3

    @pytest.mark.parametrize("page", ["0", "-1", "x", "999"])
    def test_a_page_that_is_not_there_is_the_nearest_that_is(
        self, visitor: Client, add_documents: AddDocuments, page: str
    ) -> None:
        add_documents({"a.txt": "one"})
        assert len(names(visitor, f"/documents/?page={page}")) == 1

    def test_an_unknown_collection_is_not_found(self, visitor: Client) -> None:
        response = visitor.get("/documents/?collection=nowhere")
        assert response.status_code == 404
        assert "nowhere" in text_of(response)

    def test_it_tells_how_to_begin(self, visitor: Client) -> None:
        assert "No documents yet" in text_of(visitor.get("/documents/"))

    def test_nothing_of_a_document_or_request_becomes_html(self, visitor: Client, add_documents: AddDocuments) -> None:
        name = ATTACK.replace("/", "")
        add_documents({f"{name}.pdf": b"no pdf", f"{name}.txt": "tea"}, title=ATTACK)
        for address in ("/documents/", "/documents/runs/"):
            assert_inert(visitor.get(address))
        for parameter in ("q", "state", "page", "deleted"):
            assert_inert(visitor.get("/documents/", {parameter: ATTACK}))


class TestDocument:
    def test_it_marks_the_passage(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"a.txt": "before passage after"})["a.txt"]
        page = parse(visitor.get(f"/documents/{document.pk}/?start=7&end=14"))
        assert one(page, "#passage").text == "passage"
        assert one(page, ".document-text").text_content() == "before passage after"

    @pytest.mark.parametrize("query", ["start=9&end=3", "start=x&end=y", "start=0&end=999", "end=-4", "at=99999"])
    def test_a_passage_that_is_not_there_is_not_marked(
        self, visitor: Client, add_documents: AddDocuments, query: str
    ) -> None:
        document = add_documents({"a.txt": "before passage after"})["a.txt"]
        response = visitor.get(f"/documents/{document.pk}/?{query}")
        assert response.status_code == 200
        assert not parse(response).cssselect("#passage")

    def test_a_long_text_is_shown_in_windows(
        self, visitor: Client, add_documents: AddDocuments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(documents, "TEXT_WINDOW_CHARACTERS", 40)
        text = " ".join(f"word{number:03}" for number in range(40))
        document = add_documents({"a.txt": text})["a.txt"]
        address, shown = f"/documents/{document.pk}/", ""
        while address:
            page = parse(visitor.get(address))
            shown += one(page, ".document-text").text_content()
            following = [link.get("href") for link in page.cssselect("a") if link.text_content() == "Later text"]
            address = f"/documents/{document.pk}/{following[0]}" if following else ""
        assert shown == text
        passage = parse(visitor.get(f"/documents/{document.pk}/?start=200&end=207"))
        assert one(passage, "#passage").text == text[200:207]
        assert len(one(passage, ".document-text").text_content()) == 40

    def test_nothing_of_a_document_becomes_html(self, visitor: Client, add_documents: AddDocuments) -> None:
        added = add_documents(
            {"a.txt": ATTACK}, title=ATTACK, metadata={ATTACK: ATTACK}, external_url="javascript:alert(3)"
        )
        response = visitor.get(f"/documents/{added['a.txt'].pk}/?start=3&end=9")
        assert_inert(response)
        assert one(parse(response), ".document-text").text_content() == ATTACK
        assert "javascript:" not in response.content.decode()

    def test_what_is_not_there_is_a_page_that_says_so(self, visitor: Client) -> None:
        for address in ("/documents/999999/", "/documents/999999/original/", "/documents/99999999999999999999/"):
            response = visitor.get(address)
            assert response.status_code == 404
            assert "This page does not exist" in text_of(response)


class TestOriginal:
    def test_a_pdf_is_shown_as_it_is(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"shelf/book.pdf": PDF})["shelf/book.pdf"]
        assert document.state == DocumentState.INDEXED
        response = visitor.get(f"/documents/{document.pk}/original/")
        assert response.content == PDF
        assert response.headers["Content-Type"] == "application/pdf"
        assert response.headers["Content-Disposition"] == 'inline; filename="book.pdf"'

    def test_html_stands_in_a_sandbox(self, visitor: Client, add_documents: AddDocuments) -> None:
        page = f"<html><body>Tea {ATTACK}</body></html>"
        document = add_documents({"page.html": page})["page.html"]
        response = visitor.get(f"/documents/{document.pk}/original/")
        assert response.content.decode() == page
        assert response.headers["Content-Type"] == "text/html"
        assert response.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
        assert response.headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize("name", ["page.md", "page.svg.txt", "code.py", "table.csv"])
    def test_other_text_is_never_html(self, visitor: Client, add_documents: AddDocuments, name: str) -> None:
        document = add_documents({name: f"tea,milk\n# {ATTACK}\n"})[name]
        response = visitor.get(f"/documents/{document.pk}/original/")
        assert response.headers["Content-Type"].startswith("text/plain")
        assert response.headers["Content-Security-Policy"].startswith("sandbox")

    def test_a_name_cannot_forge_headers(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({'a"; filename=evil.exe\\b.txt': "tea"}).popitem()[1]
        disposition = visitor.get(f"/documents/{document.pk}/original/").headers["Content-Disposition"]
        assert disposition.count("filename=") == disposition.count('filename="') == 1

    def test_a_file_that_failed_can_still_be_had(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"broken.pdf": b"no pdf"})["broken.pdf"]
        response = visitor.get(f"/documents/{document.pk}/original/")
        assert response.content == b"no pdf" or response.status_code == 404


class TestActions:
    def test_a_deletion_can_be_undone(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"tea.md": "# Tea\n\nGreen."})["tea.md"]
        response = visitor.post(f"/documents/{document.pk}/delete/", follow=True)
        document.refresh_from_db()
        assert document.state == DocumentState.DELETED
        assert "Nothing to search yet" in text_of(visitor.get("/search/?q=tea"))
        undo = one(parse(response), "#toasts form")
        assert undo.get("action") == f"/documents/{document.pk}/restore/"
        visitor.post(undo.get("action"))
        work_off(IndexRun.objects.latest("created_at"))
        document.refresh_from_db()
        assert document.state == DocumentState.INDEXED
        assert parse(visitor.get("/search/?q=tea")).cssselect("article.result")

    def test_htmx_gets_the_changed_row_and_a_toast(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"tea.md": "# Tea\n\nGreen."})["tea.md"]
        response = visitor.post(f"/documents/{document.pk}/delete/", headers={"HX-Request": "true"})
        assert response.status_code == 200
        body = response.content.decode()
        assert f'id="document-{document.pk}"' in body
        assert 'hx-swap-oob="true"' in body
        assert "“Tea” was deleted." in body
        assert f"/documents/{document.pk}/restore/" in body

    def test_indexing_again_reads_the_original_once_more(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"tea.md": "# Tea\n\nGreen."})["tea.md"]
        response = visitor.post(f"/documents/{document.pk}/reindex/")
        assert response.url == f"/documents/{document.pk}/"
        run = work_off(IndexRun.objects.latest("created_at"))
        assert (run.total, run.failed) == (1, 0)
        assert run.changed == 1

    def test_htmx_gets_a_card_that_follows_the_run(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"tea.md": "# Tea\n\nGreen."})["tea.md"]
        response = visitor.post(f"/documents/{document.pk}/reindex/", headers={"HX-Request": "true"})
        run = IndexRun.objects.latest("created_at")
        assert f"/documents/runs/{run.pk}/card/" in response.content.decode()

    @pytest.mark.parametrize("action", ["delete", "restore", "reindex"])
    def test_it_takes_no_get(self, visitor: Client, add_documents: AddDocuments, action: str) -> None:
        document = add_documents({"tea.md": "# Tea\n\nGreen."})["tea.md"]
        assert visitor.get(f"/documents/{document.pk}/{action}/").status_code == 405

    @pytest.mark.parametrize("action", ["delete", "restore", "reindex"])
    def test_it_needs_the_token_of_the_form(self, add_documents: AddDocuments, action: str) -> None:
        document = add_documents({"tea.md": "# Tea\n\nGreen."})["tea.md"]
        careful = Client(enforce_csrf_checks=True, SERVER_NAME="127.0.0.1", headers={"Accept": "text/html"})
        response = careful.post(f"/documents/{document.pk}/{action}/")
        assert response.status_code == 403
        assert "Load the page again" in text_of(response)
        document.refresh_from_db()
        assert document.state == DocumentState.INDEXED

    def test_a_refusal_says_what_is_the_matter(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"tea.md": "# Tea\n\nGreen."})["tea.md"]
        response = visitor.post(f"/documents/{document.pk}/restore/")
        assert response.status_code == 409
        assert "is not deleted" in one(parse(response), "#problem .detail").text


class TestReaders:
    def test_a_document_of_another_group_is_nowhere(self, sign_in: SignIn, add_documents: AddDocuments) -> None:
        add_documents({"open.txt": "tea for all"})
        secret = add_documents({"secret.txt": "tea of the board"}, access_groups=["board"])["secret.txt"]
        outsider = sign_in("nia", groups=("kitchen",))
        assert names(outsider, "/documents/") == ["open.txt"]
        for address in ("", "original/"):
            assert outsider.get(f"/documents/{secret.pk}/{address}").status_code == 404
        for action in ("delete", "reindex", "restore"):
            assert outsider.post(f"/documents/{secret.pk}/{action}/").status_code == 404
        assert names(outsider, "/documents/?q=secret") == []
        assert "secret.txt" not in outsider.get(f"/documents/?deleted={secret.pk}").content.decode()
        assert "1 document to search" in text_of(outsider.get("/search/"))

    def test_a_member_of_the_group_sees_it(self, sign_in: SignIn, add_documents: AddDocuments) -> None:
        secret = add_documents({"secret.txt": "tea of the board"}, access_groups=["board"])["secret.txt"]
        member = sign_in("odo", groups=("board",))
        assert names(member, "/documents/") == ["secret.txt"]
        assert member.get(f"/documents/{secret.pk}/").status_code == 200

    def test_the_collection_decides_for_documents_without_a_list(
        self, sign_in: SignIn, add_documents: AddDocuments
    ) -> None:
        add_documents({"plan.txt": "tea plan"}, collection="board")
        Collection.objects.filter(slug="board").update(default_access_groups=["board"])
        assert names(sign_in("pim", groups=("kitchen",)), "/documents/") == []
        assert names(sign_in("quin", groups=("board",)), "/documents/") == ["plan.txt"]

    def test_a_run_is_shown_to_those_who_may_read_what_its_collection_holds(
        self, sign_in: SignIn, add_documents: AddDocuments
    ) -> None:
        add_documents({"plan.txt": "tea plan"}, collection="board")
        Collection.objects.filter(slug="board").update(default_access_groups=["board"])
        run = IndexRun.objects.get()
        outsider = sign_in("rob")
        assert "No runs yet" in text_of(outsider.get("/documents/runs/"))
        assert outsider.get(f"/documents/runs/{run.pk}/").status_code == 404
        assert outsider.get(f"/documents/runs/{run.pk}/card/").status_code == 404
        for reader in (sign_in("tim", groups=("board",)), sign_in("sue", is_staff=True)):
            assert "plan.txt" in text_of(reader.get(f"/documents/runs/{run.pk}/"))

    def test_a_run_does_not_name_what_others_alone_may_read(self, sign_in: SignIn, add_documents: AddDocuments) -> None:
        add_documents({"secret.txt": "tea", "secret.pdf": b"%PDF-1.4"}, access_groups=["board"])
        run = IndexRun.objects.get()
        for outside in (f"/documents/runs/{run.pk}/", f"/documents/runs/{run.pk}/card/"):
            response = sign_in(f"viv{len(outside)}").get(outside)
            assert response.status_code == 200
            assert "secret" not in text_of(response)
        assert "secret.txt" in text_of(sign_in("wes", groups=("board",)).get(f"/documents/runs/{run.pk}/"))


def test_every_document_page_asks_strangers_to_sign_in(stranger: Client) -> None:
    for address in (
        "/",
        "/search/?q=a+b",
        "/documents/",
        "/documents/collections/",
        "/documents/runs/",
        "/documents/1/",
    ):
        response = stranger.get(address)
        assert response.status_code == 302
        assert response.url.startswith("/sign-in/?next=/")
    assert Document.objects.count() == 0
    response = stranger.get("/search/?q=tea", headers={"HX-Request": "true"})
    assert response.headers["HX-Redirect"].startswith("/sign-in/")
