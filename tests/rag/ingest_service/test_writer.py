"""One document, one transaction: whatever happens, chunks, vectors, postings and totals agree."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.errors import DeadlockDetected

from rag.ingest import writer
from rag.ingest.writer import changing
from rag.models import (
    Chunk,
    Collection,
    DocEmbedding,
    Document,
    DocumentState,
    EmbeddingSpace,
    ItemState,
    LexicalTerm,
    LexicalTotals,
)
from tests.patience import PATIENCE_S
from tests.rag.ingest_service.support import (
    assert_consistent,
    bag_of_words,
    fields,
    make_space,
    postings,
    prepare,
    totals,
)


@pytest.fixture
def collection(db: None) -> Collection:
    return Collection.objects.create(slug="c")


@pytest.fixture
def space(db: None) -> EmbeddingSpace:
    return make_space()


def write(
    collection: Collection,
    space: EmbeddingSpace,
    *passages: str,
    document_id: str = "d",
    title: str = "",
    revision: int = 1,
    **changes: object,
) -> ItemState:
    prepared = prepare(collection, space, *passages, title=title)
    with changing(collection.id) as change:
        return writer.write_document(change, fields(document_id, title=title, **changes), prepared, revision)


def counters(collection: Collection) -> tuple[int, int]:
    collection.refresh_from_db()
    return collection.generation, collection.access_epoch


class TestWriting:
    def test_it_stores_what_bm25_needs(self, collection: Collection, space: EmbeddingSpace) -> None:
        assert write(collection, space, "the dog chased the dogs", "a cat slept", title="Animals") == ItemState.ADDED
        first, second = Chunk.objects.order_by("ordinal")
        # "animals" stems to anim; "the" and "a" are stop words.
        assert postings(collection) == {
            "anim": {first.id: (1, 4), second.id: (1, 3)},
            "dog": {first.id: (2, 4)},
            "chase": {first.id: (1, 4)},
            "cat": {second.id: (1, 3)},
            "slept": {second.id: (1, 3)},
        }
        assert totals(collection) == (2, 7)
        assert (first.title_length, first.token_count, len(bytes(first.tokens))) == (1, 4, 4 * 6)
        assert_consistent(collection)

    def test_it_stores_vectors_exactly(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "one passage")
        stored = DocEmbedding.objects.get()
        assert (stored.space_id, stored.collection_id) == (space.id, collection.id)
        np.testing.assert_array_equal(np.asarray(stored.embedding, dtype=np.float32), bag_of_words("one passage"))

    def test_it_replaces_a_changed_document(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "old words here", "and more old words", document_id="d")
        write(collection, space, "other document", document_id="e")
        assert write(collection, space, "new words", document_id="d", revision=2) == ItemState.CHANGED
        assert set(postings(collection)) == {"new", "word", "document"}
        assert totals(collection) == (2, 3)
        assert_consistent(collection)

    def test_it_leaves_an_unchanged_document_alone(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "same words")
        before, chunk = counters(collection), Chunk.objects.get()
        assert write(collection, space, "same words", revision=2) == ItemState.UNCHANGED
        assert counters(collection) == before
        assert Chunk.objects.get().id == chunk.id

    def test_it_updates_fields_without_new_chunks(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "same words")
        generation, epoch = counters(collection)
        chunk = Chunk.objects.get()
        assert write(collection, space, "same words", revision=2, metadata={"year": 2001}) == ItemState.CHANGED
        assert counters(collection) == (generation + 1, epoch)
        assert write(collection, space, "same words", revision=3, access_groups=["staff"]) == ItemState.CHANGED
        assert counters(collection)[1] == epoch + 1
        assert Chunk.objects.get().id == chunk.id

    def test_it_raises_the_access_epoch_with_changed_text_too(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        write(collection, space, "words", access_groups=["staff"])
        assert counters(collection) == (1, 0)
        write(collection, space, "other words", revision=2)
        assert counters(collection) == (2, 1)

    def test_it_never_lets_an_older_version_win(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "the newer text", revision=7)
        assert write(collection, space, "the older text", revision=6) == ItemState.UNCHANGED
        assert set(postings(collection)) == {"newer", "text"}

    def test_it_writes_nothing_when_the_transaction_fails(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "kept words")
        before = counters(collection), postings(collection)
        prepared = prepare(collection, space, "lost words")

        def write_and_fail() -> None:
            with changing(collection.id) as change:
                writer.write_document(change, fields("d"), prepared, 2)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            write_and_fail()
        assert (counters(collection), postings(collection)) == before
        assert_consistent(collection)

    def test_it_takes_a_document_of_many_postings(self, collection: Collection, space: EmbeddingSpace) -> None:
        passages = [" ".join(f"w{chunk}x{word}" for word in range(200)) for chunk in range(300)]
        write(collection, space, *passages)
        assert totals(collection) == (300, 60_000)
        write(collection, space, "short", revision=2)
        assert totals(collection) == (1, 1)
        assert_consistent(collection)


class TestFailures:
    def test_it_records_a_new_document_that_failed(self, collection: Collection) -> None:
        with changing(collection.id) as change:
            writer.record_failure(change, fields("d", original="a" * 64), "It is damaged.", 1)
        document = Document.objects.get()
        assert (document.state, document.failure) == (DocumentState.FAILED, "It is damaged.")
        assert counters(collection) == (0, 0)

    def test_it_keeps_the_last_good_version_searchable(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "good words")
        with changing(collection.id) as change:
            writer.record_failure(change, fields("d", access_groups=["staff"]), "It is damaged.", 2)
        assert set(postings(collection)) == {"good", "word"}
        assert Document.objects.get().state == DocumentState.FAILED
        assert counters(collection)[1] == 1  # and it is guarded as its owner now says
        assert write(collection, space, "better words", revision=3) == ItemState.CHANGED
        document = Document.objects.get()
        assert (document.state, document.failure) == (DocumentState.INDEXED, "")
        assert_consistent(collection)

    def test_it_recovers_when_the_good_version_comes_back(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "good words")
        with changing(collection.id) as change:
            writer.record_failure(change, fields("d"), "It is damaged.", 2)
        assert write(collection, space, "good words", revision=3) == ItemState.CHANGED
        assert Document.objects.get().state == DocumentState.INDEXED


class TestRemoval:
    def test_it_keeps_the_text_of_a_removed_document(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "some words", "more words")
        with changing(collection.id) as change:
            assert writer.remove_document(change, "d", 2)
        document = Document.objects.get()
        assert (document.state, document.text) == (DocumentState.DELETED, "some words\nmore words")
        assert (postings(collection), totals(collection)) == ({}, (0, 0))
        assert counters(collection)[0] == 2
        assert_consistent(collection)

    def test_it_finds_nothing_to_remove_twice(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "some words")
        with changing(collection.id) as change:
            assert writer.remove_document(change, "d", 2)
            assert not writer.remove_document(change, "d", 3)
            assert not writer.remove_document(change, "unknown", 3)

    def test_it_does_not_remove_what_came_later(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "some words", revision=5)
        with changing(collection.id) as change:
            assert not writer.remove_document(change, "d", 4)

    def test_it_does_not_bring_back_what_was_removed_later(self, collection: Collection, space: EmbeddingSpace) -> None:
        write(collection, space, "some words")
        revision = writer.next_revision()
        with changing(collection.id) as change:
            writer.remove_document(change, "d", revision + 1)
        assert write(collection, space, "late words", revision=revision) == ItemState.UNCHANGED
        assert Document.objects.get().state == DocumentState.DELETED

    def test_it_purges_only_what_was_deleted_long_ago(self, collection: Collection, space: EmbeddingSpace) -> None:
        for document_id in ("old", "recent", "alive"):
            write(collection, space, "words", document_id=document_id)
        with changing(collection.id) as change:
            writer.remove_document(change, "old", 2)
            writer.remove_document(change, "recent", 2)
        now = timezone.now()
        Document.objects.filter(document_id="old").update(deleted_at=now - timedelta(hours=2))
        assert writer.purge(now - timedelta(hours=1)) == 1
        assert set(Document.objects.values_list("document_id", flat=True)) == {"recent", "alive"}

    def test_it_deletes_a_collection_with_all_its_rows(self, collection: Collection, space: EmbeddingSpace) -> None:
        other = Collection.objects.create(slug="other")
        write(other, space, "kept words")
        for number in range(5):
            write(collection, space, f"words {number}", "more", document_id=str(number))
        writer.delete_collection(collection.id)
        assert not Collection.objects.filter(slug="c").exists()
        assert Chunk.objects.count() == 1
        assert set(LexicalTerm.objects.values_list("term", flat=True)) == {"kept", "word"}
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM rag_posting")
            assert cursor.fetchone()[0] == 2
        assert_consistent(other)

    def test_it_folds_totals_without_changing_them(self, collection: Collection, space: EmbeddingSpace) -> None:
        other = Collection.objects.create(slug="other")
        write(other, space, "three more words")
        for number in range(4):
            write(collection, space, f"words {number}", document_id=str(number))
        before = totals(collection), totals(other)
        assert writer.fold_totals() == 4
        assert (totals(collection), totals(other)) == before
        assert LexicalTotals.objects.filter(collection=collection).count() == 1
        assert writer.fold_totals() == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "remove", "fail", "fold"]),
        st.sampled_from(["a", "b"]),
        st.lists(st.sampled_from(["alpha beta", "beta gamma gamma", "the", "delta"]), min_size=1, max_size=3),
    ),
    max_size=8,
)


@given(steps=STEPS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_it_stays_consistent_whatever_the_order_of_changes(
    collection: Collection, space: EmbeddingSpace, steps: list[tuple[str, str, list[str]]]
) -> None:
    with transaction.atomic():
        for revision, (step, document_id, passages) in enumerate(steps, start=1):
            if step == "write":
                write(collection, space, *passages, document_id=document_id, revision=revision)
            elif step == "fold":
                writer.fold_totals()
            else:
                with changing(collection.id) as change:
                    if step == "remove":
                        writer.remove_document(change, document_id, revision)
                    else:
                        writer.record_failure(change, fields(document_id), "Broken.", revision)
            assert_consistent(collection)
        transaction.set_rollback(True)


@pytest.mark.django_db(transaction=True)
class TestConcurrency:
    def run_together(self, *jobs: Callable[[], None]) -> None:
        barrier = threading.Barrier(len(jobs))
        errors: list[BaseException] = []

        def run(job: Callable[[], None]) -> None:
            try:
                barrier.wait(PATIENCE_S)
                job()
            except BaseException as error:
                errors.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert errors == []
        assert not any(thread.is_alive() for thread in threads)

    def test_two_writers_of_one_document_leave_one_version(self) -> None:
        collection, space = Collection.objects.create(slug="c"), make_space()

        def writing(word: str, first_revision: int) -> Callable[[], None]:
            def job() -> None:
                for step in range(15):
                    write(collection, space, f"{word} {step}", "shared words", revision=first_revision + 2 * step)

            return job

        self.run_together(writing("odd", 1), writing("even", 2))
        document = Document.objects.get()
        assert (document.revision, document.text) == (30, "even 14\nshared words")
        assert_consistent(collection)

    def test_writers_of_different_documents_do_not_lose_counts(self) -> None:
        collection, space = Collection.objects.create(slug="c"), make_space()

        def writing(name: str) -> Callable[[], None]:
            def job() -> None:
                for step in range(12):
                    write(collection, space, f"{name} {step}", document_id=f"{name}{step % 4}", revision=step + 1)

            return job

        def folding() -> None:
            for _ in range(20):
                writer.fold_totals()

        self.run_together(writing("ant"), writing("bee"), writing("cow"), folding)
        assert totals(collection) == (12, 24)
        assert counters(collection)[0] == 36
        assert_consistent(collection)

    def test_deleting_a_collection_beside_a_writer_leaves_nothing(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE rag_posting")  # no model, so Django's flush leaves other tests' rows
        collection, space = Collection.objects.create(slug="c"), make_space()
        for number in range(30):
            write(collection, space, "some words", document_id=str(number))
        started = threading.Event()

        def writing(first_id: str) -> Callable[[], None]:
            def job() -> None:
                for number in range(200):
                    try:
                        write(collection, space, f"words {number}", document_id=f"{first_id}{number % 30}", revision=9)
                    except IntegrityError:  # the collection is gone
                        return
                    except OperationalError as error:  # its task would try again
                        if not isinstance(error.__cause__, DeadlockDetected):
                            raise
                    finally:
                        started.set()

            return job

        def deleting() -> None:
            assert started.wait(PATIENCE_S)
            writer.delete_collection(collection.id)

        self.run_together(writing("new"), writing(""), deleting)
        assert not Collection.objects.exists()
        with connection.cursor() as cursor:
            cursor.execute("SELECT (SELECT count(*) FROM rag_posting), (SELECT count(*) FROM rag_lexicaltotals)")
            assert cursor.fetchone() == (0, 0)
