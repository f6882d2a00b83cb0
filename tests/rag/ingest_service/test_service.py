"""Runs: what is unchanged costs nothing, what is broken fails alone, what changed is found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.db import connection

from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, NotFound, Unprocessable
from ops.models import AuditEvent
from rag.ingest import originals, runs, service, writer
from rag.ingest.plan import Offer
from rag.models import Chunk, Collection, Document, DocumentState, IndexItem, IndexRun, ItemState, RunState
from rag.pipeline.embed import EmbeddingError, Space
from rag.pipeline.types import Float32Array
from rag.spaces import embedder_for
from tests.rag.ingest_service.support import assert_consistent, postings


class CountingEmbedder:
    """The live embedder, noting what it is asked to embed."""

    def __init__(self, collection: Collection) -> None:
        self._embedder = embedder_for(collection.slug, indexing=True)
        self.texts: list[str] = []

    @property
    def space(self) -> Space:
        return self._embedder.space

    def embed_documents(self, texts: Sequence[str]) -> Float32Array:
        self.texts += texts
        return self._embedder.embed_documents(texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._embedder.count_tokens(texts)


class BrokenEmbedder(CountingEmbedder):
    def embed_documents(self, texts: Sequence[str]) -> Float32Array:
        raise EmbeddingError("The embedder has run out of memory.")


def text(document_id: str, content: str, **fields: Any) -> Offer:
    return Offer(document_id, content, media_type="text/plain", **fields)


def files(folder: Path) -> list[Offer]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        Offer(name, path, source=name, source_root=str(folder))
        for path in paths
        for name in [path.relative_to(folder.parent).as_posix()]
    ]


def index(
    collection: Collection,
    offers: Sequence[Offer],
    principal: Principal,
    *,
    embedder: CountingEmbedder | None = None,
    **given: Any,
) -> IndexRun:
    run = service.start_run(collection, offers, principal, "test", enqueue=False, **given)
    while service.process_batch(run.id, embedder):
        pass
    run.refresh_from_db()
    assert run.state == RunState.FINISHED
    assert run.done == run.total
    assert_consistent(collection)
    return run


def counts(run: IndexRun) -> dict[str, int]:
    states = ("added", "changed", "removed", "unchanged", "failed")
    return {state: count for state in states if (count := getattr(run, state))}


class TestIncremental:
    def test_it_finds_what_was_added_changed_removed_and_left_alone(
        self, collection: Collection, ingester: Principal, folder: Path
    ) -> None:
        roots = [str(folder)]
        assert counts(index(collection, files(folder), ingester, roots=roots)) == {"added": 3}
        (folder / "bees.md").write_text("# Bees\n\nBees also make wax.\n")
        (folder / "code.py").unlink()
        (folder / "new.txt").write_text("Something new.")
        expected = {"added": 1, "changed": 1, "removed": 1, "unchanged": 1}
        found = service.diff(collection, files(folder), roots=roots)
        assert {state.value: count for state, count in found.counts.items()} == expected
        assert sorted(found.changes) == [
            (ItemState.ADDED, "docs/new.txt", ""),
            (ItemState.CHANGED, "docs/bees.md", ""),
            (ItemState.REMOVED, "docs/code.py", ""),
        ]
        assert IndexRun.objects.count() == 1  # a diff leaves nothing
        run = index(collection, files(folder), ingester, roots=roots)
        assert counts(run) == expected
        assert "honey" not in postings(collection)
        assert Document.objects.get(document_id="docs/code.py").state == DocumentState.DELETED

    def test_it_embeds_nothing_the_second_time(self, collection: Collection, ingester: Principal, folder: Path) -> None:
        embedder = CountingEmbedder(collection)
        index(collection, files(folder), ingester, embedder=embedder)
        assert len(embedder.texts) == Chunk.objects.count() > 2
        embedder.texts.clear()
        run = service.start_run(collection, files(folder), ingester, "test")
        assert (run.state, counts(run)) == (RunState.FINISHED, {"unchanged": 3})
        assert embedder.texts == []
        assert not IndexItem.objects.filter(run=run).exists()

    def test_it_reads_new_metadata_without_embedding(self, collection: Collection, ingester: Principal) -> None:
        embedder = CountingEmbedder(collection)
        index(collection, [text("a", "Some words.", metadata={"year": 1})], ingester, embedder=embedder)
        embedder.texts.clear()
        chunk = Chunk.objects.get()
        run = index(collection, [text("a", "Some words.", metadata={"year": 2})], ingester, embedder=embedder)
        assert counts(run) == {"changed": 1}
        assert embedder.texts == []
        assert (Document.objects.get().metadata, Chunk.objects.get().id) == ({"year": 2}, chunk.id)

    @pytest.mark.parametrize(
        "change", [{"chunk_tokens": 100}, {"text_configuration": "simple"}, {"split_identifiers": True}]
    )
    def test_it_indexes_again_when_the_settings_change(
        self, collection: Collection, ingester: Principal, change: dict[str, Any]
    ) -> None:
        offers = [text("a", "The running dogs.")]
        index(collection, offers, ingester)
        Collection.objects.filter(id=collection.id).update(**change)
        collection.refresh_from_db()
        assert counts(index(collection, offers, ingester)) == {"changed": 1}
        run = service.reindex_collection(collection, ingester)
        assert counts(run) == {"unchanged": 1}

    def test_it_takes_records_of_json_lines_as_documents(
        self, collection: Collection, ingester: Principal, folder: Path
    ) -> None:
        (folder / "records.jsonl").write_text('{"_id": "r1", "text": "One."}\n{"_id": "r2", "title": "Two"}\n')
        roots = [str(folder)]
        assert counts(index(collection, files(folder), ingester, roots=roots)) == {"added": 5}
        assert Document.objects.get(document_id="r2").text == "Two"
        (folder / "records.jsonl").write_text('{"_id": "r1", "text": "One."}\n')
        assert counts(index(collection, files(folder), ingester, roots=roots)) == {"removed": 1, "unchanged": 4}
        (folder / "records.jsonl").write_text('{"_id": "r1", "text": \n')
        # What a broken file held before stays.
        assert counts(index(collection, files(folder), ingester, roots=roots)) == {"failed": 1, "unchanged": 3}
        assert Document.objects.get(document_id="r1").state == DocumentState.INDEXED

    def test_it_does_not_take_an_unreadable_folder_for_an_empty_one(
        self, collection: Collection, ingester: Principal, folder: Path
    ) -> None:
        roots = [str(folder)]
        index(collection, files(folder), ingester, roots=roots)
        readable = [offer for offer in files(folder) if offer.document_id == "docs/code.py"]
        run = index(collection, readable, ingester, roots=roots, unread=["docs/deep", "elsewhere"])
        assert counts(run) == {"removed": 1, "unchanged": 1}
        assert Document.objects.get(document_id="docs/deep/tax.txt").state == DocumentState.INDEXED

    def test_it_takes_only_the_first_of_two_with_the_same_id(self, collection: Collection, ingester: Principal) -> None:
        run = index(collection, [text("a", "First."), text("a", "Second.")], ingester)
        assert counts(run) == {"added": 1, "failed": 1}
        document = Document.objects.get()
        assert (document.text, document.state) == ("First.", DocumentState.INDEXED)


class TestContent:
    def test_it_embeds_titles_and_headings_with_the_text(self, collection: Collection, ingester: Principal) -> None:
        embedder = CountingEmbedder(collection)
        Collection.objects.filter(id=collection.id).update(chunk_tokens=40, chunk_overlap_tokens=0)
        collection.refresh_from_db()
        body = "# Bees\n\n" + "Bees make honey in summer. " * 6 + "\n\n## Dance\n\n" + "They waggle to the east. " * 6
        index(
            collection,
            [Offer("a", body, title="Insects", media_type="text/markdown")],
            ingester,
            embedder=embedder,
        )
        heads = {text.split("\n")[0] for text in embedder.texts}
        assert heads == {"Insects > Bees", "Insects > Bees > Dance"}
        assert all(count <= 254 for count in embedder.count_tokens(embedder.texts))

    def test_it_never_embeds_more_than_the_embedder_reads(self, collection: Collection, ingester: Principal) -> None:
        embedder = CountingEmbedder(collection)
        offers = [text("a", "Words and words. " * 500, title="An endless title " * 100)]
        index(collection, offers, ingester, embedder=embedder)
        assert max(embedder.count_tokens(embedder.texts)) <= 254

    def test_it_indexes_a_document_that_has_only_a_title(self, collection: Collection, ingester: Principal) -> None:
        embedder = CountingEmbedder(collection)
        index(collection, [text("a", "", title="The title of a paper")], ingester, embedder=embedder)
        chunk = Chunk.objects.get()
        assert (chunk.text, chunk.token_count) == ("The title of a paper", 2)
        assert embedder.texts == ["The title of a paper"]
        assert counts(service.reindex_collection(collection, ingester)) == {"unchanged": 1}

    def test_it_keeps_the_original_of_anything_but_plain_text(
        self, collection: Collection, ingester: Principal
    ) -> None:
        index(collection, [text("a", "Plain."), Offer("b", "# Head\n\nBody", media_type="text/markdown")], ingester)
        plain, markdown = Document.objects.order_by("document_id")
        assert (plain.original, plain.title) == ("", "")
        assert originals.read(markdown.original) == b"# Head\n\nBody"
        assert markdown.title == "Head"

    def test_it_stores_what_the_retrievers_read(self, collection: Collection, ingester: Principal) -> None:
        embedder = CountingEmbedder(collection)
        index(collection, [text("a", "Bees make honey.")], ingester, embedder=embedder)
        vector = Chunk.objects.get().embeddings.get()
        assert vector.space_id == embedder.space.id
        expected = embedder.embed_documents(["Bees make honey."])[0]
        np.testing.assert_allclose(np.asarray(vector.embedding), expected, atol=1e-6)


class TestFailures:
    def test_it_lets_a_broken_file_fail_alone(self, collection: Collection, ingester: Principal, folder: Path) -> None:
        (folder / "broken.pdf").write_bytes(b"%PDF-1.4 this is no PDF")
        (folder / "empty.txt").write_text("")
        (folder / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n")
        run = index(collection, files(folder), ingester)
        assert counts(run) == {"added": 3, "failed": 3}
        failures = dict(IndexItem.objects.filter(state=ItemState.FAILED).values_list("document_id", "reason"))
        assert set(failures) == {"docs/broken.pdf", "docs/empty.txt", "docs/picture.txt"}
        assert "image" in failures["docs/picture.txt"]
        for document in Document.objects.filter(state=DocumentState.FAILED):
            assert document.failure == failures[document.document_id]

    def test_it_says_why_a_file_is_not_read(
        self, collection: Collection, ingester: Principal, folder: Path, settings: Any
    ) -> None:
        settings.RAG_DOCUMENT_MAX_BYTES = 1024
        (folder / "large.txt").write_text("x" * 2000)
        offers = [*files(folder), Offer("gone", folder / "gone.txt", source="gone")]
        run = index(collection, offers, ingester)
        assert counts(run) == {"added": 3, "failed": 2}
        reasons = dict(IndexItem.objects.filter(state=ItemState.FAILED).values_list("document_id", "reason"))
        assert "larger than" in reasons["docs/large.txt"]
        assert "No such file" in reasons["gone"]

    def test_it_fails_documents_that_could_not_be_embedded_and_takes_them_again(
        self, collection: Collection, ingester: Principal
    ) -> None:
        offers = [text("a", "Some words."), text("b", "More words.")]
        run = index(collection, offers, ingester, embedder=BrokenEmbedder(collection))
        assert counts(run) == {"failed": 2}
        assert set(IndexItem.objects.values_list("reason", flat=True)) == {"The embedder has run out of memory."}
        assert counts(index(collection, offers, ingester)) == {"added": 2}

    def test_it_refuses_chunks_that_the_embedder_can_not_read(
        self, collection: Collection, ingester: Principal
    ) -> None:
        Collection.objects.filter(id=collection.id).update(chunk_tokens=250)
        collection.refresh_from_db()
        with pytest.raises(Unprocessable, match="238 at most"):
            service.start_run(collection, [text("a", "Words.")], ingester, "test")
        assert not IndexRun.objects.exists()

    def test_it_leaves_nothing_of_a_run_that_could_not_be_collected(
        self, collection: Collection, ingester: Principal
    ) -> None:
        def offers() -> Any:
            yield from (text(str(number), "Words.") for number in range(500))
            raise OSError("the folder went away")

        with pytest.raises(OSError, match="went away"):
            service.start_run(collection, offers(), ingester, "test")
        assert not IndexRun.objects.exists()
        assert not IndexItem.objects.exists()


class TestClaims:
    def run_of(self, collection: Collection, ingester: Principal, count: int) -> IndexRun:
        offers = [text(f"d{number}", f"Words {number}.") for number in range(count)]
        return service.start_run(collection, offers, ingester, "test", enqueue=False)

    def test_it_takes_items_alone_after_a_worker_died(self, collection: Collection, ingester: Principal) -> None:
        run = self.run_of(collection, ingester, 3)
        IndexItem.objects.update(attempts=1)
        with runs.claimed(run.id, 32) as items:
            assert [item.document_id for item in items] == ["d0"]

    def test_it_prefers_items_that_nobody_died_over(self, collection: Collection, ingester: Principal) -> None:
        run = self.run_of(collection, ingester, 3)
        IndexItem.objects.filter(document_id="d0").update(attempts=1)
        with runs.claimed(run.id, 32) as items:
            assert [item.document_id for item in items] == ["d1", "d2"]

    def test_it_fails_an_item_that_workers_keep_dying_over(self, collection: Collection, ingester: Principal) -> None:
        run = self.run_of(collection, ingester, 2)
        IndexItem.objects.filter(document_id="d0").update(attempts=runs.MAX_ATTEMPTS)
        while service.process_batch(run.id):
            pass
        item = IndexItem.objects.get(document_id="d0")
        assert item.state == ItemState.FAILED
        assert "died 3 times" in item.reason
        run.refresh_from_db()
        assert (run.state, counts(run)) == (RunState.FINISHED, {"added": 1, "failed": 1})

    def test_it_counts_no_attempt_for_an_error_that_it_survives(
        self, collection: Collection, ingester: Principal
    ) -> None:
        run = self.run_of(collection, ingester, 2)

        def interrupted() -> None:
            with runs.claimed(run.id, 32):
                raise KeyboardInterrupt

        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                interrupted()
        assert set(IndexItem.objects.values_list("attempts", flat=True)) == {0}

    @pytest.mark.django_db(transaction=True)
    def test_it_counts_no_attempt_for_an_interruption_in_the_middle_of_a_statement(
        self, collection: Collection, ingester: Principal
    ) -> None:
        run = self.run_of(collection, ingester, 2)

        def interrupted() -> None:
            with runs.claimed(run.id, 32):
                connection.connection.pgconn.send_query(b"SELECT pg_sleep(1)")
                sys.exit(1)

        with pytest.raises(SystemExit):
            interrupted()
        assert set(IndexItem.objects.values_list("attempts", flat=True)) == {0}

    @pytest.mark.django_db(transaction=True)
    def test_it_stops_when_the_collection_is_deleted_meanwhile(
        self, collection: Collection, ingester: Principal
    ) -> None:
        class Deleting(CountingEmbedder):
            def embed_documents(self, texts: Sequence[str]) -> Float32Array:
                writer.delete_collection(collection.id)
                return super().embed_documents(texts)

        run = self.run_of(collection, ingester, 2)
        assert service.process_batch(run.id, Deleting(collection)) == 0
        assert not Document.objects.exists()

    def test_it_takes_nothing_of_a_cancelled_run(self, collection: Collection, ingester: Principal) -> None:
        run = self.run_of(collection, ingester, 2)
        assert runs.cancel_run(run.id)
        assert service.process_batch(run.id) == 0
        run.refresh_from_db()
        assert run.state == RunState.CANCELLED
        assert not runs.cancel_run(run.id)


class TestSingleDocuments:
    def test_it_restores_a_removed_document(self, collection: Collection, ingester: Principal) -> None:
        index(collection, [Offer("a", "# Head\n\nSome words.", media_type="text/markdown")], ingester)
        before = postings(collection).keys()
        service.remove_document(collection, "a", ingester)
        assert postings(collection) == {}
        run = service.restore_document(collection, "a", ingester)
        service.process_batch(run.id)
        assert postings(collection).keys() == before
        document = Document.objects.get()
        assert (document.state, document.deleted_at) == (DocumentState.INDEXED, None)
        assert list(AuditEvent.objects.filter(actor="user:ida").order_by("id").values_list("action", "target")) == [
            ("documents.index", "c"),
            ("document.delete", "c/a"),
            ("document.restore", "c/a"),
            ("documents.index", "c"),
        ]

    def test_it_reads_a_document_again_on_request(self, collection: Collection, ingester: Principal) -> None:
        index(collection, [text("a", "Some words.", title="Given")], ingester)
        chunk = Chunk.objects.get()
        run = service.reindex_document(collection, "a", ingester)
        service.process_batch(run.id)
        assert Chunk.objects.get().id != chunk.id
        assert counts(index(collection, [text("a", "Some words.", title="Given")], ingester)) == {"unchanged": 1}

    def test_it_says_what_can_not_be_done(self, collection: Collection, ingester: Principal) -> None:
        index(collection, [text("a", "Some words.")], ingester)
        with pytest.raises(NotFound):
            service.remove_document(collection, "unknown", ingester)
        with pytest.raises(Conflict):
            service.restore_document(collection, "a", ingester)
        service.remove_document(collection, "a", ingester)
        with pytest.raises(NotFound):
            service.remove_document(collection, "a", ingester)
        with pytest.raises(NotFound):
            service.reindex_document(collection, "a", ingester)

    def test_it_does_not_let_a_waiting_version_undo_a_deletion(
        self, collection: Collection, ingester: Principal
    ) -> None:
        index(collection, [text("a", "Some words.")], ingester)
        waiting = service.start_run(collection, [text("a", "New words.")], ingester, "test", enqueue=False)
        service.remove_document(collection, "a", ingester)
        service.process_batch(waiting.id)
        assert Document.objects.get().state == DocumentState.DELETED


class TestOriginals:
    def test_it_collects_only_what_nothing_names(self, collection: Collection, ingester: Principal) -> None:
        from datetime import timedelta

        index(collection, [Offer("a", b"kept words", source="a.txt")], ingester)
        kept, lost = Document.objects.get().original, originals.put(b"named by nobody")
        assert originals.collect_garbage() == 0
        assert originals.collect_garbage(grace=timedelta(seconds=-1)) >= 1
        assert originals.read(kept) == b"kept words"
        with pytest.raises(originals.OriginalError):
            originals.read(lost)

    def test_it_notices_damage(self, db: None) -> None:
        from django.core.files.storage import default_storage

        sha256 = originals.put(b"precious")
        Path(default_storage.path(f"originals/{sha256[:2]}/{sha256}")).write_bytes(b"damaged!")
        with pytest.raises(originals.OriginalError, match="damaged"):
            originals.read(sha256)
