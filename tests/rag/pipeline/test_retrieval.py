"""Dense retrieval against numpy, and the union of what both retrievers found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rag.models import Chunk, Collection, DocEmbedding, EmbeddingSpace
from rag.pipeline.candidates import read_candidates
from rag.pipeline.database import hot_cursor
from rag.pipeline.dense import retrieve_dense
from rag.pipeline.eligible import Eligibility
from rag.pipeline.lexical import read_query, retrieve_lexical
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Candidates, Float32Array
from tests.rag.ingest_service.support import make_space
from tests.rag.pipeline.support import put, remove, snapshot_of, unit_vectors

EVERYTHING = Eligibility(None, {})
COUNT = 300

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def indexed(module_transaction: None) -> tuple[Collection, EmbeddingSpace, list[int]]:
    """Sixty documents of five chunks. Chunk i holds the words ``w<i>`` and ``shared``; its vector is row i."""
    collection, space = Collection.objects.create(slug="dense"), make_space("random")
    vectors = unit_vectors(1, COUNT)
    chunks: list[int] = []
    for start in range(0, COUNT, 5):
        words = [f"w{number} shared" for number in range(start, start + 5)]
        metadata = {"part": start % 3}
        chunks += put(collection, space, f"d{start}", *words, vectors=vectors[start : start + 5], metadata=metadata)
    return collection, space, chunks


def dense(snapshot: PipelineSnapshot, query: Float32Array, eligibility: Eligibility = EVERYTHING) -> list[int]:
    with hot_cursor() as cursor:
        return retrieve_dense(cursor, snapshot, eligibility, query).tolist()


def candidates_of(snapshot: PipelineSnapshot, found: list[int], lexical: list[int], query: Float32Array) -> Candidates:
    with hot_cursor() as cursor:
        return read_candidates(cursor, snapshot, np.array(found, np.int64), np.array(lexical, np.int64), query)


def nearest(chunks: list[int], vectors: Float32Array, query: Float32Array, depth: int) -> list[int]:
    distances = 1 - vectors.astype(np.float64) @ query.astype(np.float64)
    return [chunks[position] for position in np.lexsort((chunks, distances))[:depth]]


class TestDense:
    @pytest.mark.parametrize("seed", range(10, 16))
    def test_it_finds_exactly_the_nearest_vectors(self, indexed, seed) -> None:
        collection, space, chunks = indexed
        (query,) = unit_vectors(seed, 1)
        expected = nearest(chunks, unit_vectors(1, COUNT), query, 100)
        assert dense(snapshot_of(collection, space), query) == expected
        assert dense(snapshot_of(collection, space, candidate_depth=10), query) == expected[:10]

    def test_a_filter_applies_before_the_list_is_cut(self, indexed) -> None:
        collection, space, chunks = indexed
        (query,) = unit_vectors(20, 1)
        let_through = [position for position in range(COUNT) if position // 5 * 5 % 3 == 1]
        vectors = unit_vectors(1, COUNT)[let_through]
        expected = nearest([chunks[position] for position in let_through], vectors, query, 50)
        snapshot = snapshot_of(collection, space, candidate_depth=50)
        assert dense(snapshot, query, Eligibility(None, {"part": 1})) == expected
        assert len(expected) == 50

    def test_equal_vectors_come_in_the_order_of_their_chunks(self, space: EmbeddingSpace) -> None:
        collection = Collection.objects.create(slug="equal")
        (vector,) = unit_vectors(3, 1)
        chunks = put(collection, space, "d", *["same"] * 20, vectors=np.tile(vector, (20, 1)))
        assert dense(snapshot_of(collection, space), unit_vectors(4, 1)[0]) == sorted(chunks)

    def test_it_looks_only_at_its_own_space_and_collection(self, indexed, space: EmbeddingSpace) -> None:
        collection, other = indexed[0], Collection.objects.create(slug="other")
        put(other, space, "d", "elsewhere")
        (query,) = unit_vectors(5, 1)
        assert dense(snapshot_of(collection, space), query) == []
        assert dense(snapshot_of(other, indexed[1]), query) == []
        assert dense(snapshot_of(other, indexed[1]), query, Eligibility((), {})) == []

    def test_a_vector_of_no_length_comes_last(self, space: EmbeddingSpace) -> None:
        collection = Collection.objects.create(slug="zero")
        vectors = np.vstack([np.zeros((1, 8), np.float32), unit_vectors(6, 2)])
        zero, *others = put(collection, space, "d", "a", "b", "c", vectors=vectors)
        (query,) = unit_vectors(7, 1)
        found = dense(snapshot_of(collection, space), query)
        assert set(found[:2]) == set(others)
        read = candidates_of(snapshot_of(collection, space), found, [], query)
        assert read.distances[read.chunk_ids.tolist().index(zero)] == 1.0


class TestUnion:
    def test_it_holds_what_either_found_with_both_ranks(self, indexed) -> None:
        collection, space, chunks = indexed
        query = unit_vectors(1, COUNT)[7]
        found, lexical = [chunks[7], chunks[200], chunks[30]], [chunks[250], chunks[30]]
        read = candidates_of(snapshot_of(collection, space), found, lexical, query)
        assert read.chunk_ids.tolist() == [chunks[7], chunks[30], chunks[200], chunks[250]]
        assert read.dense_ranks.tolist() == [1, 3, 2, 0]
        assert read.lexical_ranks.tolist() == [0, 2, 0, 1]
        stored = dict(Chunk.objects.values_list("id", "document_id"))
        assert read.document_ids.tolist() == [stored[chunk] for chunk in read.chunk_ids.tolist()]
        assert read.query_embedding is query

    def test_every_candidate_has_its_own_vector_words_and_distance(self, indexed) -> None:
        collection, space, chunks = indexed
        (query,) = unit_vectors(21, 1)
        positions = [3, 77, 150, 299]
        read = candidates_of(snapshot_of(collection, space), [], [chunks[position] for position in positions], query)
        vectors = unit_vectors(1, COUNT)[positions]
        assert np.array_equal(read.embeddings, vectors)
        assert read.distances == pytest.approx(1 - vectors @ query, abs=1e-6)
        for number, position in enumerate(positions):
            with hot_cursor() as cursor:
                terms = read_query(cursor, snapshot_of(collection, space), f"w{position} shared")
            own = read.tokens[read.offsets[number] : read.offsets[number + 1]]
            assert own.tolist() == terms.term_ids.tolist()

    def test_candidates_found_by_words_alone_have_true_distances(self, indexed) -> None:
        collection, space, chunks = indexed
        vectors = unit_vectors(1, COUNT)
        (query,) = unit_vectors(22, 1)
        snapshot = snapshot_of(collection, space, candidate_depth=10)
        farthest = int(np.argmin(vectors @ query))
        with hot_cursor() as cursor:
            terms = read_query(cursor, snapshot, f"w{farthest}")
            lexical = retrieve_lexical(cursor, snapshot, EVERYTHING, terms)
            read = read_candidates(
                cursor, snapshot, retrieve_dense(cursor, snapshot, EVERYTHING, query), lexical, query
            )
        assert len(read) == 11
        place = read.chunk_ids.tolist().index(chunks[farthest])
        assert (read.dense_ranks[place], read.lexical_ranks[place]) == (0, 1)
        assert read.distances[place] == pytest.approx(1 - float(vectors[farthest] @ query), abs=1e-6)

    def test_distances_lie_between_0_and_2(self, indexed) -> None:
        collection, space, chunks = indexed
        vector = unit_vectors(1, COUNT)[0]
        for query, distance in ((vector, 0.0), (-vector, 2.0)):
            read = candidates_of(snapshot_of(collection, space), [chunks[0]], [], query)
            assert read.distances.tolist() == [pytest.approx(distance, abs=1e-6)]
            assert 0 <= read.distances[0] <= 2

    def test_a_chunk_that_went_away_meanwhile_is_left_out(self, indexed) -> None:
        collection, space, chunks = indexed
        remove(collection, "d0")
        (query,) = unit_vectors(23, 1)
        read = candidates_of(snapshot_of(collection, space), [chunks[9], chunks[1], chunks[6]], [chunks[2]], query)
        assert read.chunk_ids.tolist() == [chunks[6], chunks[9]]
        assert read.dense_ranks.tolist() == [3, 1]

    def test_a_chunk_without_a_vector_is_neither_near_nor_far(self, indexed) -> None:
        collection, space, chunks = indexed
        DocEmbedding.objects.filter(chunk_id=chunks[4]).delete()
        (query,) = unit_vectors(24, 1)
        assert chunks[4] not in dense(snapshot_of(collection, space, candidate_depth=COUNT), query)
        read = candidates_of(snapshot_of(collection, space), [], [chunks[4]], query)
        assert read.distances.tolist() == [1.0]
        assert not read.embeddings.any()

    def test_nothing_found_is_an_empty_union(self, indexed) -> None:
        collection, space, _ = indexed
        read = candidates_of(snapshot_of(collection, space), [], [], unit_vectors(25, 1)[0])
        shapes: dict[str, Any] = {name: getattr(read, name).shape for name in read.__dataclass_fields__}
        assert shapes.pop("offsets") == (1,)
        assert shapes.pop("embeddings") == (0, 8)
        assert shapes.pop("query_embedding") == (8,)
        assert set(shapes.values()) == {(0,)}
