"""What is remembered of passages, for how long, and that memory is bounded."""

from __future__ import annotations

import numpy as np
import pytest

from rag.models import Chunk, Collection, DocEmbedding, EmbeddingSpace
from rag.pipeline import passages
from rag.pipeline.candidates import read_candidates
from rag.pipeline.database import hot_cursor
from rag.pipeline.passages import Passage, PassageMemory
from rag.pipeline.types import Candidates
from tests.rag.pipeline.support import put, snapshot_of

LARGE = 10**9
NONE = np.empty(0, dtype=np.int64)


def passage(document_id: int = 1) -> Passage:
    return Passage(document_id, 0, np.arange(100, dtype=np.int32), np.ones(384, dtype=np.float32))


def known(memory: PassageMemory, capacity_bytes: int, space_id: int = 1) -> list[int]:
    return [chunk_id for chunk_id in range(1000) if memory.recall(space_id, [chunk_id], capacity_bytes)]


class TestMemory:
    def test_what_was_kept_is_recalled_in_its_space_only(self) -> None:
        memory = PassageMemory()
        memory.keep(1, {5: passage(7)}, LARGE)
        assert memory.recall(1, [4, 5], LARGE)[5].document_id == 7
        assert list(memory.recall(1, [4, 5], LARGE)) == [5]
        assert memory.recall(2, [5], LARGE) == {}
        memory.forget()
        assert memory.recall(1, [5], LARGE) == {}

    def test_a_passage_without_a_vector_is_read_again(self) -> None:
        memory = PassageMemory()
        memory.keep(1, {5: Passage(7, 0, np.arange(3, dtype=np.int32), None)}, LARGE)
        assert memory.recall(1, [5], LARGE) == {}

    def test_it_keeps_no_more_than_its_capacity_and_forgets_what_was_used_longest_ago(self) -> None:
        memory, capacity_bytes = PassageMemory(), 20 * passage().size_bytes
        for chunk_id in range(200):
            memory.keep(1, {chunk_id: passage()}, capacity_bytes)
            memory.recall(1, [0], capacity_bytes)
        kept = known(memory, capacity_bytes)
        assert 10 <= len(kept) <= 22
        assert 0 in kept
        assert 199 in kept


@pytest.mark.django_db
class TestCandidates:
    @pytest.fixture
    def collection(self) -> Collection:
        return Collection.objects.create(slug="remembered")

    def read(self, collection: Collection, space: EmbeddingSpace, found: list[int], **given: object) -> Candidates:
        query = np.ones(space.dimension, dtype=np.float32)
        with hot_cursor() as cursor:
            return read_candidates(cursor, snapshot_of(collection, space, **given), np.array(found), NONE, query)

    def test_from_memory_they_are_what_the_database_says(self, collection: Collection, space: EmbeddingSpace) -> None:
        ids = [put(collection, space, name, f"The words of {name}.", title=name)[0] for name in ("a", "b", "c")]
        first = self.read(collection, space, ids[:2])
        partly, wholly = (self.read(collection, space, ids) for _ in range(2))
        for name in Candidates.__slots__:
            assert np.array_equal(getattr(partly, name), getattr(wholly, name)), name
        assert np.array_equal(first.embeddings, wholly.embeddings[:2])
        # Nothing is left to read them from.
        DocEmbedding.objects.filter(chunk_id__in=ids).delete()
        Chunk.objects.filter(id__in=ids).delete()
        assert self.read(collection, space, ids).chunk_ids.tolist() == ids

    def test_a_retriever_that_may_find_what_is_gone_asks_the_database(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        (chunk_id,) = put(collection, space, "a", "Here today.")
        assert self.read(collection, space, [chunk_id], retrieval_mode="milvus").chunk_ids.tolist() == [chunk_id]
        DocEmbedding.objects.filter(chunk_id=chunk_id).delete()
        Chunk.objects.filter(id=chunk_id).delete()
        assert self.read(collection, space, [chunk_id], retrieval_mode="milvus").chunk_ids.tolist() == []

    def test_without_memory_each_is_read_each_time(
        self, collection: Collection, space: EmbeddingSpace, settings: object
    ) -> None:
        settings.RAG_PASSAGE_MEMORY_MB = 0  # type: ignore[attr-defined]
        (chunk_id,) = put(collection, space, "a", "Here today.")
        assert self.read(collection, space, [chunk_id]).chunk_ids.tolist() == [chunk_id]
        assert passages.memory.recall(space.id, [chunk_id], LARGE) == {}
