"""Documents over HTTP: sent, listed, read, replaced, deleted and brought back."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from ops.contracts.principal import Scope
from rag.models import Chunk, Collection, Document, DocumentState, IndexItem, IndexRun
from tests.rag.api.conftest import ClientOf, assert_problem, post, send, work_off

DOCUMENTS = "/rag/documents"


def address(document_id: str, action: str = "", slug: str = "c") -> str:
    return f"/rag/collections/{slug}/documents/{quote(document_id)}{action}"


def add(api: Client, document_id: str = "a", text: str = "Bees make honey.", **fields: Any) -> IndexRun:
    return work_off(post(api, DOCUMENTS, {"collection": "c", "document_id": document_id, "text": text, **fields}))


def upload(api: Client, *files: tuple[str, bytes], **fields: Any) -> Any:
    sent = [SimpleUploadedFile(name, content) for name, content in files]
    return api.post(DOCUMENTS, {"collection": "c", "files": sent, **fields})


@pytest.mark.usefixtures("collection")
class TestSending:
    def test_it_indexes_one_document(self, api: Client) -> None:
        about = {
            "title": "Bees",
            "source": "book",
            "external_url": "https://example.org/bees",
            "metadata": {"year": 2001, "tags": ["insects"]},
        }
        response = post(api, DOCUMENTS, {"collection": "c", "document_id": "a/b c.md", "text": "Honey.", **about})
        assert response.json() | {"id": "", "created_at": "", "started_at": "", "started_by": ""} == {
            "id": "",
            "collection": "c",
            "origin": "api",
            "started_by": "",
            "state": "running",
            "total": 1,
            "done": 0,
            "added": 0,
            "changed": 0,
            "removed": 0,
            "unchanged": 0,
            "failed": 0,
            "created_at": "",
            "started_at": "",
            "finished_at": None,
        }
        assert work_off(response).added == 1
        shown = api.get(address("a/b c.md")).json()
        assert {name: shown[name] for name in ("document_id", "text", "state", "failure", "chunk_count", *about)} == {
            "document_id": "a/b c.md",
            "text": "Honey.",
            "state": "indexed",
            "failure": "",
            "chunk_count": 1,
            **about,
        }

    def test_it_indexes_many_at_once(self, api: Client) -> None:
        documents = [{"document_id": str(number), "text": f"Document {number}."} for number in range(70)]
        run = work_off(post(api, DOCUMENTS, {"collection": "c", "documents": documents}))
        assert run.added == 70
        again = post(api, DOCUMENTS, {"collection": "c", "documents": documents}).json()
        assert (again["state"], again["unchanged"]) == ("finished", 70)

    def test_it_takes_the_default_collection(self, api: Client, settings: Any) -> None:
        settings.RAG_DEFAULT_COLLECTION = "c"
        assert work_off(post(api, DOCUMENTS, {"document_id": "a", "text": "Words."})).added == 1

    def test_it_reads_text_by_its_media_type(self, api: Client) -> None:
        add(api, text="# Bees\n\nThey *make* honey.", media_type="text/markdown; charset=utf-8")
        document = Document.objects.get()
        assert (document.title, document.media_type) == ("Bees", "text/markdown")
        assert "They make honey." in document.text

    def test_it_indexes_uploaded_files(self, api: Client) -> None:
        run = work_off(
            upload(
                api,
                ("bees.md", b"# Bees\n\nHoney."),
                ("broken.pdf", b"%PDF-1.4 none"),
                ("many.jsonl", b'{"_id": "r1", "text": "One."}\n{"_id": "r2", "text": "Two."}\n'),
                metadata=json.dumps({"year": 2001}),
                access_groups=["staff", "board"],
            )
        )
        assert (run.origin, run.added, run.failed) == ("upload", 3, 1)
        document = Document.objects.get(document_id="bees.md")
        assert (document.metadata, document.access_groups) == ({"year": 2001}, ["staff", "board"])
        assert set(Document.objects.values_list("document_id", flat=True)) == {"bees.md", "broken.pdf", "r1", "r2"}

    def test_it_takes_the_id_of_a_single_file(self, api: Client) -> None:
        work_off(upload(api, ("bees.txt", b"Honey."), document_id="animals/bees", title="On bees"))
        document = Document.objects.get()
        assert (document.document_id, document.title, document.source) == ("animals/bees", "On bees", "bees.txt")

    def test_it_records_a_file_that_is_too_large(self, api: Client, settings: Any) -> None:
        settings.RAG_DOCUMENT_MAX_BYTES = 1024
        run = work_off(upload(api, ("large.txt", b"x" * 2000), ("small.txt", b"Words.")))
        assert (run.added, run.failed) == (1, 1)
        assert "larger than" in Document.objects.get(document_id="large.txt").failure


HOSTILE_BODIES: dict[str, tuple[Any, str]] = {
    "no id": ({"text": "x"}, "document_id"),
    "no text": ({"document_id": "a"}, "text"),
    "nothing to index": ({"document_id": "a", "text": " \n"}, "text"),
    "number as id": ({"document_id": 7, "text": "x"}, "document_id"),
    "empty id": ({"document_id": "", "text": "x"}, "document_id"),
    "long id": ({"document_id": "x" * 513, "text": "x"}, "document_id"),
    "line break in id": ({"document_id": "a\nb", "text": "x"}, "document_id"),
    "space around id": ({"document_id": " a", "text": "x"}, "document_id"),
    "way upwards": ({"document_id": "../a", "text": "x"}, "document_id"),
    "id of an action": ({"document_id": "a/restore", "text": "x"}, "document_id"),
    "text is a list": ({"document_id": "a", "text": ["x"]}, "text"),
    "metadata is a list": ({"document_id": "a", "text": "x", "metadata": []}, "metadata"),
    "large metadata": ({"document_id": "a", "text": "x", "metadata": {"k": "v" * 70_000}}, "metadata"),
    "script as address": ({"document_id": "a", "text": "x", "external_url": "javascript:alert(1)"}, "external_url"),
    "broken address": ({"document_id": "a", "text": "x", "external_url": "http://[x"}, "external_url"),
    "group is a number": ({"document_id": "a", "text": "x", "access_groups": [1]}, "access_groups.0"),
    "unknown media type": ({"document_id": "a", "text": "x", "media_type": "video/mp4"}, "media_type"),
    "file as text": ({"document_id": "a", "text": "x", "media_type": "application/pdf"}, "media_type"),
    "unknown field": ({"document_id": "a", "text": "x", "txet": "y"}, "txet"),
    "no documents": ({"documents": []}, "documents"),
    "documents is a text": ({"documents": "x"}, "documents"),
    "bad document among many": ({"documents": [{"document_id": "a", "text": "x"}, {}]}, "documents.1.document_id"),
    "same id twice": ({"documents": [{"document_id": "a", "text": "x"}] * 2}, "documents"),
    "a list": ([], ""),
    "a text": ("a", ""),
    "null": (None, ""),
}


@pytest.mark.usefixtures("collection")
class TestBadInput:
    @pytest.mark.parametrize(("body", "field"), HOSTILE_BODIES.values(), ids=HOSTILE_BODIES.keys())
    def test_it_names_what_is_wrong_and_writes_nothing(self, api: Client, body: Any, field: str) -> None:
        if isinstance(body, dict):
            body = {"collection": "c", **body}
        problem = assert_problem(post(api, DOCUMENTS, json.dumps(body)), 400, "invalid-request")
        assert problem["detail"]
        assert not field or field in problem["errors"]
        assert not IndexRun.objects.exists()
        assert not Document.objects.exists()

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b'{"collection": "c", "document_id": "a", "text": "\xff"}',
            b'{"collection": "c", "document_id": "a", "text": "nul \\u0000"}',
            b'{"collection": "c", "document_id": "a", "text": "\\ud800"}',
            b'{"collection": "c", "document_id": "a", "text": "x", "metadata": {"n": NaN}}',
            b"",
        ],
    )
    def test_it_refuses_what_is_no_text(self, api: Client, body: bytes) -> None:
        assert_problem(post(api, DOCUMENTS, body), 400, "invalid-request")

    def test_it_refuses_what_is_too_large(self, api: Client, settings: Any) -> None:
        settings.RAG_REQUEST_MAX_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 4096
        body = {"collection": "c", "document_id": "a", "text": "x" * 5000}
        assert_problem(post(api, DOCUMENTS, body), 413, "too-large")
        assert_problem(upload(api, ("a.txt", b"x" * 5000)), 413, "too-large")

    def test_it_refuses_a_document_that_is_too_large(self, api: Client, settings: Any) -> None:
        settings.RAG_DOCUMENT_MAX_BYTES = 1024
        body = {"collection": "c", "document_id": "a", "text": "é" * 600}
        assert "text" in assert_problem(post(api, DOCUMENTS, body), 400, "invalid-request")["errors"]

    def test_it_refuses_more_documents_than_allowed(self, api: Client, settings: Any) -> None:
        settings.RAG_BULK_MAX_DOCUMENTS = 2
        documents = [{"document_id": str(number), "text": "x"} for number in range(3)]
        assert_problem(post(api, DOCUMENTS, {"collection": "c", "documents": documents}), 400, "invalid-request")

    @pytest.mark.parametrize(
        ("fields", "at_fault"),
        [
            ({"metadata": "{no json"}, "metadata"),
            ({"metadata": "[]"}, "metadata"),
            ({"colour": "red"}, "colour"),
            ({"title": ["one", "two"]}, "title"),
            ({"document_id": "a\0b"}, "document_id"),
            ({"files": []}, "files"),
        ],
    )
    def test_it_reads_forms_as_strictly(self, api: Client, fields: dict[str, Any], at_fault: str) -> None:
        form = {"collection": "c", "files": [SimpleUploadedFile("a.txt", b"x")], **fields}
        problem = assert_problem(api.post(DOCUMENTS, form), 400, "invalid-request")
        assert at_fault in problem["errors"]

    def test_it_refuses_one_id_for_many_files(self, api: Client) -> None:
        response = upload(api, ("a.txt", b"x"), ("b.txt", b"y"), document_id="a")
        assert set(assert_problem(response, 400, "invalid-request")["errors"]) == {"document_id"}

    def test_it_refuses_a_form_that_is_cut_off(self, api: Client) -> None:
        response = api.generic("POST", DOCUMENTS, b"--x\r\nhalf", content_type="multipart/form-data; boundary=x")
        assert_problem(response, 400, "invalid-request")

    def test_it_refuses_other_media_types(self, api: Client) -> None:
        response = api.generic("POST", DOCUMENTS, b"text", content_type="text/plain")
        assert_problem(response, 415, "unsupported-media-type")

    @pytest.mark.parametrize("slug", ["unknown", "Bad Slug", "a\x00b", "../c"])
    def test_it_does_not_know_other_collections(self, api: Client, slug: str) -> None:
        body = {"collection": slug, "document_id": "a", "text": "x"}
        status, code = (400, "invalid-request") if "\x00" in slug else (404, "not-found")
        assert_problem(post(api, DOCUMENTS, body), status, code)
        assert_problem(api.get(f"{DOCUMENTS}?collection={quote(slug)}"), status, code)

    @pytest.mark.parametrize("query", ["limit=0", "limit=x", "cursor=nonsense", "state=lost", "q=%00", "colour=red"])
    def test_it_refuses_bad_parameters(self, api: Client, query: str) -> None:
        assert_problem(api.get(f"{DOCUMENTS}?{query}"), 400, "invalid-request")

    @pytest.mark.parametrize("path", ["/rag/collections/%1F", "/rag/collections/c/documents/%1F", "/rag/index-runs/7"])
    def test_it_finds_nothing_at_impossible_addresses(self, api: Client, path: str) -> None:
        assert_problem(api.get(path), 404, "not-found")


@pytest.mark.usefixtures("collection")
class TestReading:
    def test_it_lists_documents_in_pages(self, api: Client) -> None:
        documents = [{"document_id": str(number), "text": f"Document {number}."} for number in range(5)]
        work_off(post(api, DOCUMENTS, {"collection": "c", "documents": documents}))
        seen: list[str] = []
        path: str | None = f"{DOCUMENTS}?limit=2"
        while path:
            page = api.get(path).json()
            seen += [document["document_id"] for document in page["results"]]
            path = page["next"]
        assert seen == ["4", "3", "2", "1", "0"]
        assert "text" not in page["results"][0]

    def test_it_filters_by_state_and_words(self, api: Client) -> None:
        work_off(upload(api, ("bees.md", b"# Honey\n\nText."), ("broken.pdf", b"%PDF-1.4"), ("gone.txt", b"Gone.")))
        assert send(api, "DELETE", address("gone.txt")).status_code == 204

        def ids(query: str) -> set[str]:
            return {document["document_id"] for document in api.get(f"{DOCUMENTS}?{query}").json()["results"]}

        assert ids("") == {"bees.md", "broken.pdf"}
        assert ids("state=failed") == {"broken.pdf"}
        assert ids("state=deleted") == {"gone.txt"}
        assert ids("q=HONEY") == {"bees.md"}
        assert ids("q=.pdf&collection=c") == {"broken.pdf"}
        assert ids("q=%25") == set()

    def test_it_hands_out_originals_for_saving_only(self, api: Client) -> None:
        page = b"<script>alert(1)</script><p>Words.</p>"
        work_off(upload(api, ("page.html", page)))
        response = api.get(address("page.html", "/original"))
        assert response.content == page
        assert response["Content-Type"] == "application/octet-stream"
        assert response["Content-Disposition"] == 'attachment; filename="page.html"'
        assert response["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in response["Content-Security-Policy"]

    def test_it_hands_out_plain_text_as_it_is(self, api: Client) -> None:
        add(api, text="Plain words.")
        response = api.get(address("a", "/original"))
        assert response.content == b"Plain words."
        assert response["Content-Disposition"].startswith("attachment")

    def test_it_shows_what_became_of_each_document(self, api: Client) -> None:
        files = [(f"{number}.txt", b"Words.") for number in range(3)]
        run = work_off(upload(api, *files, ("broken.pdf", b"%PDF-1.4")))
        shown = api.get(f"/rag/index-runs/{run.id}?limit=3").json()
        assert (shown["state"], shown["done"], shown["added"], shown["failed"]) == ("finished", 4, 3, 1)
        assert [item["document_id"] for item in shown["documents"]["results"]] == ["0.txt", "1.txt", "2.txt"]
        rest = api.get(shown["documents"]["next"]).json()
        assert [item["state"] for item in rest["documents"]["results"]] == ["failed"]
        failed = api.get(f"/rag/index-runs/{run.id}?state=failed").json()["documents"]["results"]
        assert [item["document_id"] for item in failed] == ["broken.pdf"]
        assert failed[0]["reason"]
        assert_problem(api.get(f"/rag/index-runs/{run.id}?state=lost"), 400, "invalid-request")


@pytest.mark.usefixtures("collection")
class TestChanging:
    def test_it_replaces_a_document(self, api: Client) -> None:
        add(api, metadata={"year": 1})
        run = work_off(send(api, "PUT", address("a"), {"text": "Other words."}))
        assert run.changed == 1
        document = Document.objects.get()
        assert (document.text, document.metadata) == ("Other words.", {})

    def test_it_adds_a_document_under_its_address(self, api: Client) -> None:
        work_off(send(api, "PUT", address("https://example.org/a?b"), {"text": "Words."}))
        assert Document.objects.get().document_id == "https://example.org/a?b"
        assert api.get(address("https://example.org/a?b")).json()["text"] == "Words."

    @pytest.mark.parametrize("document_id", ["a\x1fb", " a", "x" * 513])
    def test_it_refuses_an_address_that_is_no_id(self, api: Client, document_id: str) -> None:
        response = send(api, "PUT", address(document_id), {"text": "Words."})
        assert "document_id" in assert_problem(response, 400, "invalid-request")["errors"]

    def test_it_deletes_and_restores(self, api: Client) -> None:
        add(api)
        assert send(api, "DELETE", address("a")).status_code == 204
        assert not Chunk.objects.exists()
        assert api.get(address("a")).json()["state"] == "deleted"
        assert_problem(send(api, "DELETE", address("a")), 404, "not-found")
        work_off(post(api, address("a", "/restore")))
        assert Document.objects.get().state == DocumentState.INDEXED
        assert Chunk.objects.count() == 1
        assert_problem(post(api, address("a", "/restore")), 409, "conflict")

    def test_it_indexes_again_on_request(self, api: Client) -> None:
        add(api)
        chunk = Chunk.objects.get()
        assert work_off(post(api, address("a", "/reindex"))).changed == 1
        assert Chunk.objects.get().id != chunk.id

    @pytest.mark.parametrize("action", ["/restore", "/reindex"])
    def test_it_does_not_know_other_documents(self, api: Client, action: str) -> None:
        assert_problem(post(api, address("unknown", action)), 404, "not-found")
        assert_problem(post(api, address("unknown", action, slug="unknown")), 404, "not-found")

    def test_it_can_not_index_again_what_was_never_kept(self, api: Client, settings: Any) -> None:
        settings.RAG_DOCUMENT_MAX_BYTES = 1024
        work_off(upload(api, ("large.txt", b"x" * 2000)))
        assert_problem(post(api, address("large.txt", "/reindex")), 409, "conflict")


class TestAccess:
    def test_it_withholds_documents_of_other_groups(
        self, api: Client, client_of: ClientOf, collection: Collection
    ) -> None:
        add(api, "open")
        add(api, "secret", access_groups=["board"])
        board = client_of(Scope.QUERY, groups=["board"])
        assert [row["document_id"] for row in board.get(DOCUMENTS).json()["results"]] == ["secret", "open"]
        assert board.get(address("secret")).status_code == 200
        assert [row["document_id"] for row in api.get(DOCUMENTS).json()["results"]] == ["open"]
        for action in ("", "/original"):
            assert_problem(api.get(address("secret", action)), 404, "not-found")
        assert api.get("/rag/collections/c").json()["documents"]["indexed"] == 1
        Collection.objects.update(default_access_groups=["staff"])
        assert api.get(DOCUMENTS).json()["results"] == []

    def test_what_is_withheld_answers_like_what_is_not_there(self, api: Client, collection: Collection) -> None:
        add(api, "secret", access_groups=["board"])

        def answers(document_id: str) -> list[Any]:
            responses = [api.get(address(document_id, action)) for action in ("", "/original")]
            responses.append(api.get(f"{DOCUMENTS}?q={document_id}"))
            bodies = [json.dumps(response.json() | {"request_id": ""}) for response in responses]
            plain = [body.replace(document_id, "…") for body in bodies]
            return [(response.status_code, body) for response, body in zip(responses, plain, strict=True)]

        assert answers("secret") == answers("absent")

    def test_it_withholds_collections_that_a_key_may_not_touch(
        self, api: Client, client_of: ClientOf, collection: Collection
    ) -> None:
        run = add(api)
        limited = client_of(Scope.INGEST, Scope.QUERY, collections=["other"])
        assert limited.get("/rag/collections").json()["results"] == []
        assert limited.get(DOCUMENTS).json()["results"] == []
        body = {"collection": "c", "document_id": "a", "text": "x"}
        for response in (
            limited.get("/rag/collections/c"),
            limited.get(address("a")),
            limited.get(f"/rag/index-runs/{run.id}"),
            limited.get(f"{DOCUMENTS}?collection=c"),
            post(limited, DOCUMENTS, body),
            send(limited, "PUT", address("a"), {"text": "x"}),
            send(limited, "DELETE", address("a")),
            post(limited, address("a", "/reindex")),
        ):
            assert_problem(response, 404, "not-found")

    def test_it_shows_a_run_to_those_who_may_read_what_its_collection_holds(
        self, api: Client, client_of: ClientOf, collection: Collection
    ) -> None:
        run = work_off(upload(api, ("plan.txt", b"Words."), ("broken.pdf", b"%PDF-1.4"), access_groups="staff"))
        address_of_run = f"/rag/index-runs/{run.id}"
        colleague, stranger = (client_of(Scope.INGEST, groups=groups) for groups in (["staff"], ["guests"]))

        def named(client: Client) -> list[str]:
            return [item["document_id"] for item in client.get(address_of_run).json()["documents"]["results"]]

        assert named(api) == named(colleague) == ["plan.txt", "broken.pdf"]
        assert named(stranger) == []
        Collection.objects.update(default_access_groups=["staff"])
        assert named(api) == named(colleague) == ["plan.txt", "broken.pdf"]
        assert_problem(stranger.get(address_of_run), 404, "not-found")

    def test_it_asks_for_the_right_scope(self, client_of: ClientOf, collection: Collection) -> None:
        reader, writer = client_of(Scope.QUERY), client_of(Scope.INGEST)
        body = {"collection": "c", "document_id": "a", "text": "x"}
        assert_problem(post(reader, DOCUMENTS, body), 403, "forbidden")
        assert_problem(send(reader, "DELETE", address("a")), 403, "forbidden")
        assert_problem(writer.get(DOCUMENTS), 403, "forbidden")
        assert_problem(Client().get(DOCUMENTS), 401, "authentication-needed")
        assert_problem(send(reader, "PATCH", DOCUMENTS), 405, "method-not-allowed")


@pytest.mark.usefixtures("collection")
class TestIdempotency:
    BODY = {"collection": "c", "document_id": "a", "text": "Words."}
    KEY = {"Idempotency-Key": "key-1"}

    def test_it_gives_the_same_answer_and_does_nothing_twice(self, api: Client) -> None:
        first = post(api, DOCUMENTS, self.BODY, **self.KEY)
        second = post(api, DOCUMENTS, self.BODY, **self.KEY)
        assert (first.status_code, first.json(), first["Location"]) == (
            second.status_code,
            second.json(),
            second["Location"],
        )
        assert "Idempotency-Replayed" not in first
        assert second["Idempotency-Replayed"] == "true"
        assert IndexRun.objects.count() == 1

    def test_it_reads_the_same_json_in_another_order_as_the_same(self, api: Client) -> None:
        post(api, DOCUMENTS, self.BODY, **self.KEY)
        turned = dict(reversed(self.BODY.items()))
        assert post(api, DOCUMENTS, turned, **self.KEY)["Idempotency-Replayed"] == "true"

    def test_it_refuses_another_request_with_the_same_key(self, api: Client) -> None:
        post(api, DOCUMENTS, self.BODY, **self.KEY)
        other = self.BODY | {"text": "Other."}
        assert_problem(post(api, DOCUMENTS, other, **self.KEY), 422, "unprocessable")
        assert_problem(send(api, "PUT", address("a"), {"text": "Words."}, **self.KEY), 422, "unprocessable")

    def test_it_looks_into_files(self, api: Client) -> None:
        def upload_once(content: bytes) -> Any:
            form = {"collection": "c", "files": [SimpleUploadedFile("a.txt", content)]}
            return api.post(DOCUMENTS, form, headers=self.KEY)

        run = work_off(upload_once(b"Words."))
        assert upload_once(b"Words.").json()["id"] == str(run.id)
        assert_problem(upload_once(b"Other."), 422, "unprocessable")
        assert Document.objects.get().text == "Words."

    def test_it_keeps_the_keys_of_principals_apart(self, api: Client, client_of: ClientOf) -> None:
        post(api, DOCUMENTS, self.BODY, **self.KEY)
        other = post(client_of(Scope.INGEST), DOCUMENTS, self.BODY, **self.KEY)
        assert "Idempotency-Replayed" not in other

    def test_it_lets_a_failed_request_be_sent_again(self, api: Client) -> None:
        body = self.BODY | {"collection": "later"}
        assert_problem(post(api, DOCUMENTS, body, **self.KEY), 404, "not-found")
        Collection.objects.create(slug="later")
        assert post(api, DOCUMENTS, body, **self.KEY).status_code == 202

    @pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
    def test_it_refuses_a_key_that_is_none(self, api: Client, key: str) -> None:
        response = post(api, DOCUMENTS, self.BODY, **{"Idempotency-Key": key})
        assert_problem(response, 400, "invalid-request")

    def test_it_forgets_keys_after_a_day(self, api: Client) -> None:
        from datetime import timedelta

        from django.utils import timezone

        from rag.models import IdempotentRequest

        post(api, DOCUMENTS, self.BODY, **self.KEY)
        IdempotentRequest.objects.update(created_at=timezone.now() - timedelta(hours=25))
        assert "Idempotency-Replayed" not in post(api, DOCUMENTS, self.BODY, **self.KEY)

    def test_it_says_when_the_first_request_is_still_being_answered(self, api: Client) -> None:
        from datetime import timedelta

        from django.utils import timezone

        from rag.models import IdempotentRequest

        post(api, DOCUMENTS, self.BODY, **self.KEY)
        IdempotentRequest.objects.update(status=0)
        response = post(api, DOCUMENTS, self.BODY, **self.KEY)
        assert_problem(response, 409, "conflict")
        assert response["Retry-After"] == "1"
        # Its server died: after some minutes the request may be made again.
        IdempotentRequest.objects.update(created_at=timezone.now() - timedelta(minutes=6))
        assert post(api, DOCUMENTS, self.BODY, **self.KEY).status_code == 202


def test_it_leaves_no_item_text_behind(api: Client, collection: Collection) -> None:
    add(api)
    assert set(IndexItem.objects.values_list("text", flat=True)) == {None}
