"""Small collections held in memory: they answer as PostgreSQL would, and never with what is no longer so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from models_registry.live import view
from ops.contracts.principal import SYSTEM
from rag.models import AnnConfig, Collection, DocEmbedding, EmbeddingSpace
from rag.pipeline.ann import AnnPlan
from rag.pipeline.candidates import read_candidates
from rag.pipeline.database import hot_cursor
from rag.pipeline.dense import retrieve_dense
from rag.pipeline.eligible import Eligibility
from rag.pipeline.inverted import InvertedIndex
from rag.pipeline.lexical import read_query, retrieve_lexical
from rag.pipeline.resident import DECIMALS, ResidentCollection, ResidentCollections, resident
from rag.pipeline.search import SearchRequest, search
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import UNKNOWN, Candidates, Float32Array, QueryTerms
from tests.patience import eventually
from tests.rag.pipeline.support import Text, fill, put, remove, snapshot_of, unit_vectors

EVERYTHING = Eligibility(None, {})
NONE = np.empty(0, np.int64)


def held(vectors: Float32Array) -> ResidentCollection:
    count = len(vectors)
    ids = np.arange(10, 10 + 2 * count, 2)
    zeros = np.zeros(count, np.int32)
    offsets = np.arange(count + 1)
    return ResidentCollection(1, ids, ids, zeros, zeros, offsets, vectors, InvertedIndex.of(zeros, offsets), {})


class TestNearest:
    @given(seed=st.integers(0, 2**31), count=st.integers(1, 60), depth=st.integers(1, 70), alike=st.integers(1, 5))
    def test_they_are_the_first_of_all_in_order(self, seed: int, count: int, depth: int, alike: int) -> None:
        vectors = np.repeat(unit_vectors(seed, count), alike, axis=0)
        (query,) = unit_vectors(seed + 1, 1)
        collection = held(vectors)
        cosines = (vectors.astype(np.float64) @ query.astype(np.float64)).round(DECIMALS - 1)
        found = collection.nearest(query, depth)
        assert len(found) == min(depth, len(vectors))
        places = np.searchsorted(collection.chunk_ids, found)
        assert len(set(found.tolist())) == len(found)
        assert np.all(np.diff(cosines[places]) <= 10.0**-DECIMALS * 20)
        left = np.setdiff1d(np.arange(len(vectors)), places)
        assert not len(left) or cosines[left].max() <= cosines[places].min() + 10.0**-DECIMALS * 20

    @given(count=st.integers(1, 300), depth=st.integers(1, 40))
    def test_equal_vectors_come_in_the_order_of_their_chunks(self, count: int, depth: int) -> None:
        collection = held(np.repeat(unit_vectors(3, 1, 384), count, axis=0))
        assert collection.nearest(unit_vectors(4, 1, 384)[0], depth).tolist() == collection.chunk_ids[:depth].tolist()

    def test_a_chunk_that_is_not_held_is_not_gathered(self) -> None:
        collection = held(unit_vectors(1, 3))
        assert collection.gather(np.array([10, 14])) is not None
        assert collection.gather(np.array([10, 11])) is None
        assert collection.gather(np.array([10, 99])) is None


@pytest.mark.django_db
class TestCollection:
    @pytest.fixture
    def collection(self, space: EmbeddingSpace) -> Collection:
        collection = Collection.objects.create(slug="resident")
        for number, vector in enumerate(unit_vectors(7, 40)):
            put(collection, space, f"d{number}", f"Passage {number} of all.", title=f"T{number}", vectors=vector[None])
        return collection

    @staticmethod
    def nearest(snapshot: PipelineSnapshot, query: Float32Array, eligibility: Eligibility = EVERYTHING) -> list[int]:
        with hot_cursor() as cursor:
            return retrieve_dense(cursor, snapshot, eligibility, query).tolist()

    def test_what_is_found_and_read_is_what_the_database_says(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        snapshot = snapshot_of(collection, space, candidate_depth=15)
        queries = unit_vectors(8, 10)

        def answers() -> list[tuple[list[int], Candidates]]:
            found = []
            with hot_cursor() as cursor:
                for query in queries:
                    ids = retrieve_dense(cursor, snapshot, EVERYTHING, query)
                    found.append((ids.tolist(), read_candidates(cursor, snapshot, ids, ids[::-2], query)))
            return found

        by_the_database = answers()
        assert resident.load(snapshot) is not None
        # Nothing is left to read them from.
        DocEmbedding.objects.filter(collection=collection).delete()
        for (expected_ids, expected), (ids, candidates) in zip(by_the_database, answers(), strict=True):
            assert ids == expected_ids
            for name in Candidates.__slots__:
                ours, theirs = getattr(candidates, name), getattr(expected, name)
                assert ours.dtype == theirs.dtype, name
                assert np.allclose(ours, theirs, rtol=0, atol=1e-6), name

    def test_words_are_counted_and_ranked_by_as_the_database_does(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        put(collection, space, "long", "All of all the passages, passages of passages.", "Another passage: all of it.")
        snapshot = snapshot_of(collection, space, candidate_depth=15)
        queries = [
            "passage",
            "all passages of 7",
            "T3 and t4",
            "unheardofword",
            "the of",
            "another unheardofword passage",
        ]

        def answers() -> list[tuple[QueryTerms, list[int]]]:
            with hot_cursor() as cursor:
                read = [read_query(cursor, snapshot, query) for query in queries]
                return [(terms, retrieve_lexical(cursor, snapshot, EVERYTHING, terms).tolist()) for terms in read]

        by_the_database = answers()
        assert resident.load(snapshot) is not None
        by_memory = answers()
        assert [found for _, found in by_memory] == [found for _, found in by_the_database]
        for (ours, _), (theirs, _) in zip(by_memory, by_the_database, strict=True):
            for name in QueryTerms.__slots__:
                assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name

    def test_who_may_not_see_everything_has_the_same_words_and_the_counts_of_what_may_be_seen(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        put(collection, space, "secret", "Passage of the vault.", access_groups=["board"])
        readers = snapshot_of(collection, space, groups=("staff",))
        query = "passage vault unheardofword"

        def read() -> QueryTerms:
            with hot_cursor() as cursor:
                return read_query(cursor, readers, query)

        by_the_database = read()
        assert resident.load(snapshot_of(collection, space)) is not None
        by_memory = read()
        for terms in (by_the_database, by_memory):
            assert terms.term_ids[1:].tolist() == [UNKNOWN, UNKNOWN]
            assert (terms.document_frequencies.tolist(), terms.chunk_count) == ([40], 40)

    def test_words_of_the_past_are_not_held(self, collection: Collection, space: EmbeddingSpace) -> None:
        put(collection, space, "old", "A bygone word.")
        remove(collection, "old")
        held_now = resident.load(snapshot_of(collection, space))
        assert held_now is not None
        assert "passag" in held_now.term_ids
        assert "bygon" not in held_now.term_ids

    def test_a_query_of_words_that_were_asked_for_before_asks_the_database_nothing(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        snapshot = snapshot_of(collection, space, candidate_depth=15)
        resident.load(snapshot)
        with hot_cursor() as cursor:
            read_query(cursor, snapshot, "Which passage is the unheardofword of all?")
            cursor.rows = cursor.execute = Mock(side_effect=AssertionError)
            terms = read_query(cursor, snapshot, "Which passage of all?")
            assert len(retrieve_lexical(cursor, snapshot, EVERYTHING, terms)) == 15

    def test_it_answers_for_its_generation_alone(self, collection: Collection, space: EmbeddingSpace) -> None:
        before = snapshot_of(collection, space)
        resident.load(before)
        remove(collection, "d3")
        after = snapshot_of(collection, space)
        assert resident.at(before) is not None
        assert resident.at(after) is None
        assert len(self.nearest(after, unit_vectors(9, 1)[0])) == 39
        resident.load(after)
        assert resident.at(before) is None
        assert len(self.nearest(after, unit_vectors(9, 1)[0])) == 39

    def test_whoever_may_not_see_everything_is_answered_by_the_database(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        snapshot = snapshot_of(collection, space)
        resident.load(snapshot)
        assert resident.find(snapshot, EVERYTHING) is not None
        assert resident.find(snapshot, Eligibility(("staff",), {})) is None
        assert resident.find(snapshot, Eligibility(None, {"year": 1})) is None
        assert self.nearest(snapshot, unit_vectors(9, 1)[0], Eligibility(None, {"year": 1})) == []

    def test_other_modes_and_vector_indexes_are_not_answered_from_memory(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        snapshot = snapshot_of(collection, space)
        resident.load(snapshot)
        assert resident.find(replace(snapshot, retrieval_mode="milvus"), EVERYTHING) is None
        assert resident.at(replace(snapshot, retrieval_mode="supabase_rpc")) is None
        assert resident.find(replace(snapshot, ann=AnnPlan(1, "hnsw")), EVERYTHING) is None

    def test_a_collection_with_a_vector_missing_or_too_large_is_not_held(
        self, collection: Collection, space: EmbeddingSpace, settings: Any
    ) -> None:
        snapshot = snapshot_of(collection, space)
        settings.RAG_RESIDENT_CHUNKS = 39
        assert resident.load(snapshot) is None
        settings.RAG_RESIDENT_CHUNKS = 40
        assert resident.load(snapshot) is not None
        DocEmbedding.objects.filter(collection=collection).first().delete()  # type: ignore[union-attr]
        assert resident.load(snapshot) is None
        assert resident.at(snapshot) is None

    def test_its_reading_leaves_the_connection_as_it_was(self, collection: Collection, space: EmbeddingSpace) -> None:
        with hot_cursor() as cursor:
            assert len(list(cursor.stream("SELECT generate_series(1, %(last)s)", {"last": 3}))) == 3
            with cursor.ahead("SELECT generate_series(1, %(last)s)", {"last": 3}) as rows:
                assert rows() == [(1,), (2,), (3,)]
            assert next(iter(cursor.stream("SELECT generate_series(1, %(last)s)", {"last": 3}))) == (1,)
            with cursor.ahead("SELECT generate_series(1, %(last)s)", {"last": 3}) as rows:
                assert rows() == [(1,), (2,), (3,)]

    def test_an_empty_collection_is_not_held(self, space: EmbeddingSpace) -> None:
        collection = Collection.objects.create(slug="empty")
        assert resident.load(snapshot_of(collection, space)) is None
        assert self.nearest(snapshot_of(collection, space), unit_vectors(1, 1)[0]) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("live_models", "empty_cache")
class TestSearches:
    @pytest.fixture
    def reading(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResidentCollections]:
        """As in a web process: collections are read by themselves."""
        monkeypatch.setattr(resident, "_reads_by_itself", True)
        monkeypatch.setattr("rag.pipeline.resident.PAUSE", 0.0)
        yield resident
        eventually(lambda: not resident._reading)

    def test_they_read_it_in_the_background_and_answer_the_same_with_it(
        self, reading: ResidentCollections, settings: Any
    ) -> None:
        settings.RAG_RESPONSE_CACHE_TTL_S = settings.RAG_FEATURE_CACHE_TTL_S = 0
        collection = Collection.objects.create(slug="hive")
        fill(collection, {"bees": Text("Bees dance to show the way."), "tax": Text("Tax is due in January.")})
        assert not AnnConfig.objects.exists()
        view.expire()

        def ask() -> list[dict[str, Any]]:
            return search(SearchRequest(query="how do bees dance", collection="hive"), SYSTEM)["results"]

        first = ask()
        eventually(lambda: bool(reading._held))
        (held_now,) = reading._held.values()
        assert held_now.collection is not None
        for ours, theirs in zip(ask(), first, strict=True):
            for name, value in theirs.items():
                assert ours[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), name
        remove(collection, "bees")
        assert [result["document_id"] for result in ask()] == ["tax"]
        eventually(lambda: [one.generation for one in reading._held.values()] != [held_now.generation])
        assert [result["document_id"] for result in ask()] == ["tax"]
        connection.close()
